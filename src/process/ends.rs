//! How a process has ended that is the child of somebody else.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use nix::libc;

use super::stat::{self, Identity};

/// How a process has ended that is not a child of ours; `None` if that cannot be found out any more. It shows until its parent has
/// collected it, and since Linux 6.15 afterwards as well to who has a pidfd.
pub(super) fn how_it_ended(pid: u32, start: u64, pidfd: &OwnedFd) -> Option<ExitStatus> {
    let shown = stat::exit_status(Identity::new(pid, start)).ok().flatten();
    shown.or_else(|| exit_status(pidfd))
}

fn exit_status(pidfd: &OwnedFd) -> Option<ExitStatus> {
    // SAFETY: the struct is made of integers, for which zero is valid.
    let mut info = unsafe { MaybeUninit::<libc::pidfd_info>::zeroed().assume_init() };
    info.mask = libc::PIDFD_INFO_EXIT.into();
    // SAFETY: the descriptor is open, and the kernel writes no more than the struct has, whose size is part of the request.
    let asked = unsafe { libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
    let is_known = asked == 0 && info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0;
    is_known.then(|| ExitStatus::from_raw(info.exit_code))
}

#[cfg(test)]
mod tests {
    use super::super::stat::Stat;
    use super::*;

    #[test]
    fn how_a_process_ended_is_known_before_and_after_it_is_collected() {
        for (script, status) in [("exit 3", 3 << 8), ("kill -9 $$", 9)] {
            let mut child = std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
            let start = Stat::of(child.id()).unwrap().unwrap().identity.start();
            let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
            let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
            let mut ready = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut ready, None).unwrap();
            let ended = || how_it_ended(child.id(), start, &pidfd);
            assert_eq!(ended(), Some(ExitStatus::from_raw(status)));
            child.wait().unwrap();
            // Linux before 6.15 does not tell.
            let later = how_it_ended(child.id(), start, &pidfd);
            assert!(later.is_none_or(|ended| ended == ExitStatus::from_raw(status)), "{later:?}");
        }
    }
}
