//! Mounts: what is mounted over a file or a directory hides it without an event of inotify.

use std::fs::File;
use std::future::pending;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The table of this process's mounts. The kernel reports a change to pollers (proc_pid_mountinfo(5)).
const TABLE: &str = "/proc/self/mountinfo";

/// Hears of changes of the mount table.
#[derive(Debug)]
pub(super) struct Mounts(Option<AsyncFd<File>>);

impl Mounts {
    /// Must be called within a tokio runtime. Without /proc it hears of nothing.
    pub(super) fn new() -> Self {
        Self(File::open(TABLE).ok().and_then(poll))
    }

    /// Resolves when something was mounted, moved or unmounted since the last time. Cancel-safe.
    pub(super) async fn changed(&self) {
        let Some(table) = &self.0 else { return pending().await };
        match table.ready(Interest::PRIORITY).await {
            // Polling the table is what takes note of a change: nothing needs to be read.
            Ok(mut ready) => ready.clear_ready(),
            // The runtime is shutting down.
            Err(_) => pending().await,
        }
    }
}

fn poll(table: File) -> Option<AsyncFd<File>> {
    // SAFETY: the descriptor is open and owned, and nothing closes or replaces it while the `AsyncFd` owns it.
    unsafe { AsyncFd::register_with_interest(table, Interest::PRIORITY) }.ok()
}
