//! The process behind a socket. Everything here reads /proc and blocks: call it on a blocking thread.
//!
//! Whatever /proc does not show, because the process is gone or belongs to somebody else, is left out: that is no error.

pub(crate) mod cgroup;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use nix::unistd::{Uid, User};

use self::cgroup::Cgroups;
use super::wire::SocketRow;
use super::{HeldBy, Holder};

/// Characters of a command line that are shown.
const COMMAND_LENGTH: usize = 256;
/// Longer chains of parents than this are a loop, made by a pid that was used again while we climbed.
const MAX_ANCESTORS: usize = 1024;
/// Ticks a second in which /proc counts (USER_HZ), as milliseconds for one.
const TICK_MILLISECONDS: i64 = 10;

/// What the kernel tells of a socket's owner without /proc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owned {
    /// Inode; 0 when no process has it open any more.
    pub inode: u32,
    /// The uid that made it.
    pub uid: u32,
    /// Id of the cgroup in which it was made.
    pub cgroup: Option<u64>,
}

impl From<&HeldBy> for Owned {
    fn from(held: &HeldBy) -> Self {
        Self { inode: held.inode, uid: held.uid, cgroup: held.cgroup }
    }
}

impl From<&SocketRow> for Owned {
    fn from(row: &SocketRow) -> Self {
        Self { inode: row.inode, uid: row.uid, cgroup: row.cgroup }
    }
}

/// The processes that have the sockets `inodes` open, by inode; of several, the one with the lowest pid. Reads all of /proc
/// (7 to 10 ms for 280 processes).
pub fn owners(inodes: &BTreeSet<u32>) -> HashMap<u32, u32> {
    let owners = Processes::system().owners(inodes);
    owners.into_iter().map(|(inode, pids)| (inode, pids[0])).collect()
}

/// Whether the process `pid` has the socket `inode` open (28 microseconds).
pub fn pid_owns(pid: u32, inode: u32) -> bool {
    Processes::system().sockets(pid).any(|socket| socket == inode)
}

/// Who holds the endpoint. Of a process that this user may not see, the uid, the user's name and, where the cgroup tells it,
/// the unit and the container are known all the same.
///
/// Nobody holds a TIME_WAIT, and the kernel tells nothing of what is unexplained: do not ask who that is.
pub fn describe(held: &HeldBy) -> Holder {
    describe_all(&[held.into()]).swap_remove(0)
}

/// Who has each of `sockets`. Reads /proc and the tree of cgroups once for all of them.
pub fn describe_all(sockets: &[Owned]) -> Vec<Holder> {
    Processes::system().describe(sockets, &Cgroups::system())
}

/// Whether `pid` is `ancestor` or a descendant of it.
pub fn is_descendant_of(pid: u32, ancestor: u32) -> bool {
    Processes::system().is_descendant_of(pid, ancestor)
}

/// The processes of a /proc, which tests bring themselves.
#[derive(Debug)]
struct Processes {
    root: PathBuf,
}

impl Processes {
    fn system() -> Self {
        Self { root: PathBuf::from("/proc") }
    }

    fn file(&self, pid: u32, name: &str) -> PathBuf {
        self.root.join(pid.to_string()).join(name)
    }

