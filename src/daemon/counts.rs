//! What is counted and timed for `GET /metrics`. Nothing is sampled: it changes with the events that are counted.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;

use crate::clock::Moment;
use crate::core::{Failure, StateName};
use crate::port::OccupantKind;

/// Upper bounds, in seconds: a login on a local network takes 0.1 s, and `connect_timeout` is 10 s.
const LOGIN_SECONDS: [f64; 10] = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0];

/// Upper bounds, in seconds: a verdict takes 0.1 ms on a machine with few sockets, and 1 ms with 8,000 listeners.
const VERDICT_SECONDS: [f64; 8] = [0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01];

/// What restarts a tunnel when nothing has failed.
const REQUESTED: &str = "requested";

/// What is counted of portward itself.
#[derive(Debug)]
pub(super) struct Metrics {
    /// From the start of an ssh until it is ready.
    pub(super) logins: Histogram,
    /// Reloads by their result.
    pub(super) reloads: BTreeMap<&'static str, u64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { logins: Histogram::new(LOGIN_SECONDS), reloads: BTreeMap::new() }
    }
}

/// Times the verdicts on ports.
pub(super) fn verdicts() -> Histogram {
    Histogram::new(VERDICT_SECONDS)
}

/// What is counted of one tunnel.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// By the class of the failure before it, or [`REQUESTED`].
    pub(super) restarts: BTreeMap<&'static str, u64>,
    /// Waits for the port, by what held it.
    pub(super) waits: BTreeMap<String, u64>,
    /// How long it was wanted and not up, until the present state was entered.
    pub(super) down: Duration,
}

impl Counts {
    /// Its process is another one than before.
    pub(super) fn note_restart(&mut self, failure: Option<&Failure>) {
        let cause = failure.map_or(REQUESTED, |failure| failure.kind.as_str());
        *self.restarts.entry(cause).or_default() += 1;
    }

    /// The tunnel leaves a state that it had entered at a moment, at another one.
    pub(super) fn note_left(&mut self, state: StateName, entered: Moment, left: Moment) {
        if is_down(state) {
            self.down += left.since(entered);
        }
    }

    /// It begins to wait for its port.
    pub(super) fn note_wait(&mut self, holder: OccupantKind) {
        let kind = serde_json::to_value(holder).unwrap_or_default();
        *self.waits.entry(kind.as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
}

/// Whether a tunnel in this state is wanted and does not serve.
pub(super) const fn is_down(state: StateName) -> bool {
    match state {
        StateName::AwaitingPort
        | StateName::Connecting
        | StateName::Forwarding
        | StateName::Backoff
        | StateName::Failed => true,
        StateName::Stopped
        | StateName::Up
        | StateName::Replacing
        | StateName::Stopping
        | StateName::NeedsAuth => false,
    }
}

impl Metrics {
    /// An ssh is ready.
    pub(super) fn note_login(&self, started: Moment, ready: Moment) {
        self.logins.observe(ready.since(started).as_secs_f64());
    }

    /// The file was read: `None` if it is not valid at all, or whether all of it is.
    pub(super) fn note_reload(&mut self, is_whole: Option<bool>) {
        let result = match is_whole {
            Some(true) => "ok",
            Some(false) => "partly",
            None => "refused",
        };
        *self.reloads.entry(result).or_default() += 1;
    }
}
