//! `GET /events`: a snapshot, then changes, as server-sent events.

use axum::extract::State;
use axum::response::IntoResponse;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;

use super::context::Context;
use super::stream::{Outlet, Over, stream};
use crate::daemon::handle::{Change, Handle};

/// Data of the event `removed`.
#[derive(Debug, Serialize)]
struct Removed<'a> {
    hash: &'a str,
}

/// Data of the event `config`.
#[derive(Debug, Serialize)]
struct ConfigRead<'a> {
    error: Option<&'a str>,
}

/// `GET /events`.
pub(super) async fn events(State(context): State<Context>) -> impl IntoResponse {
    stream(&context, |outlet| feed(context.handle.clone(), outlet))
}

async fn feed(handle: Handle, outlet: Outlet) -> Result<(), Over> {
    // First the subscription, then the snapshot: what changes in between is told twice rather than never.
    let mut changes = handle.changes();
    outlet.json("snapshot", &handle.snapshot().await?).await?;
    loop {
        match changes.recv().await {
            Ok(Change::Tunnel(status)) => outlet.json("tunnel", &*status).await?,
            Ok(Change::Removed { hash }) => outlet.json("removed", &Removed { hash: &hash }).await?,
            Ok(Change::Config { error }) => {
                outlet.json("config", &ConfigRead { error: error.as_deref() }).await?;
            }
            Ok(Change::Warnings(warnings)) => outlet.json("warnings", &warnings).await?,
            Err(RecvError::Lagged(_)) => {
                // What is still queued is older than the snapshot: going through it would turn back time.
                changes = changes.resubscribe();
                outlet.json("snapshot", &handle.snapshot().await?).await?;
            }
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}
