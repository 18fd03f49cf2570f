//! Queries about ports.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::diag::Diag;
use super::events::Events;
use super::filter::Watched;
use super::trial::{self, Trial};
use super::verdict::{self, Obstacle};
use super::wire::{Family, SocketRow, SocketState};
use super::{Endpoint, HeldBy, Listener, PortError, Protocol, Subscription, Verdict};

/// A socket may go away between a failed trial bind and the query that is to explain it: then both are done again.
const EXPLANATION_ATTEMPTS: u32 = 3;

/// Questions about single ports are asked of up to so many; beyond that, one dump of all listeners is cheaper.
const FEW: usize = 32;

/// The kernel's knowledge of ports. Cheap to clone; clones share their sockets.
#[derive(Debug, Clone)]
pub struct Ports {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// A query takes microseconds and is never held across an await.
    diag: Mutex<Diag>,
    events: Arc<Events>,
    trial_binds: AtomicU64,
}

/// What has been asked of the kernel and heard from it so far; tests read it to show that nothing polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Queries over netlink.
    pub queries: u64,
    /// Trial binds made.
    pub trial_binds: u64,
    /// Destroy events received.
    pub events: u64,
    /// Times that the event socket's buffer overran.
    pub overruns: u64,
}

/// How thoroughly a held endpoint is examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// One socket that holds it, at the least cost.
    FirstProof,
    /// All that may.
    Everyone,
}

impl Ports {
    /// Opens the query socket, in the network namespace of the calling thread.
    pub fn new() -> Result<Self, PortError> {
        Ok(Self::with(Diag::new()?))
    }

    /// Uses `diag` for queries.
    pub fn with(diag: Diag) -> Self {
        let shared =
            Shared { diag: Mutex::new(diag), events: Arc::default(), trial_binds: AtomicU64::new(0) };
        Self { shared: Arc::new(shared) }
    }

    /// Would bind and listen succeed now on all of `endpoints`? Does not block.
    ///
    /// The cheapest proof is taken. The kernel is asked first by a trial bind, and that settles it when nothing is in the
    /// way. One listener that holds one endpoint settles it too, after a look-up. Both take some microseconds, however many
    /// sockets there are; other holders cost a full dump. [`Self::holders`] names them all.
    pub fn verdict(&self, endpoints: &[Endpoint]) -> Result<Verdict, PortError> {
        let obstacles = self.obstacles(endpoints, Depth::FirstProof)?;
        if obstacles.is_empty() {
            return Ok(Verdict::Unbound);
        }
        Ok(Verdict::Held(self.proven(&obstacles)))
    }

    /// Every socket that is known to keep `endpoints` from being bound; none if they are unbound. When listeners do, what
    /// else may be in the way behind them is not examined. Does not block; 1 ms for 10,000 sockets.
    pub fn holders(&self, endpoints: &[Endpoint]) -> Result<Vec<HeldBy>, PortError> {
        Ok(self.proven(&self.obstacles(endpoints, Depth::Everyone)?))
    }

    /// Subscribes to the destruction of sockets on the ports of `endpoints`. Panics outside a tokio runtime.
    pub fn watch(&self, endpoints: &[Endpoint]) -> Result<Subscription, PortError> {
        self.shared.events.subscribe(endpoints, Watched::Everything)
    }

    /// As [`Self::watch`], for the sockets that listen (UDP: those without a peer): the ends of connections on these
    /// ports wake no subscriber and cost nothing.
    pub fn watch_listeners(&self, endpoints: &[Endpoint]) -> Result<Subscription, PortError> {
        self.shared.events.subscribe(endpoints, Watched::Listeners)
    }

