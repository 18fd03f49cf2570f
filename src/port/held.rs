//! The verdict about endpoints, and the sockets that hold them. Pure.

use std::net::SocketAddr;
use std::time::Duration;

use super::endpoint::Endpoint;

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
    /// The socket's inode; 0 if the kernel does not report it (TIME_WAIT).
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
    pub(super) fn identity(&self) -> (Endpoint, SocketAddr, std::mem::Discriminant<HoldKind>, u64) {
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
    /// The trial bind failed, and no row of the kernel explains it.
    Unexplained,
    /// This machine does not have the address (yet).
    NoAddress,
}
