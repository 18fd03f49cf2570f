//! The states of a tunnel.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Failure;
use crate::clock::Moment;
use crate::port::Occupant;

/// One attempt to hold a tunnel: every process that is started gets a generation of its own, and whatever is heard of
/// it carries that number, so that late news of an earlier attempt changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(u64);

impl Generation {
    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A tunnel's life, as far as it decides what happens next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// Where it stands.
    pub(super) state: State,
    /// When the present [`StateName`] was entered.
    pub(super) entered: Moment,
    /// Processes that hold no listener any more and are being ended.
    pub(super) ending: Vec<Ending>,
    /// Processes that are stopped by a signal, with their pids.
    pub(super) suspended: Vec<(Generation, u32)>,
    /// The latest generation given out.
    pub(super) latest: Generation,
    /// Failures in a row; an `up` of `reset_after` ends the row.
    pub(super) failures: u32,
    /// The last failure, until the tunnel is up or stopped.
    pub(super) last_failure: Option<Failure>,
    /// Chooses the jitter of this tunnel's backoff.
    pub(super) seed: u64,
}

impl Tunnel {
    /// A stopped tunnel. `seed` spreads the retries of tunnels that fail together.
    pub fn stopped(now: Moment, seed: u64) -> Self {
        Self {
            state: State::Stopped,
            entered: now,
            ending: Vec::new(),
            suspended: Vec::new(),
            latest: Generation::default(),
            failures: 0,
            last_failure: None,
            seed,
        }
    }

    /// A tunnel that waits for a person to authenticate.
    pub fn needing_auth(now: Moment, seed: u64) -> Self {
        Self { state: State::NeedsAuth, ..Self::stopped(now, seed) }
    }

    /// The word for its state.
    pub fn name(&self) -> StateName {
        self.state.name()
    }

    /// When that state was entered.
    pub fn entered(&self) -> Moment {
        self.entered
    }

    /// The last failure, until the tunnel is up or stopped.
    pub fn last_failure(&self) -> Option<&Failure> {
        self.last_failure.as_ref()
    }

    /// The latest generation given out.
    pub fn latest(&self) -> Generation {
        self.latest
    }

    /// The pid of this generation's process, if it is stopped by a signal.
    pub(super) fn suspended(&self, generation: Generation) -> Option<u32> {
        self.suspended.iter().find(|(stopped, _)| *stopped == generation).map(|(_, pid)| *pid)
    }

    /// Who holds the port that the tunnel waits for.
    pub fn holders(&self) -> &[Occupant] {
        match &self.state {
            State::AwaitingPort { holders, .. } => holders,
            State::Stopped
            | State::NeedsAuth
            | State::Connecting { .. }
            | State::Forwarding { .. }
            | State::Up { .. }
            | State::Replacing { .. }
            | State::HandingOver { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed => &[],
        }
    }

    /// The generation that listens now, as far as the tunnel knows.
    pub fn listening(&self) -> Option<Generation> {
        match self.state {
            State::Up { generation } => Some(generation),
            State::Replacing { old, .. } => Some(old),
            State::Stopped
            | State::NeedsAuth
            | State::AwaitingPort { .. }
            | State::Connecting { .. }
            | State::Forwarding { .. }
            | State::HandingOver { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed => None,
        }
    }

    /// The generation whose process stands for the tunnel: the one that listens, or else the one that is on its way.
    pub fn process(&self) -> Option<Generation> {
        match self.state {
            State::Connecting { generation }
            | State::Forwarding { generation, .. }
            | State::Up { generation } => Some(generation),
            State::AwaitingPort { generation, connected, .. } | State::Backoff { generation, connected } => {
                connected.then_some(generation)
            }
            State::Replacing { old, .. } | State::HandingOver { old, .. } => Some(old),
            State::Stopping { .. } => self.ending.first().map(|ending| ending.generation),
            State::Stopped | State::NeedsAuth | State::Failed => None,
        }
    }
}

/// Where a tunnel stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Not wanted.
    Stopped,
    /// Waits for a person.
    NeedsAuth,
    /// Waits for the kernel to confirm the port unbound, as often as it takes.
    AwaitingPort {
        generation: Generation,
        /// Whether this generation's process runs and is connected already: the port was taken under its nose.
        connected: bool,
        /// Who holds the port.
        holders: Vec<Occupant>,
        eviction: Eviction,
    },
    /// The process was started; its deadline is `ready_timeout`.
    Connecting { generation: Generation },
    /// Connected, without a listener yet.
    Forwarding {
        generation: Generation,
        /// The connection that is being replaced: connected, without its listener, and good to go back to.
        fallback: Option<Generation>,
        stage: Stage,
    },
    /// Listens. While its process is stopped by a signal, its deadline is `stop_grace`.
    Up { generation: Generation },
    /// `old` listens, `new` is connecting.
    Replacing { old: Generation, new: Generation },
    /// `new` is connected; `old` was told to close its listener (or is being killed for not answering).
    HandingOver { old: Generation, new: Generation },
    /// Waits for everything in `ending` to end.
    Stopping { then: Next },
    /// Waits for the deadline of `generation`, then tries again.
    Backoff {
        generation: Generation,
        /// Whether this generation's process runs and is connected: only the forward failed.
        connected: bool,
    },
    /// Retrying does not help.
    Failed,
}

/// How far the request for a listener is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The kernel was asked whether the port is unbound.
    Confirming,
    /// The forward was asked for.
    Requesting,
}

