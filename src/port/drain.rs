//! Waiting until a process that listens no more carries no connection of a client.

use std::collections::BTreeSet;
use std::future::pending;

use tokio::time::{Instant, sleep_until};

use super::pace::{self, Pace, Terms};
use super::{Endpoint, PortError, Ports, Protocol, holder, verdict};

impl Ports {
    /// Resolves once the process `pid` has no TCP connection on the ports of `endpoints`, at once if it has none. Woken by the
    /// kernel; dropping the future ends the subscription. Never resolves if the sockets of the process cannot be seen.
    pub async fn drained(&self, pid: u32, endpoints: &[Endpoint]) -> Result<(), PortError> {
        // What ended before the subscription is seen by the query after it.
        let mut subscription = self.watch(endpoints)?;
        let mut pace = Pace::new(Terms::QUERIES);
        loop {
            let (carries, cost) = pace::timed(|| self.carries(pid, endpoints));
            match carries? {
                None => pending().await,
                Some(false) => return Ok(()),
                Some(true) => {}
            }
            pace.spend(cost, Instant::now());
            subscription.changed().await;
            if let Some(rest) = pace.rest(Instant::now()) {
                let muted = subscription.mute();
                sleep_until(rest).await;
                drop(muted);
            }
        }
    }

    /// Whether the process has a connection on one of these ports; `None` if its sockets cannot be seen.
    fn carries(&self, pid: u32, endpoints: &[Endpoint]) -> Result<Option<bool>, PortError> {
        let Some(sockets) = holder::sockets(pid) else { return Ok(None) };
        let dumps: BTreeSet<_> = endpoints
            .iter()
            .flat_map(|endpoint| verdict::families(endpoint).iter().map(|family| (endpoint.port(), *family)))
            .collect();
        for (port, family) in dumps {
            let rows = self.everything(Protocol::Tcp, family, Some(port))?;
            if rows.iter().any(|row| row.remote.port() != 0 && sockets.contains(&row.inode)) {
                return Ok(Some(true));
            }
        }
        Ok(Some(false))
    }
}
