//! SIGCHLD: children that were stopped or continued, and orphans that have ended.
//!
//! A child is reaped by the part of portward that started it. Orphans, which portward inherits as a subreaper or as pid 1, are reaped
//! here on SIGCHLD.

use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use nix::libc;
use nix::unistd::{Pid, getsid};
use tokio::signal::unix::Signal;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::registry;

/// A child that is in portward's own session is one that a part of portward waits for, or one that was there before portward was
/// executed in place of a shell. Only the latter are zombies for this long.
const OTHERS_WAIT: Duration = Duration::from_secs(10);

/// The front of the queue of those that have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Front {
    /// There is none.
    Empty,
    /// The owner of a tree reaps its leader, and calls [`reap_orphans_soon`] then.
    Leader,
    /// Some part of portward is expected to reap this child.
    Expected(u32),
}

/// A leader was reaped that orphans may have been queued behind. To ask the kernel takes the longer the more children there are:
/// it is asked once for all leaders that were reaped meanwhile.
static LEADER_REAPED: Notify = Notify::const_new();

/// Looks after all children, those that there are already included, whenever SIGCHLD comes.
pub async fn look_after_children(mut changed: Signal) {
    let mut expected: Option<(u32, Instant)> = None;
    loop {
        note_stops();
        expected = match reap_orphans_until() {
            Front::Empty | Front::Leader => None,
            Front::Expected(pid) => match expected {
                Some((known, due)) if known == pid && Instant::now() >= due => {
                    reap(pid);
                    continue;
                }
                Some((known, due)) if known == pid => Some((known, due)),
                Some(_) | None => Some((pid, Instant::now() + OTHERS_WAIT)),
            },
        };
        let due = expected.map(|(_, due)| due);
        tokio::select! {
            _ = changed.recv() => {}
            () = LEADER_REAPED.notified() => {}
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
    }
}

/// Has the orphans reaped that were queued behind a child which has just been reaped.
pub(super) fn reap_orphans_soon() {
    LEADER_REAPED.notify_one();
}

/// Reaps the orphans that have ended.
pub(super) fn reap_orphans() {
    reap_orphans_until();
}

fn reap_orphans_until() -> Front {
    // The leader's owner may just be starting it: until it is registered, it must not be treated as an orphan.
    let trees = registry::lock();
    let ours = getsid(None).ok();
    while let Some(ended) = wait(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) {
        if trees.is_leader(ended.pid) {
            return Front::Leader;
        }
        let session = i32::try_from(ended.pid).ok().and_then(|pid| getsid(Some(Pid::from_raw(pid))).ok());
        if session == ours {
            return Front::Expected(ended.pid);
        }
        if let Some(status) = reap(ended.pid) {
            trees.note_end(ended.pid, status);
        }
    }
    Front::Empty
}

fn note_stops() {
    let trees = registry::lock();
    while let Some(changed) = wait(libc::P_ALL, 0, libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG) {
        trees.note_stop(changed.pid, changed.code != libc::CLD_CONTINUED);
    }
}

fn reap(pid: u32) -> Option<ExitStatus> {
    let ended = wait(libc::P_PID, pid, libc::WEXITED | libc::WNOHANG)?;
    let status = match ended.code {
        libc::CLD_EXITED => ended.status << 8,
        libc::CLD_DUMPED => ended.status | 0x80,
        _ => ended.status,
    };
    Some(ExitStatus::from_raw(status))
}

/// What `waitid` reports about a child.
struct Waited {
    pid: u32,
    /// `CLD_EXITED` and the like.
    code: i32,
    /// The exit code, or the signal.
    status: i32,
}

/// `None` as well if there is no child at all.
fn wait(kind: libc::idtype_t, id: u32, flags: i32) -> Option<Waited> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: `info` is valid for writes, and zeroed is a valid `siginfo_t`, of which the kernel fills the fields for SIGCHLD;
    // where it fills none, these are zero.
    let (pid, code, status) = unsafe {
        if libc::waitid(kind, id, info.as_mut_ptr(), flags) != 0 {
            return None;
        }
        let info = info.assume_init();
        (info.si_pid(), info.si_code, info.si_status())
    };
    let pid = u32::try_from(pid).ok().filter(|pid| *pid != 0)?;
    Some(Waited { pid, code, status })
}