    /// All pids, in ascending order.
    fn pids(&self) -> Vec<u32> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut pids: Vec<u32> =
            entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        pids.sort_unstable();
        pids
    }

    /// The inodes of the sockets that `pid` has open.
    fn sockets(&self, pid: u32) -> impl Iterator<Item = u32> {
        let descriptors = fs::read_dir(self.file(pid, "fd")).into_iter().flatten().flatten();
        descriptors.filter_map(|descriptor| socket_inode(fs::read_link(descriptor.path()).ok()?.as_os_str()))
    }

    /// The pids that have each of `inodes` open, in ascending order, never none.
    fn owners(&self, inodes: &BTreeSet<u32>) -> BTreeMap<u32, Vec<u32>> {
        let mut owners: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        if inodes.is_empty() {
            return owners;
        }
        for pid in self.pids() {
            for inode in self.sockets(pid).filter(|inode| inodes.contains(inode)) {
                let pids = owners.entry(inode).or_default();
                // A process may have several descriptors of one socket.
                if pids.last() != Some(&pid) {
                    pids.push(pid);
                }
            }
        }
        owners
    }

    fn describe(&self, sockets: &[Owned], cgroups: &Cgroups) -> Vec<Holder> {
        // Without an inode no process has the socket open any more.
        let inodes = sockets.iter().map(|socket| socket.inode).filter(|inode| *inode != 0).collect();
        let owners = self.owners(&inodes);
        let paths = cgroups.paths(&sockets.iter().filter_map(|socket| socket.cgroup).collect());
        let mut users: HashMap<u32, Option<String>> = HashMap::new();
        let describe = |socket: &Owned| {
            let pids = owners.get(&socket.inode).map(Vec::as_slice).unwrap_or_default();
            let pid = pids.first().copied();
            let cgroup_of_socket = || socket.cgroup.and_then(|id| paths.get(&id).cloned());
            let cgroup = pid.and_then(|pid| self.cgroup(pid)).or_else(cgroup_of_socket);
            let told = |part: fn(&str) -> Option<&str>| cgroup.as_deref().and_then(part).map(harmless);
            let user = users.entry(socket.uid).or_insert_with(|| user(socket.uid)).clone();
            Holder {
                pid,
                others: pids.iter().skip(1).copied().collect(),
                command: pid.and_then(|pid| self.command(pid)),
                uid: socket.uid,
                user,
                started: pid.and_then(|pid| self.started(pid)),
                unit: told(cgroup::unit_in),
                container: told(cgroup::container_in),
                cgroup: cgroup.as_deref().map(harmless),
                orphaned: socket.inode == 0,
            }
        };
        sockets.iter().map(describe).collect()
    }

    /// The command line, or the name in brackets if the process has erased it.
    fn command(&self, pid: u32) -> Option<String> {
        let arguments = fs::read(self.file(pid, "cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments);
        let arguments = arguments.trim_end_matches('\0');
        if !arguments.is_empty() {
            return Some(harmless(&arguments.replace('\0', " ")));
        }
        let name = fs::read(self.file(pid, "comm")).ok()?;
        Some(harmless(&format!("[{}]", String::from_utf8_lossy(&name).trim_end_matches('\n'))))
    }

    fn cgroup(&self, pid: u32) -> Option<String> {
        let text = fs::read(self.file(pid, "cgroup")).ok()?;
        cgroup::path_in(&String::from_utf8_lossy(&text)).map(str::to_owned)
    }

    /// When the process began, to the second.
    fn started(&self, pid: u32) -> Option<Timestamp> {
        /// The 22nd field.
        const START: usize = 19;
        let ticks: i64 = self.stat_field(pid, START)?.parse().ok()?;
        let stat = fs::read_to_string(self.root.join("stat")).ok()?;
        let boot = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        let boot = Timestamp::from_second(boot).ok()?;
        boot.checked_add(SignedDuration::from_millis(ticks.checked_mul(TICK_MILLISECONDS)?)).ok()
    }

    /// A field of the stat file, counted from the one behind the name; the name may hold spaces and parentheses itself.
    fn stat_field(&self, pid: u32, index: usize) -> Option<String> {
        let stat = fs::read(self.file(pid, "stat")).ok()?;
        field_in(&String::from_utf8_lossy(&stat), index).map(str::to_owned)
    }

    fn parent(&self, pid: u32) -> Option<u32> {
        /// The fourth field.
        const PARENT: usize = 1;
        self.stat_field(pid, PARENT)?.parse().ok()
    }

    fn is_descendant_of(&self, pid: u32, ancestor: u32) -> bool {
        std::iter::successors(Some(pid), |pid| self.parent(*pid))
            .take(MAX_ANCESTORS)
            .any(|pid| pid == ancestor)
    }
}

/// The inode in `socket:[123]`.
fn socket_inode(link: &OsStr) -> Option<u32> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The command line as it may be shown on a terminal and put in a log line.
fn harmless(text: &str) -> String {
    let shown = text.chars().take(COMMAND_LENGTH);
    shown.map(|character| if is_harmful(character) { '\u{fffd}' } else { character }).collect()
}

/// Control characters, and those that turn the direction of the text around them.
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn field_in(stat: &str, index: usize) -> Option<&str> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(index)
}

/// Name of the user `uid`.
pub(crate) fn user(uid: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
}

#[cfg(test)]
mod tests;
