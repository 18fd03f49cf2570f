//! The examination of the daemon by itself, which the API is handed.

use std::fmt;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::{JoinError, spawn_blocking};

use crate::protocol::doctor::{DoctorQuery, Report};

type Run = dyn Fn(DoctorQuery) -> Report + Send + Sync;

/// Runs the checks of `portward doctor`, which block.
#[derive(Clone)]
pub struct Examine {
    run: Arc<Run>,
    /// Has one permit, which an examination keeps until it ends: if one hangs, no second thread hangs with it.
    running: Arc<Semaphore>,
}

impl Examine {
    /// `run` is called on a thread that may block, and never twice at the same time.
    pub fn new(run: impl Fn(DoctorQuery) -> Report + Send + Sync + 'static) -> Self {
        Self { run: Arc::new(run), running: Arc::new(Semaphore::new(1)) }
    }

    /// Waits until no other examination runs, and runs one; fails if that panics. It goes on when this future is dropped.
    pub(super) async fn report(&self, query: DoctorQuery) -> Result<Report, JoinError> {
        let run = Arc::clone(&self.run);
        // The semaphore is never closed.
        let permit = Arc::clone(&self.running).acquire_owned().await;
        let (report, _permit) = spawn_blocking(move || (run(query), permit)).await?;
        Ok(report)
    }
}

impl fmt::Debug for Examine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Examine").finish_non_exhaustive()
    }
}
