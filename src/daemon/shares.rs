//! How much of the log the output of each tunnel's processes may take: equal shares of what is there for all.
//!
//! The journal drops lines of a whole service once it says more than 10,000 within 30 s (journald.conf(5), RateLimitBurst=),
//! portward's own lines among them. What all tunnels say stays below that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::core::Slot;
use crate::process::{Bucket, Rate};

/// Lines of output of all tunnels.
const LINES: Rate = Rate { burst: 1000.0, per_second: 100.0 };

/// Bytes of output of all tunnels.
const BYTES: Rate = Rate { burst: 256.0 * 1024.0, per_second: 32.0 * 1024.0 };

/// A tunnel that is the only one to say something gets no more than a quarter of the bursts, for the others' come on top;
const FEWEST_BURSTS: f64 = 4.0;
/// and no tunnel gets less than a 250th, which is 4 lines.
const MOST_BURSTS: f64 = 250.0;

/// A burst is over once no line was dropped for this long.
const QUIET: Duration = Duration::from_secs(1);

/// The shares of all tunnels.
#[derive(Debug, Clone, Default)]
pub(super) struct Shares(Arc<Mutex<Speakers>>);

/// The tunnels whose processes have produced output recently.
#[derive(Debug, Default)]
struct Speakers {
    shares: HashMap<Slot, Share>,
    /// When those who had been quiet were left out.
    swept: Option<Instant>,
}

/// The output that a tunnel may still log, and the number of dropped lines.
#[derive(Debug)]
struct Share {
    lines: Bucket,
    bytes: Bucket,
    dropped: u64,
    last_dropped: Instant,
}

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// It is to be logged.
    Logged,
    /// It is dropped, the first of a burst.
    FirstDropped,
    /// It is dropped.
    Dropped,
}

/// Whether lines are being dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Burst {
    /// Until then at least.
    Lasts(Instant),
    /// None is any more.
    Over,
}

impl Shares {
    /// Takes a line from the share of the tunnel `slot`; if it is to be logged, [`Shares::spend`] takes its bytes.
    pub(super) fn say(&self, slot: Slot, now: Instant) -> Heard {
        let mut speakers = self.lock();
        speakers.sweep(now);
        let full = || Share {
            lines: Bucket::full(LINES, now),
            bytes: Bucket::full(BYTES, now),
            dropped: 0,
            last_dropped: now,
        };
        speakers.shares.entry(slot).or_insert_with(full);
        let (line_rate, byte_rate) = rates(speakers.shares.len());
        let Some(share) = speakers.shares.get_mut(&slot) else { return Heard::Logged };
        share.lines.refill(line_rate, now);
        share.bytes.refill(byte_rate, now);
        if share.lines.has(1.0) && share.bytes.has(0.0) {
            share.lines.spend(1.0);
            return Heard::Logged;
        }
        share.dropped += 1;
        share.last_dropped = now;
        if share.dropped == 1 { Heard::FirstDropped } else { Heard::Dropped }
    }

    /// Takes the bytes of a line that is logged from the share of the tunnel `slot`.
    pub(super) fn spend(&self, slot: Slot, bytes: usize) {
        if let Some(share) = self.lock().shares.get_mut(&slot) {
            share.bytes.spend(f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)));
        }
    }

    /// Whether lines of the tunnel `slot` are being dropped.
    pub(super) fn burst(&self, slot: Slot, now: Instant) -> Burst {
        match self.lock().shares.get(&slot) {
            Some(share) if share.dropped > 0 && now < share.last_dropped + QUIET => {
                Burst::Lasts(share.last_dropped + QUIET)
            }
            Some(_) | None => Burst::Over,
        }
    }

    /// The number of lines of the tunnel `slot` that were dropped since this was asked last.
    pub(super) fn take_dropped(&self, slot: Slot) -> u64 {
        self.lock().shares.get_mut(&slot).map_or(0, |share| std::mem::take(&mut share.dropped))
    }

    fn lock(&self) -> MutexGuard<'_, Speakers> {
        // Nothing in here panics half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Speakers {
    /// Leaves out those who have been quiet for so long that a share of theirs would be as it was at first.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| now < swept + QUIET) {
            return;
        }
        self.swept = Some(now);
        let (lines, bytes) = rates(self.shares.len());
        self.shares.retain(|_, share| !share.is_untouched(lines, bytes, now));
    }
}

