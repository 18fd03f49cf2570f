//! A process of a tunnel from the order to start it: an ssh is asked what it would do before it is started, and until then
//! there is nothing to signal.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::process::Tree;

/// One process, started or about to be.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    stage: Arc<Mutex<Stage>>,
    cancelled: Arc<Notify>,
}

#[derive(Debug)]
enum Stage {
    /// It is not started yet.
    Pending,
    /// It was told to end before it was started, and never will be.
    Cancelled,
    /// It runs, or has ended.
    Started(Tree),
}

impl Launch {
    /// A process that is not started yet.
    pub(super) fn pending() -> Self {
        Self::at(Stage::Pending)
    }

    /// A process that runs.
    pub(super) fn started(tree: Tree) -> Self {
        Self::at(Stage::Started(tree))
    }

    fn at(stage: Stage) -> Self {
        Self { stage: Arc::new(Mutex::new(stage)), cancelled: Arc::default() }
    }

    /// Starts the process by `start`; `None` if it was told to end before.
    pub(super) fn start<T, E>(&self, start: impl FnOnce() -> Result<(T, Tree), E>) -> Option<Result<T, E>> {
        let mut stage = self.lock();
        match *stage {
            Stage::Pending => Some(start().map(|(process, tree)| {
                *stage = Stage::Started(tree);
                process
            })),
            Stage::Cancelled | Stage::Started(_) => None,
        }
    }

    /// Resolves once it was told to end before it was started.
    pub(super) async fn cancelled(&self) {
        self.cancelled.notified().await;
    }

    /// Its pid, once it is started.
    pub(super) fn pid(&self) -> Option<u32> {
        self.tree()?.pid()
    }

    /// Its process tree, once it is started.
    pub(super) fn tree(&self) -> Option<Tree> {
        match &*self.lock() {
            Stage::Started(tree) => Some(tree.clone()),
            Stage::Pending | Stage::Cancelled => None,
        }
    }

    /// SIGTERM, or never starts it.
    pub(super) fn terminate(&self) {
        self.end(Tree::terminate);
    }

    /// SIGKILL, or never starts it.
    pub(super) fn kill(&self) {
        self.end(Tree::kill);
    }

    fn end(&self, signal: impl FnOnce(&Tree)) {
        let mut stage = self.lock();
        match &*stage {
            Stage::Started(tree) => signal(tree),
            Stage::Pending => {
                *stage = Stage::Cancelled;
                self.cancelled.notify_one();
            }
            Stage::Cancelled => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
