//! `GET /events`: a snapshot, then changes, as server-sent events.

use axum::extract::State;
use axum::response::IntoResponse;
use tokio::sync::broadcast::error::RecvError;

use super::context::Context;
use super::stream::{Outlet, Over, stream};
use crate::daemon::handle::Handle;
use crate::protocol::Change;

/// The state of all tunnels, and each change of it, as server-sent events.
///
/// First comes `snapshot`; its data is an object with the tunnels as in `/status`. Then come `tunnel` with the new status of one
/// tunnel, `removed`, `config` and `warnings`. A client that cannot keep up gets a new `snapshot`.
#[utoipa::path(get, path = "/events", responses((status = OK, content_type = "text/event-stream")))]
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