    /// The sockets that a connection to each of `endpoints` would reach: of several that share an address, one. `None` where
    /// look-ups cannot find them all (of UDP, and of wildcard addresses), and where there are so many that a dump is cheaper. Takes some microseconds, however many listeners there are.
    pub fn look_up(&self, endpoints: &[Endpoint]) -> Result<Option<Vec<Listener>>, PortError> {
        let is_definite = |endpoint: &Endpoint| {
            endpoint.protocol == Protocol::Tcp && !endpoint.address.ip().is_unspecified()
        };
        if endpoints.len() > FEW || !endpoints.iter().all(is_definite) {
            return Ok(None);
        }
        let mut listeners = Vec::new();
        for address in endpoints.iter().flat_map(verdict::lookups) {
            let found = self.diag().listener(address)?.map(|row| verdict::listener(&row, Protocol::Tcp));
            listeners.extend(found.filter(|found| !listeners.contains(found)));
        }
        Ok(Some(listeners))
    }

    /// The other end of the TCP connection from `ours` to `theirs`, if that is a socket of this machine, in this network
    /// namespace. Takes some microseconds.
    pub fn other_end(&self, ours: SocketAddr, theirs: SocketAddr) -> Result<Option<SocketRow>, PortError> {
        self.diag().connection(theirs, ours)
    }

    /// The TCP sockets that are connected, or being connected, by inode: their own address and the other side's. Looks at all
    /// sockets, which takes 0.5 ms or more.
    pub fn connections(&self) -> Result<HashMap<u32, (SocketAddr, SocketAddr)>, PortError> {
        let mut connections = HashMap::new();
        for family in [Family::V4, Family::V6] {
            let rows = self.everything(Protocol::Tcp, family, None)?;
            let connected = rows.iter().filter(|row| row.state == SocketState::Connected);
            connections.extend(connected.map(|row| (row.inode, (row.local, row.remote))));
        }
        Ok(connections)
    }

    /// The sockets that serve `endpoints`: those that listen, and for UDP those that are bound.
    pub fn listeners(&self, endpoints: &[Endpoint]) -> Result<Vec<Listener>, PortError> {
        let ports = |protocol| {
            let endpoints = endpoints.iter().filter(move |endpoint| endpoint.protocol == protocol);
            endpoints.map(Endpoint::port).collect::<BTreeSet<u16>>()
        };
        let (tcp, udp) = (ports(Protocol::Tcp), ports(Protocol::Udp));
        let mut listeners = Vec::new();
        for family in [Family::V4, Family::V6] {
            let mut diag = self.diag();
            // The kernel can look for one port; beyond that, one dump of everything that listens is cheaper than many.
            let rows = match tcp.len() {
                0 => Vec::new(),
                1 => diag.listeners(family, tcp.first().copied())?,
                _ => diag.listeners(family, None)?,
            };
            let listening = rows.iter().filter(|row| row.state == SocketState::Listening);
            listeners.extend(listening.map(|row| verdict::listener(row, Protocol::Tcp)));
            for port in &udp {
                let rows = diag.everything(Protocol::Udp, family, *port)?;
                let bound = rows.iter().filter(|row| row.state == SocketState::Bound);
                listeners.extend(bound.map(|row| verdict::listener(row, Protocol::Udp)));
            }
        }
        let mut by_port: HashMap<u16, Vec<&Endpoint>> = HashMap::new();
        for endpoint in endpoints {
            by_port.entry(endpoint.port()).or_default().push(endpoint);
        }
        listeners.retain(|listener| {
            let same_port = by_port.get(&listener.address.port());
            same_port.is_some_and(|endpoints| endpoints.iter().any(|endpoint| listener.overlaps(endpoint)))
        });
        Ok(listeners)
    }

    /// Every socket that serves a port of this protocol: those that listen, and for UDP those that are bound.
    pub fn all_listeners(&self, protocol: Protocol) -> Result<Vec<Listener>, PortError> {
        let mut listeners = Vec::new();
        for family in [Family::V4, Family::V6] {
            let (rows, serves) = match protocol {
                Protocol::Tcp => (self.diag().listeners(family, None)?, SocketState::Listening),
                Protocol::Udp => (self.diag().all(protocol, family, None)?, SocketState::Bound),
            };
            let serving = rows.iter().filter(|row| row.state == serves);
            listeners.extend(serving.map(|row| verdict::listener(row, protocol)));
        }
        Ok(listeners)
    }

