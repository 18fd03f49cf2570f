//! Owner and mode of a file.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Owner, group and mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Permissions {
    pub(super) uid: u32,
    gid: u32,
    /// All twelve bits.
    pub(super) mode: u32,
}

impl Permissions {
    /// The permissions of `path`; symbolic links are followed.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self { uid: metadata.uid(), gid: metadata.gid(), mode: metadata.mode() & 0o7777 })
    }

    /// Whether users other than the owner may write. A group with the same number as the owner is the owner's own group, as
    /// Debian and Fedora create them.
    pub(super) fn is_shared(self) -> bool {
        self.mode & 0o002 != 0 || self.mode & 0o020 != 0 && self.gid != self.uid
    }

    /// Whether users may remove only their own files from the directory.
    pub(super) fn is_sticky(self) -> bool {
        self.mode & 0o1000 != 0
    }

    /// Whether users other than the owner have any permission.
    pub(super) fn is_exposed(self) -> bool {
        self.mode & 0o077 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owners_own_group_is_not_another_user() {
        let permissions = |gid, mode| Permissions { uid: 1000, gid, mode };
        assert!(!permissions(1000, 0o664).is_shared());
        assert!(permissions(100, 0o664).is_shared());
        assert!(permissions(1000, 0o666).is_shared());
        assert!(!permissions(100, 0o644).is_shared() && permissions(100, 0o644).is_exposed());
    }
}
