//! Who can read or change a file: the one check of owners and modes, for the API's token and socket, ssh's control sockets and
//! the configuration.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is required of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Nobody but its owner can access it.
    Private,
    /// It belongs to this user, and nobody else can access it.
    PrivateTo(u32),
    /// Only this user and root can write to it. In a directory, nobody else can even create files.
    WrittenBy(u32),
    /// Only this user and root can replace it or what it contains. In a sticky directory nobody can replace files of others, and
    /// a group with the number of its user contains that user only, by the convention of Debian and Fedora.
    ChangedBy(u32),
}

/// A file does not meet a [`Rule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insecure {
    /// Its owner.
    pub uid: u32,
    /// Its permission bits, all twelve.
    pub mode: u32,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with an [`Insecure`] file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It belongs to another user.
    Owner,
    /// Its mode allows too much.
    Mode,
}

/// Checks the file that `metadata` describes. Its parents are not checked.
pub fn check(metadata: &Metadata, rule: Rule) -> Result<(), Insecure> {
    let (uid, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    let insecure = |fault| Err(Insecure { uid, mode, fault });
    let is_owned = match rule {
        Rule::Private => true,
        Rule::PrivateTo(owner) => uid == owner,
        Rule::WrittenBy(owner) | Rule::ChangedBy(owner) => uid == owner || uid == 0,
    };
    let forbidden = match rule {
        Rule::Private | Rule::PrivateTo(_) => 0o077,
        Rule::ChangedBy(_) if metadata.is_dir() && mode & 0o1000 != 0 => 0,
        Rule::ChangedBy(_) if metadata.gid() == uid => 0o002,
        Rule::WrittenBy(_) | Rule::ChangedBy(_) => 0o022,
    };
    if !is_owned {
        return insecure(Fault::Owner);
    }
    if mode & forbidden != 0 { insecure(Fault::Mode) } else { Ok(()) }
}

/// What on the way to the directory `path`, as it is written and as it is resolved, others than `owner` and root can change, and so
/// put another directory in its place: a parent that they can write, or a symbolic link of theirs.
pub fn shared_on_the_way(path: &Path, owner: u32) -> Option<(PathBuf, Insecure)> {
    let written = std::path::absolute(path).ok();
    let resolved = path.canonicalize().ok();
    let places = [written.as_deref(), resolved.as_deref()].into_iter().flatten();
    let links = written.iter().flat_map(|path| path.ancestors()).filter_map(|place| {
        let metadata = fs::symlink_metadata(place).ok().filter(Metadata::is_symlink)?;
        let (uid, mode) = (metadata.uid(), metadata.mode() & 0o7777);
        (uid != owner && uid != 0).then(|| (place.to_owned(), Insecure { uid, mode, fault: Fault::Owner }))
    });
    let parents = places.flat_map(|path| path.ancestors().skip(1)).filter_map(|place| {
        let metadata = fs::metadata(place).ok()?;
        Some((place.to_owned(), check(&metadata, Rule::ChangedBy(owner)).err()?))
    });
    links.chain(parents).next()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

    use super::*;

    /// The fault of a directory with this mode under each of the rules for our own user.
    fn faults(mode: u32) -> [Option<Fault>; 4] {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
        let metadata = fs::metadata(directory.path()).unwrap();
        let us = metadata.uid();
        let rules = [Rule::Private, Rule::PrivateTo(us), Rule::WrittenBy(us), Rule::ChangedBy(us)];
        rules.map(|rule| check(&metadata, rule).err().map(|insecure| insecure.fault))
    }

    #[test]
    fn the_mode_decides_what_others_can_do() {
        const BAD: Option<Fault> = Some(Fault::Mode);
        assert_eq!(faults(0o700), [None; 4]);
        assert_eq!(faults(0o755), [BAD, BAD, None, None]);
        assert_eq!(faults(0o701), [BAD, BAD, None, None]);
        assert_eq!(faults(0o702), [BAD; 4]);
        assert_eq!(faults(0o1777), [BAD, BAD, BAD, None]);
    }

    #[test]
    fn the_owner_decides_first() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        if nix::unistd::geteuid().is_root() {
            chown(directory.path(), Some(1000), None).unwrap();
        }
        let metadata = fs::metadata(directory.path()).unwrap();
        let somebody = metadata.uid() + 1;
        assert_eq!(check(&metadata, Rule::Private), Ok(()));
        let fault = |rule| check(&metadata, rule).err().map(|insecure| insecure.fault);
        for rule in [Rule::PrivateTo(somebody), Rule::WrittenBy(somebody), Rule::ChangedBy(somebody)] {
            assert_eq!(fault(rule), Some(Fault::Owner), "{rule:?}");
        }
    }

    #[test]
    fn a_group_of_the_users_own_is_nobody_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let uid = nix::unistd::geteuid().as_raw();
        let changed_by_us = |gid: u32, mode: u32| {
            // Only root can give a file to any group.
            chown(file.path(), None, Some(gid)).unwrap();
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            check(&fs::metadata(file.path()).unwrap(), Rule::ChangedBy(uid)).is_ok()
        };
        if uid == 0 {
            assert!(changed_by_us(0, 0o664) && !changed_by_us(100, 0o664));
            assert!(!changed_by_us(0, 0o666) && changed_by_us(100, 0o644));
        }
    }

    #[test]
    fn whoever_can_replace_a_parent_or_a_link_on_the_way_is_found() {
        let top = tempfile::tempdir().unwrap();
        let us = fs::metadata(top.path()).unwrap().uid();
        let directory = top.path().join("shared/own");
        fs::create_dir_all(&directory).unwrap();
        let shared = directory.parent().unwrap();
        let mode = |mode| fs::set_permissions(shared, fs::Permissions::from_mode(mode)).unwrap();
        let found =
            |path: &Path| shared_on_the_way(path, us).map(|(place, insecure)| (place, insecure.fault));
        mode(0o755);
        assert_eq!(found(&directory), None);
        mode(0o777);
        assert_eq!(found(&directory), Some((shared.to_owned(), Fault::Mode)));
        let link = top.path().join("link");
        symlink(&directory, &link).unwrap();
        assert_eq!(found(&link), Some((shared.to_owned(), Fault::Mode)), "the parents of its target count");
        // In a sticky directory nobody can replace what belongs to others.
        mode(0o1777);
        assert_eq!(found(&directory), None);
        assert_eq!(found(&link), None);
        if us == 0 {
            lchown(&link, Some(65_534), None).unwrap();
            assert_eq!(found(&link), Some((link.clone(), Fault::Owner)));
            assert_eq!(found(&link.join("below")), Some((link.clone(), Fault::Owner)));
        }
    }
}
