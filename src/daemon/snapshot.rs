//! What everybody but the event loop sees: a picture of all tunnels, in the words of the API.

use serde::{Deserialize, Serialize};

use crate::core::{Failure, StateName};
use crate::port::{Holder, Occupant};
use crate::ssh::ConnectionErrorKind;

/// All tunnels and the state of the configuration at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Snapshot {
    /// In the order of the file.
    pub tunnels: Vec<TunnelStatus>,
    /// Path of the configuration file.
    pub config_path: String,
    /// Why the file as it stands is not in force; `None` when it is.
    pub config_error: Option<String>,
    /// What portward itself cannot do for now, each with the next step.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// One element of `GET /status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// Name, as written or derived.
    pub name: String,
    /// The ancestor's word.
    pub status: AncestorStatus,
    /// As written.
    pub local_port: String,
    /// As written; empty for a command.
    pub remote_host: String,
    /// As written; empty for a command and for `dynamic`.
    pub remote_port: String,
    /// The ancestor's identity of the tunnel: md5, 32 hex digits.
    pub hash: String,
    /// The ancestor's older identity: 8 hex digits.
    pub log_id: String,
    /// State of the tunnel.
    pub state: StateName,
    /// As written.
    pub direction: String,
    /// Whether a person must authenticate.
    pub interactive: bool,
    /// The process that carries the tunnel now.
    pub pid: Option<u32>,
    /// When the state was entered, RFC 3339.
    pub since: String,
    /// Times that the tunnel was restarted since the daemon started, planned or not.
    pub restarts: u64,
    /// The last failure, until the tunnel is up again or stopped.
    pub last_error: Option<Failure>,
    /// The process that holds the port which the tunnel waits for; of several, the first.
    pub holder: Option<Holder>,
    /// All that keeps the port from being bound, in the words of `GET /ports/{port}`.
    #[serde(default)]
    pub held_by: Vec<Occupant>,
    /// What the tunnel's process listens on, `address:port`, as the kernel shows it.
    pub listeners: Vec<String>,
    /// What portward cannot see of a tunnel that is up, and how to look: where a server listens is the server's to decide.
    pub note: Option<String>,
    /// Single connections that failed while the tunnel itself was up, as ssh says; `None`: none has. Counted since the
    /// daemon started or the tunnel was defined anew, restarts and lost connections notwithstanding.
    pub connection_errors: Option<ConnectionErrors>,
}

/// Failed connections of a tunnel's clients. A client that tries all the time is reported in steps: the numbers are at most a
/// minute old.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionErrors {
    /// How many.
    pub count: u64,
    /// The last one.
    pub last: FailedConnection,
}

/// One failed connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedConnection {
    /// When ssh said so, RFC 3339.
    pub at: String,
    /// Its class.
    pub kind: ConnectionErrorKind,
    /// What happened, and who must change what.
    pub message: String,
}

/// The five words of the ancestor's `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum AncestorStatus {
    /// The port listens.
    Running,
    /// Not wanted.
    Stopped,
    /// On its way.
    Starting,
    /// Wanted, and not on its way before the next retry.
    Dead,
    /// Waits for a person.
    Interactive,
}

impl AncestorStatus {
    /// The ancestor's word for `state`.
    pub const fn of(state: StateName) -> Self {
        match state {
            StateName::Up | StateName::Replacing => Self::Running,
            StateName::Stopped | StateName::Stopping => Self::Stopped,
            StateName::AwaitingPort | StateName::Connecting | StateName::Forwarding => Self::Starting,
            StateName::Backoff | StateName::Failed => Self::Dead,
            StateName::NeedsAuth => Self::Interactive,
        }
    }
}
