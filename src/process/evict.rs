//! `on_conflict: kill`: ends exactly the processes that hold a port.
//!
//! If one of the holders may not be ended, none is signalled, because the port would stay held.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, test_kill_process};

use crate::port::advice::advice;
use crate::port::{HeldBy, Holder, Kinship, Occupant, OccupantKind, holder, who};

/// The pid of the first process of a machine or of a container.
const FIRST_PROCESS: u32 = 1;

/// A process that holds a port, with a pidfd through which signals reach no other process.
#[derive(Debug)]
pub struct Evictee {
    /// Who it is, alone.
    holder: Holder,
    pid: u32,
    /// Opened before it was known that the process holds the port. It never refers to another process.
    pidfd: OwnedFd,
    /// The sockets by which it holds the port.
    inodes: BTreeSet<u32>,
}

/// A holder that was not signalled, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spared {
    /// Who holds the port.
    pub holder: Holder,
    /// Why it may not be ended, and what to do.
    pub reason: String,
}

impl fmt::Display for Spared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.holder, self.reason)
    }
}

/// The result of signalling one process.
#[derive(Debug)]
pub struct Signalled<'e> {
    /// The process.
    pub holder: &'e Holder,
    /// Whether the signal was sent, and else why not.
    pub result: Result<(), Errno>,
}

/// Why the holders of a port may not be ended. doctor uses the same rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bar {
    /// It only has a connection from the port.
    Client,
    /// No process has the socket.
    Nobody,
    /// Which process has it may not be seen.
    Unseen,
    /// It is pid 1.
    FirstProcess,
    /// It is portward, or portward descends from it.
    Ancestor,
    /// It is of a tunnel of this portward.
    Tunnel,
    /// It is another portward that runs, or of a tunnel of it.
    Supervised,
    /// portward may not signal it.
    Permission,
}

/// A process that has a socket open, as portward sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspect {
    /// Its id.
    pub pid: u32,
    /// Whether portward is it, or descends from it.
    pub is_ancestor: bool,
    /// Whether portward may signal it.
    pub may_be_signalled: bool,
}

/// Why one of `suspects`, all that have the socket of `occupant` open, may not be ended; `None` if all may be.
pub fn bar(occupant: &Occupant, suspects: &[Suspect]) -> Option<Bar> {
    match (occupant.kind, &occupant.holder) {
        (OccupantKind::Connection, _) => Some(Bar::Client),
        (OccupantKind::TimeWait | OccupantKind::Unexplained | OccupantKind::NoAddress, _) | (_, None) => {
            Some(Bar::Nobody)
        }
        (OccupantKind::Listener | OccupantKind::Bound, Some(holder)) if holder.kinship == Kinship::Child => {
            Some(Bar::Tunnel)
        }
        (OccupantKind::Listener | OccupantKind::Bound, Some(holder)) if holder.supervisor.is_some() => {
            Some(Bar::Supervised)
        }
        (OccupantKind::Listener | OccupantKind::Bound, Some(holder)) if suspects.is_empty() => {
            Some(if holder.is_hidden() { Bar::Unseen } else { Bar::Nobody })
        }
        (OccupantKind::Listener | OccupantKind::Bound, Some(_)) => {
            suspects.iter().copied().find_map(Suspect::bar)
        }
    }
}

impl Suspect {
    /// Why it may not be ended.
    fn bar(self) -> Option<Bar> {
        if self.pid == FIRST_PROCESS {
            Some(Bar::FirstProcess)
        } else if self.is_ancestor {
            Some(Bar::Ancestor)
        } else if self.may_be_signalled {
            None
        } else {
            Some(Bar::Permission)
        }
    }
}

impl Bar {
    /// As a clause about the holder.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Client => "it only has a connection from that port, and a client is never ended",
            Self::Nobody => "no process has it that could be ended",
            Self::Unseen => "portward may not see which process that is; as root with CAP_SYS_PTRACE it may",
            Self::FirstProcess => "it is the first process of this machine or container",
            Self::Ancestor => "that is portward itself or a process that started portward",
            Self::Tunnel => "that is a process of another tunnel of portward",
            Self::Supervised => "another portward that runs looks after it, and two portwards never fight",
            Self::Permission => "portward may not signal it; with CAP_KILL it may",
        }
    }
}

