//! Identifies the holders of a port that is waited for: on another thread, one query at a time, at a limited rate.

use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until};

use super::network::NetworkChanges;
use super::pace::{self, Pace, Terms};
use super::{HeldBy, Occupant, OccupantKind, who};

/// First and longest delay between queries about a holder whose release the kernel does not report.
const FIRST_LOOK: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Holders, and who they are.
type Identified = (Vec<HeldBy>, Vec<Occupant>);

/// Identifies holders.
#[derive(Debug)]
pub(super) struct Identification {
    next: Option<Vec<HeldBy>>,
    running: Option<JoinHandle<(Identified, Duration)>>,
    pace: Pace,
}

impl Identification {
    pub(super) fn new() -> Self {
        Self { next: None, running: None, pace: Pace::new(Terms::PROCESSES) }
    }

    /// Identifies these, instead of any others.
    pub(super) fn start(&mut self, held: Vec<HeldBy>) {
        self.next = Some(held);
    }

    /// Whether there are holders to identify.
    fn is_due(&self) -> bool {
        self.next.is_some()
    }

    /// Waits until they are identified; never resolves if there are none. Cancel-safe.
    pub(super) async fn identified(&mut self) -> Identified {
        loop {
            if let Some(running) = &mut self.running {
                let identified = running.await;
                self.running = None;
                // If the thread panicked, there is no result; the panic has been reported.
                if let Ok((identified, cost)) = identified {
                    self.pace.spend(cost, Instant::now());
                    // Holders that have changed meanwhile are not reported.
                    if !self.is_due() {
                        return identified;
                    }
                }
            }
            if !self.is_due() {
                return std::future::pending().await;
            }
            if let Some(rest) = self.pace.rest(Instant::now()) {
                sleep_until(rest).await;
            }
            if let Some(held) = self.next.take() {
                self.running = Some(spawn_blocking(move || {
                    let (occupants, cost) = pace::timed(|| who::describe(&held));
                    ((held, occupants), cost)
                }));
            }
        }
    }
}

/// Wake-ups for holders that can release the port without a destroy event.
///
/// A socket that the kernel has made for itself sends none: that of a VXLAN or WireGuard device, of an NFS or iSCSI server.
/// Many disappear with a network link, which rtnetlink reports. A connection may release a port that the kernel has chosen for it
/// and continue to exist: when its peer resets it, or when it is disconnected. Neither that nor the end of other sockets of the kernel
/// is reported, so the kernel is queried after delays that double up to a minute.
#[derive(Debug, Default)]
pub(super) struct Silent {
    network: Option<NetworkChanges>,
    next_look: Option<Duration>,
}

impl Silent {
    /// What these holders need. Panics outside a tokio runtime.
    pub(super) fn of(occupants: &[Occupant]) -> Self {
        let is_untold = |occupant: &Occupant| match occupant.kind {
            OccupantKind::Connection | OccupantKind::Unexplained => true,
            OccupantKind::Listener | OccupantKind::Bound => {
                occupant.holder.as_ref().is_some_and(|holder| holder.unowned)
            }
            OccupantKind::TimeWait | OccupantKind::NoAddress => false,
        };
        // A hidden process may be a socket of the kernel. Watching links costs nothing, unlike querying.
        let may_go_with_a_link = |occupant: &Occupant| match occupant.kind {
            OccupantKind::Unexplained | OccupantKind::NoAddress => true,
            OccupantKind::Listener | OccupantKind::Bound => {
                occupant.holder.as_ref().is_some_and(|holder| holder.unowned || holder.is_hidden())
            }
            OccupantKind::Connection | OccupantKind::TimeWait => false,
        };
        let network = occupants.iter().any(may_go_with_a_link).then(NetworkChanges::subscribe);
        let network = network.and_then(|network| {
            network
                .inspect_err(|error| tracing::debug!(%error, "changes of the network are not reported"))
                .ok()
        });
        let next_look = occupants.iter().any(is_untold).then_some(FIRST_LOOK);
        Self { network, next_look }
    }

    /// Whether it has just subscribed: earlier changes are not reported.
    pub(super) fn is_listening(&self) -> bool {
        self.network.is_some()
    }

    /// Waits until there is a reason to query again; never resolves if these holders need none.
    pub(super) async fn stirred(&mut self) {
        let network = async {
            match &mut self.network {
                Some(network) => network.changed().await,
                None => std::future::pending().await,
            }
        };
        let look = async {
            match &mut self.next_look {
                Some(wait) => {
                    sleep(*wait).await;
                    *wait = (*wait * 2).min(LONGEST_WAIT);
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = network => {}
            () = look => {}
        }
    }
}
