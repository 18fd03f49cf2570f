//! The words for the states of a tunnel.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The word for a state in JSON (`state`) and in the journal (`STATE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
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
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Stopped,
        Self::AwaitingPort,
        Self::Connecting,
        Self::Forwarding,
        Self::Up,
        Self::Replacing,
        Self::Stopping,
        Self::Backoff,
        Self::Failed,
        Self::NeedsAuth,
    ];

    /// Whether it listens.
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Up | Self::Replacing)
    }

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
