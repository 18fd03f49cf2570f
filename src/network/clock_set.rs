//! The kernel's word that the clock was set, which a resume from suspension does as well.
//!
//! A timer on CLOCK_REALTIME that never expires is cancelled when that clock jumps. While it does not, nothing runs.

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The kernel counts nanoseconds in 64 bits, and takes this for the last of them, in the year 2262.
const NEVER: TimeSpec = TimeSpec::new(nix::libc::time_t::MAX, 0);

/// A watch of the clock; ends when dropped.
#[derive(Debug)]
pub(super) struct ClockSet(AsyncFd<OwnedFd>);

impl ClockSet {
    /// Watches the clock. Panics outside a tokio runtime.
    pub(super) fn watch() -> io::Result<Self> {
        let timer =
            TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        timer.set(Expiration::OneShot(NEVER), flags)?;
        Self::over(timer)
    }

    fn over(timer: TimerFd) -> io::Result<Self> {
        let timer = OwnedFd::from(timer);
        // SAFETY: the timer owns its open descriptor, and nothing closes or replaces it while the `AsyncFd` owns the timer.
        let registered = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
        Ok(Self(registered?))
    }

    /// Waits until the clock was set since the last call. Cancel-safe.
    pub(super) async fn set(&mut self) {
        loop {
            let Ok(mut ready) = self.0.readable().await else {
                // The runtime is shutting down.
                return pending().await;
            };
            let mut expirations = [0; size_of::<u64>()];
            let read = ready.try_io(|timer| Ok(nix::unistd::read(timer.get_ref(), &mut expirations)?));
            match read {
                // Reading the error is what lets the timer report the next time; it need not be armed again.
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::ECANCELED as i32) => return,
                Ok(Ok(_)) => return,
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the watch of the clock");
                    return pending().await;
                }
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Setting the clock would set it for the whole machine: that ECANCELED is reported is not tested.
    #[tokio::test]
    async fn a_clock_that_nobody_sets_is_not_reported() {
        let mut clock = ClockSet::watch().unwrap();
        assert!(timeout(Duration::from_millis(50), clock.set()).await.is_err());
    }

    #[tokio::test]
    async fn a_timer_that_has_something_to_say_is_read_once() {
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK).unwrap();
        timer.set(Expiration::OneShot(TimeSpec::new(0, 1)), TimerSetTimeFlags::empty()).unwrap();
        let mut clock = ClockSet::over(timer).unwrap();
        clock.set().await;
        assert!(timeout(Duration::from_millis(50), clock.set()).await.is_err());
    }
}