    /// Whether this machine has `address`. `::1` is often missing.
    pub fn is_available(&self, address: IpAddr) -> bool {
        trial::is_available(address)
    }

    /// Those of a tunnel's `endpoints` that it listens on. A machine without IPv6 has no `::1`: then IPv4 alone will do.
    pub fn usable(&self, endpoints: &[Endpoint]) -> Vec<Endpoint> {
        let has_v4 = endpoints.iter().any(|endpoint| endpoint.address.is_ipv4());
        let mut available = BTreeMap::new();
        let needed = |endpoint: &&Endpoint| {
            let (optional, address) = (has_v4 && endpoint.address.is_ipv6(), endpoint.address.ip());
            !optional || *available.entry(address).or_insert_with(|| self.is_available(address))
        };
        endpoints.iter().filter(needed).copied().collect()
    }

    /// The numbers of queries and events so far.
    pub fn counters(&self) -> Counters {
        let (events, overruns) = self.shared.events.counts();
        Counters {
            queries: self.diag().queries(),
            trial_binds: self.shared.trial_binds.load(Ordering::Relaxed),
            events,
            overruns,
        }
    }

    /// What may be in the way of `endpoints`; nothing if these are unbound. At least one of it is. An address that this
    /// machine does not have may be added later.
    pub(super) fn in_the_way(&self, endpoints: &[Endpoint]) -> Result<Vec<Obstacle>, PortError> {
        match self.obstacles(endpoints, Depth::Everyone) {
            Err(PortError::AddressNotAvailable(endpoint)) => Ok(vec![verdict::no_address(&endpoint)]),
            obstacles => obstacles,
        }
    }

    /// As [`Self::holders`]; an address that this machine does not have is one more holder.
    pub fn waited_for(&self, endpoints: &[Endpoint]) -> Result<Vec<HeldBy>, PortError> {
        Ok(self.proven(&self.in_the_way(endpoints)?))
    }

    /// Those of `obstacles` that are known to be in the way.
    ///
    /// Rows do not show whether a socket has SO_REUSEADDR, and thus permits our bind. If sockets at several addresses may conflict
    /// with a wildcard, a trial bind at each of these addresses shows which of them do; each one that succeeds causes a destroy
    /// event on the port.
    pub(super) fn proven(&self, obstacles: &[Obstacle]) -> Vec<HeldBy> {
        let all = || obstacles.iter().map(|obstacle| obstacle.held.clone()).collect();
        for probes in verdict::probes(obstacles) {
            let mut proven = Vec::new();
            for probe in probes {
                // A trial bind that cannot be made proves nothing.
                if !matches!(self.counted(trial::bind_anywhere(&probe.endpoint)), Ok(Trial::Worked)) {
                    proven.extend(probe.obstacles.iter().map(|obstacle| obstacle.held.clone()));
                }
            }
            if !proven.is_empty() {
                return proven;
            }
        }
        all()
    }

    fn obstacles(&self, endpoints: &[Endpoint], depth: Depth) -> Result<Vec<Obstacle>, PortError> {
        for endpoint in endpoints {
            let obstacles = self.obstacles_of(endpoint, endpoints, depth)?;
            // A trial bind that works is a destroy event. So the others are not tried once one is known to be held.
            if !obstacles.is_empty() {
                return Ok(obstacles);
            }
        }
        Ok(Vec::new())
    }

