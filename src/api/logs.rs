//! `GET /logs` and `GET /logs/{id}`: the recent lines of each tunnel, and those to come.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use jiff::tz::TimeZone;
use tokio::sync::broadcast::error::RecvError;

use super::context::{Context, Parameters, Tunnel, TunnelId};
use super::json::Json;
use super::refusal::Refusal;
use super::stream::{Outlet, Over, stream};
use crate::daemon::handle::Handle;
use crate::observe::recent::LogNews;
use crate::protocol::autossh_tunnel::LogSummary;
use crate::protocol::{Conclusion, LogQuery, RecentLog};

/// The tunnels that have said anything yet, with the size of their logs.
#[utoipa::path(get, path = "/logs", responses((status = OK, body = Vec<LogSummary>)))]
pub(super) async fn summaries(State(context): State<Context>) -> Result<Json<Vec<LogSummary>>, Refusal> {
    let snapshot = context.snapshot().await?;
    let zone = TimeZone::system();
    let summary = |hash: &String| {
        let summary = context.handle.logs().summary(hash)?;
        Some(LogSummary {
            hash: hash.clone(),
            filename: format!("tunnel-{hash}.log"),
            size: readable_size(summary.bytes),
            modified: summary.modified.to_zoned(zone.clone()).strftime("%F %T").to_string(),
        })
    };
    Ok(Json(snapshot.tunnels.iter().filter_map(|tunnel| summary(&tunnel.hash)).collect()))
}

/// The last lines of a tunnel's log. An unknown id is 400, as autossh-tunnel's clients expect.
///
/// With `follow=true` the answer is a stream of server-sent events, one for each line, and goes on with the lines to come.
#[utoipa::path(
    get,
    path = "/logs/{id}",
    params(TunnelId, LogQuery),
    responses((status = OK, content((RecentLog = "application/json"), ("text/event-stream"))))
)]
pub(super) async fn log(
    State(context): State<Context>,
    tunnel: Result<Tunnel, Refusal>,
    Parameters(LogQuery { lines, follow }): Parameters<LogQuery>,
) -> Result<Response, Refusal> {
    let Tunnel(tunnel) = tunnel.map_err(Refusal::or_bad_request)?;
    let lines = usize::try_from(lines).unwrap_or(usize::MAX);
    if follow {
        let handle = context.handle.clone();
        return Ok(stream(&context, |outlet| feed(handle, tunnel.hash, lines, outlet))?.into_response());
    }
    let lines = context.handle.logs().last(&tunnel.hash, lines);
    let recent = RecentLog {
        status: Conclusion::Success,
        tunnel_hash: tunnel.hash,
        log: lines.join("\n"),
        lines,
        log_id: tunnel.log_id,
    };
    Ok(Json(recent).into_response())
}

async fn feed(handle: Handle, mut hash: String, count: usize, outlet: Outlet) -> Result<(), Over> {
    let (past, mut coming) = handle.logs().tail(&hash, count);
    for line in past {
        outlet.line(&line).await?;
    }
    loop {
        match coming.recv().await {
            Ok(LogNews::Line(line)) if line.hash == hash => outlet.line(&line.text).await?,
            Ok(LogNews::Moved { old, new }) if old == hash => match new {
                Some(new) => hash = new,
                None => return Ok(()),
            },
            Ok(LogNews::Line(_) | LogNews::Moved { .. }) => {}
            Err(RecvError::Lagged(count)) => {
                outlet.line(&format!("({count} lines of all tunnels were too fast for this client)")).await?;
            }
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

/// A size as `du -h` writes it, in blocks of 4 KiB: autossh-tunnel's clients show it as it is.
fn readable_size(bytes: usize) -> String {
    // BYTES_KEPT bounds it: nothing here grows to megabytes.
    match bytes.div_ceil(4096) * 4 {
        kib @ 0..10 => format!("{kib}.0K"),
        kib => format!("{kib}K"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_du() {
        let sizes = [0, 1, 4096, 4097, 10_000, 65_536];
        assert_eq!(sizes.map(readable_size), ["0.0K", "4.0K", "4.0K", "8.0K", "12K", "64K"]);
    }
}
