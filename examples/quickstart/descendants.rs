//! Every process that the show starts, directly or not, ends with it; the kernel is the witness.
//!
//! This process is the "subreaper" of its descendants: should the daemon leave an ssh behind, that ssh becomes a child of ours.
//! So "nothing is left" is one question, have I children?, and needs no list of pids and no pattern of names.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// From now on orphaned descendants become children of this process.
pub(crate) fn adopt_orphans() -> nix::Result<()> {
    prctl::set_child_subreaper(true)
}

/// The descendants that are still running. Call it when the daemon has been waited for: it reaps whatever else has ended.
pub(crate) fn still_running() -> io::Result<Vec<Pid>> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return Ok(Vec::new()),
            Ok(WaitStatus::StillAlive) => return children(),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Kills what is still running, and what those leave behind in turn.
pub(crate) fn kill_all() -> io::Result<()> {
    loop {
        let running = still_running()?;
        if running.is_empty() {
            return Ok(());
        }
        for pid in running {
            kill(pid, Signal::SIGKILL)?;
            waitpid(pid, None)?;
        }
    }
}

fn children() -> io::Result<Vec<Pid>> {
    let mut pids = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        let listed = fs::read_to_string(task?.path().join("children"))?;
        pids.extend(listed.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw));
    }
    Ok(pids)
}
