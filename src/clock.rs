//! The clock's edge: the only place that reads a clock.
//!
//! Everything else is handed a [`Moment`], so the core stays pure and tests own the time.

use std::time::Duration;

use jiff::Timestamp;

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

/// Reads the monotonic clock as [`Moment`]s, and turns those into deadlines and wall-clock times.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: tokio::time::Instant,
    started_at: Timestamp,
}

impl Clock {
    /// A clock whose [`Moment`] zero is now.
    pub fn start() -> Self {
        Self { origin: tokio::time::Instant::now(), started_at: Timestamp::now() }
    }

    /// The present moment.
    pub fn now(&self) -> Moment {
        Moment(self.origin.elapsed())
    }

    /// The moment of an instant.
    pub fn moment(&self, instant: tokio::time::Instant) -> Moment {
        Moment(instant.saturating_duration_since(self.origin))
    }

    /// The instant that tokio's timers understand.
    pub fn instant(&self, moment: Moment) -> tokio::time::Instant {
        self.origin + moment.0
    }

    /// The wall-clock time of `moment`, counted from when the clock was made (a later clock step is not seen).
    pub fn timestamp(&self, moment: Moment) -> Timestamp {
        self.started_at.checked_add(moment.0).unwrap_or(self.started_at)
    }
}
