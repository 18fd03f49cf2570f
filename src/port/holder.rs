//! The process behind a socket. Everything here reads /proc and blocks: call it on a blocking thread.
//!
//! Whatever /proc does not show, because the process is gone or belongs to somebody else, is left out: that is no error.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

use nix::unistd::{Uid, User};

use super::{HeldBy, Holder};

/// Characters of a command line that are shown.
const COMMAND_LENGTH: usize = 256;
/// Longer chains of parents than this are a loop, made by a pid that was used again while we climbed.
const MAX_ANCESTORS: usize = 1024;

/// The processes that have the sockets `inodes` open, by inode; of several, the one with the lowest pid. Reads all of /proc
/// (7 to 10 ms for 280 processes).
pub fn owners(inodes: &BTreeSet<u32>) -> HashMap<u32, u32> {
    Processes::system().owners(inodes)
}

/// Whether the process `pid` has the socket `inode` open (28 microseconds).
pub fn pid_owns(pid: u32, inode: u32) -> bool {
    Processes::system().sockets(pid).any(|socket| socket == inode)
}

/// Who holds the endpoint. Of a process that this user may not see, the uid and the user's name are known all the same.
pub fn describe(held: &HeldBy) -> Holder {
    Processes::system().describe(held)
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

    fn owners(&self, inodes: &BTreeSet<u32>) -> HashMap<u32, u32> {
        let mut owners = HashMap::new();
        for pid in self.pids() {
            if owners.len() == inodes.len() {
                break;
            }
            for inode in self.sockets(pid).filter(|inode| inodes.contains(inode)) {
                owners.entry(inode).or_insert(pid);
            }
        }
        owners
    }

    fn describe(&self, held: &HeldBy) -> Holder {
        // Without an inode no process has the socket open any more.
        let sought = if held.inode == 0 { BTreeSet::new() } else { BTreeSet::from([held.inode]) };
        let pid = self.owners(&sought).remove(&held.inode);
        Holder {
            pid,
            command: pid.and_then(|pid| self.command(pid)),
            uid: held.uid,
            user: User::from_uid(Uid::from_raw(held.uid)).ok().flatten().map(|user| user.name),
            unit: pid.and_then(|pid| self.unit(pid)),
        }
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

    fn unit(&self, pid: u32) -> Option<String> {
        unit_of(&String::from_utf8_lossy(&fs::read(self.file(pid, "cgroup")).ok()?))
    }

    fn parent(&self, pid: u32) -> Option<u32> {
        parent_in(&String::from_utf8_lossy(&fs::read(self.file(pid, "stat")).ok()?))
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

/// The innermost unit in the text of a cgroup file: `0::/system.slice/nginx.service` on cgroup v2, and a line with
/// `name=systemd` on v1.
fn unit_of(cgroups: &str) -> Option<String> {
    let path = cgroups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        fields.next().filter(|_| controllers.is_empty() || controllers == "name=systemd")
    })?;
    let is_unit = |name: &&str| {
        [".service", ".scope"]
            .iter()
            .any(|suffix| name.strip_suffix(suffix).is_some_and(|stem| !stem.is_empty()))
    };
    path.rsplit('/').find(is_unit).map(harmless)
}

/// The fourth field of a stat file. The second is the name in parentheses, which may hold spaces and parentheses itself.
fn parent_in(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests;
