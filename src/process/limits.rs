//! The limits that keep a process from being started.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

use nix::libc;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit of open files that portward was started with.
static FIRST_LIMIT: OnceLock<Rlimit> = OnceLock::new();

/// Raises portward's own soft limit of open files to the hard one. The programs that it starts get the old one: some of them
/// use select(2), which fails above 1024.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if FIRST_LIMIT.set(limit).is_ok() {
        // If it stays lower, more starts are retried, and each says why.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
}

/// The limit for [`restore`]; `None` if portward's own was not changed.
pub(super) fn of_children() -> Option<Rlimit> {
    FIRST_LIMIT.get().copied()
}

/// Sets the soft limit of `first`, in the child. System calls only.
pub(super) fn restore(first: Option<Rlimit>) {
    let Some(first) = first else { return };
    let limit = getrlimit(Resource::Nofile);
    let current = match (first.current, limit.maximum) {
        (Some(soft), Some(hard)) => Some(soft.min(hard)),
        (soft, hard) => soft.or(hard),
    };
    // It is lowered, which the kernel allows for every process. Where a sandbox does not, the program may open more files.
    let _ = setrlimit(Resource::Nofile, Rlimit { current, ..limit });
}

/// Which limit the system call ran into that failed with `error`, and how it is raised; `None` if it is no limit.
pub fn explain(error: &io::Error) -> Option<String> {
    let ours = std::process::id();
    Some(match error.raw_os_error()? {
        libc::EMFILE => format!(
            "portward has as many files open as it may, {} (RLIMIT_NOFILE): raise LimitNOFILE= in its unit, or `prlimit \
             --pid {ours} --nofile=65536`; it is tried again",
            shown(getrlimit(Resource::Nofile).current)
        ),
        libc::ENFILE => format!(
            "as many files are open on this machine as it allows, {}: raise it with `sysctl -w fs.file-max=NUMBER`; it is tried again",
            setting("/proc/sys/fs/file-max")
        ),
        libc::EAGAIN => {
            format!("the kernel refuses another process: {}; it is tried again", process_limits(ours))
        }
        libc::ENOMEM => {
            "not enough memory for another process (`free -h`, and MemoryMax= of the unit); it is tried again"
                .to_owned()
        }
        _ => return None,
    })
}

/// Of the limits on processes, the one that is reached, or all that there are.
fn process_limits(ours: u32) -> String {
    if let Some(full) = full_cgroup() {
        return full;
    }
    let uid = nix::unistd::geteuid();
    let mut text = String::new();
    if let Some(limit) = getrlimit(Resource::Nproc).current {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "user {uid} may run {limit} processes and threads (RLIMIT_NPROC; raise LimitNPROC= in portward's unit, or \
             `prlimit --pid {ours} --nproc=4096`), and "
        );
    }
    let (threads, pids) = (setting("/proc/sys/kernel/threads-max"), setting("/proc/sys/kernel/pid_max"));
    let _ = write!(
        text,
        "this machine may run {threads} threads with {pids} pids (kernel.threads-max, kernel.pid_max)"
    );
    text
}

/// The cgroup of ours, or above it, that holds as many processes as it may.
fn full_cgroup() -> Option<String> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = Path::new("/sys/fs/cgroup");
    for directory in root.join(path).ancestors().take_while(|directory| directory.starts_with(root)) {
        let number = |file: &str| fs::read_to_string(directory.join(file)).ok()?.trim().parse::<u64>().ok();
        if let (Some(current), Some(max)) = (number("pids.current"), number("pids.max"))
            && current >= max
        {
            return Some(format!(
                "the cgroup {} may hold {max} processes and threads (pids.max; raise TasksMax= in its unit)",
                directory.display()
            ));
        }
    }
    None
}

fn setting(file: &str) -> String {
    fs::read_to_string(file).map_or_else(|_| "an unknown number".to_owned(), |text| text.trim().to_owned())
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "without limit".to_owned(), |limit| limit.to_string())
}
