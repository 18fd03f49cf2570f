//! Variants of ssh_config and sshd_config, each through start, restart and stop: the state, the class of the failure, how many
//! ssh are started in 20 s, whether the traffic passes, and what is left at the end.
//!
//! All rows are tunnels of one daemon, so that the 20 s pass once. A row that differs from what it says does not end the test:
//! all of them are told at the end.

#![allow(clippy::expect_used, clippy::unwrap_used)]

mod checks;
mod client_rows;
mod row;
mod server_rows;
mod world;

use std::time::Duration;

use integration_tests::{DEADLINE, Daemon, Lab};
use tokio::time::Instant;

use checks::Checks;
use world::World;

/// For so long the starts of ssh are counted.
const WINDOW: Duration = Duration::from_secs(20);

#[tokio::test]
async fn every_variant_starts_restarts_and_stops_as_its_row_says() {
    let lab = Lab::new();
    let rows: Vec<_> = client_rows::rows().into_iter().chain(server_rows::rows()).collect();
    assert!(rows.len() >= 40, "the table has only {} rows", rows.len());
    let world = World::build(&lab, &rows).await;

    let daemon = Daemon::start(&lab, &world.tunnels()).await;
    let mut checks = Checks::new(&lab, &daemon, &world);
    checks.start().await;
    // Not a wait for something: what a tunnel does in this time is what is looked at.
    tokio::time::sleep(WINDOW).await;
    // By now all are where they belong, unless the machine is loaded.
    checks.started(Instant::now() + DEADLINE).await;
    checks.restarted().await;
    checks.stopped().await;

    std::fs::write(
        "/tmp/tbl/daemon.json",
        daemon.log().all().iter().map(|l| l.raw.clone() + "\n").collect::<String>(),
    )
    .unwrap();
    let mut problems = checks.into_problems();
    let ended = daemon.stop().await;
    if !ended.status.success() {
        problems.push(format!("the daemon ends with {}", ended.status));
    }
    for socket in lab.sockets() {
        problems.push(format!("left after the daemon's end: {}", socket.display()));
    }
    assert!(
        problems.is_empty(),
        "{} of {} rows differ:\n{}",
        problems.len(),
        rows.len(),
        problems.join("\n")
    );
}
