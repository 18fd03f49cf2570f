//! `GET /status`, `/health`, and the snapshot of `/events`: the tunnels and the daemon as everybody but the event loop sees them.

use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::autossh_tunnel::{self, Configured, Listed, ListedStatus};
use crate::config::desired::{Tunnel, Written};
use crate::core::{CheckError, Failure, HealthState, Standby, StateName};
use crate::port::{Holder, Occupant};
use crate::ssh::ConnectionErrorKind;

/// All tunnels and the state of the configuration at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Snapshot {
    /// In the order of the file; behind them those that run as they were before an error came into it, and entries with errors.
    pub tunnels: Vec<TunnelStatus>,
    /// Path of the configuration file.
    pub config_path: String,
    /// Version of the configuration that is in force ([`crate::config::store::version`]). Not sent: answers have it as ETag.
    #[serde(skip)]
    pub config_version: String,
    /// Why the file as it stands is not in force, or not all of it; `None` when it is.
    pub config_error: Option<String>,
    /// What portward itself cannot do for now, each with the next step.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// One element of `GET /status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TunnelStatus {
    /// Name, as written or derived.
    pub name: String,
    /// autossh-tunnel's word for `state`.
    pub status: autossh_tunnel::Status,
    /// As written.
    pub local_port: String,
    /// As written; empty for a command.
    pub remote_host: String,
    /// As written; empty for a command and for `dynamic`.
    pub remote_port: String,
    /// autossh-tunnel's identity of the tunnel: md5, 32 hex digits.
    pub hash: String,
    /// autossh-tunnel's older identity: 8 hex digits.
    pub log_id: String,
    /// State of the tunnel.
    pub state: StateName,
    /// As written.
    pub direction: String,
    /// Whether a person must authenticate.
    pub interactive: bool,
    /// The process that carries the tunnel now.
    pub pid: Option<u32>,
    /// How many tunnels the connection may serve, this one among them; `None`: it is not shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_by: Option<usize>,
    /// When the state was entered.
    pub since: Timestamp,
    /// Times that the tunnel was restarted since the daemon started, planned or not.
    pub restarts: u64,
    /// The last failure, until the tunnel is up again or stopped.
    pub last_error: Option<Failure>,
    /// What is wrong with its entry of the file as it stands: the tunnel goes on as it was before, or is `failed`. Absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_error: Option<String>,
    /// The process that holds the port which the tunnel waits for; of several, the first.
    pub holder: Option<Holder>,
    /// All that keeps the port from being bound, in the words of `GET /ports/{port}`.
    #[serde(default)]
    pub held_by: Vec<Occupant>,
    /// What the tunnel's process listens on, as the kernel shows it.
    #[schema(value_type = Vec<String>, example = json!(["127.0.0.1:13306"]))]
    pub listeners: Vec<SocketAddr>,
    /// Of a tunnel that is up: that its server listens on other addresses than was asked for, or that portward cannot see that, and how
    /// to look. Where a server listens is the server's to decide.
    pub note: Option<String>,
    /// Single connections that failed while the tunnel itself was up, as ssh says; `None`: none has. Counted since the
    /// daemon started or the tunnel was defined anew, restarts and lost connections notwithstanding.
    pub connection_errors: Option<ConnectionErrors>,
    /// The second connection of a tunnel with `standby`; `None`: none is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<Standby>,
    /// Replaced connections that still carry what clients have begun (`restart.drain`).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub draining: usize,
    /// `asleep`: up without a connection, which is made when a client comes (`on_demand`). Absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<ConnectionWord>,
    /// The fallback host that serves in place of `remote_host`, or is being tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// What the health checks have shown; absent without `health` in the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<TunnelHealth>,
    /// The clients of a tunnel with `listener: portward`, while portward listens. `/events` tells of changes at most once a
    /// second, and of bytes only together with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<Clients>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks like this")]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl TunnelStatus {
    /// Whether it is up without a connection, until a client comes.
    pub fn is_asleep(&self) -> bool {
        self.connection == Some(ConnectionWord::Asleep)
    }

    /// Whether its health checks fail.
    pub fn is_failing(&self) -> bool {
        self.health.as_ref().is_some_and(|health| health.state == HealthState::Failing)
    }

    /// Whether this is the same status as `other`, but for what each check changes: when it ended, and how many have failed beyond
    /// those that make a tunnel failing.
    pub fn is_same_but_for_checks(&self, other: &Self) -> bool {
        let unchecked = |status: &Self| {
            let health = status.health.clone().map(|health| TunnelHealth {
                checked: None,
                failures: if health.state == HealthState::Failing { 0 } else { health.failures },
                ..health
            });
            Self { health, ..status.clone() }
        };
        self == other || (self.health.is_some() && unchecked(self) == unchecked(other))
    }
}

