//! The file of a record, for as long as anybody needs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

/// The file of one record. When the last clone is dropped, it is removed.
#[derive(Debug, Clone)]
pub(super) struct RecordFile {
    file: Arc<Removed>,
    /// Locked while it is written.
    writing: Arc<Mutex<()>>,
}

/// A file that is removed with it.
#[derive(Debug)]
struct Removed(PathBuf);

impl RecordFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { file: Arc::new(Removed(path)), writing: Arc::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.file.0
    }

    /// Waits until nobody writes it. Nobody begins to as long as the guard is there.
    pub(super) async fn lock(&self) -> OwnedMutexGuard<()> {
        self.writing.clone().lock_owned().await
    }
}

impl Drop for Removed {
    fn drop(&mut self) {
        // Fails if it could not be written either.
        let _ = fs::remove_file(&self.0);
    }
}