impl Share {
    fn is_untouched(&mut self, lines: Rate, bytes: Rate, now: Instant) -> bool {
        self.lines.refill(lines, now);
        self.bytes.refill(bytes, now);
        self.dropped == 0 && self.lines.has(lines.burst) && self.bytes.has(bytes.burst)
    }
}

/// The rates of lines and of bytes for each of the tunnels that have produced output recently.
fn rates(speakers: usize) -> (Rate, Rate) {
    let speakers = f64::from(u32::try_from(speakers).unwrap_or(u32::MAX)).max(1.0);
    let share = |of: Rate| Rate {
        burst: of.burst / speakers.clamp(FEWEST_BURSTS, MOST_BURSTS),
        per_second: of.per_second / speakers,
    };
    (share(LINES), share(BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(shares: &Shares, slot: u64, length: usize, now: Instant) -> Heard {
        let heard = shares.say(Slot(slot), now);
        if heard == Heard::Logged {
            shares.spend(Slot(slot), length);
        }
        heard
    }

    fn logged(shares: &Shares, slot: u64, lines: usize, now: Instant) -> usize {
        (0..lines).filter(|_| say(shares, slot, 40, now) == Heard::Logged).count()
    }

    #[tokio::test]
    async fn a_flood_is_limited_and_every_line_is_accounted_for() {
        let (shares, start) = (Shares::default(), Instant::now());
        let mut written = logged(&shares, 1, 10_000, start);
        assert_eq!(written, 250);
        for second in 1..=30 {
            written += logged(&shares, 1, 10_000, start + Duration::from_secs(second));
        }
        assert_eq!(written, 250 + 30 * 100);
        assert_eq!(shares.take_dropped(Slot(1)), 31 * 10_000 - 3250);
        assert_eq!(shares.take_dropped(Slot(1)), 0);
    }

    #[tokio::test]
    async fn bytes_are_limited_too() {
        let (shares, now) = (Shares::default(), Instant::now());
        let logged = (0..250).filter(|_| say(&shares, 1, 4096, now) == Heard::Logged).count();
        assert_eq!(logged, 17, "64 KiB and the line that is over");
    }

    #[tokio::test]
    async fn the_floods_of_others_leave_a_quiet_tunnel_its_share() {
        let (shares, start) = (Shares::default(), Instant::now());
        let mut flooded = 0;
        for second in 0..30 {
            let now = start + Duration::from_secs(second);
            flooded += (0..30).map(|slot| logged(&shares, slot, 1000, now)).sum::<usize>();
            assert_eq!(logged(&shares, 30, 3, now), 3, "in second {second}");
        }
        assert!(flooded < 8000, "{flooded} lines in 30 s leave too little of journald's 10,000");
        let each: Vec<_> = (0..30).map(|slot| 30_000 - shares.take_dropped(Slot(slot))).collect();
        assert!(each.iter().max().unwrap() - each.iter().min().unwrap() < 250, "{each:?}");
    }

    #[tokio::test]
    async fn however_many_speak_each_may_say_something() {
        let (shares, now) = (Shares::default(), Instant::now());
        for slot in 0..3000 {
            assert!(logged(&shares, slot, 100, now) >= 4, "{slot}");
        }
    }

    #[tokio::test]
    async fn a_burst_is_over_when_nothing_was_dropped_for_a_second() {
        let (shares, start) = (Shares::default(), Instant::now());
        let slot = Slot(1);
        assert_eq!(logged(&shares, 1, 250, start), 250);
        assert_eq!(shares.burst(slot, start), Burst::Over);
        assert_eq!(say(&shares, 1, 40, start), Heard::FirstDropped);
        assert_eq!(say(&shares, 1, 40, start), Heard::Dropped);
        let end = start + QUIET;
        assert_eq!(shares.burst(slot, start), Burst::Lasts(end));
        assert_eq!(shares.burst(slot, end), Burst::Over);
        assert_eq!(shares.take_dropped(slot), 2);
    }
}
