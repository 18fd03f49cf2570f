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

use integration_tests::{Daemon, Lab};

use checks::{AT_A_TIME, Checks};
use world::World;

#[tokio::test]
async fn every_variant_starts_restarts_and_stops_as_its_row_says() {
    let lab = Lab::new();
    let rows: Vec<_> = client_rows::rows().into_iter().chain(server_rows::rows()).collect();
    assert!(rows.len() >= 40, "the table has only {} rows", rows.len());
    let world = World::build(&lab, &rows).await;

    let daemon = Daemon::start(&lab, &world.tunnels()).await;
    let mut checks = Checks::new(&lab, &daemon, &world);
    checks.start().await;
    for rows in rows.chunks(AT_A_TIME) {
        checks.started(rows).await;
        checks.restarted(rows).await;
    }
    checks.stopped().await;

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
        "{} differences in {} rows:\n{}",
        problems.len(),
        rows.len(),
        problems.join("\n")
    );
}