/// The word for the connection of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionWord {
    /// There is none until a client comes.
    Asleep,
}

/// What the health checks of a tunnel have shown. A check that changes nothing else is no event of `/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TunnelHealth {
    /// The word for it.
    pub state: HealthState,
    /// Failed checks in a row, from 0 again after a restart.
    pub failures: u32,
    /// Why the last check failed; `None` if it passed, or there was none.
    pub last_error: Option<CheckError>,
    /// When the last check ended; `None`: there was none.
    pub checked: Option<Timestamp>,
}

/// The clients of a tunnel with `listener: portward`, since portward began to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Clients {
    /// Connected to the server's side now.
    pub now: u64,
    /// Accepted in all.
    pub total: u64,
    /// Waiting for a connection to the server now.
    pub waiting: u64,
    /// Closed without having been connected: they had waited for as long as `connect_wait` allows, or `allow_users` does not
    /// name them.
    pub refused: u64,
    /// Bytes from clients to the server's side.
    pub bytes_sent: u64,
    /// Bytes to clients.
    pub bytes_received: u64,
}

/// Failed connections of a tunnel's clients. A client that tries all the time is reported in steps: the numbers are at most a
/// minute old.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConnectionErrors {
    /// How many.
    pub count: u64,
    /// The last one.
    pub last: FailedConnection,
}

/// One failed connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailedConnection {
    /// When ssh said so.
    pub at: Timestamp,
    /// Its class.
    pub kind: ConnectionErrorKind,
    /// What happened, and who must change what.
    pub message: String,
}

/// The answer of `GET /health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always `ok`: a daemon that is not answers 503 or nothing.
    pub status: HealthWord,
    /// Version of the daemon.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// How many tunnels there are.
    pub tunnels: usize,
    /// How many of them are up.
    pub up: usize,
    /// How many tunnels fail their health checks; those that are up are among them.
    #[serde(default)]
    pub failing: usize,
    /// Path of the configuration file.
    pub config_path: String,
    /// Why the file as it stands is not in force, or not all of it; `None` when it is.
    pub config_error: Option<String>,
    /// What portward itself cannot do for now, each with the next step.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// That the daemon is well; one that is not answers 503, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthWord {
    /// The event loop answers.
    Ok,
}

impl From<&TunnelStatus> for Listed {
    fn from(tunnel: &TunnelStatus) -> Self {
        Self {
            name: tunnel.name.clone(),
            status: if tunnel.interactive { ListedStatus::Interactive } else { ListedStatus::Normal },
            local_port: tunnel.local_port.clone(),
            remote_host: tunnel.remote_host.clone(),
            remote_port: tunnel.remote_port.clone(),
            hash: tunnel.hash.clone(),
        }
    }
}

impl From<&Tunnel> for Configured {
    fn from(tunnel: &Tunnel) -> Self {
        let Written { remote_host, remote_port, local_port, direction } = tunnel.written.clone();
        let (name, hash) = (tunnel.name.clone(), tunnel.hash.clone());
        Self { name, remote_host, remote_port, local_port, direction, interactive: tunnel.interactive, hash }
    }
}

impl From<&TunnelStatus> for Configured {
    fn from(tunnel: &TunnelStatus) -> Self {
        Self {
            name: tunnel.name.clone(),
            remote_host: tunnel.remote_host.clone(),
            remote_port: tunnel.remote_port.clone(),
            local_port: tunnel.local_port.clone(),
            direction: tunnel.direction.clone(),
            interactive: tunnel.interactive,
            hash: tunnel.hash.clone(),
        }
    }
}
