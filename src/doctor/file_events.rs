//! Whether the daemon hears of changes of its configuration: inotify's limits, and file systems that tell nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::finding::{Check, Finding, or_ok};
use super::judged::Judged;
use super::machine::Machine;
use super::mend::Mend;
use crate::port::holder;

/// File systems whose files others can change, on another machine or below: the kernel raises events for changes that are
/// made through this mount only.
const CHANGED_ELSEWHERE: [&str; 18] = [
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "davfs",
    "ecryptfs",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "ocfs2",
    "smb3",
    "vboxsf",
    "virtiofs",
    "vmhgfs",
];

/// Directories that the daemon watches, and some more for links.
const WATCHES_NEEDED: usize = 16;

/// What a user has of inotify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Usage {
    instances: usize,
    watches: usize,
}

/// A limit of the kernel, and the setting that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Limit {
    setting: &'static str,
    most: usize,
}

/// Judges how the daemon hears of changes of `config`.
pub(super) fn judge(machine: &Machine, config: &Path, judged: &Judged, mend: Mend) -> Vec<Finding> {
    let usage = usage_of(machine, judged.uid);
    let user = holder::user(judged.uid).unwrap_or_else(|| judged.uid.to_string());
    let reload = mend.as_user(judged.uid, &user, "portward reload");
    let mut findings = Vec::new();
    let instances = limit(machine, ["fs.inotify.max_user_instances", "user.max_inotify_instances"]);
    let watches = limit(machine, ["fs.inotify.max_user_watches", "user.max_inotify_watches"]);
    // A daemon that has its instance needs no other; what is not shown of it is not known.
    let own = judged.pid().and_then(|pid| instances_of(machine, pid));
    let lacks = match own {
        Some(own) => own.instances == 0,
        None => instances.as_ref().is_some_and(|limit| usage.instances >= limit.most),
    };
    let raise = |limit: &Limit| {
        let line =
            mend.as_root(&format!("sysctl -w {}={}", limit.setting, limit.most.saturating_mul(2).max(128)));
        if judged.pid().is_some() { format!("{line} && {reload}") } else { line }
    };
    let why = "changes of the configuration go unnoticed until `portward reload`, and ssh's control sockets are looked for \
               after waits that grow";
    if let Some(limit) = instances.as_ref().filter(|_| lacks) {
        let what = format!(
            "{judged} has no inotify instance: user {user} uses {} of {} ({})",
            usage.instances, limit.most, limit.setting
        );
        findings.push(Finding::warning(Check::FileEvents, what, why, raise(limit)));
    }
    if let Some(limit) = watches.as_ref().filter(|limit| {
        own.is_none_or(|own| own.watches < 2) && usage.watches.saturating_add(WATCHES_NEEDED) > limit.most
    }) {
        let what = format!(
            "user {user} uses {} of {} inotify watches ({}), too many for {judged}",
            usage.watches, limit.most, limit.setting
        );
        findings.push(Finding::warning(Check::FileEvents, what, why, raise(limit)));
    }
    let mount = mount_of(machine, config);
    if let Some((kind, point)) = mount.as_ref().filter(|(kind, _)| is_changed_elsewhere(kind)) {
        findings.push(Finding::warning(
            Check::FileEvents,
            format!("{} lies on {kind}, mounted on {}", config.display(), point.display()),
            "the kernel raises no event for a change that is made elsewhere, and the daemon does not notice it",
            format!("{reload}  # after each change"),
        ));
    }
    let of = |used: usize, limit: Option<&Limit>| {
        limit.map_or_else(|| used.to_string(), |limit| format!("{used} of {}", limit.most))
    };
    let on = match &mount {
        Some((kind, _)) if kind == "overlay" => {
            "; it lies on overlay, where changes of a lower layer raise no event: `portward reload` after those".to_owned()
        }
        Some((kind, _)) => format!("; it lies on {kind}"),
        None => String::new(),
    };
    let what = format!(
        "changes of {} are noticed: user {user} uses {} inotify instances and {} watches{on}",
        config.display(),
        of(usage.instances, instances.as_ref()),
        of(usage.watches, watches.as_ref())
    );
    or_ok(findings, Check::FileEvents, what)
}

