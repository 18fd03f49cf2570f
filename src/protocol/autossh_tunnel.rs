//! What exists only so that the clients of autossh-tunnel-dockerized work unchanged: their words and shapes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::actions::Conclusion;
use crate::core::StateName;

/// The words of `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// The port listens.
    Running,
    /// Not wanted.
    Stopped,
    /// On its way.
    Starting,
    /// Wanted, and not on its way before the next retry.
    Dead,
}

impl Status {
    /// The word for `state`.
    pub const fn of(state: StateName) -> Self {
        match state {
            StateName::Up | StateName::Replacing => Self::Running,
            // autossh-tunnel's own server says no more of a tunnel that waits for a person.
            StateName::Stopped | StateName::Stopping | StateName::NeedsAuth => Self::Stopped,
            StateName::AwaitingPort | StateName::Connecting | StateName::Forwarding => Self::Starting,
            StateName::Backoff | StateName::Failed => Self::Dead,
        }
    }
}

/// An element of `GET /list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Listed {
    /// Name of the tunnel.
    pub name: String,
    /// Whether a person must authenticate.
    pub status: ListedStatus,
    /// As written.
    pub local_port: String,
    /// As written.
    pub remote_host: String,
    /// As written.
    pub remote_port: String,
    /// md5, 32 hex digits.
    pub hash: String,
}

/// The two words of `status` in `GET /list`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum ListedStatus {
    /// portward starts it.
    Normal,
    /// A person must authenticate.
    Interactive,
}

/// A tunnel as the configuration has it: the answer of `GET /config/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Configured {
    /// Name of the tunnel.
    pub name: String,
    /// As written.
    pub remote_host: String,
    /// As written.
    pub remote_port: String,
    /// As written.
    pub local_port: String,
    /// As written.
    pub direction: String,
    /// Whether a person must authenticate.
    pub interactive: bool,
    /// md5, 32 hex digits.
    pub hash: String,
}

/// The answer of `GET /config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Configuration {
    /// In the order of the file.
    pub tunnels: Vec<Configured>,
}

/// The answer to a change of the configuration that has no tunnel to show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Saved {
    /// Always `success`.
    pub status: Conclusion,
    /// What was done.
    pub message: String,
}

/// An element of `GET /logs`. There is no such file: the clients show its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogSummary {
    /// The tunnel's hash.
    pub hash: String,
    /// `tunnel-HASH.log`.
    pub filename: String,
    /// As `du -h` writes it.
    pub size: String,
    /// Local time of the last line, as `ls` writes it.
    pub modified: String,
}
