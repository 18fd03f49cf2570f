//! The clock's edge: the only place that reads a clock.
//!
//! Everything else is handed a [`Moment`], so the core stays pure and tests own the time.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// A point in time, as the time since the daemon's [`Clock`] was made. Monotonic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(Duration);

impl Moment {
    /// The moment `since_origin` after the clock was made.
    pub const fn from_origin(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    /// Time passed from `earlier` to this moment; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// This moment plus `duration`, saturating.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// How many settings of the wall clock are remembered; a laptop makes some ten a day, by its suspensions.
const MOST_SETTINGS: usize = 100;

/// By how much the wall clock and the monotonic one may disagree before that counts as a setting.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(1);

/// Reads the monotonic clock as [`Moment`]s, and turns those into deadlines and wall-clock times.
///
/// The monotonic clock stands still while the machine is suspended, and nobody sets it. So the wall clock is read with it, and a moment
/// has the time that the wall clock said then.
#[derive(Debug, Clone)]
pub struct Clock {
    origin: tokio::time::Instant,
    /// What the wall clock said from which moment on, oldest first: when this was made, and each time that it had been set.
    settings: VecDeque<(Moment, Timestamp)>,
}

impl Clock {
    /// A clock whose [`Moment`] zero is now.
    pub fn start() -> Self {
        let settings = VecDeque::from([(Moment::default(), Timestamp::now())]);
        Self { origin: tokio::time::Instant::now(), settings }
    }

    /// The present moment.
    pub fn now(&mut self) -> Moment {
        let now = Moment(self.origin.elapsed());
        self.compare(now, Timestamp::now());
        now
    }

    /// The moment of an instant.
    pub fn moment(&self, instant: tokio::time::Instant) -> Moment {
        Moment(instant.saturating_duration_since(self.origin))
    }

    /// The instant that tokio's timers understand.
    pub fn instant(&self, moment: Moment) -> tokio::time::Instant {
        self.origin + moment.0
    }

    /// The wall-clock time of `moment`. Of the settings before `moment` only the last 100 are remembered: an older
    /// moment has the time that it would have without those.
    pub fn timestamp(&self, moment: Moment) -> Timestamp {
        let settings = self.settings.iter();
        let setting = settings.rev().find(|(from, _)| *from <= moment).or(self.settings.front());
        let Some((from, said)) = setting else { return Timestamp::default() };
        let time =
            said.checked_add(moment.since(*from)).and_then(|time| time.checked_sub(from.since(moment)));
        time.unwrap_or(*said)
    }

    /// Takes over what the wall clock says at `now`, if it was set.
    fn compare(&mut self, now: Moment, wall: Timestamp) {
        let disagreement = wall.duration_since(self.timestamp(now)).abs();
        if disagreement > TOLERANCE {
            self.settings.push_back((now, wall));
            if self.settings.len() > MOST_SETTINGS {
                self.settings.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_origin(Duration::from_secs(seconds))
    }

    fn wall(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn clock() -> Clock {
        Clock { origin: tokio::time::Instant::now(), settings: VecDeque::from([(at(0), wall(1000))]) }
    }

    #[test]
    fn a_moment_has_the_time_that_the_wall_clock_said_then() {
        let mut clock = clock();
        clock.compare(at(10), wall(1010));
        // A suspension of an hour, and then a setting back.
        clock.compare(at(20), wall(4620));
        clock.compare(at(30), wall(4630));
        clock.compare(at(40), wall(40));
        let times = [(5, 1005), (19, 1019), (20, 4620), (39, 4639), (40, 40), (70, 70)];
        for (moment, time) in times {
            assert_eq!(clock.timestamp(at(moment)), wall(time), "at {moment}");
        }
        assert_eq!(clock.settings.len(), 3);
    }

    #[test]
    fn the_settings_that_are_remembered_are_bounded() {
        let mut clock = clock();
        for setting in 1..=500 {
            clock.compare(at(setting), wall(100_000 * setting.cast_signed()));
        }
        assert_eq!(clock.settings.len(), MOST_SETTINGS);
        assert_eq!(clock.timestamp(at(500)), wall(50_000_000));
        assert_eq!(
            clock.timestamp(at(400)),
            wall(40_100_000 - 1),
            "of the oldest setting that is remembered"
        );
    }
}
