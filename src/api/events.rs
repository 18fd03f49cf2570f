//! `GET /events`: a snapshot, then changes, as server-sent events.

use axum::extract::State;
use axum::response::IntoResponse;
use tokio::sync::broadcast::error::RecvError;

use super::context::Context;
use super::stream::{Outlet, Over, stream};
use crate::daemon::handle::Handle;
use crate::protocol::Change;

/// `GET /events`.
pub(super) async fn events(State(context): State<Context>) -> impl IntoResponse {
    stream(&context, |outlet| feed(context.handle.clone(), outlet))
}

async fn feed(handle: Handle, outlet: Outlet) -> Result<(), Over> {
    // First the subscription, then the snapshot: what changes in between is told twice rather than never.
    let mut changes = handle.changes();
    outlet.change(&Change::Snapshot(handle.snapshot().await?)).await?;
    loop {
        match changes.recv().await {
            Ok(change) => outlet.change(&change).await?,
            Err(RecvError::Lagged(_)) => {
                // What is still queued is older than the snapshot: going through it would turn back time.
                changes = changes.resubscribe();
                outlet.change(&Change::Snapshot(handle.snapshot().await?)).await?;
            }
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}
