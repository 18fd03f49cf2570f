//! `on_conflict: kill`: signals exactly the processes that hold a port.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::port::{HeldBy, HoldKind, Holder, holder};

/// What became of one holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// The process.
    pub holder: Holder,
    /// Whether the signal was sent, and else why not.
    pub result: Result<(), String>,
}

/// Signals the processes that listen on, or have bound, what `held` names. Never one that is only a client of the port,
/// never pid 1, never portward or a process that it descends from. Reads /proc: blocks for some milliseconds.
pub fn evict(held: &[HeldBy], signal: Signal) -> Vec<Eviction> {
    let mut seen = BTreeSet::new();
    let mut evictions = Vec::new();
    for held in held {
        match held.kind {
            HoldKind::Listener | HoldKind::Bound => {}
            // Somebody's outgoing connection, or nobody's socket any more.
            HoldKind::Connection | HoldKind::TimeWait(_) | HoldKind::Unexplained => continue,
        }
        let holder = holder::describe(held);
        if holder.pid.is_none_or(|pid| seen.insert(pid)) {
            let result = signal_holder(&holder, held.inode, signal);
            evictions.push(Eviction { holder, result });
        }
    }
    evictions
}

fn signal_holder(holder: &Holder, inode: u32, signal: Signal) -> Result<(), String> {
    let Some(pid) = holder.pid else {
        return Err("its pid is hidden from this user; run portward as root or as that user".to_owned());
    };
    if holder::is_descendant_of(std::process::id(), pid) {
        return Err("it is portward itself or a process that started portward".to_owned());
    }
    let pidfd = open(pid).map_err(|error| error.to_string())?;
    // The pidfd cannot come to mean another process. If this process still has the socket, it is the holder.
    if !holder::pid_owns(pid, inode) {
        return Err("it does not hold the port any more".to_owned());
    }
    pidfd_send_signal(&pidfd, signal).map_err(|error| match error {
        Errno::PERM => "this user may not signal it; stop it by hand".to_owned(),
        error => error.to_string(),
    })
}

fn open(pid: u32) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    pidfd_open(pid, PidfdFlags::empty())
}
