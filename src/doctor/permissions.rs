//! Owners and modes of files: what they allow to the daemon, and to others.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::thread::CapabilitySet;

use super::judged::{By, Judged};

const READ: u32 = 0o4;
const SEARCH: u32 = 0o1;

/// Owner, group and mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Permissions {
    pub(super) uid: u32,
    gid: u32,
    /// All twelve bits.
    pub(super) mode: u32,
}

impl From<&Metadata> for Permissions {
    fn from(metadata: &Metadata) -> Self {
        Self { uid: metadata.uid(), gid: metadata.gid(), mode: metadata.mode() & 0o7777 }
    }
}

impl Permissions {
    /// Of what `path` leads to.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::from(&fs::metadata(path)?))
    }

    /// Whether somebody else than the owner may do anything.
    pub(super) fn is_exposed(self) -> bool {
        self.mode & 0o077 != 0
    }

    fn allows(self, judged: &Judged, wanted: u32) -> bool {
        let class = if self.uid == judged.uid {
            self.mode >> 6
        } else if judged.groups.contains(&self.gid) {
            self.mode >> 3
        } else {
            self.mode
        };
        class & wanted == wanted
    }
}

/// Whether the daemon can read the file `path`; an error if it is not there or cannot be looked at.
pub(super) fn can_read(judged: &Judged, path: &Path) -> io::Result<bool> {
    if judged.by == By::Ourselves {
        return match File::open(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
            Err(error) => Err(error),
        };
    }
    let path = fs::canonicalize(path)?;
    let may_all = [CapabilitySet::DAC_OVERRIDE, CapabilitySet::DAC_READ_SEARCH];
    if may_all.into_iter().any(|capability| judged.may(capability)) {
        return Ok(true);
    }
    for directory in path.ancestors().skip(1) {
        if !Permissions::of(directory)?.allows(judged, SEARCH) {
            return Ok(false);
        }
    }
    Ok(Permissions::of(&path)?.allows(judged, READ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::judged::tests::judged;
    use super::*;

    #[test]
    fn the_first_class_that_fits_decides() {
        let mut user = judged(1000, CapabilitySet::empty(), false);
        user.groups = [100].into();
        let permissions = |uid, gid, mode| Permissions { uid, gid, mode };
        assert!(permissions(1000, 0, 0o400).allows(&user, READ));
        assert!(!permissions(1000, 100, 0o044).allows(&user, READ));
        assert!(permissions(0, 100, 0o040).allows(&user, READ));
        assert!(!permissions(0, 0, 0o040).allows(&user, READ));
        assert!(permissions(0, 0, 0o004).allows(&user, READ));
    }

    #[test]
    fn root_without_capabilities_reads_its_own_files_only() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("key");
        fs::write(&key, "").unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let owner = nix::unistd::geteuid().as_raw();
        let bare = |uid| judged(uid, CapabilitySet::empty(), true);
        assert!(can_read(&bare(owner), &key).unwrap());
        assert!(!can_read(&bare(owner + 1), &key).unwrap());
        assert!(can_read(&judged(owner + 1, CapabilitySet::DAC_READ_SEARCH, true), &key).unwrap());
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(can_read(&bare(owner + 1), &key).unwrap());
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!can_read(&bare(owner + 1), &key).unwrap());
        assert!(can_read(&bare(owner), &directory.path().join("missing")).is_err());
    }
}
