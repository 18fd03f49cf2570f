//! The listener that portward holds for a tunnel with `listener: portward`.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::attempt::port_failure;
use super::reporter::{Reporter, TunnelReport};
use crate::config::desired;
use crate::core::{ConnectionId, Failure, FailureKind, Request, Slot};
use crate::observe::systemd::Kept;
use crate::port::{Endpoint, PortError, Ports};
use crate::process::limits;
use crate::protocol::Clients;
use crate::relay::{Allowed, Announcer, Held, ListenError, Relay, Sockets, Terms, Upstream};

/// How often a port may be taken between the moment that it is found unbound and the moment that it is listened on, before
/// that counts as a failure. Each time the port is waited for again.
const MOST_RACES: u32 = 3;

/// A listener, and what its clients are connected to.
#[derive(Debug)]
pub(super) struct HeldListener {
    number: u64,
    held: Held,
    /// The service manager has its sockets as well, until this goes.
    _kept: Vec<Kept>,
    serving: Option<(ConnectionId, Request)>,
    /// The number of the upstream that was given last.
    upstream: u64,
    /// The latest question whether there is a client, and its number.
    asked: (u64, Request),
}

/// Why a port that was found unbound is not held.
#[derive(Debug)]
pub(super) enum NotHeld {
    /// It has been taken: it is to be waited for again.
    Taken,
    /// It cannot be listened on.
    Failed(Failure),
}

/// The relay, which is started for the first listener.
#[derive(Debug, Default)]
pub(super) struct Holder {
    relay: Option<Relay>,
    /// The number of the last listener.
    last: u64,
    /// Sockets that an earlier run of portward listened on, and the service manager has kept.
    inherited: HashMap<SocketAddr, TcpListener>,
}

/// The present request for a port, and how often the port was taken before it could be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Races {
    request: Request,
    lost: u32,
}

impl Races {
    /// One more was lost; whether the port is to be waited for again.
    fn lose(&mut self, request: Request) -> bool {
        if self.request != request {
            *self = Self { request, lost: 0 };
        }
        self.lost += 1;
        self.lost < MOST_RACES
    }
}

impl Holder {
    /// Takes those of the sockets that listen on one of `wanted`, and gives the others back.
    pub(super) fn inherit(&mut self, sockets: Vec<OwnedFd>, wanted: &HashSet<SocketAddr>) {
        for listener in sockets.into_iter().map(TcpListener::from) {
            let Ok(address) = listener.local_addr() else { continue };
            if wanted.contains(&address) && listener.set_nonblocking(true).is_ok() {
                self.inherited.insert(address, listener);
            } else {
                Kept::give_back(address);
            }
        }
    }

    /// Whether sockets that were kept listen on all of `endpoints`. Where some are missing, the others are given back.
    pub(super) fn has_inherited(&mut self, endpoints: &[Endpoint]) -> bool {
        let has = |endpoint: &Endpoint| self.inherited.contains_key(&endpoint.address);
        if !endpoints.is_empty() && endpoints.iter().all(has) {
            return true;
        }
        for endpoint in endpoints {
            if self.inherited.remove(&endpoint.address).is_some() {
                Kept::give_back(endpoint.address);
            }
        }
        false
    }

    /// Listens on all of `endpoints`, which were found unbound for `request`.
    pub(super) fn hold(
        &mut self,
        endpoints: &[Endpoint],
        (request, races): (Request, &mut Races),
        desired: &desired::Tunnel,
        reporter: &Reporter<Slot>,
    ) -> Result<HeldListener, NotHeld> {
        let sockets = Sockets::listen(endpoints, &mut self.inherited).map_err(|error| {
            if error.is_in_use() && races.lose(request) {
                NotHeld::Taken
            } else {
                NotHeld::Failed(refused(error))
            }
        })?;
        self.last += 1;
        let (number, reporter) = (self.last, reporter.clone());
        let kept = sockets.each().map(|(socket, address)| Kept::keep(socket, address)).collect();
        let held = self
            .relay()
            .and_then(|relay| {
                relay.hold(sockets, terms(desired), move |news| {
                    reporter.send(TunnelReport::Relay(number, news));
                })
            })
            .map_err(|error| NotHeld::Failed(not_started(&error)))?;
        let asked = (0, Request::default());
        Ok(HeldListener { number, held, _kept: kept, serving: None, upstream: 0, asked })
    }

