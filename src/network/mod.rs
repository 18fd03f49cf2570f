//! Changes of this machine's network and of its clock, as the kernel reports them.
//!
//! [`Network`] hears of links, addresses and routes over rtnetlink (`routes`, `message`), and of a resume by a timer that is
//! cancelled when the clock is set (`clock_set`). It reports a `burst` of changes once. Neither needs a privilege, and
//! nothing runs while nothing changes. [`Ways`] tells what a change has left: whether there is a `way` to an address.

mod burst;
mod change;
mod clock_set;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod message;
mod routes;
mod way;

use std::collections::BTreeSet;
use std::future::pending;

use tokio::time::{Instant, sleep_until};

pub use change::Change;
pub use way::Ways;

use burst::Burst;
use clock_set::ClockSet;
use routes::Routes;

/// The kernel's reports about the network and the clock.
#[derive(Debug)]
pub struct Network {
    /// `None` where the kernel refuses it.
    routes: Option<Routes>,
    /// `None` where the kernel refuses it.
    clock: Option<ClockSet>,
    /// What has changed and is not reported yet.
    changes: BTreeSet<Change>,
    burst: Burst,
}

impl Network {
    /// Subscribes, in the network namespace of the calling thread. What the kernel refuses is logged and not reported from then on.
    /// Panics outside a tokio runtime.
    pub fn watch() -> Self {
        let routes = Routes::subscribe().inspect_err(|error| {
            tracing::warn!(
                event = "watch",
                "changes of the network are not noticed, and dead connections only by `ServerAliveInterval`: rtnetlink: {error}; if a \
                 sandbox is in the way, it must allow AF_NETLINK (systemd: RestrictAddressFamilies=)"
            );
        });
        let clock = ClockSet::watch().inspect_err(|error| {
            tracing::warn!(
                event = "watch",
                "a resume of the machine is not noticed: timerfd: {error}; if a sandbox is in the way, it must allow \
                 timerfd_create (systemd: SystemCallFilter=@timer)"
            );
        });
        Self { routes: routes.ok(), clock: clock.ok(), changes: BTreeSet::new(), burst: Burst::default() }
    }

    /// Waits for the end of a burst of changes; never none. Cancel-safe: the next call reports what this one did not.
    pub async fn changed(&mut self) -> BTreeSet<Change> {
        loop {
            let Self { routes, clock, changes, burst } = self;
            let due = burst.due();
            tokio::select! {
                biased;
                () = at(due) => {
                    burst.report(Instant::now());
                    return std::mem::take(changes);
                }
                more = changes_of(routes) => changes.extend(more),
                () = set(clock) => drop(changes.insert(Change::Resumed)),
            }
            burst.touch(Instant::now());
        }
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

async fn changes_of(routes: &mut Option<Routes>) -> BTreeSet<Change> {
    match routes {
        Some(routes) => routes.changes().await,
        None => pending().await,
    }
}

async fn set(clock: &mut Option<ClockSet>) {
    match clock {
        Some(clock) => clock.set().await,
        None => pending().await,
    }
}
