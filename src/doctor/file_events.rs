//! Whether changes of the configuration are noticed: the limits of inotify, and file systems that report no changes.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use rustix::io::Errno;

use super::fix::Fix;
use super::machine::Machine;
use super::process::Process;
use crate::protocol::doctor::Finding;

/// File systems whose files can change on another machine or in a lower layer: the kernel reports only changes that are made
/// through this mount.
const CHANGED_ELSEWHERE: &str = "9p afs beegfs ceph cifs davfs ecryptfs fuse gfs2 glusterfs gpfs lustre nfs nfs4 ocfs2 smb3 \
                                 vboxsf virtiofs vmhgfs";

/// What a user can run out of, and the kernel settings that limit it: for the machine, and for a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Resource {
    name: &'static str,
    settings: [&'static str; 2],
}

const INSTANCES: Resource =
    Resource { name: "instance", settings: ["fs.inotify.max_user_instances", "user.max_inotify_instances"] };
const WATCHES: Resource =
    Resource { name: "watch", settings: ["fs.inotify.max_user_watches", "user.max_inotify_watches"] };

/// Why changes of `config` are not noticed by the daemon, or by one that would run as this process does.
pub(super) fn findings(
    machine: &Machine,
    config: &Path,
    process: &Process,
    is_daemon: bool,
    fix: Fix,
) -> Vec<Finding> {
    let reload = fix.as_user(process.uid, &process.user(), "portward reload");
    let then = if is_daemon { format!(" && {reload}") } else { String::new() };
    let exhausted = exhausted().and_then(|resource| raise(machine, resource, &process.user(), fix, &then));
    exhausted.into_iter().chain(changed_elsewhere(machine, config, &reload)).collect()
}

/// What inotify refuses to this process. The instance that the daemon has is all that it needs.
fn exhausted() -> Option<Resource> {
    match init(CreateFlags::CLOEXEC) {
        Ok(instance) => {
            let watched = add_watch(instance, "/", WatchFlags::DELETE_SELF);
            (watched == Err(Errno::NOSPC)).then_some(WATCHES)
        }
        Err(Errno::MFILE) if !has_instance() => Some(INSTANCES),
        Err(_) => None,
    }
}

fn has_instance() -> bool {
    let descriptors = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    descriptors
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|target| target == Path::new("anon_inode:inotify"))
}

fn raise(machine: &Machine, resource: Resource, user: &str, fix: Fix, then: &str) -> Option<Finding> {
    let limits = resource.settings.into_iter().filter_map(|setting| {
        let limit: usize = machine.sysctl(&setting.replace('.', "/"))?.parse().ok()?;
        Some((limit, setting))
    });
    let (limit, setting) = limits.min()?;
    let line = fix.as_root(&format!("sysctl -w {setting}={}", limit.saturating_mul(2).max(128)));
    Some(Finding::warning(
        format!("user {user} has no inotify {} left ({setting} is {limit})", resource.name),
        "changes of the configuration are not noticed until `portward reload`, and ssh's control sockets are polled",
        format!("{line}{then}"),
    ))
}

fn changed_elsewhere(machine: &Machine, config: &Path, reload: &str) -> Option<Finding> {
    let (kind, point) = mount_of(machine, config)?;
    // A FUSE file system is `fuse.` and its name.
    let family = kind.split('.').next();
    CHANGED_ELSEWHERE.split(' ').any(|known| family == Some(known)).then(|| {
        Finding::warning(
            format!("{} is on a {kind} file system, mounted on {}", config.display(), point.display()),
            "the kernel does not report changes that are made elsewhere, so the daemon does not notice them",
            format!("{reload}  # after each change"),
        )
    })
}

/// Type and mount point of the file system of `path`, or of its innermost directory that exists.
fn mount_of(machine: &Machine, path: &Path) -> Option<(String, PathBuf)> {
    let path = std::path::absolute(path).ok()?;
    let real = path.ancestors().find_map(|path| path.canonicalize().ok())?;
    let table = machine.text("/proc/self/mountinfo")?;
    let mounts = table.lines().filter_map(|line| {
        // proc_pid_mountinfo(5): fixed fields, optional fields, a dash, and the type.
        let (fixed, rest) = line.split_once(" - ")?;
        let point = ["\\040", "\\011", "\\012", "\\134"].into_iter().zip([" ", "\t", "\n", "\\"]);
        let point = point
            .fold(fixed.split(' ').nth(4)?.to_owned(), |text, (code, letter)| text.replace(code, letter));
        Some((rest.split(' ').next()?.to_owned(), PathBuf::from(point)))
    });
    // The innermost mount, and of several on one mount point the last, which covers the others.
    mounts.filter(|(_, point)| real.starts_with(point)).max_by_key(|(_, point)| point.components().count())
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::machine;
    use super::*;

    const CONFIG: &str = "/etc/portward/config.yaml";

    #[test]
    fn the_fix_raises_the_lower_limit() {
        let (_root, machine) = machine(&[
            ("/proc/sys/fs/inotify/max_user_watches", "65536\n"),
            ("/proc/sys/user/max_inotify_watches", "200\n"),
        ]);
        let finding = raise(&machine, WATCHES, "alice", Fix { uid: 1000 }, " && portward reload").unwrap();
        assert_eq!(finding.fix.unwrap(), "sudo sysctl -w user.max_inotify_watches=400 && portward reload");
        assert_eq!(raise(&machine, INSTANCES, "alice", Fix { uid: 1000 }, ""), None);
        assert_eq!(exhausted(), None, "tests need inotify");
    }

    #[test]
    fn a_file_system_that_changes_elsewhere_is_named() {
        let found = |kind: &str| {
            let table =
                format!("21 1 0:19 / / rw - ext4 /dev/a rw\n22 21 0:20 / /etc rw shared:1 - {kind} x rw\n");
            let (_root, machine) = machine(&[("/proc/self/mountinfo", &table)]);
            changed_elsewhere(&machine, Path::new(CONFIG), "portward reload")
        };
        for kind in ["nfs4", "9p", "fuse.sshfs", "cifs"] {
            let finding = found(kind).unwrap();
            assert!(
                finding.what.ends_with(&format!("is on a {kind} file system, mounted on /etc")),
                "{finding:?}"
            );
            assert_eq!(finding.fix.unwrap(), "portward reload  # after each change");
        }
        assert_eq!((found("overlay"), found("tmpfs")), (None, None));
    }

    #[test]
    fn the_innermost_and_latest_mount_counts() {
        let table = "21 1 0:19 / / rw - ext4 /dev/a rw\n22 21 0:20 / /a\\040b rw - nfs x rw\n23 21 0:21 / / rw - tmpfs t rw\n";
        let (_root, machine) = machine(&[("/proc/self/mountinfo", table)]);
        assert_eq!(mount_of(&machine, Path::new("/etc")).unwrap(), ("tmpfs".to_owned(), PathBuf::from("/")));
    }
}
