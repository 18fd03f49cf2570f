//! A process in /proc: its identity, parent, group and session.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::thread;
use std::time::Duration;

use nix::libc;

use crate::port::holder;

/// In the middle of execve(2) a process has neither arguments nor environment, for some microseconds: it is looked at again
/// after this long,
const EXEC_WAIT: Duration = Duration::from_millis(1);
/// this often. A process that has erased both cannot be distinguished from that.
const EXEC_ROUNDS: usize = 10;

/// A process and no other one: the kernel gives a pid out again, but not with the same start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Identity {
    pub(super) pid: u32,
    /// Clock ticks from the boot of the machine to the start of the process.
    start: u64,
}

impl Identity {
    pub(super) fn new(pid: u32, start: u64) -> Self {
        Self { pid, start }
    }

    /// Clock ticks from the boot of the machine to the start of the process.
    pub(super) fn start(self) -> u64 {
        self.start
    }
}

/// One line of /proc/PID/stat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) identity: Identity,
    pub(super) parent: u32,
    pub(super) group: u32,
    pub(super) session: u32,
    /// A zombie, which only its parent still sees.
    pub(super) has_ended: bool,
}

impl Stat {
    /// Reads it; `None` if there is no such process (any more).
    pub(super) fn of(pid: u32) -> io::Result<Option<Self>> {
        let stat = absent_as_none(fs::read(format!("/proc/{pid}/stat")))?;
        Ok(stat.and_then(|stat| Self::parse(pid, &String::from_utf8_lossy(&stat))))
    }

    fn parse(pid: u32, stat: &str) -> Option<Self> {
        // The name may hold spaces and parentheses itself.
        let (_, after_name) = stat.rsplit_once(')')?;
        let fields: Vec<_> = after_name.split_ascii_whitespace().collect();
        // A process of another pid namespace has number 0 here.
        let number = |index: usize| fields.get(index)?.parse::<u32>().ok();
        Some(Self {
            identity: Identity { pid, start: fields.get(19)?.parse().ok()? },
            parent: number(1)?,
            group: number(2)?,
            session: number(3)?,
            has_ended: matches!(*fields.first()?, "Z" | "X"),
        })
    }
}

/// How a process has ended whose parent has not collected it yet; `None` as well if it has not ended, or if this is not for us to see.
pub(super) fn exit_status(process: Identity) -> io::Result<Option<ExitStatus>> {
    let Some(line) = absent_as_none(fs::read(format!("/proc/{}/stat", process.pid)))? else {
        return Ok(None);
    };
    let line = String::from_utf8_lossy(&line);
    let is_it =
        Stat::parse(process.pid, &line).is_some_and(|stat| stat.identity == process && stat.has_ended);
    // The last field, proc_pid_stat(5). It is the 50th behind the name.
    let status =
        line.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(49)?.parse().ok());
    Ok(status.filter(|_| is_it).map(ExitStatus::from_raw))
}

/// The children of `pid`, those that it was given as a subreaper included.
pub(super) fn children(pid: u32) -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    let Some(threads) = absent_as_none(fs::read_dir(format!("/proc/{pid}/task")))? else {
        return Ok(children);
    };
    for thread in threads {
        // The list of threads ends early when the process does.
        let Some(thread) = absent_as_none(thread)? else { continue };
        let Some(listed) = absent_as_none(fs::read_to_string(thread.path().join("children")))? else {
            if thread.path().exists() {
                // A kernel without CONFIG_PROC_CHILDREN.
                return children_by_search(pid);
            }
            continue;
        };
        children.extend(listed.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    Ok(children)
}

/// Reads the stat file of every process on the machine.
fn children_by_search(parent: u32) -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if Stat::of(pid)?.is_some_and(|stat| stat.parent == parent) {
            children.push(pid);
        }
    }
    Ok(children)
}

/// The value of a variable in the environment that `pid` was started with; `None` as well if it is not for us to see, or if
/// the process has written over it.
pub(super) fn variable(pid: u32, name: &str) -> io::Result<Option<String>> {
    Ok(holder::value_in(&environment(pid)?, name))
}

/// Empty if it is not for us to see.
fn environment(pid: u32) -> io::Result<Vec<u8>> {
    for _ in 0..EXEC_ROUNDS {
        let environment = match fs::read(format!("/proc/{pid}/environ")) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(Vec::new()),
            read => absent_as_none(read)?.unwrap_or_default(),
        };
        let is_executing = || -> io::Result<bool> {
            let command = absent_as_none(fs::read(format!("/proc/{pid}/cmdline")))?;
            Ok(command.is_some_and(|command| command.is_empty()))
        };
        if !environment.is_empty() || !is_executing()? {
            return Ok(environment);
        }
        thread::sleep(EXEC_WAIT);
    }
    Ok(Vec::new())
}

/// All processes below `root`, itself included, parents first.
pub(super) fn descent(root: u32, found: &mut BTreeMap<u32, Stat>) -> io::Result<()> {
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        if found.contains_key(&pid) {
            continue;
        }
        let Some(stat) = Stat::of(pid)? else { continue };
        found.insert(pid, stat);
        open.extend(children(pid)?);
    }
    Ok(())
}

/// A process that ends while it is looked at is not there.
fn absent_as_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line = "12 (a) b (c)) S 1 10 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 1";
        let stat = Stat::parse(12, line).unwrap();
        assert_eq!((stat.parent, stat.group, stat.session, stat.has_ended), (1, 10, 9, false));
        assert_eq!(stat.identity, Identity { pid: 12, start: 4711 });
    }

    #[test]
    fn how_a_process_ended_shows_until_it_is_collected() {
        for (script, status) in [("exit 3", 3 << 8), ("kill -9 $$", 9)] {
            let mut child = std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
            let process = Stat::of(child.id()).unwrap().unwrap().identity;
            let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
            let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
            let mut ready = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut ready, None).unwrap();
            assert_eq!(exit_status(process).unwrap(), Some(ExitStatus::from_raw(status)));
            child.wait().unwrap();
            assert_eq!(exit_status(process).unwrap(), None);
        }
    }

    #[test]
    fn the_two_ways_to_find_children_agree() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let ours = std::process::id();
        assert!(children(ours).unwrap().contains(&child.id()));
        assert!(children_by_search(ours).unwrap().contains(&child.id()));
        child.kill().unwrap();
        assert_eq!(Stat::of(child.id()).unwrap().unwrap().parent, ours);
        child.wait().unwrap();
        assert_eq!(Stat::of(child.id()).unwrap(), None);
    }
}
