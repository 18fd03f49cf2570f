//! Processes, as /proc shows them: what they are, and which sockets they have open.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::mem::MaybeUninit;
use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use rustix::fs::{CWD, Mode, OFlags, RawDir, openat, readlinkat_raw};
use rustix::io::Errno;

/// Longer chains of parents than this are a loop, made by a pid that was used again while we climbed.
const MAX_ANCESTORS: usize = 1024;
/// Ticks a second in which /proc counts (USER_HZ), as milliseconds for one.
const TICK_MILLISECONDS: i64 = 10;
/// Bytes of a command line that are read; it may have megabytes.
const COMMAND_SIZE: u64 = 4096;
/// Room for some hundred entries of a directory at once.
const ENTRIES_SIZE: usize = 16 * 1024;
/// `socket:[4294967295]` is shorter, and longer texts are no sockets.
const LINK_SIZE: usize = 32;

/// What the processes of portward are called.
const PORTWARD: &[u8] = b"portward\n";
/// Of the processes of any machine and of any container.
const FIRST_PROCESS: u32 = 1;

/// Which processes have which sockets open.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// By inode: the pids, in ascending order, never none.
    pub(super) pids: BTreeMap<u32, Vec<u32>>,
    /// Whether every process could be looked into, so that a socket without an owner has none that /proc shows.
    pub(super) is_complete: bool,
}

/// The processes of a /proc, which tests bring themselves.
#[derive(Debug)]
pub(super) struct Processes {
    pub(super) root: PathBuf,
}

impl Processes {
    pub(super) fn system() -> Self {
        Self { root: PathBuf::from("/proc") }
    }

    fn file(&self, pid: u32, name: &str) -> PathBuf {
        self.root.join(pid.to_string()).join(name)
    }

