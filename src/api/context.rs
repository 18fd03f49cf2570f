//! What every handler is given, and how requests are read.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time;
use utoipa::IntoParams;

use super::examine::Examine;
use super::refusal::Refusal;
use crate::daemon::handle::{Handle, ShuttingDown};
use crate::protocol::{Snapshot, TunnelStatus, find};

/// The event loop answers within its promise plus this, or it is in trouble and the client should hear so.
const PATIENCE: Duration = Duration::from_secs(5);

/// Streams (events and followed logs) through one door at a time. With [`WAITS`] it leaves a quarter of the connections to
/// requests that are answered at once.
const STREAMS: usize = 64;

/// Requests through one door at a time that may wait: those that start, stop and restart tunnels.
const WAITS: usize = 128;

/// What every handler is given; each door has its own.
#[derive(Debug, Clone)]
pub(super) struct Context {
    /// The daemon.
    pub(super) handle: Handle,
    /// Streams end with it.
    pub(super) ending: Ending,
    streams: Arc<Semaphore>,
    waits: Arc<Semaphore>,
    /// Has one permit, which a change of the configuration keeps until it ends: if one hangs, no second thread hangs with it.
    writing: Arc<Semaphore>,
    /// Runs the checks of `portward doctor`.
    pub(super) examine: Examine,
}

impl Context {
    pub(super) fn new(handle: Handle, ending: Ending, examine: Examine) -> Self {
        Self {
            handle,
            ending,
            streams: Arc::new(Semaphore::new(STREAMS)),
            waits: Arc::new(Semaphore::new(WAITS)),
            writing: Arc::new(Semaphore::new(1)),
            examine,
        }
    }

    /// A place for a stream, as long as what is returned lives.
    pub(super) fn begin_stream(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            Refusal::unavailable(format!(
                "{STREAMS} clients follow events or logs already, and no more may at a time: end one of them, such as a \
                 `portward events` or `portward logs --follow` that nobody needs, and ask again"
            ))
        })
    }

    /// Waits until no other change of the configuration is being made through this door. The next one waits as long as what is
    /// returned lives.
    pub(super) async fn begin_write(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        Arc::clone(&self.writing).acquire_owned().await.ok()
    }

    /// A place for a request that may wait, as long as what is returned lives.
    pub(super) fn begin_wait(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.waits).try_acquire_owned().map_err(|_| {
            Refusal::unavailable(format!(
                "{WAITS} requests wait for tunnels already, and no more may at a time: ask again once some are answered"
            ))
        })
    }
}

impl Context {
    /// All tunnels as the event loop knows them.
    pub(super) async fn snapshot(&self) -> Result<Snapshot, Refusal> {
        answer(Duration::ZERO, self.handle.snapshot()).await
    }
}

/// Tells that the API is to end.
#[derive(Debug, Clone)]
pub(super) struct Ending(pub(super) watch::Receiver<bool>);

impl Ending {
    /// Returns when the API is to end; at once, if that was told before.
    pub(super) async fn begun(&mut self) {
        // That nobody is left to tell it means the same.
        let _ = self.0.wait_for(|&ending| ending).await;
    }
}

/// Waits for an answer of the event loop, which has promised one within `promised`.
pub(super) async fn answer<T>(
    promised: Duration,
    question: impl Future<Output = Result<T, ShuttingDown>>,
) -> Result<T, Refusal> {
    match time::timeout(promised + PATIENCE, question).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Refusal::unavailable(
            "portward's event loop does not answer: see its log, and restart it if the log shows no reason",
        )),
    }
}

/// Which tunnel a request is about.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct TunnelId {
    /// The name of a tunnel, its `log_id`, or the first eight digits or more of its hash.
    pub(super) id: String,
}

/// The tunnel that `{id}` of the path names.
#[derive(Debug)]
pub(super) struct Tunnel(pub(super) TunnelStatus);

impl FromRequestParts<Context> for Tunnel {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, context: &Context) -> Result<Self, Refusal> {
        let Path(TunnelId { id }) = Path::from_request_parts(parts, context)
            .await
            .map_err(|rejection| Refusal::bad_request(rejection.body_text()))?;
        let snapshot = context.snapshot().await?;
        Ok(Self(find(&snapshot.tunnels, &id)?.clone()))
    }
}

/// The parameters behind the question mark.
#[derive(Debug)]
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Context> for Parameters<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, context: &Context) -> Result<Self, Refusal> {
        match Query::from_request_parts(parts, context).await {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(rejection) => {
                let said = rejection.body_text();
                let reason = said.strip_prefix("Failed to deserialize query string: ").unwrap_or(&said);
                Err(Refusal::bad_request(reason))
            }
        }
    }
}
