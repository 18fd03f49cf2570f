//! The start of a process without a copy of portward's memory.
//!
//! fork(2) copies the page tables, and so takes the longer the more tunnels there are. The child made here shares portward's
//! memory until it executes its program, and the thread that makes it waits until then, as with posix_spawn(3), which cannot
//! set a limit.

use std::ffi::{CString, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::libc;
use rustix::process::Rlimit;

use super::exec::Image;
use super::limits;

/// The child's own stack. It calls no function that needs much of it.
const STACK_SIZE: usize = 64 * 1024;

/// What the child is to do.
pub(super) struct Start<'a> {
    pub(super) image: &'a Image,
    /// Its working directory, if not that of portward.
    pub(super) directory: Option<CString>,
    /// Its standard input, output and error.
    pub(super) streams: [BorrowedFd<'a>; 3],
    /// Its soft limit of open files.
    pub(super) limit: Option<Rlimit>,
}

/// What both sides see.
struct Shared<'a> {
    start: &'a Start<'a>,
    streams: [RawFd; 3],
    /// Why the child could not execute its program; 0 if it could.
    errno: AtomicI32,
}

impl Start<'_> {
    /// Starts the process as the leader of a session of its own. Returns its pid once it has executed its program.
    pub(super) fn run(&self) -> io::Result<u32> {
        let streams = self.streams.map(|stream| stream.as_raw_fd());
        let mut shared = Shared { start: self, streams, errno: AtomicI32::new(0) };
        let mut stack = Vec::<MaybeUninit<u128>>::with_capacity(STACK_SIZE / size_of::<u128>());
        // SAFETY: the stack, and what `shared` refers to, live until the child has executed its program or ended, for until then
        // this thread stands still (CLONE_VFORK). No handler of a signal runs in the child, which shares this memory: all signals
        // are blocked before it is made, and it unblocks them when it has no handlers any more.
        let pid = unsafe {
            let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            let top = stack.as_mut_ptr().add(stack.capacity()).cast();
            let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
            let pid = libc::clone(child, top, flags, (&raw mut shared).cast());
            let error = io::Error::last_os_error();
            libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), null_mut());
            u32::try_from(pid).map_err(|_| error)?
        };
        match shared.errno.load(Ordering::Relaxed) {
            0 => Ok(pid),
            errno => {
                wait(pid)?;
                Err(io::Error::from_raw_os_error(errno))
            }
        }
    }
}

/// Waits for the end of a child and reaps it; returns the status as wait(2) has it.
pub(super) fn wait(pid: u32) -> io::Result<i32> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut status = 0;
    // SAFETY: `status` is valid for writes.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } == -1 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(status)
}

extern "C" fn child(shared: *mut c_void) -> libc::c_int {
    // SAFETY: it is what `run` hands over, and stays valid while that waits.
    let shared = unsafe { &*shared.cast::<Shared<'_>>() };
    let error = shared.execute();
    shared.errno.store(error.raw_os_error().unwrap_or(libc::EINVAL), Ordering::Relaxed);
    // SAFETY: ends this process alone, without running what portward does at its end.
    unsafe { libc::_exit(127) }
}

impl Shared<'_> {
    /// Returns only if the program was not executed. Runs in portward's memory: makes system calls only, and allocates nothing.
    fn execute(&self) -> io::Error {
        // SAFETY: descriptors, texts and sets are valid, and the dispositions of signals are this process's own.
        unsafe {
            for (target, stream) in (0..).zip(self.streams) {
                if libc::dup2(stream, target) == -1 {
                    return io::Error::last_os_error();
                }
            }
            for signal in 1..=libc::SIGRTMAX() {
                let mut action = MaybeUninit::<libc::sigaction>::zeroed();
                libc::sigaction(signal, null_mut(), action.as_mut_ptr());
                let handler = action.assume_init_ref().sa_sigaction;
                // The standard library of Rust ignores SIGPIPE, which other programs do not expect.
                if signal == libc::SIGPIPE || ![libc::SIG_DFL, libc::SIG_IGN].contains(&handler) {
                    libc::signal(signal, libc::SIG_DFL);
                }
            }
            let mut none = MaybeUninit::uninit();
            libc::sigemptyset(none.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), null_mut());
            if let Some(directory) = &self.start.directory
                && libc::chdir(directory.as_ptr()) == -1
            {
                return io::Error::last_os_error();
            }
            if libc::setsid() == -1 {
                return io::Error::last_os_error();
            }
        }
        limits::restore(self.start.limit);
        self.start.image.execute()
    }
}
