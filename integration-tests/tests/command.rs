//! `command:` tunnels: any program that binds its port.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use integration_tests::{
    Daemon, Gate, Lab, ORIGIN_PORT, Squatter, fetch, kill, listens_on, serve_page, stop_signal,
};
use nix::sys::signal::Signal;
use portward::protocol::{FailureKind, StateName};

const PORT: u16 = 9443;
const SOCAT: &str = "
  - name: relay
    command: [socat, 'TCP-LISTEN:9443,bind=127.0.0.1,fork,reuseaddr', 'TCP:127.0.0.1:8000']
    local_port: 9443
";
/// A leader that does nothing but wait for its child, and the child relays: what holds the port is a descendant.
const FORKING: &str = "
  - name: relay
    command:
      - /usr/bin/python3
      - -c
      - |
        import os, subprocess, sys
        sys.exit(subprocess.call(['socat', 'TCP-LISTEN:9443,bind=127.0.0.1,fork,reuseaddr', 'TCP:127.0.0.1:8000']))
    local_port: 9443
";
/// Listens once it is through the gate.
fn gated(gate: &Gate) -> String {
    format!(
        "
  - name: relay
    command:
      - /usr/bin/python3
      - -c
      - |
        import os, socket, signal
        open('{}').read()
        listener = socket.create_server(('127.0.0.1', 9443))
        signal.pause()
    local_port: 9443
",
        gate.path().display()
    )
}

#[tokio::test]
async fn a_command_is_up_when_it_listens_and_is_restarted_when_it_dies() {
    let lab = Lab::new();
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, SOCAT).await;
    let up = daemon.wait_state("relay", StateName::Up).await;
    assert_eq!(listens_on(&up), ["127.0.0.1:9443"]);
    fetch(PORT).await.expect("the page comes through the command");

    let mark = daemon.mark();
    kill(up.pid.unwrap(), Signal::SIGKILL);
    daemon.wait_failure(mark, "relay", FailureKind::Killed).await;
    let again = daemon.wait_state("relay", StateName::Up).await;
    assert_ne!(again.pid, up.pid);
    fetch(PORT).await.expect("the page comes through the new command");

    let (before, after) = daemon.restart("relay").await;
    assert_eq!(Some(before), again.pid);
    assert_ne!(after, before);
    fetch(PORT).await.expect("the page comes through the restarted command");
}

#[tokio::test]
async fn a_command_that_runs_is_not_up_before_it_listens() {
    let lab = Lab::new();
    let gate = Gate::new(&lab);
    let daemon = Daemon::start(&lab, &gated(&gate)).await;
    daemon.wait_state("relay", StateName::Connecting).await;
    let gate = gate.reached().await;
    let waiting = daemon.status("relay").await;
    assert_eq!(waiting.state, StateName::Connecting);
    assert_eq!(waiting.listeners, []);
    drop(gate);
    daemon.wait_state("relay", StateName::Up).await;
}

#[tokio::test]
async fn a_listener_of_a_descendant_counts_and_dies_with_the_group() {
    let lab = Lab::new();
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, FORKING).await;
    daemon.wait_state("relay", StateName::Up).await;
    fetch(PORT).await.expect("the page comes through the descendant");
    let processes = lab.daemon_processes();
    assert!(processes.len() >= 3, "the daemon, the leader and its child: {processes:?}");

    // A stopped descendant ignores SIGTERM: the whole group is killed after the grace.
    let child = processes.iter().find(|process| process.executable.ends_with("socat")).expect("socat runs");
    stop_signal(child.pid);
    let answer = daemon.post("/stop/relay?timeout=20s").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    daemon.assert_alone();
}

#[tokio::test]
async fn killing_the_leader_takes_the_descendants_along() {
    let lab = Lab::new();
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, FORKING).await;
    let before = daemon.wait_state("relay", StateName::Up).await;
    let mark = daemon.mark();
    kill(before.pid.unwrap(), Signal::SIGKILL);
    daemon.wait_up_anew(mark, "relay", before.pid).await;
    fetch(PORT).await.expect("the page comes through the new command");
}

#[tokio::test]
async fn a_foreign_listener_never_counts_as_up() {
    let lab = Lab::new();
    let squatter = Squatter::listen(&lab, "127.0.0.1", PORT).await;
    let daemon = Daemon::start(&lab, SOCAT).await;
    assert_eq!(daemon.wait_holder("relay").await.pid, Some(squatter.pid()));
    assert_eq!(lab.daemon_processes().len(), 1, "the command is not started on a busy port");
    squatter.leave().await;
    daemon.wait_state("relay", StateName::Up).await;
}

#[tokio::test]
async fn a_foreign_listener_that_comes_first_never_counts_as_up() {
    let lab = Lab::new();
    let gate = Gate::new(&lab);
    let daemon = Daemon::start(&lab, &gated(&gate)).await;
    daemon.wait_state("relay", StateName::Connecting).await;
    // The port is taken after it was confirmed free and before the command binds it.
    let squatter = Squatter::listen(&lab, "127.0.0.1", PORT).await;
    let mark = daemon.mark();
    drop(gate.reached().await);
    // The command fails to bind and ends; portward waits for the port again and names who took it.
    let waiting = daemon
        .wait_status(mark, "relay", "awaiting the port", |status| status.state == StateName::AwaitingPort)
        .await;
    assert!(daemon.statuses(0, "relay").iter().all(|status| status.state != StateName::Up));
    assert_eq!(waiting.listeners, []);
    squatter.leave().await;
}
