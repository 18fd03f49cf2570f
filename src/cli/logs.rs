//! `portward logs`.

use serde::Deserialize;

use super::arguments::LogsArguments;
use super::client::{Client, segment};
use super::failure::Failed;
use super::output;
use crate::text;

#[derive(Debug, Deserialize)]
struct Log {
    lines: Vec<String>,
}

/// Prints the last lines, and with `follow` those to come.
pub(super) async fn logs(client: &Client, arguments: &LogsArguments) -> Result<(), Failed> {
    let LogsArguments { tunnel, lines, follow } = arguments;
    let path = format!("/logs/{}?lines={lines}&follow={follow}", segment(tunnel));
    if *follow {
        let mut stream = client.follow(&path).await?;
        loop {
            output::print(&text::line(&stream.next().await?.data))?;
        }
    }
    let log: Log = client.parse(&client.get(&path).await?.body)?;
    for line in log.lines {
        output::print(&text::line(&line))?;
    }
    Ok(())
}
