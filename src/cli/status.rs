//! `portward status`.

use jiff::Timestamp;

use super::arguments::StatusArguments;
use super::client::Client;
use super::failure::Failed;
use super::{output, table};
use crate::protocol::{Health, LookupError, Snapshot, TunnelStatus, find};
use crate::text;

/// Prints the tunnels as they are, and with `watch` again after each change.
pub(super) async fn status(client: &Client, arguments: &StatusArguments) -> Result<(), Failed> {
    if arguments.watch {
        return watch(client, arguments).await;
    }
    let answer = client.get("/status").await?;
    if arguments.json && arguments.tunnels.is_empty() {
        return Ok(output::print(&text::json(&answer.body))?);
    }
    let tunnels = client.parse(&answer.body)?;
    let Health { config_path, config_error, warnings, .. } =
        client.parse(&client.get("/health").await?.body)?;
    Ok(output::print(&show(
        &Snapshot { tunnels, config_path, config_error, warnings, ..Snapshot::default() },
        arguments,
    )?)?)
}

async fn watch(client: &Client, arguments: &StatusArguments) -> Result<(), Failed> {
    let mut stream = client.follow("/events").await?;
    let mut snapshot = Snapshot::default();
    loop {
        if let Some(change) = client.parse_change(&stream.next().await?)? {
            change.apply(&mut snapshot);
        }
        let text = show(&snapshot, arguments)?;
        if arguments.json { output::print(&text)? } else { output::repaint(&text)? }
    }
}

fn show(snapshot: &Snapshot, arguments: &StatusArguments) -> Result<String, Failed> {
    let tunnels = select(&snapshot.tunnels, &arguments.tunnels)?;
    if arguments.json {
        let json = serde_json::to_string(&tunnels).map_err(|error| Failed::NotDone(error.to_string()))?;
        return Ok(text::json(&json));
    }
    Ok(table::render(snapshot, &tunnels, Timestamp::now(), output::width()))
}

/// The tunnels asked for, in the order of the file; all if none were.
fn select<'a>(tunnels: &'a [TunnelStatus], ids: &[String]) -> Result<Vec<&'a TunnelStatus>, LookupError> {
    if ids.is_empty() {
        return Ok(tunnels.iter().collect());
    }
    let wanted: Vec<&TunnelStatus> = ids.iter().map(|id| find(tunnels, id)).collect::<Result<_, _>>()?;
    Ok(tunnels.iter().filter(|tunnel| wanted.iter().any(|found| found.hash == tunnel.hash)).collect())
}
