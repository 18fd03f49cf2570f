//! What can go wrong with a tunnel: its class, and when to try again.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::text;

/// Longest message, in bytes: a line that ssh or a command has said, and the next step.
const LONGEST_MESSAGE: usize = 2048;

/// Why a tunnel is not up: the class (`last_error.kind`, `ERROR_KIND`) and a sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// The class.
    pub kind: FailureKind,
    /// One line for a person: what happened and the next step.
    pub message: String,
    /// When to try again.
    #[serde(skip)]
    pub retry: Retry,
}

impl Failure {
    /// A failure of class `kind`, to be retried as its class asks. The message is made one line of 2048 bytes at most.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        let message = text::excerpt(&message.into(), LONGEST_MESSAGE).into_owned();
        Self { kind, message, retry: kind.retry() }
    }

    /// The same failure, retried slowly: what can pass by itself is never given up, whatever its class.
    #[must_use]
    pub fn retried_slowly(self) -> Self {
        Self { retry: Retry::Slow, ..self }
    }
}

/// When to try again after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Retry {
    /// At once after the first failure, then after waits that double from `min_delay`.
    #[default]
    Prompt,
    /// After waits that double from 16 times `min_delay`: servers lock out clients that try too often with a wrong key, and
    /// what needs a person does not pass within a second.
    Slow,
    /// Not before the configuration or the ssh configuration is edited: the tunnel is `failed`.
    Never,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.kind, self.message)
    }
}

/// The class of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The server refused every way of authentication.
    Auth,
    /// The server's host key is unknown or has changed.
    HostKey,
    /// The host name does not resolve.
    Dns,
    /// The server's machine refused the connection.
    Refused,
    /// No answer in time, or none to be expected: the process is stopped by a signal.
    Timeout,
    /// No route, a reset, or a connection closed by the other side.
    Network,
    /// The server could not listen on the remote port.
    RemotePortHeld,
    /// The local port was taken between its confirmation and the request, or `on_conflict: kill` could not free it.
    LocalPortHeld,
    /// ssh, its options or the command cannot work as they are: somebody has to change something, be it to install a program.
    Config,
    /// The process was ended by a signal that portward did not send.
    Killed,
    /// The process ended, and nothing it said tells why; or a limit kept it from being started.
    Exited,
}

impl FailureKind {
    /// When a failure of this class is retried, unless it says otherwise.
    pub(super) const fn retry(self) -> Retry {
        match self {
            Self::Config => Retry::Never,
            Self::Auth | Self::HostKey => Retry::Slow,
            Self::Dns
            | Self::Refused
            | Self::Timeout
            | Self::Network
            | Self::RemotePortHeld
            | Self::LocalPortHeld
            | Self::Killed
            | Self::Exited => Retry::Prompt,
        }
    }

    /// Whether the server was not reached: another destination may be, and a change of this machine's network may cure it.
    pub(super) const fn is_unreachable(self) -> bool {
        match self {
            Self::Dns | Self::Refused | Self::Timeout | Self::Network => true,
            Self::Auth
            | Self::HostKey
            | Self::RemotePortHeld
            | Self::LocalPortHeld
            | Self::Config
            | Self::Killed
            | Self::Exited => false,
        }
    }

    /// The word used in JSON and in the journal.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::HostKey => "host_key",
            Self::Dns => "dns",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Network => "network",
            Self::RemotePortHeld => "remote_port_held",
            Self::LocalPortHeld => "local_port_held",
            Self::Config => "config",
            Self::Killed => "killed",
            Self::Exited => "exited",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
