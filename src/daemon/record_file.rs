//! The file of a record, for as long as anybody needs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file of one record. When the last clone is dropped, it is removed.
#[derive(Debug, Clone)]
pub(super) struct RecordFile(Arc<Removed>);

/// A file that is removed with it.
#[derive(Debug)]
struct Removed(PathBuf);

impl RecordFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(Arc::new(Removed(path)))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0.0
    }
}

impl Drop for Removed {
    fn drop(&mut self) {
        // Fails if it could not be written either.
        let _ = fs::remove_file(&self.0);
    }
}
