//! A process that has nothing to do with anything, and the pid of one that had.

use std::ffi::CString;
use std::io;

use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::lab::MARK;
use crate::namespace::kill;

/// `sleep`, under a pid of the test's choice.
#[derive(Debug)]
pub struct Bystander {
    pid: Pid,
}

impl Bystander {
    /// Starts it under `pid`, which must have been somebody else's and be free again.
    pub fn recycling(pid: u32) -> Self {
        let wanted = libc::pid_t::try_from(pid).unwrap();
        let (program, time) = (c"/bin/sleep", c"infinity");
        let arguments = [program.as_ptr(), time.as_ptr(), std::ptr::null()];
        let mark = CString::new(format!("{}={}", MARK.0, MARK.1)).unwrap();
        let environment = [mark.as_ptr(), std::ptr::null()];
        let mut clone = libc::clone_args {
            flags: 0,
            pidfd: 0,
            child_tid: 0,
            parent_tid: 0,
            exit_signal: Signal::SIGCHLD as u64,
            stack: 0,
            stack_size: 0,
            tls: 0,
            set_tid: std::ptr::from_ref(&wanted) as u64,
            set_tid_size: 1,
            cgroup: 0,
        };
        // SAFETY: with no flags clone3 is fork(2): the child has a copy of this memory and goes on here, alone. All that it
        // does is execve and _exit, on texts made before.
        let child = unsafe {
            let child = libc::syscall(libc::SYS_clone3, &raw mut clone, size_of_val(&clone));
            if child == 0 {
                libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr());
                libc::_exit(127);
            }
            child
        };
        assert_eq!(child, i64::from(pid), "clone3 under pid {pid}: {}", io::Error::last_os_error());
        Self { pid: Pid::from_raw(wanted) }
    }

    /// Whether nobody has ended it.
    pub fn is_alive(&self) -> bool {
        waitpid(self.pid, Some(WaitPidFlag::WNOHANG)).unwrap() == WaitStatus::StillAlive
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        kill(self.pid.as_raw().try_into().unwrap(), Signal::SIGKILL);
        // An error means that it has been waited for already.
        let _ = waitpid(self.pid, None);
    }
}
