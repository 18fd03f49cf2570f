//! `portward start`, `stop` and `restart`.

use hyper::StatusCode;
use serde::Deserialize;

use super::arguments::ActArguments;
use super::client::{Answer, Client, ClientError, segment};
use super::failure::Failed;
use super::output;
use crate::text;

/// What of the API's answer is for people.
#[derive(Debug, Deserialize)]
struct Acted {
    /// One line for each tunnel.
    output: String,
}

/// Asks for `verb`, for all tunnels named at once; prints the answers in their order.
pub(super) async fn act(client: &Client, verb: &'static str, arguments: &ActArguments) -> Result<(), Failed> {
    let paths: Vec<String> = if arguments.all {
        vec![format!("/{verb}")]
    } else {
        arguments.tunnels.iter().map(|tunnel| format!("/{verb}/{}", segment(tunnel))).collect()
    };
    let timeout = arguments.timeout.unwrap_or_default().0;
    let asked: Vec<_> = paths
        .into_iter()
        .map(|path| {
            let client = client.clone();
            let path = format!("{path}?timeout={}ms", timeout.as_millis());
            tokio::spawn(async move { client.post(&path, timeout).await })
        })
        .collect();
    let mut all_done = true;
    for asked in asked {
        let answer: Result<Answer, ClientError> =
            asked.await.map_err(|error| Failed::NotDone(error.to_string()))?;
        all_done &= show(client, &answer?, arguments.json)?;
    }
    if all_done { Ok(()) } else { Err(Failed::Said) }
}

/// Prints one answer; says whether it was done.
fn show(client: &Client, answer: &Answer, as_json: bool) -> Result<bool, Failed> {
    let done = answer.status == StatusCode::OK;
    if as_json {
        output::print(&text::json(&answer.body))?;
        return Ok(done);
    }
    match serde_json::from_str::<Acted>(&answer.body) {
        Ok(acted) if done => output::print(&text::lines(&acted.output))?,
        Ok(acted) => output::complain(&text::lines(&acted.output)),
        Err(_) => {
            // The request itself was refused; the other tunnels' answers are still to be shown.
            let refusal = client.refusal(answer);
            let Failed::NotDone(reason) = refusal else { return Err(refusal) };
            output::complain(&format!("portward: {}", text::lines(&reason)));
        }
    }
    Ok(done)
}
