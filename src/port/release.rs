//! Is an endpoint unbound, and waiting until it is.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::{Endpoint, HeldBy, PortError, Subscription, Verdict};

/// The kernel's knowledge of ports. Cheap to clone; clones share their sockets.
#[derive(Debug, Clone)]
pub struct Ports {}

/// A listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// What it listens on.
    pub address: SocketAddr,
    /// Inode of the socket; [`super::holder::pid_owns`] finds its process.
    pub inode: u32,
    /// The uid that made it.
    pub uid: u32,
}

/// What has been asked of the kernel and heard from it so far; tests read it to show that nothing polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Dumps asked for.
    pub queries: u64,
    /// Trial binds made.
    pub trial_binds: u64,
    /// Destroy events received.
    pub events: u64,
    /// Times that the event socket's buffer overran.
    pub overruns: u64,
}

impl Ports {
    /// Opens the query socket, in the network namespace of the calling thread.
    pub fn new() -> Result<Self, PortError> {
        todo!()
    }

    /// Would bind and listen succeed now on all of `endpoints`? Takes microseconds and does not block.
    pub fn verdict(&self, _endpoints: &[Endpoint]) -> Result<Verdict, PortError> {
        todo!()
    }

    /// Resolves once all of `endpoints` are unbound, at once if they are. `on_held` is told the holders whenever they
    /// change. Woken by the kernel; dropping the future ends the subscription.
    pub async fn unbound(
        &self,
        _endpoints: &[Endpoint],
        _on_held: impl FnMut(&[HeldBy]),
    ) -> Result<(), PortError> {
        todo!()
    }

    /// Subscribes to the destruction of sockets on `ports`. Must be called inside a tokio runtime.
    pub fn watch(&self, _ports: &BTreeSet<u16>) -> Result<Subscription, PortError> {
        todo!()
    }

    /// The sockets that listen on `ports`.
    pub fn listeners(&self, _ports: &BTreeSet<u16>) -> Result<Vec<Listener>, PortError> {
        todo!()
    }

    /// Whether this machine has `address`. `::1` is often missing.
    pub fn is_available(&self, _address: IpAddr) -> bool {
        todo!()
    }

    /// What has been asked and heard so far.
    pub fn counters(&self) -> Counters {
        todo!()
    }
}
