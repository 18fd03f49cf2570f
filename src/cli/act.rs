//! `portward start`, `stop` and `restart`.

use hyper::StatusCode;

use super::arguments::ActArguments;
use super::client::{Answer, Client, segment};
use super::failure::{ClientError, Failed};
use super::output;
use crate::protocol::{ActQuery, Acted, AllActed, Verb};
use crate::text;

/// Asks for `verb`, for all tunnels named at once; prints the answers in their order.
pub(super) async fn act(client: &Client, verb: Verb, arguments: &ActArguments) -> Result<(), Failed> {
    let paths: Vec<String> = if arguments.all {
        vec![format!("/{verb}")]
    } else {
        arguments.tunnels.iter().map(|tunnel| format!("/{verb}/{}", segment(tunnel))).collect()
    };
    let query = ActQuery { timeout: arguments.timeout };
    let longest = arguments.timeout.unwrap_or_default().0;
    let asked: Vec<_> = paths
        .into_iter()
        .map(|path| {
            let client = client.clone();
            tokio::spawn(async move { client.post(&format!("{path}?{query}"), longest).await })
        })
        .collect();
    let mut all_done = true;
    for asked in asked {
        let answer: Result<Answer, ClientError> =
            asked.await.map_err(|error| Failed::NotDone(error.to_string()))?;
        all_done &= show(client, &answer?, arguments)?;
    }
    if all_done { Ok(()) } else { Err(Failed::Said) }
}

/// Prints one answer; says whether it was done.
fn show(client: &Client, answer: &Answer, arguments: &ActArguments) -> Result<bool, Failed> {
    let done = answer.status == StatusCode::OK;
    if arguments.json {
        output::print(&text::json(&answer.body))?;
        return Ok(done);
    }
    let told = if arguments.all {
        serde_json::from_str(&answer.body).map(|AllActed { output, .. }| output)
    } else {
        serde_json::from_str(&answer.body).map(|Acted { output, .. }| output)
    };
    match told {
        Ok(told) if done => output::print(&text::lines(&told))?,
        Ok(told) => output::complain(&text::lines(&told)),
        Err(_) => {
            // The request itself was refused; the other tunnels' answers are still to be shown.
            let refusal = client.refusal(answer);
            let Failed::NotDone(reason) = refusal else { return Err(refusal) };
            output::complain(&format!("portward: {}", text::lines(&reason)));
        }
    }
    Ok(done)
}
