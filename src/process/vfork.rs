//! The start of a process without a copy of portward's memory and of its table of descriptors.
//!
//! fork(2) copies the page tables, and so takes the longer the more tunnels there are. The child made here shares portward's
//! memory until it executes its program, and the thread that makes it waits until then, as with posix_spawn(3), which cannot
//! set a limit. The table of descriptors grows in the same way, and whoever looks at a child's descriptors goes through all
//! of the copy. So the child shares it, until it takes a copy of the lowest ones, among which its own streams are.

use std::ffi::{CString, c_void};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::libc;
use rustix::io::{DupFlags, dup3};
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

/// Descriptors that were opened when there were few, and so have low numbers. A child finds its streams there; else they are
/// those of /dev/null, which comes first.
static SLOTS: Mutex<Option<[OwnedFd; 4]>> = Mutex::new(None);

/// The streams of a child in their slots, until this is dropped.
struct Slots(MutexGuard<'static, Option<[OwnedFd; 4]>>);

impl Slots {
    fn fill(streams: [BorrowedFd<'_>; 3]) -> io::Result<Self> {
        let mut slots = SLOTS.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.is_none() {
            let open = || File::open("/dev/null").map(OwnedFd::from);
            *slots = Some([open()?, open()?, open()?, open()?]);
        }
        let mut filled = Self(slots);
        filled.set(Some(streams))?;
        Ok(filled)
    }

    /// Puts these, or /dev/null, into the slots.
    fn set(&mut self, streams: Option<[BorrowedFd<'_>; 3]>) -> io::Result<()> {
        let Some([null, slots @ ..]) = &mut *self.0 else { return Ok(()) };
        let streams = streams.unwrap_or([null.as_fd(); 3]);
        for (slot, stream) in slots.iter_mut().zip(streams) {
            dup3(stream, slot, DupFlags::CLOEXEC)?;
        }
        Ok(())
    }

    fn numbers(&self) -> [RawFd; 3] {
        self.0.as_ref().map_or([-1; 3], |[_, slots @ ..]| slots.each_ref().map(OwnedFd::as_raw_fd))
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // A pipe that stayed open here would have no end. It cannot fail: both descriptors are open.
        let _ = self.set(None);
    }
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
        let slots = Slots::fill(self.streams)?;
        let mut shared = Shared { start: self, streams: slots.numbers(), errno: AtomicI32::new(0) };
        let mut stack = Vec::<MaybeUninit<u128>>::with_capacity(STACK_SIZE / size_of::<u128>());
        // SAFETY: the stack, and what `shared` refers to, live until the child has executed its program or ended, for until then
        // this thread stands still (CLONE_VFORK). No handler of a signal runs in the child, which shares this memory: all signals
        // are blocked before it is made, and it unblocks them when it has no handlers any more. It changes no descriptor before it
        // has a table of its own.
        let pid = unsafe {
            let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            let top = stack.as_mut_ptr().add(stack.capacity()).cast();
            let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES | libc::SIGCHLD;
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

/// Waits for the end of a child and reaps it.
pub(super) fn wait(pid: u32) -> io::Result<ExitStatus> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut status = 0;
    // SAFETY: `status` is valid for writes.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } == -1 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(ExitStatus::from_raw(status))
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
            let above = self.streams.iter().copied().max().unwrap_or(-1).unsigned_abs() + 1;
            let range = libc::CLOSE_RANGE_UNSHARE.cast_signed();
            // Before Linux 5.9 the whole table is copied.
            if libc::close_range(above, u32::MAX, range) == -1 && libc::unshare(libc::CLONE_FILES) == -1 {
                return io::Error::last_os_error();
            }
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
