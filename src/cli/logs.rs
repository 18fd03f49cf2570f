//! `portward logs`.

use super::arguments::LogsArguments;
use super::client::{Client, segment};
use super::failure::Failed;
use super::output;
use crate::protocol::{LogQuery, RecentLog};
use crate::text;

/// Prints the last lines, and with `follow` those to come.
pub(super) async fn logs(client: &Client, arguments: &LogsArguments) -> Result<(), Failed> {
    let LogsArguments { ref tunnel, lines, follow } = *arguments;
    let path = format!("/logs/{}?{}", segment(tunnel), LogQuery { lines, follow });
    if follow {
        let mut stream = client.follow(&path).await?;
        loop {
            output::print(&text::line(&stream.next().await?.data))?;
        }
    }
    let log: RecentLog = client.parse(&client.get(&path).await?.body)?;
    for line in log.lines {
        output::print(&text::line(&line))?;
    }
    Ok(())
}
