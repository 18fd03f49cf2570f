//! The sockets on a port and the processes behind them, in the words of the API. Pure.

use std::fmt;
use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint::Protocol;

/// A socket on a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Occupant {
    /// The port; 0 for a unix socket.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// What the socket does with the port.
    pub kind: OccupantKind,
    /// Its own address and port; `0.0.0.0:0` for a unix socket.
    #[schema(value_type = String, example = "127.0.0.1:3306")]
    pub address: SocketAddr,
    /// The path of a unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Whether a socket of `[::]` has the port for IPv4 as well.
    pub dual_stack: bool,
    /// The other side of a connection.
    #[schema(value_type = Option<String>)]
    pub peer: Option<SocketAddr>,
    /// What the kernel says is left of TIME_WAIT, in milliseconds. Not set if the port is waited for; see `until`.
    pub time_wait_ms: Option<u64>,
    /// When TIME_WAIT is due to end. The kernel's timers are coarse: it may take some seconds more.
    #[serde(default)]
    pub until: Option<Timestamp>,
    /// Who has it; `None` for TIME_WAIT, which nobody has, and for what is unexplained.
    pub holder: Option<Holder>,
}

/// What a socket does with its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OccupantKind {
    /// It listens.
    Listener,
    /// It is bound. Of UDP sockets, this is all that there is to listening.
    Bound,
    /// It is a connection.
    Connection,
    /// Only the kernel remembers it.
    TimeWait,
    /// The port cannot be bound, and the kernel does not show why.
    Unexplained,
    /// This machine does not have the address.
    NoAddress,
}

impl OccupantKind {
    /// Its name, as people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Bound => "bound",
            Self::Connection => "connection",
            Self::TimeWait => "TIME_WAIT",
            Self::Unexplained => "unexplained",
            Self::NoAddress => "no address",
        }
    }
}

impl Occupant {
    /// What it holds, for a message: `port 80`, or the path of a unix socket.
    pub fn place(&self) -> String {
        self.path.clone().unwrap_or_else(|| format!("port {}", self.port))
    }

    /// Whether a process has the socket, and this user may not see which.
    pub fn is_hidden(&self) -> bool {
        self.holder.as_ref().is_some_and(Holder::is_hidden)
    }
}

/// The process behind a socket, as far as this user may see it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Holder {
    /// Process id; `None` when the kernel hides it from this user. Of several processes that have the socket open, the one
    /// with the lowest.
    pub pid: Option<u32>,
    /// The other processes that have the same socket open; it is held until the last one closes it.
    #[serde(default)]
    pub others: Vec<u32>,
    /// Command line, arguments joined by spaces, at most 256 characters; `None` when hidden.
    pub command: Option<String>,
    /// The uid that made the socket.
    pub uid: u32,
    /// Name of that user, if there is one.
    pub user: Option<String>,
    /// When the process began, to the second; `None` when hidden.
    #[serde(default)]
    pub started: Option<Timestamp>,
    /// systemd unit, if the cgroup shows one: the process's, or the one that the socket was made in when that is hidden.
    pub unit: Option<String>,
    /// The socket unit that a service manager holds the socket for, if the kernel reports it.
    #[serde(default)]
    pub socket_unit: Option<String>,
    /// Id of the container, if the cgroup shows one.
    #[serde(default)]
    pub container: Option<String>,
    /// Path of that cgroup.
    #[serde(default)]
    pub cgroup: Option<String>,
    /// No process has the socket open any more: the kernel is closing a connection.
    #[serde(default)]
    pub orphaned: bool,
    /// Every process was looked into, and none has the socket open: it is the kernel's own, or that of a process which this
    /// /proc does not show.
    #[serde(default)]
    pub unowned: bool,
    /// How the process is related to the reporting portward.
    #[serde(default)]
    pub kinship: Kinship,
    /// The tunnel of that portward which the process carries.
    #[serde(default)]
    pub tunnel: Option<String>,
    /// Another portward that runs and looks after the process: its own, or a descendant of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervisor: Option<Supervisor>,
}

/// A daemon of portward other than the reporting one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Supervisor {
    /// Its process id.
    pub pid: u32,
    /// Its command line, arguments joined by spaces, at most 256 characters; `None` when hidden.
    pub command: Option<String>,
    /// The path of its API's socket.
    pub socket: Option<String>,
}

impl fmt::Display for Supervisor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "pid {}", self.pid)?;
        self.command.as_ref().map_or(Ok(()), |command| write!(formatter, " ({command})"))
    }
}

/// How a process is related to this one. Of several processes that have a socket open, the closest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kinship {
    /// Not at all.
    #[default]
    Stranger,
    /// It is this very process.
    Itself,
    /// This process descends from it.
    Ancestor,
    /// It descends from this process.
    Child,
    /// It is another portward, or descends from one.
    Portward,
}

impl Holder {
    /// The processes that have the socket open, as far as they are known.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.pid.iter().chain(&self.others).copied()
    }

    /// Nobody is named: not even whose uid it is means anything.
    fn unowned(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a socket that no process here has open")?;
        self.unit.as_ref().map_or(Ok(()), |unit| write!(formatter, ", made in {unit}"))
    }

    /// Whether a process may have the socket that this user may not see.
    pub fn is_hidden(&self) -> bool {
        self.pid.is_none() && !self.orphaned && !self.unowned
    }
}

/// Digits of a container's id that tools show.
pub(crate) const SHORT_CONTAINER_ID: usize = 12;

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, &self.command) {
            (Some(pid), Some(command)) => write!(formatter, "pid {pid} ({command})")?,
            (Some(pid), None) => write!(formatter, "pid {pid}")?,
            (None, _) if self.orphaned => formatter.write_str("the kernel, which closes a connection")?,
            (None, _) if self.unowned => return self.unowned(formatter),
            (None, _) => formatter.write_str("a process that portward may not see,")?,
        }
        match &self.others[..] {
            [] => {}
            [other] => write!(formatter, " and pid {other}")?,
            others => {
                let others: Vec<_> = others.iter().map(u32::to_string).collect();
                write!(formatter, " and pids {}", others.join(", "))?;
            }
        }
        match &self.user {
            Some(user) => write!(formatter, " of user {user}")?,
            None => write!(formatter, " of uid {}", self.uid)?,
        }
        match (&self.unit, &self.cgroup) {
            (Some(unit), _) => write!(formatter, " in {unit}")?,
            (None, Some(cgroup)) if self.is_hidden() && cgroup != "/" => {
                write!(formatter, " in cgroup {cgroup}")?;
            }
            (None, _) => {}
        }
        if let Some(container) = &self.container {
            let short = container.get(..SHORT_CONTAINER_ID).unwrap_or(container);
            write!(formatter, ", container {short}")?;
        }
        Ok(())
    }
}
