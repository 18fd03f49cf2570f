//! Restarts, kills and cuts, and what the clients see of them.

use std::time::Duration;

use integration_tests::ip;
use tokio::time::sleep;

use crate::CABLE;
use crate::client::{Clients, Seen};
use crate::side::{Happening, Side};

/// How long the network is cut. ssh itself would give up after 45 s.
pub(crate) const CUT: Duration = Duration::from_secs(4);

/// Has it happen to one side again and again.
pub(crate) async fn one_by_one(side: &mut Side<'_>, what: Happening, times: usize) -> Vec<Seen> {
    let clients = Clients::start(side.port);
    let mut seen = Vec::new();
    for _ in 0..times {
        clients.served().await;
        side.forget(what).await;
        side.settled().await;
        clients.served().await;
        let mark = clients.mark();
        match what {
            Happening::Restart => side.restart().await,
            Happening::Kill => side.kill().await,
        }
        clients.served().await;
        side.settled().await;
        clients.served().await;
        seen.push(clients.seen(mark));
    }
    seen
}

/// Cuts the network of all sides together.
pub(crate) async fn cuts(sides: &[Side<'_>], times: usize) -> Vec<Vec<Seen>> {
    let clients: Vec<Clients> = sides.iter().map(|side| Clients::start(side.port)).collect();
    let mut seen = vec![Vec::new(); sides.len()];
    for _ in 0..times {
        all_served(sides, &clients).await;
        let marks: Vec<_> = clients.iter().map(Clients::mark).collect();
        ip(&format!("link set {CABLE} down"));
        sleep(CUT).await;
        ip(&format!("link set {CABLE} up"));
        all_served(sides, &clients).await;
        for ((seen, clients), mark) in seen.iter_mut().zip(&clients).zip(marks) {
            seen.push(clients.seen(mark));
        }
    }
    seen
}

async fn all_served(sides: &[Side<'_>], clients: &[Clients]) {
    for (side, clients) in sides.iter().zip(clients) {
        clients.served().await;
        side.settled().await;
        clients.served().await;
    }
}
