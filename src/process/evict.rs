//! `on_conflict: kill`: ends exactly the processes that hold a port.
//!
//! Nothing is signalled for nothing: where one holder may not be ended, the port would stay held whoever else went, and so
//! all are spared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, test_kill_process};

use super::is_of_a_tree;
use crate::port::{HeldBy, HoldKind, Holder, holder};

/// A process that holds a port, and that a signal can reach without ever reaching another one.
#[derive(Debug)]
pub struct Evictee {
    /// Who it is, alone.
    holder: Holder,
    pid: u32,
    /// Opened before it was known that the process holds the port. It never comes to mean another process.
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

/// What a signal did to one process.
#[derive(Debug)]
pub struct Signalled<'e> {
    /// The process.
    pub holder: &'e Holder,
    /// Whether the signal was sent, and else why not.
    pub result: Result<(), Errno>,
}

/// The processes to be ended so that what `held` tells of is let go, or those that prevent it. Reads /proc: blocks for some
/// milliseconds.
///
/// Never a process that only has a connection from the port, never pid 1, never portward or a process that it descends from.
/// A process that has let go meanwhile is in neither list.
pub fn evictees(held: &[HeldBy]) -> Result<Vec<Evictee>, Vec<Spared>> {
    let mut evictees: BTreeMap<u32, Evictee> = BTreeMap::new();
    let mut spared = Vec::new();
    for held in held {
        match held.kind {
            HoldKind::Listener | HoldKind::Bound => {}
            HoldKind::Connection => {
                spared.push(client(held));
                continue;
            }
            // Nobody's socket any more, or none that is known.
            HoldKind::TimeWait(_) | HoldKind::Unexplained => continue,
        }
        for holder in holder::describe_each(held) {
            let Some(pid) = holder.pid else {
                spared.push(hidden(holder));
                continue;
            };
            if let Some(known) = evictees.get_mut(&pid) {
                known.inodes.insert(held.inode);
                continue;
            }
            match examine(pid, held.inode) {
                Ok(Some(pidfd)) => {
                    let inodes = BTreeSet::from([held.inode]);
                    evictees.insert(pid, Evictee { holder, pid, pidfd, inodes });
                }
                Ok(None) => {}
                Err(reason) => spared.push(Spared { holder, reason }),
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

/// A pidfd of the process, or why it may not be ended; `None` if it does not hold the socket any more.
fn examine(pid: u32, inode: u32) -> Result<Option<OwnedFd>, String> {
    if pid == 1 {
        return Err("that is the first process of this machine or container: stop what it holds the port for, such as a \
                    socket unit (`systemctl list-sockets`)"
            .to_owned());
    }
    if is_of_a_tree(pid) {
        return Err(
            "that is a process of a tunnel of portward: give the two tunnels different ports".to_owned()
        );
    }
    if holder::is_descendant_of(std::process::id(), pid) {
        return Err("that is portward itself or a process that started portward: end it by hand".to_owned());
    }
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    let pidfd = match pidfd_open(number, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Ok(None),
        Err(error) => return Err(format!("the kernel gives no pidfd of it: {error}")),
    };
    // Only now, for from here on the pidfd cannot come to mean another process.
    if !holder::pid_owns(pid, inode) {
        return Ok(None);
    }
    // Only asks, so that it is known before anybody is signalled.
    if test_kill_process(number) == Err(Errno::PERM) {
        return Err(format!(
            "this user may not signal it: `sudo kill {pid}` ends it, and CAP_KILL lets portward do so"
        ));
    }
    Ok(Some(pidfd))
}

fn client(held: &HeldBy) -> Spared {
    let port = held.bound.port();
    Spared {
        holder: holder::describe(held),
        reason: format!(
            "it only has a connection from that port, and a client is never ended: close the connection there; `sysctl \
             net.ipv4.ip_local_reserved_ports={port}` keeps clients off the port"
        ),
    }
}

fn hidden(holder: Holder) -> Spared {
    Spared { holder, reason: "end it as root, or run portward as root with CAP_SYS_PTRACE".to_owned() }
}
