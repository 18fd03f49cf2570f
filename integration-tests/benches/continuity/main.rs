//! What do the clients of a tunnel notice when it is restarted, when its ssh is killed and when the network is cut? For ssh as a service
//! of systemd, for autossh, and for portward. And what do 100 tunnels to one server cost?
//!
//!     cargo bench -p integration-tests --bench continuity [-- RESTARTS [KILLS [CUTS [TUNNELS]]]]
//!
//! As root, in namespaces of its own; the server is in another network namespace, behind a cable. One client connects every
//! millisecond, sends a byte and waits for it to come back from behind the server; another one holds a connection. Restarts and kills
//! happen to one tunnel after the other, while the clients use that one only. A cut is one for all of them. What a client waits for at a
//! planned restart of ssh under systemd is the time of a login.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod client;
mod contained;
mod events;
mod many;
mod plain;
mod side;
mod table;

use integration_tests::{ECHO_PORT, FarSide, Lab, Sshd, serve_echo};
use tokio::time::Instant;

use plain::Autossh;
use side::Happening;

/// The network cable to the server.
const CABLE: &str = "cable1";
/// The server's address at its other end.
const SERVER: &str = "10.1.0.1";

const RESTARTS: usize = 100;
const KILLS: usize = 30;
const CUTS: usize = 10;
const TUNNELS: usize = 100;

fn main() {
    contained::contained(measure);
}

async fn measure() {
    // cargo adds an option of its own.
    let asked: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let count = |index: usize, default| asked.get(index).copied().unwrap_or(default);
    let (restarts, kills, cuts) = (count(0, RESTARTS), count(1, KILLS), count(2, CUTS));
    let tunnels = u16::try_from(count(3, TUNNELS)).expect("a number of tunnels below 65536");

    let lab = Lab::new();
    let far = FarSide::new(&lab).await;
    far.connect(CABLE, 1);
    lab.name_far(SERVER);
    far.spawn(|| async {
        serve_echo(("127.0.0.1", ECHO_PORT)).await;
        std::future::pending::<()>().await;
    });
    let _sshd = Sshd::start_far(&far, "").await;
    if !Autossh::is_installed() {
        println!("autossh is not installed, and left out (Debian, Ubuntu: apt-get install autossh)\n");
    }
    if restarts + kills + cuts > 0 {
        measure_what_clients_see(&lab, restarts, kills, cuts).await;
    }
    if tunnels > 0 {
        measure_costs(&lab, tunnels).await;
    }
}

async fn measure_what_clients_see(lab: &Lab, restarts: usize, kills: usize, cuts: usize) {
    let daemon = side::daemon(lab).await;
    let mut sides = side::all(lab, &daemon);
    for (what, happening, times) in
        [("planned restarts", Happening::Restart, restarts), ("kill -9 of ssh", Happening::Kill, kills)]
    {
        let begun = Instant::now();
        table::head(&format!("{times} x {what}"));
        for side in &mut sides {
            let times = side.part_of(times, happening);
            if times > 0 {
                table::line(side.name, &events::one_by_one(side, happening, times).await);
            }
        }
        table::took(begun);
    }
    let begun = Instant::now();
    table::head(&format!("{cuts} x network cut for {} s", events::CUT.as_secs()));
    if cuts > 0 {
        for (side, seen) in sides.iter().zip(events::cuts(&sides, cuts).await) {
            table::line(side.name, &seen);
        }
    }
    table::took(begun);
}

async fn measure_costs(lab: &Lab, tunnels: u16) {
    let begun = Instant::now();
    table::head_of_costs(tunnels);
    table::costs("one ssh with a -L for each", Ok(many::plain(lab, tunnels).await));
    table::costs("portward, share: true", many::portward(lab, tunnels, "share: true").await);
    table::costs("portward", many::portward(lab, tunnels, "").await);
    table::took(begun);
}