/// The processes to be ended to release `held`, or those that may not be ended. Reads /proc: blocks for some milliseconds.
///
/// Never a process that only has a connection from the port, never pid 1, never portward or a process that it descends from, never
/// one that another running portward looks after.
/// A process that has released the port meanwhile is in neither list.
pub fn evictees(held: &[HeldBy]) -> Result<Vec<Evictee>, Vec<Spared>> {
    let mut evictees: BTreeMap<u32, Evictee> = BTreeMap::new();
    let mut spared = Vec::new();
    for held in held {
        for occupant in who::describe(std::slice::from_ref(held)) {
            // A socket without a process ends by itself, or is not known.
            let Some(all) = &occupant.holder else { continue };
            for holder in holder::each(held, all) {
                if let Some(known) = holder.pid.and_then(|pid| evictees.get_mut(&pid)) {
                    known.inodes.insert(held.inode);
                    continue;
                }
                match examine(&occupant, &holder, held.inode) {
                    Ok(Some((pid, pidfd))) => {
                        let inodes = BTreeSet::from([held.inode]);
                        evictees.insert(pid, Evictee { holder, pid, pidfd, inodes });
                    }
                    Ok(None) => {}
                    Err(reason) => spared.push(Spared { holder, reason }),
                }
            }
        }
    }
    if spared.is_empty() { Ok(evictees.into_values().collect()) } else { Err(spared) }
}

/// Signals those of `evictees` that still hold the port.
pub fn signal(evictees: &[Evictee], signal: Signal) -> Vec<Signalled<'_>> {
    let holding = evictees.iter().filter(|evictee| evictee.holds());
    holding
        .map(|evictee| Signalled {
            holder: &evictee.holder,
            result: pidfd_send_signal(&evictee.pidfd, signal),
        })
        .collect()
}

impl Evictee {
    /// Whether it has the port still. The number may have passed on to another process, which then has it not, or which the
    /// pidfd does not reach.
    fn holds(&self) -> bool {
        self.inodes.iter().any(|inode| holder::pid_owns(self.pid, *inode))
    }
}

/// The process and a pidfd of it, or why it may not be ended; `None` if it does not hold the socket any more.
fn examine(occupant: &Occupant, holder: &Holder, inode: u32) -> Result<Option<(u32, OwnedFd)>, String> {
    let barred = |bar: Bar| {
        let advice = advice(&Occupant { holder: Some(holder.clone()), ..occupant.clone() });
        format!("{}: {advice}", bar.reason())
    };
    let number = |pid| i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some((pid, number)) = holder.pid.and_then(|pid| Some((pid, number(pid)?))) else {
        return bar(occupant, &[]).map_or(Ok(None), |bar| Err(barred(bar)));
    };
    let pidfd = match pidfd_open(number, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Ok(None),
        Err(error) => return Err(format!("the kernel gives no pidfd of it: {error}")),
    };
    // Only now, for from here on the pidfd cannot come to mean another process.
    if !holder::pid_owns(pid, inode) {
        return Ok(None);
    }
    let suspect = Suspect {
        pid,
        is_ancestor: holder::is_descendant_of(std::process::id(), pid),
        // Signal 0 only checks the permission, before any process is signalled.
        may_be_signalled: test_kill_process(number) != Err(Errno::PERM),
    };
    bar(occupant, &[suspect]).map_or(Ok(Some((pid, pidfd))), |bar| Err(barred(bar)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::advice::tests::kinds;

    #[test]
    fn on_conflict_kill_is_offered_only_for_a_process_that_it_would_end() {
        for (name, occupant) in kinds() {
            if advice(&occupant).can_be_killed {
                let holder = occupant.holder.as_ref().unwrap();
                let suspect = |pid| Suspect { pid, is_ancestor: false, may_be_signalled: true };
                let suspects: Vec<_> = holder.pids().map(suspect).collect();
                assert_eq!(bar(&occupant, &suspects), None, "{name}");
            }
        }
    }
}