/// The lower one of a machine's setting and a user namespace's.
fn limit(machine: &Machine, settings: [&'static str; 2]) -> Option<Limit> {
    let limits = settings.into_iter().filter_map(|setting| {
        let most = machine.sysctl(&setting.replace('.', "/"))?.parse().ok()?;
        Some(Limit { setting, most })
    });
    limits.min_by_key(|limit| limit.most)
}

/// What all processes of the user `uid` have, as far as this user may see them.
fn usage_of(machine: &Machine, uid: u32) -> Usage {
    let Ok(entries) = fs::read_dir(machine.path("/proc")) else { return Usage::default() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| effective_uid(machine, *pid) == Some(uid))
        .filter_map(|pid| instances_of(machine, pid))
        .fold(Usage::default(), |sum, one| Usage {
            instances: sum.instances + one.instances,
            watches: sum.watches + one.watches,
        })
}

fn effective_uid(machine: &Machine, pid: u32) -> Option<u32> {
    let status = machine.text(&format!("/proc/{pid}/status"))?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    uids.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// What one process has; `None` if this user may not see it.
fn instances_of(machine: &Machine, pid: u32) -> Option<Usage> {
    let mut usage = Usage::default();
    for entry in fs::read_dir(machine.path(format!("/proc/{pid}/fd"))).ok()?.flatten() {
        let target = match fs::read_link(entry.path()) {
            Ok(target) => target,
            // Of a process in another user namespace the numbers are shown, and not what they lead to.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return None,
            Err(_) => continue,
        };
        if target == Path::new("anon_inode:inotify") {
            let number = entry.file_name();
            let info = machine.text(&format!("/proc/{pid}/fdinfo/{}", number.to_string_lossy()));
            usage.instances += 1;
            usage.watches +=
                info.unwrap_or_default().lines().filter(|line| line.starts_with("inotify wd:")).count();
        }
    }
    Some(usage)
}

fn is_changed_elsewhere(kind: &str) -> bool {
    CHANGED_ELSEWHERE.contains(&kind) || kind == "fuse" || kind.starts_with("fuse.")
}

/// Type and mount point of the file system where the file is that `path` leads to, or would be.
fn mount_of(machine: &Machine, path: &Path) -> Option<(String, PathBuf)> {
    let path = std::path::absolute(path).ok()?;
    let real = path.ancestors().find_map(|path| path.canonicalize().ok())?;
    let table = machine.text("/proc/self/mountinfo")?;
    let mounts = table.lines().filter_map(|line| {
        // proc_pid_mountinfo(5): fields of a fixed number, optional ones, a dash, and the type.
        let (fixed, rest) = line.split_once(" - ")?;
        let point = PathBuf::from(unescape(fixed.split(' ').nth(4)?));
        Some((rest.split(' ').next()?.to_owned(), point))
    });
    // The innermost one, and of those on one point the last, which covers the others.
    mounts.filter(|(_, point)| real.starts_with(point)).max_by_key(|(_, point)| point.components().count())
}

/// Blanks in a mount point are written as `\040`.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .into_iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (code, letter)| text.replace(code, letter))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::thread::CapabilitySet;

    use super::super::finding::Level;
    use super::super::judged::tests::judged;
    use super::super::machine::tests::machine;
    use super::*;

    const MEND: Mend = Mend { uid: 1000 };
    const CONFIG: &str = "/etc/portward/config.yaml";

    /// A machine with a process of `uid` that has an inotify instance with two watches.
    fn busy(pid: u32, uid: u32, instances: &str, mounts: &str) -> (tempfile::TempDir, Machine) {
        let proc = |name: &str| format!("/proc/{pid}/{name}");
        let (root, machine) = machine(&[
            (&proc("status"), &format!("Name:\tx\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")),
            (&proc("fdinfo/5"), "pos:\t0\ninotify wd:2 ino:1\ninotify wd:1 ino:2\n"),
            ("/proc/sys/fs/inotify/max_user_instances", instances),
            ("/proc/sys/fs/inotify/max_user_watches", "65536\n"),
            ("/proc/self/mountinfo", mounts),
        ]);
        fs::create_dir_all(machine.path(proc("fd"))).unwrap();
        symlink("anon_inode:inotify", machine.path(proc("fd/5"))).unwrap();
        symlink("/dev/null", machine.path(proc("fd/6"))).unwrap();
        (root, machine)
    }

    fn daemon(uid: u32) -> Judged {
        judged(uid, CapabilitySet::empty(), false)
    }

    #[test]
    fn instances_and_watches_are_counted_for_the_daemons_user() {
        let (_root, machine) = busy(7, 1000, "128\n", "");
        assert_eq!(usage_of(&machine, 1000), Usage { instances: 1, watches: 2 });
        assert_eq!(usage_of(&machine, 1001), Usage::default());
        let finding = judge(&machine, Path::new(CONFIG), &daemon(1000), MEND).swap_remove(0);
        assert_eq!(finding.level, Level::Ok, "{finding:?}");
        assert!(finding.what.contains("1 of 128 inotify instances and 2 of 65536 watches"), "{finding:?}");
    }

    #[test]
    fn a_user_without_an_instance_left_is_told_the_setting() {
        let (_root, machine) = busy(7, 1000, "1\n", "");
        let finding = judge(&machine, Path::new(CONFIG), &daemon(1000), MEND).swap_remove(0);
        assert_eq!(finding.level, Level::Warning, "{finding:?}");
        let line = finding.mend.unwrap();
        assert_eq!(line, "sudo sysctl -w fs.inotify.max_user_instances=128 && portward reload");
        // The daemon itself has the last one: it needs no other.
        let (_root, machine) = busy(812, 1000, "1\n", "");
        assert_eq!(judge(&machine, Path::new(CONFIG), &daemon(1000), MEND)[0].level, Level::Ok);
    }

    #[test]
    fn a_file_system_that_is_changed_elsewhere_is_told_with_its_type() {
        let table = |kind: &str| {
            format!("21 1 0:19 / / rw - ext4 /dev/a rw\n22 21 0:20 / /etc rw shared:1 - {kind} x rw\n")
        };
        for kind in ["nfs4", "9p", "fuse.sshfs", "cifs"] {
            let (_root, machine) = busy(7, 1000, "128\n", &table(kind));
            let finding = judge(&machine, Path::new(CONFIG), &daemon(1000), MEND).swap_remove(0);
            assert_eq!(finding.level, Level::Warning, "{finding:?}");
            assert!(finding.what.ends_with(&format!("lies on {kind}, mounted on /etc")), "{finding:?}");
            assert_eq!(finding.mend.unwrap(), "portward reload  # after each change");
        }
        for kind in ["overlay", "tmpfs"] {
            let (_root, machine) = busy(7, 1000, "128\n", &table(kind));
            let finding = judge(&machine, Path::new(CONFIG), &daemon(1000), MEND).swap_remove(0);
            assert_eq!(finding.level, Level::Ok, "{finding:?}");
            assert!(finding.what.contains(&format!("it lies on {kind}")), "{finding:?}");
        }
    }

    #[test]
    fn the_innermost_and_latest_mount_counts() {
        let table = "21 1 0:19 / / rw - ext4 /dev/a rw\n22 21 0:20 / /a\\040b rw - nfs x rw\n23 21 0:21 / / rw - tmpfs t rw\n";
        let (_root, machine) = busy(7, 1000, "128\n", table);
        assert_eq!(mount_of(&machine, Path::new("/etc")).unwrap(), ("tmpfs".to_owned(), PathBuf::from("/")));
    }
}