    fn relay(&mut self) -> io::Result<&Relay> {
        match &mut self.relay {
            Some(relay) => Ok(relay),
            none => {
                // Of its own, so that the event loop does not wait for a query of the relay.
                let ports = Ports::new().map_err(io::Error::other)?;
                Ok(none.insert(Relay::start(ports)?))
            }
        }
    }
}

impl HeldListener {
    /// Its number, by which reports name it.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The addresses that it listens on.
    pub(super) fn addresses(&self) -> &[SocketAddr] {
        self.held.addresses()
    }

    /// Connects clients to what `listening` has opened on unix sockets, one for each port, or lets them wait. `paths` tells those of a
    /// connection.
    pub(super) fn serve(
        &mut self,
        listening: Option<(ConnectionId, Request)>,
        paths: impl FnOnce(ConnectionId) -> Option<Vec<PathBuf>>,
    ) {
        if self.serving == listening {
            return;
        }
        self.serving = listening;
        self.upstream += 1;
        let paths = listening.and_then(|(connection, _)| paths(connection));
        self.held.serve(paths.map(|paths| Upstream { number: self.upstream, paths }));
    }

    /// What clients are connected to, if that is still the upstream with this number.
    pub(super) fn serving(&self, upstream: u64) -> Option<(ConnectionId, Request)> {
        self.serving.filter(|_| self.upstream == upstream)
    }

    /// Treats clients from now on as the tunnel has it.
    pub(super) fn treat(&self, desired: &desired::Tunnel) {
        self.held.set_terms(terms(desired));
    }

    /// Asks whether there is no client.
    pub(super) fn ask_for_clients(&mut self, request: Request) {
        self.asked = (self.asked.0 + 1, request);
        self.held.ask_for_clients(self.asked.0);
    }

    /// The request that the answer with this number is for, if it is the latest.
    pub(super) fn answered(&self, number: u64) -> Option<Request> {
        Some(self.asked.1).filter(|_| self.asked.0 == number)
    }

    /// By which health checks are announced.
    pub(super) fn announcer(&self) -> Announcer {
        self.held.announcer()
    }

    /// What is counted of its clients.
    pub(super) fn clients(&self) -> Clients {
        let figures = self.held.figures();
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        Clients {
            now: read(&figures.now),
            total: read(&figures.total),
            waiting: read(&figures.waiting),
            refused: read(&figures.refused),
            bytes_sent: read(&figures.sent),
            bytes_received: read(&figures.received),
        }
    }
}

fn terms(desired: &desired::Tunnel) -> Terms {
    let (clients, tell_presence) = (&desired.clients, desired.policy.on_demand.is_some());
    let allowed = clients.allow_users.as_ref().map(|allowed| {
        let desired::AllowedUsers { users, groups } = allowed.clone();
        Arc::new(Allowed { users, groups })
    });
    Terms { connect_wait: clients.connect_wait, allowed, tell_presence }
}

fn refused(error: ListenError) -> Failure {
    if error.is_in_use() {
        let message = format!(
            "{} was taken before portward could listen on it, {MOST_RACES} times in a row: `portward who {}` shows by whom",
            error.endpoint,
            error.endpoint.port()
        );
        return Failure::new(FailureKind::LocalPortHeld, message);
    }
    port_failure(&PortError::TrialBind { endpoint: error.endpoint, source: error.source })
}

fn not_started(error: &io::Error) -> Failure {
    let reason = limits::explain(error).unwrap_or_else(|| error.to_string());
    Failure::new(FailureKind::Exited, format!("cannot serve clients with `listener: portward`: {reason}"))
}
