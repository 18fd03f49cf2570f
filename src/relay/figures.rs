//! What the relay counts of a tunnel's clients, and what it reports.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::allowed::Stranger;

/// Figures about the clients of a held listener, since it was made. Written by the relay, read by anybody.
#[derive(Debug, Default)]
pub struct Figures {
    /// Clients that are connected to the server's side now.
    pub now: AtomicU64,
    /// Clients that were accepted.
    pub total: AtomicU64,
    /// Clients that wait for a connection to the server now.
    pub waiting: AtomicU64,
    /// Clients that were closed without having been connected: given up, or not allowed.
    pub refused: AtomicU64,
    /// Bytes from clients to the server's side.
    pub sent: AtomicU64,
    /// Bytes to clients.
    pub received: AtomicU64,
}

pub(super) fn add(figure: &AtomicU64, amount: u64) {
    figure.fetch_add(amount, Ordering::Relaxed);
}

/// Counts in a figure for as long as it lives.
#[derive(Debug)]
pub(super) struct Counted {
    figures: Arc<Figures>,
    which: fn(&Figures) -> &AtomicU64,
}

impl Counted {
    /// A client that is connected.
    pub(super) fn connected(figures: &Arc<Figures>) -> Self {
        Self::new(figures, |figures| &figures.now)
    }

    /// A client that waits.
    pub(super) fn waiting(figures: &Arc<Figures>) -> Self {
        Self::new(figures, |figures| &figures.waiting)
    }

    fn new(figures: &Arc<Figures>, which: fn(&Figures) -> &AtomicU64) -> Self {
        add(which(figures), 1);
        Self { figures: figures.clone(), which }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.which)(&self.figures).fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the relay reports of a held listener.
#[derive(Debug)]
pub enum News {
    /// The figures have changed; told at most once a second.
    Changed {
        /// Clients that were given up since this was told last, because they had waited for as long as they may.
        given_up: u64,
    },
    /// There was no client, and now one is connected or waits; only if [`Terms::tell_presence`](super::Terms::tell_presence) is set.
    FirstCame,
    /// The last client has ended, has left or was given up; on the same condition. Also told, if there is no client, when the
    /// condition begins to hold.
    LastLeft,
    /// There is no client: the answer to the question with this number. If there is one, that has been told before.
    Nobody(u64),
    /// A client that may not be one was closed, and so were this many others since this was told last. Told at most once a
    /// second.
    Denied(Stranger, u64),
    /// Nobody listens on the unix socket of this upstream: clients wait for the next one.
    UpstreamLost(u64),
    /// As many clients are connected as the limit of open files has room for: others wait in the kernel's queue. Told at
    /// most once a minute.
    Full(usize),
    /// A client could not be accepted, or not be connected, for want of a descriptor or memory; it waits, and is tried again
    /// when a client has ended, and after a second. Told at most once a minute.
    Starved(io::Error),
    /// As many clients wait as may: others wait in the kernel's queue. Told at most once a minute.
    Crowded,
    /// The kernel has closed this listener (`ss -K`), or refuses to accept on it. The relay holds it no more.
    Broken(SocketAddr, io::Error),
}
