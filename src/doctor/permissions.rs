//! Owner and mode of a file.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Owner and mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Permissions {
    pub(super) uid: u32,
    /// All twelve bits.
    pub(super) mode: u32,
}

impl Permissions {
    /// The permissions of `path`; symbolic links are followed.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self { uid: metadata.uid(), mode: metadata.mode() & 0o7777 })
    }

    /// Whether users other than the owner have any permission.
    pub(super) fn is_exposed(self) -> bool {
        self.mode & 0o077 != 0
    }
}
