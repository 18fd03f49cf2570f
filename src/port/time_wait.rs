//! When TIME_WAIT ends: the kernel's timer wheel, in numbers. Pure but for reading two clocks.
//!
//! A row shows when TIME_WAIT is due to end. It ends later: the wheel keeps timers in slots, which grow with the time that a
//! timer has to run, and a timer fires at the end of its slot. With 250 ticks a second, a timer of 60 s is in a slot of 2.048 s.
//! The slots begin at multiples of their length, counted in ticks since the kernel's counter of them, the jiffies, was 0. So
//! the end can be computed from the jiffies, which times(2) returns, rounded to 10 ms. On two CPUs, about half of the timers were
//! observed to fire a tick later, presumably because only one CPU counts the jiffies, and the other may check its timers just
//! before. Both ticks are returned.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::libc;
use nix::time::{ClockId, clock_getres};
use tokio::time::Instant;

/// Ticks a second of the clock that times(2) reads (USER_HZ), as nanoseconds for one.
const USER_TICK: i64 = 10_000_000;
/// `LVL_BITS` and `LVL_CLK_SHIFT` of kernel/time/timer.c, since Linux 4.8: a level has 64 slots, each 8 times as long as one
/// of the level below.
const SLOTS_SHIFT: u32 = 6;
const LEVEL_SHIFT: u32 = 3;
/// `TCP_TIMEWAIT_LEN`; a socket in FIN_WAIT2 is kept for `net.ipv4.tcp_fin_timeout`, 60 s at most.
const LONGEST: i64 = 60_000_000_000;

/// What is known of the kernel's jiffies: when the counter was 0, in nanoseconds relative to `origin`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Jiffies {
    origin: Instant,
    /// Length of one in nanoseconds.
    tick: i64,
    zero_at_least: i64,
    zero_at_most: i64,
}

impl Jiffies {
    /// One reading of the clock, which gives the jiffies to within 10 ms and a tick. `None` if the kernel does not report the
    /// length of a tick.
    pub(super) fn read() -> Option<Self> {
        let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).ok()?.tv_nsec();
        let origin = Instant::now();
        let count = user_ticks();
        let after = nanoseconds(origin.elapsed());
        (tick > 0).then(|| {
            let (least, most) = bounds(tick, count, (0, after));
            Self { origin, tick, zero_at_least: least, zero_at_most: most }
        })
    }

    /// What is known after another reading.
    #[must_use]
    pub(super) fn read_again(self) -> Self {
        let before = nanoseconds(self.origin.elapsed());
        let count = user_ticks();
        let after = nanoseconds(self.origin.elapsed());
        let (least, most) = bounds(self.tick, count, (before, after));
        Self {
            zero_at_least: self.zero_at_least.max(least),
            zero_at_most: self.zero_at_most.min(most),
            ..self
        }
    }

    /// How much is not known.
    pub(super) fn uncertainty(&self) -> Duration {
        Duration::from_nanos(u64::try_from(self.zero_at_most - self.zero_at_least).unwrap_or(0))
    }

    /// When a TIME_WAIT may end that at the moment `read` was to last for `left`: in ascending order, and each as late as
    /// what is known allows. Two ticks for each level of the wheel, because it is not known how long the timer had to run at
    /// first; and rarely more, when what is not known makes a difference.
    pub(super) fn ends(&self, read: Instant, left: Duration) -> Vec<Instant> {
        let read = nanoseconds(read.saturating_duration_since(self.origin))
            - nanoseconds(self.origin.saturating_duration_since(read));
        // The kernel counts the rest in whole ticks, and reports it in milliseconds.
        let left = (nanoseconds(left) + self.tick / 2) / self.tick;
        let mut now = [self.zero_at_most, self.zero_at_least].map(|zero| (read - zero).div_euclid(self.tick));
        // A tick that came late has made it look as if the count had begun later than it did.
        now.sort_unstable();
        let ends: BTreeSet<i64> = (now[0]..=now[1])
            .flat_map(|now| levels(self.tick).map(move |level| slot_end(now + left, level)))
            .flat_map(|end| [end, end + 1])
            .collect();
        let ends = ends.into_iter().map(|end| end * self.tick + self.zero_at_most);
        ends.filter(|end| *end > read)
            .map(|end| self.origin + Duration::from_nanos(u64::try_from(end).unwrap_or(0)))
            .collect()
    }
}

/// Between which moments the jiffies were 0, if `count` was read from times(2) between the moments `read`.
fn bounds(tick: i64, count: i64, read: (i64, i64)) -> (i64, i64) {
    // times(2) divides the jiffies' time by its own tick, and drops the rest.
    let first = (count * USER_TICK + tick - 1) / tick;
    let last = ((count + 1) * USER_TICK - 1) / tick;
    (read.0 - (last + 1) * tick, read.1 - first * tick)
}

/// The levels of the wheel that a TIME_WAIT can be on.
fn levels(tick: i64) -> impl Iterator<Item = u32> {
    let longest = LONGEST / tick;
    // A level takes timers with less to run than all its slots but one.
    (0..).take_while(move |level| {
        *level == 0 || longest >= ((1 << SLOTS_SHIFT) - 1) << ((level - 1) * LEVEL_SHIFT)
    })
}

/// When a timer that is due at `due` fires.
fn slot_end(due: i64, level: u32) -> i64 {
    let shift = level * LEVEL_SHIFT;
    ((due >> shift) + 1) << shift
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// The jiffies, in units of [`USER_TICK`].
fn user_ticks() -> i64 {
    // SAFETY: times(2) accepts a null pointer; then it only returns the count.
    unsafe { libc::times(std::ptr::null_mut()) }
}

#[cfg(test)]
mod tests;