    /// All pids, in ascending order.
    pub(super) fn pids(&self) -> Vec<u32> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut pids: Vec<u32> =
            entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        pids.sort_unstable();
        pids
    }

    /// Whether `pid` has a socket open whose inode is `wanted`; asks until one is. `None` if this user may not know.
    ///
    /// A process may have tens of thousands of descriptors: one system call for each, and nothing is allocated.
    pub(super) fn any_socket(&self, pid: u32, mut wanted: impl FnMut(u32) -> bool) -> Option<bool> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = match openat(CWD, self.file(pid, "fd"), flags, Mode::empty()) {
            Ok(directory) => directory,
            // It has ended.
            Err(Errno::NOENT | Errno::SRCH) => return Some(false),
            Err(_) => return None,
        };
        let mut space = [MaybeUninit::uninit(); ENTRIES_SIZE];
        let mut descriptors = RawDir::new(&directory, &mut space);
        while let Some(Ok(descriptor)) = descriptors.next() {
            if matches!(descriptor.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            let mut space = [MaybeUninit::uninit(); LINK_SIZE];
            let link = readlinkat_raw(&directory, descriptor.file_name(), &mut space);
            if link.is_ok_and(|(link, _)| socket_inode(link).is_some_and(&mut wanted)) {
                return Some(true);
            }
        }
        Some(false)
    }

    /// The inodes of the sockets that `pid` has open; `None` if this user may not see them.
    pub(super) fn sockets(&self, pid: u32) -> Option<BTreeSet<u32>> {
        let mut sockets = BTreeSet::new();
        self.any_socket(pid, |inode| {
            sockets.insert(inode);
            false
        })?;
        Some(sockets)
    }

    /// The processes that have any of `inodes` open.
    pub(super) fn owners(&self, inodes: &BTreeSet<u32>) -> Owners {
        let mut owners = Owners::default();
        if inodes.is_empty() {
            return owners;
        }
        let pids = self.pids();
        // Where /proc is mounted with `hidepid`, the processes of others are not even listed. This one always is else.
        owners.is_complete = pids.first() == Some(&FIRST_PROCESS);
        for pid in pids {
            let looked = self.any_socket(pid, |inode| {
                if inodes.contains(&inode) {
                    let pids = owners.pids.entry(inode).or_default();
                    // A process may have several descriptors of one socket.
                    if pids.last() != Some(&pid) {
                        pids.push(pid);
                    }
                }
                false
            });
            owners.is_complete &= looked.is_some();
        }
        owners
    }

    /// The command line, or the name in brackets if the process has erased it.
    pub(super) fn command(&self, pid: u32) -> Option<String> {
        let mut arguments = Vec::new();
        if let Ok(file) = fs::File::open(self.file(pid, "cmdline")) {
            // What could be read before an error counts.
            let _ = file.take(COMMAND_SIZE).read_to_end(&mut arguments);
        }
        let arguments = String::from_utf8_lossy(&arguments);
        let arguments = arguments.trim_end_matches('\0');
        if !arguments.is_empty() {
            return Some(arguments.replace('\0', " "));
        }
        let name = fs::read(self.file(pid, "comm")).ok()?;
        Some(format!("[{}]", String::from_utf8_lossy(&name).trim_end_matches('\n')))
    }

    /// The path of its cgroup.
    pub(super) fn cgroup(&self, pid: u32) -> Option<String> {
        let text = fs::read(self.file(pid, "cgroup")).ok()?;
        super::cgroup::path_in(&String::from_utf8_lossy(&text)).map(str::to_owned)
    }

    /// When the process began, to the second.
    pub(super) fn started(&self, pid: u32) -> Option<Timestamp> {
        /// The 22nd field.
        const START: usize = 19;
        let ticks: i64 = self.stat_field(pid, START)?.parse().ok()?;
        let stat = fs::read_to_string(self.root.join("stat")).ok()?;
        let boot = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        let boot = Timestamp::from_second(boot).ok()?;
        boot.checked_add(SignedDuration::from_millis(ticks.checked_mul(TICK_MILLISECONDS)?)).ok()
    }

    /// Whether `pid` is `ancestor` or a descendant of it.
    pub(super) fn is_descendant_of(&self, pid: u32, ancestor: u32) -> bool {
        self.line(pid).any(|pid| pid == ancestor)
    }

    /// The first of `pid`, its parent, and so on, that is one of `wanted`.
    pub(super) fn nearest(&self, pid: u32, wanted: &BTreeSet<u32>) -> Option<u32> {
        self.line(pid).find(|pid| wanted.contains(pid))
    }

    /// Whether `pid` is the program that it was started as, and not the copy of its parent that it is before that.
    pub(super) fn has_executed(&self, pid: u32) -> Option<bool> {
        const FLAGS: usize = 6;
        // PF_FORKNOEXEC of the kernel's sched.h.
        const FORKED_ONLY: u32 = 0x40;
        let flags: u32 = self.stat_field(pid, FLAGS)?.parse().ok()?;
        Some(flags & FORKED_ONLY == 0)
    }

    /// Whether `pid` is called portward, or descends from a process that is.
    pub(super) fn is_of_portward(&self, pid: u32) -> bool {
        self.line(pid).any(|pid| fs::read(self.file(pid, "comm")).is_ok_and(|name| name == PORTWARD))
    }

    /// The value of a variable in the environment that `pid` was started with, if that is for us to see.
    pub(super) fn variable(&self, pid: u32, name: &str) -> Option<String> {
        value_in(&fs::read(self.file(pid, "environ")).ok()?, name)
    }

    /// The effective uid of `pid`.
    pub(super) fn uid(&self, pid: u32) -> Option<u32> {
        let status = fs::read_to_string(self.file(pid, "status")).ok()?;
        // Real, effective, saved, and that for files.
        status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:"))?
            .split_ascii_whitespace()
            .nth(1)?
            .parse()
            .ok()
    }

    /// `pid`, its parent, and so on.
    fn line(&self, pid: u32) -> impl Iterator<Item = u32> {
        std::iter::successors(Some(pid), |pid| self.parent(*pid)).take(MAX_ANCESTORS)
    }

    fn parent(&self, pid: u32) -> Option<u32> {
        /// The fourth field.
        const PARENT: usize = 1;
        self.stat_field(pid, PARENT)?.parse().ok()
    }

    /// A field of the stat file, counted from the one behind the name; the name may hold spaces and parentheses itself.
    fn stat_field(&self, pid: u32, index: usize) -> Option<String> {
        let stat = fs::read(self.file(pid, "stat")).ok()?;
        field_in(&String::from_utf8_lossy(&stat), index).map(str::to_owned)
    }
}

/// The inode in `socket:[123]`.
fn socket_inode(link: &[u8]) -> Option<u32> {
    let inode = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    str::from_utf8(inode).ok()?.parse().ok()
}

fn field_in(stat: &str, index: usize) -> Option<&str> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(index)
}

/// The value of a variable in an environment as /proc has it: the last one of this name.
pub(crate) fn value_in(environment: &[u8], name: &str) -> Option<String> {
    let mut values = environment.split(|byte| *byte == 0).filter_map(|variable| {
        variable.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="))
    });
    values.next_back().map(|value| String::from_utf8_lossy(value).into_owned())
}

#[cfg(test)]
pub(super) mod tests;