    fn obstacles_of(
        &self,
        endpoint: &Endpoint,
        all: &[Endpoint],
        depth: Depth,
    ) -> Result<Vec<Obstacle>, PortError> {
        for _ in 0..EXPLANATION_ATTEMPTS {
            match self.try_bind(endpoint) {
                Ok(Trial::Worked) => return Ok(Vec::new()),
                Ok(Trial::InUse) => {}
                // The kernel checks the permission first. Listeners can be reported nevertheless.
                Err(error @ PortError::PermissionDenied(_)) => {
                    let listening = self.listening(std::slice::from_ref(endpoint))?;
                    return if listening.is_empty() { Err(error) } else { Ok(listening) };
                }
                Err(error) => return Err(error),
            }
            let obstacles = self.explain(endpoint, all, depth)?;
            if !obstacles.is_empty() {
                return Ok(obstacles);
            }
        }
        Ok(vec![verdict::unexplained(endpoint)])
    }

    /// Why a trial bind of `endpoint` failed.
    fn explain(
        &self,
        endpoint: &Endpoint,
        all: &[Endpoint],
        depth: Depth,
    ) -> Result<Vec<Obstacle>, PortError> {
        if endpoint.protocol == Protocol::Tcp {
            let listening = match depth {
                Depth::FirstProof => self.look_up_listener(endpoint)?,
                Depth::Everyone => self.listening(all)?,
            };
            if !listening.is_empty() {
                return Ok(listening);
            }
        }
        let mut rows = Vec::new();
        for family in verdict::families(endpoint) {
            rows.extend(self.diag().everything(endpoint.protocol, *family, endpoint.port())?);
        }
        Ok(verdict::obstacles(endpoint, &rows))
    }

    /// One listener on `endpoint`; none if there is none that a look-up finds, which does not reach from a wildcard address
    /// to a definite one.
    fn look_up_listener(&self, endpoint: &Endpoint) -> Result<Vec<Obstacle>, PortError> {
        for address in verdict::lookups(endpoint) {
            let row = self.diag().listener(address)?;
            let listening = verdict::listeners_on(endpoint, row.as_slice());
            if !listening.is_empty() {
                return Ok(listening);
            }
        }
        Ok(Vec::new())
    }

    /// All listeners on `endpoints`.
    fn listening(&self, endpoints: &[Endpoint]) -> Result<Vec<Obstacle>, PortError> {
        let tcp = endpoints.iter().filter(|endpoint| endpoint.protocol == Protocol::Tcp);
        let dumps: BTreeSet<(u16, Family)> = tcp
            .clone()
            .flat_map(|endpoint| verdict::families(endpoint).iter().map(|family| (endpoint.port(), *family)))
            .collect();
        let mut rows = Vec::new();
        if dumps.len() > FEW {
            for family in [Family::V4, Family::V6] {
                rows.extend(self.diag().listeners(family, None)?);
            }
        } else {
            for (port, family) in dumps {
                rows.extend(self.diag().listeners(family, Some(port))?);
            }
        }
        Ok(tcp.flat_map(|endpoint| verdict::listeners_on(endpoint, &rows)).collect())
    }

    /// The TCP sockets that listen on `port`, or on any port, or are bound to it.
    pub(super) fn serving(&self, family: Family, port: Option<u16>) -> Result<Vec<SocketRow>, PortError> {
        self.diag().serving(family, port)
    }

    /// All sockets on `port`, or on any port.
    pub(super) fn everything(
        &self,
        protocol: Protocol,
        family: Family,
        port: Option<u16>,
    ) -> Result<Vec<SocketRow>, PortError> {
        self.diag().all(protocol, family, port)
    }

    /// A trial bind, counted.
    pub(super) fn try_bind(&self, endpoint: &Endpoint) -> Result<Trial, PortError> {
        self.counted(trial::bind(endpoint))
    }

    fn counted<T>(&self, trial: T) -> T {
        self.shared.trial_binds.fetch_add(1, Ordering::Relaxed);
        trial
    }

    fn diag(&self) -> MutexGuard<'_, Diag> {
        // A panic halfway through an answer leaves rows unread, which are recognized by the number of the request.
        self.shared.diag.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
