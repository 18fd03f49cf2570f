//! Is an endpoint unbound, and waiting until it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::diag::Diag;
use super::events::Events;
use super::trial::{self, Trial};
use super::wire::{Family, SocketState};
use super::{Endpoint, HeldBy, HoldKind, PortError, Subscription, Verdict, verdict};

/// A socket may go away between a failed trial bind and the dump that is to explain it: then both are done again.
const EXPLANATION_ATTEMPTS: u32 = 3;
/// How long TIME_WAIT outlasts what its row says, at most: the kernel's timers round up by as much as an eighth of the 60 s.
const TIME_WAIT_OVERTIME: Duration = Duration::from_millis(7500);

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

/// A listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// What it listens on.
    pub address: SocketAddr,
    /// For an IPv6 address: whether it leaves IPv4 alone.
    pub v6only: bool,
    /// Inode of the socket; [`super::holder::pid_owns`] finds its process.
    pub inode: u32,
    /// The uid that made it.
    pub uid: u32,
}

impl Listener {
    /// Whether it serves `endpoint`, be it through a wildcard address.
    pub fn overlaps(&self, endpoint: &Endpoint) -> bool {
        let listening = Endpoint { address: self.address, v6only: self.v6only };
        verdict::endpoints_overlap(endpoint, &listening)
    }
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
        Ok(Self {
            shared: Arc::new(Shared {
                diag: Mutex::new(Diag::new()?),
                events: Arc::default(),
                trial_binds: AtomicU64::new(0),
            }),
        })
    }

    /// Would bind and listen succeed now on all of `endpoints`? Takes microseconds and does not block.
    ///
    /// The cheapest proof is taken: when a listener holds one endpoint, the others are not examined further.
    pub fn verdict(&self, endpoints: &[Endpoint]) -> Result<Verdict, PortError> {
        let held = self.held_by_listeners(endpoints)?;
        if !held.is_empty() {
            return Ok(Verdict::Held(held));
        }
        for endpoint in endpoints {
            let held = self.held_otherwise(endpoint)?;
            if !held.is_empty() {
                return Ok(Verdict::Held(held));
            }
        }
        Ok(Verdict::Unbound)
    }

    /// Resolves once all of `endpoints` are unbound, at once if they are. `on_held` is told the holders whenever they
    /// change. Woken by the kernel; dropping the future ends the subscription.
    pub async fn unbound(
        &self,
        endpoints: &[Endpoint],
        mut on_held: impl FnMut(&[HeldBy]),
    ) -> Result<(), PortError> {
        if self.verdict(endpoints)? == Verdict::Unbound {
            return Ok(());
        }
        // What was released before the subscription is seen by the query after it.
        let mut subscription = self.watch(&endpoints.iter().map(Endpoint::port).collect())?;
        let mut endpoints = endpoints.to_vec();
        let mut reported = Vec::new();
        while let Verdict::Held(held) = self.verdict(&endpoints)? {
            let identities: Vec<_> = held.iter().map(identity).collect();
            if identities != reported {
                on_held(&held);
                reported = identities;
            }
            // A trial bind that works is an event on the port. Asking first about what was held last keeps us, and another
            // portward that waits for the same port, from waking each other for ever.
            endpoints.sort_by_key(|endpoint| !held.iter().any(|holder| holder.endpoint == *endpoint));
            tokio::select! {
                () = subscription.changed() => {}
                () = self.time_wait_over(&held) => {}
            }
        }
        Ok(())
    }

    /// Subscribes to the destruction of sockets on `ports`. Panics outside a tokio runtime.
    pub fn watch(&self, ports: &BTreeSet<u16>) -> Result<Subscription, PortError> {
        self.shared.events.subscribe(ports)
    }

    /// The sockets that listen on `ports`.
    pub fn listeners(&self, ports: &BTreeSet<u16>) -> Result<Vec<Listener>, PortError> {
        // The kernel can look for one port; beyond that, one dump of everything that listens is cheaper than many.
        let port = if ports.len() == 1 { ports.first().copied() } else { None };
        let mut listeners = Vec::new();
        for family in [Family::V4, Family::V6] {
            let rows = self.diag().listeners(family, port)?;
            listeners.extend(
                rows.iter()
                    .filter(|row| row.state == SocketState::Listening && ports.contains(&row.local.port()))
                    .map(|row| Listener {
                        address: row.local,
                        v6only: row.v6only,
                        inode: row.inode,
                        uid: row.uid,
                    }),
            );
        }
        Ok(listeners)
    }

    /// Whether this machine has `address`. `::1` is often missing.
    pub fn is_available(&self, address: IpAddr) -> bool {
        trial::is_available(address)
    }

    /// What has been asked and heard so far.
    pub fn counters(&self) -> Counters {
        let (events, overruns) = self.shared.events.counts();
        Counters {
            queries: self.diag().queries(),
            trial_binds: self.shared.trial_binds.load(Ordering::Relaxed),
            events,
            overruns,
        }
    }

    fn held_by_listeners(&self, endpoints: &[Endpoint]) -> Result<Vec<HeldBy>, PortError> {
        let mut families: BTreeMap<u16, BTreeSet<Family>> = BTreeMap::new();
        for endpoint in endpoints {
            families.entry(endpoint.port()).or_default().extend(verdict::families(endpoint));
        }
        let mut rows = Vec::new();
        for (port, families) in families {
            for family in families {
                rows.extend(self.diag().listeners(family, Some(port))?);
            }
        }
        Ok(endpoints.iter().flat_map(|endpoint| verdict::listeners_on(endpoint, &rows)).collect())
    }

    /// Who holds `endpoint` without listening there; empty if nobody does.
    fn held_otherwise(&self, endpoint: &Endpoint) -> Result<Vec<HeldBy>, PortError> {
        for _ in 0..EXPLANATION_ATTEMPTS {
            if self.try_bind(endpoint)? == Trial::Worked {
                return Ok(Vec::new());
            }
            let mut rows = Vec::new();
            for family in verdict::families(endpoint) {
                rows.extend(self.diag().everything(*family, endpoint.port())?);
            }
            let held = verdict::explain(endpoint, &rows);
            if !held.is_empty() {
                return Ok(held);
            }
        }
        Ok(vec![verdict::unexplained(endpoint)])
    }

    fn try_bind(&self, endpoint: &Endpoint) -> Result<Trial, PortError> {
        self.shared.trial_binds.fetch_add(1, Ordering::Relaxed);
        trial::bind(endpoint)
    }

    /// Waits until an endpoint that TIME_WAIT holds may have become free; for ever if there is none. Its end is no event.
    async fn time_wait_over(&self, held: &[HeldBy]) {
        let now = Instant::now();
        let mut deadlines: Vec<(Instant, Endpoint)> = held
            .iter()
            .filter_map(|holder| match holder.kind {
                HoldKind::TimeWait(left) => Some((now + left, holder.endpoint)),
                _ => None,
            })
            .collect();
        deadlines.sort_unstable();
        deadlines.dedup();
        let Some(&(last, endpoint)) = deadlines.last() else {
            return std::future::pending().await;
        };
        // The kernel's timer fires late, by nothing at best: each look is as far from the last as the timer is late.
        let overtime = (0..).map(|power| Duration::from_millis(1 << power));
        let overtime =
            overtime.take_while(|late| *late < TIME_WAIT_OVERTIME).map(|late| (last + late, endpoint));
        for (deadline, endpoint) in deadlines.into_iter().chain(overtime) {
            sleep_until(deadline).await;
            // Rows are read again only when there is something new in them.
            if !matches!(self.try_bind(&endpoint), Ok(Trial::InUse)) {
                return;
            }
        }
    }

    fn diag(&self) -> MutexGuard<'_, Diag> {
        // A panic halfway through a dump leaves rows unread, which the next request's number tells apart.
        self.shared.diag.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What makes a holder the same as before: not how long its TIME_WAIT still lasts.
fn identity(holder: &HeldBy) -> (Endpoint, SocketAddr, std::mem::Discriminant<HoldKind>, u32) {
    (holder.endpoint, holder.bound, std::mem::discriminant(&holder.kind), holder.inode)
}
