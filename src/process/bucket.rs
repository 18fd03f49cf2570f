//! A token bucket. Time is a parameter.

use std::time::Duration;

use tokio::time::Instant;

/// So much at once, and so much in a second. It may be overdrawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    /// What a full bucket holds.
    pub(crate) burst: f64,
    /// What comes in within a second.
    pub(crate) per_second: f64,
}

/// What is left of a [`Rate`].
#[derive(Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(crate) fn full(rate: Rate, now: Instant) -> Self {
        Self { tokens: rate.burst, at: now }
    }

    /// Adds what has come in since the last call, at the present rate.
    pub(crate) fn refill(&mut self, rate: Rate, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * rate.per_second).min(rate.burst);
        self.at = now;
    }

    pub(crate) fn spend(&mut self, tokens: f64) {
        self.tokens -= tokens;
    }

    pub(crate) fn has(&self, tokens: f64) -> bool {
        self.tokens >= tokens
    }

    /// How long it takes until the bucket is not overdrawn any more.
    pub(crate) fn debt(&self, rate: Rate) -> Duration {
        Duration::from_secs_f64((-self.tokens / rate.per_second).max(0.0))
    }
}