/// How far `on_conflict: kill` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eviction {
    /// Nobody was told to go.
    None,
    /// The holders got SIGTERM; the deadline is `stop_grace`.
    Terminated,
    /// The holders got SIGKILL; the deadline is `KILL_TIMEOUT`.
    Killed,
    /// The holders may not be ended, or do not die.
    GivenUp,
}

/// What follows a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Rest.
    Stay,
    /// Start anew.
    Start,
}

/// A process that is being ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) generation: Generation,
    /// Whether SIGKILL was sent; before that, SIGTERM was.
    pub(super) killed: bool,
}

impl State {
    /// Whether `generation` plays a part in this state. One that is being ended does not: see [`Tunnel::ending`].
    pub(super) fn involves(&self, generation: Generation) -> bool {
        match *self {
            Self::Stopped | Self::NeedsAuth | Self::Stopping { .. } | Self::Failed => false,
            Self::AwaitingPort { generation: involved, .. }
            | Self::Connecting { generation: involved }
            | Self::Up { generation: involved }
            | Self::Backoff { generation: involved, .. } => involved == generation,
            Self::Forwarding { generation: involved, fallback, .. } => {
                involved == generation || fallback == Some(generation)
            }
            Self::Replacing { old, new } | Self::HandingOver { old, new } => {
                old == generation || new == generation
            }
        }
    }

    pub(super) const fn name(&self) -> StateName {
        match self {
            Self::Stopped => StateName::Stopped,
            Self::NeedsAuth => StateName::NeedsAuth,
            Self::AwaitingPort { .. } => StateName::AwaitingPort,
            Self::Connecting { .. } => StateName::Connecting,
            Self::Forwarding { fallback: None, .. } => StateName::Forwarding,
            Self::Up { .. } => StateName::Up,
            Self::Replacing { .. }
            | Self::HandingOver { .. }
            | Self::Forwarding { fallback: Some(_), .. } => StateName::Replacing,
            Self::Stopping { .. } => StateName::Stopping,
            Self::Backoff { .. } => StateName::Backoff,
            Self::Failed => StateName::Failed,
        }
    }
}

/// The word for a state in JSON (`state`) and in the journal (`STATE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateName {
    /// Not wanted; nothing runs.
    Stopped,
    /// Waits until the kernel says that the port is unbound.
    AwaitingPort,
    /// The process was started and is not ready yet.
    Connecting,
    /// The forward is being asked for.
    Forwarding,
    /// It listens.
    Up,
    /// It listens, and a new connection is being made to take over.
    Replacing,
    /// It is being ended.
    Stopping,
    /// It failed and waits for the next try.
    Backoff,
    /// It failed, and trying again would not help.
    Failed,
    /// It waits for a person to authenticate.
    NeedsAuth,
}

impl StateName {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::AwaitingPort => "awaiting_port",
            Self::Connecting => "connecting",
            Self::Forwarding => "forwarding",
            Self::Up => "up",
            Self::Replacing => "replacing",
            Self::Stopping => "stopping",
            Self::Backoff => "backoff",
            Self::Failed => "failed",
            Self::NeedsAuth => "needs_auth",
        }
    }
}

impl fmt::Display for StateName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
