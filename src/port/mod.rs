//! Ports: who holds an endpoint, and when it is free again, as the kernel tells it.

pub mod advice;
mod bound;
pub mod diag;
mod error;
mod events;
mod filter;
pub mod holder;
mod network;
mod pace;
mod ports;
mod release;
mod telling;
mod time_wait;
mod trial;
mod verdict;
pub mod who;
pub mod wire;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use error::PortError;
pub use events::Subscription;
pub use ports::{Counters, Listener, Ports};
pub use who::{Occupant, OccupantKind, Question};

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP, in which to be bound is to listen.
    Udp,
}

impl Protocol {
    /// Its name, as people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// The word in JSON and in the configuration.
impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A local endpoint that a tunnel is to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Address and port.
    pub address: SocketAddr,
    /// For `[::]`: whether the listener leaves IPv4 alone. ssh always sets IPV6_V6ONLY; other programs may not.
    pub v6only: bool,
    /// A TCP port has nothing to do with the UDP port of the same number.
    pub protocol: Protocol,
}

impl Endpoint {
    /// The TCP endpoint as ssh would bind it: IPv6 sockets are v6only.
    pub fn new(address: IpAddr, port: u16) -> Self {
        Self { address: SocketAddr::new(address, port), v6only: address.is_ipv6(), protocol: Protocol::Tcp }
    }

    /// The same endpoint for another protocol.
    #[must_use]
    pub fn over(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Whether the two have a port at an address in common, so that the kernel lets only one of them be listened on.
    pub fn overlaps(&self, other: &Self) -> bool {
        verdict::endpoints_overlap(self, other)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(formatter)?;
        match self.protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => formatter.write_str("/udp"),
        }
    }
}

/// The answer to "would bind and listen on these endpoints succeed now?".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// They would.
    Unbound,
    /// They would not, because of these sockets (never empty).
    Held(Vec<HeldBy>),
}

/// One socket that keeps an endpoint from being bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBy {
    /// The endpoint asked for.
    pub endpoint: Endpoint,
    /// The address and port that the socket itself is bound to.
    pub bound: SocketAddr,
    /// How it holds the endpoint; this chooses the wake-up.
    pub kind: HoldKind,
    /// The socket's inode; 0 when the kernel does not tell (TIME_WAIT).
    pub inode: u32,
    /// The uid that made the socket; 0 in TIME_WAIT, and when unexplained, where it means nothing.
    pub uid: u32,
    /// The kernel's name for the socket, never used twice; 0 when unexplained.
    pub cookie: u64,
    /// Id of the cgroup in which the socket was made; `None` before Linux 5.7 and in TIME_WAIT.
    pub cgroup: Option<u64>,
}

impl HeldBy {
    /// What makes a holder the same as before: not how long its TIME_WAIT still lasts.
    fn identity(&self) -> (Endpoint, SocketAddr, std::mem::Discriminant<HoldKind>, u64) {
        (self.endpoint, self.bound, std::mem::discriminant(&self.kind), self.cookie)
    }
}

/// How a socket holds an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HoldKind {
    /// It listens.
    Listener,
    /// It is bound and does not listen. UDP sockets never do more than that, and receive all the same.
    Bound,
    /// A connection that happens to use the port as its own.
    Connection,
    /// TIME_WAIT that blocks, and how much of it is left.
    TimeWait(Duration),
    /// The trial bind failed and no row of the kernel's tells why.
    Unexplained,
    /// This machine does not have the address (yet).
    NoAddress,
}

/// The process behind a socket, as far as this user may see it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
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
    /// systemd unit, if the cgroup tells one: the process's, or the one that the socket was made in when that is hidden.
    pub unit: Option<String>,
    /// The socket unit that a service manager holds the socket for, where the kernel tells it.
    #[serde(default)]
    pub socket_unit: Option<String>,
    /// Id of the container, if the cgroup tells one.
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
    /// What the process is to the portward that tells this.
    #[serde(default)]
    pub kinship: Kinship,
    /// The tunnel of that portward which the process carries.
    #[serde(default)]
    pub tunnel: Option<String>,
}

/// What a process is to this one. Of several processes that have a socket open, the closest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kinship {
    /// It has nothing to do with it.
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

/// Digits by which people and their tools tell containers apart.
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
