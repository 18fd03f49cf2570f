//! What a held listener is told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::allowed::Allowed;

/// How the clients of a tunnel are treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// How long a client waits for a connection to the server.
    pub connect_wait: Duration,
    /// Who may be a client; `None`: everybody.
    pub allowed: Option<Arc<Allowed>>,
    /// Whether [`News::FirstCame`](super::News::FirstCame) and [`News::LastLeft`](super::News::LastLeft) are wanted.
    pub tell_presence: bool,
}

/// Where ssh takes clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// The caller's number for it, by which [`News::UpstreamLost`](super::News::UpstreamLost) names it.
    pub number: u64,
    /// The unix sockets on which ssh listens: one for each port that is listened on, in the order of the ports.
    pub paths: Vec<PathBuf>,
}

/// An order.
#[derive(Debug)]
pub(super) enum Order {
    /// Connect clients to this; without an upstream they wait.
    Serve(Option<Upstream>),
    /// Treat clients so.
    Treat(Terms),
    /// Tell if there is no client; with the caller's number.
    AskForClients(u64),
    /// The next client from this address is a health check, and is not told as a client.
    Disregard(SocketAddr),
}
