//! The namespaces of one test, and the processes in them.

use std::fmt;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::record::DEADLINE;

/// A network namespace, by its inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NetworkNamespace(u64);

/// A process in a namespace.
#[derive(Debug, Clone)]
pub struct ProcessInfo {
    /// Its id.
    pub pid: u32,
    /// Its executable.
    pub executable: PathBuf,
    /// Its arguments, joined by spaces.
    pub command: String,
    /// Whether its environment holds the harness's mark.
    pub(crate) is_marked: bool,
}

impl fmt::Display for ProcessInfo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "pid {} ({})", self.pid, self.command)
    }
}

/// Moves the calling thread into a network namespace with nothing but `lo`, and into a mount namespace whose /run is empty and
/// whose /etc/hosts and /etc/resolv.conf are the files given.
pub(crate) fn enter(hosts: &Path, resolver: &Path) -> NetworkNamespace {
    assert!(
        nix::unistd::geteuid().is_root(),
        "the integration tests make network namespaces: run them as root, or under `unshare --map-root-user --user`"
    );
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .expect("making a network and a mount namespace: this needs CAP_SYS_ADMIN");
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .expect("making mounts private");
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), nothing).expect("mounting an empty /run");
    mount(Some(hosts), "/etc/hosts", nothing, MsFlags::MS_BIND, nothing).expect("mounting /etc/hosts");
    // On some machines this is a symlink into the /run that has just been hidden; then there is no resolver anyway.
    if Path::new("/etc/resolv.conf").exists() {
        mount(Some(resolver), "/etc/resolv.conf", nothing, MsFlags::MS_BIND, nothing)
            .expect("mounting /etc/resolv.conf");
    }
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .expect("starting ip (package iproute2)");
    assert!(up.success(), "`ip link set lo up` failed: {up}");
    NetworkNamespace(fs::metadata("/proc/thread-self/ns/net").unwrap().ino())
}

/// Puts `file` over `target`, in the mount namespace of this thread, which must be its own.
pub(crate) fn bind(file: &Path, target: &Path) {
    let nothing = None::<&str>;
    mount(Some(file), target, nothing, MsFlags::MS_BIND, nothing)
        .unwrap_or_else(|error| panic!("mounting over {}: {error}", target.display()));
}

impl NetworkNamespace {
    /// That with this inode.
    pub(crate) fn of(inode: u64) -> Self {
        Self(inode)
    }

    /// The living processes in this namespace, the test's own left out; `mark` is looked for in their environment.
    pub(crate) fn processes(self, mark: &str) -> Vec<ProcessInfo> {
        let ours = std::process::id();
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
            .filter(|&pid| pid != ours && self.holds(pid))
            .filter_map(|pid| inspect(pid, mark))
            .collect()
    }

    fn holds(self, pid: u32) -> bool {
        // A process that has ended or is a zombie has no namespace any more.
        fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|namespace| namespace.ino() == self.0)
    }
}

fn inspect(pid: u32, mark: &str) -> Option<ProcessInfo> {
    let words = |file: &str| fs::read(format!("/proc/{pid}/{file}")).ok();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned();
    let is_marked = words("environ")?.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes());
    let command = text(words("cmdline")?);
    // Last: of a process that is just ending the others are empty, and this is an error.
    let executable = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(ProcessInfo { pid, executable, command, is_marked })
}

/// Sends `signal`; a process that has ended already is no error.
pub fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().unwrap());
    match nix::sys::signal::kill(pid, signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(error) => panic!("sending {signal} to {pid}: {error}"),
    }
}

/// Stops a process with SIGSTOP: it holds its sockets, answers nobody and ignores SIGTERM.
pub fn stop_signal(pid: u32) {
    kill(pid, Signal::SIGSTOP);
}

/// Waits until a process has ended (it may be a zombie then).
pub async fn process_end(pid: u32) {
    let Ok(pidfd) = open_process(pid) else { return };
    let ended = tokio::task::spawn_blocking(move || ends_in_time(&pidfd)).await.unwrap();
    assert!(ended, "pid {pid} does not end");
}

/// A descriptor of the process itself, which no later process with the same id takes over.
pub(crate) fn open_process(pid: u32) -> rustix::io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
}

/// Blocks until the process has ended, or [`DEADLINE`] is over.
pub(crate) fn ends_in_time(pidfd: &OwnedFd) -> bool {
    let patience = Timespec { tv_sec: DEADLINE.as_secs().try_into().unwrap(), tv_nsec: 0 };
    let poll = || poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&patience));
    rustix::io::retry_on_intr(poll).unwrap() > 0
}
