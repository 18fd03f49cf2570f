//! The spare of a link with `standby`: a second connection, logged in, that listens for nobody until the active one is lost.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::connection::Connection;
use super::{Failure, FailureKind, Policy, backoff};
use crate::clock::Moment;

/// Where the spare stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Spare {
    /// There is none.
    Absent,
    /// It is ready, or on its way.
    Alive(Connection),
    /// It failed in this way; another one is made at the deadline.
    Backoff { deadline: Moment, kind: FailureKind },
    /// It failed; only an edit helps.
    Failed,
}

/// What is known of the standby connection of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standby {
    /// Logged in, and takes over as soon as the active connection is lost.
    Ready,
    /// On its way.
    Connecting,
    /// It failed, and another one is made later.
    Backoff,
    /// It failed, and only an edit helps.
    Failed,
    /// There is none now: it is made once the active connection is up.
    Absent,
}

impl Spare {
    pub(super) fn connection(&self) -> Option<&Connection> {
        match self {
            Self::Alive(connection) => Some(connection),
            Self::Absent | Self::Backoff { .. } | Self::Failed => None,
        }
    }

    pub(super) fn connection_mut(&mut self) -> Option<&mut Connection> {
        match self {
            Self::Alive(connection) => Some(connection),
            Self::Absent | Self::Backoff { .. } | Self::Failed => None,
        }
    }

    /// Takes the connection out.
    pub(super) fn take(&mut self) -> Option<Connection> {
        match std::mem::replace(self, Self::Absent) {
            Self::Alive(connection) => Some(connection),
            other @ (Self::Absent | Self::Backoff { .. } | Self::Failed) => {
                *self = other;
                None
            }
        }
    }

    /// Takes the connection out if it can take over.
    pub(super) fn take_promising(&mut self) -> Option<Connection> {
        if self.connection()?.is_promising() { self.take() } else { None }
    }

    /// It has failed for the `failures`th time in a row; after the first time another one is made at once.
    pub(super) fn failed(failure: &Failure, failures: u32, policy: &Policy, seed: u64, now: Moment) -> Self {
        match backoff::delay(failure.retry, failures, policy, seed) {
            Some(Duration::ZERO) => Self::Absent,
            Some(wait) => Self::Backoff { deadline: now.after(wait), kind: failure.kind },
            None => Self::Failed,
        }
    }

    /// When it is to be made again; its connection has a deadline of its own.
    pub(super) const fn deadline(&self) -> Option<Moment> {
        match self {
            Self::Backoff { deadline, .. } => Some(*deadline),
            Self::Absent | Self::Alive(_) | Self::Failed => None,
        }
    }

    pub(super) const fn standby(&self) -> Standby {
        match self {
            Self::Absent => Standby::Absent,
            Self::Alive(connection) if connection.is_ready() => Standby::Ready,
            Self::Alive(_) => Standby::Connecting,
            Self::Backoff { .. } => Standby::Backoff,
            Self::Failed => Standby::Failed,
        }
    }
}
