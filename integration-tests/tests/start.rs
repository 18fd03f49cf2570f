//! Seed scenario 2: a start while another process holds the port; and how everything ends.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use integration_tests::{Daemon, Lab, Squatter, Sshd, assert_no_busy_port, stop_signal};
use portward::protocol::StateName;
use tokio::net::TcpListener;

const PORT: u16 = 9443;
const WEB: &str = "
  - name: web
    remote_host: server
    remote_port: 127.0.0.1:8000
    local_port: 9443
";
const THREE: &str = "
  - {name: one, remote_host: server, remote_port: 127.0.0.1:8000, local_port: 9441}
  - {name: two, remote_host: server, remote_port: 127.0.0.1:8000, local_port: 9442}
  - {name: three, remote_host: server, remote_port: 127.0.0.1:8000, local_port: 9443}
";

/// Starts the daemon while a python process listens on `address`, and lets the port go.
async fn waits_for_a_squatter_on(address: &str) {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let squatter = Squatter::listen(&lab, address, PORT).await;
    let daemon = Daemon::start(&lab, WEB).await;

    let holder = daemon.wait_holder("web").await;
    assert_eq!(holder.pid, Some(squatter.pid()));
    assert!(holder.command.as_ref().is_some_and(|command| command.contains("python3")), "{holder:?}");
    let line = daemon.wait_log(0, "that names the holder", |line| line.field("holder_pid").is_some()).await;
    assert_eq!(line.field("holder_pid").unwrap(), squatter.pid());
    assert_eq!(lab.ssh_starts(), Vec::<String>::new(), "no ssh is started before the port is free");

    let mark = daemon.mark();
    squatter.leave().await;
    let up = daemon.wait_status(mark, "web", "up", |status| status.state == StateName::Up).await;
    assert_eq!(up.holder, None);
    assert_eq!(up.listeners.len(), 2, "{up:?}");
    assert_eq!(lab.ssh_starts().len(), 1);
    assert_no_busy_port(&daemon.stop().await.log);
}

#[tokio::test]
async fn a_port_held_on_the_same_address_is_waited_for() {
    waits_for_a_squatter_on("127.0.0.1").await;
}

#[tokio::test]
async fn a_port_held_on_all_addresses_is_waited_for() {
    waits_for_a_squatter_on("0.0.0.0").await;
}

#[tokio::test]
async fn a_port_held_on_the_other_loopback_is_waited_for() {
    waits_for_a_squatter_on("::1").await;
}

#[tokio::test]
async fn a_port_held_on_another_address_is_not_waited_for() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let _squatter = Squatter::listen(&lab, "127.0.0.2", PORT).await;
    let daemon = Daemon::start(&lab, WEB).await;
    daemon.wait_state("web", StateName::Up).await;
}

#[tokio::test]
async fn only_the_tunnel_whose_port_is_freed_comes_up() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let first = TcpListener::bind("127.0.0.1:9441").await.unwrap();
    let second = TcpListener::bind("127.0.0.1:9442").await.unwrap();
    let daemon = Daemon::start(&lab, THREE).await;
    daemon.wait_state("three", StateName::Up).await;
    for name in ["one", "two"] {
        assert_eq!(daemon.wait_holder(name).await.pid, Some(std::process::id()));
    }
    assert_eq!(lab.ssh_starts().len(), 1);

    drop(second);
    daemon.wait_state("two", StateName::Up).await;
    assert_eq!(daemon.status("one").await.state, StateName::AwaitingPort);
    assert_eq!(lab.ssh_starts().len(), 2);
    drop(first);
    daemon.wait_state("one", StateName::Up).await;
}

#[tokio::test]
async fn a_start_that_must_wait_is_answered_in_time_with_the_holder() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let squatter = Squatter::listen(&lab, "127.0.0.1", PORT).await;
    let daemon = Daemon::start(&lab, WEB).await;
    daemon.wait_holder("web").await;
    let answer = daemon.post("/restart/web?timeout=200ms").await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert!(answer.body.contains("awaiting_port"), "{answer:?}");
    assert!(answer.body.contains(&squatter.pid().to_string()), "{answer:?}");
    // To a client that does not say how long it waits, every 2xx is success.
    let answer = daemon.post("/start/web").await;
    assert_eq!(answer.status, 409, "{answer:?}");
    assert!(answer.json()["error"].as_str().unwrap().contains(&squatter.pid().to_string()), "{answer:?}");
    assert_eq!(lab.ssh_starts().len(), 0);
}

#[tokio::test]
async fn a_disabled_tunnel_starts_only_when_asked() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, &format!("{WEB}    enabled: false\n")).await;
    assert_eq!(daemon.status("web").await.state, StateName::Stopped);
    assert_eq!(lab.ssh_starts().len(), 0);
    let answer = daemon.post("/start/web?timeout=20s").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(daemon.status("web").await.state, StateName::Up);
}

#[tokio::test]
async fn a_stop_leaves_no_process_and_no_control_socket() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, WEB).await;
    daemon.wait_state("web", StateName::Up).await;
    assert_eq!(lab.sockets().len(), 2, "the API's and ssh's: {:?}", lab.sockets());
    let answer = daemon.post("/stop/web?timeout=20s").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(daemon.status("web").await.state, StateName::Stopped);
    let left: Vec<u32> = lab.daemon_processes().iter().map(|process| process.pid).collect();
    assert_eq!(left, [daemon.pid()], "only the daemon itself is left");
    assert_eq!(lab.sockets(), [daemon.socket()], "only the API's socket is left");
    TcpListener::bind(("127.0.0.1", PORT)).await.expect("the port is free when the stop is answered");
}

#[tokio::test]
async fn a_stopped_ssh_dies_on_stop() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, WEB).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    stop_signal(up.pid.unwrap());
    let answer = daemon.post("/stop/web?timeout=20s").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(lab.daemon_processes().len(), 1, "{:?}", lab.daemon_processes());
    assert_eq!(lab.sockets(), [daemon.socket()]);
}

#[tokio::test]
async fn sigterm_to_the_daemon_leaves_nothing_behind() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let squatted = TcpListener::bind("127.0.0.1:9441").await.unwrap();
    let daemon = Daemon::start(&lab, THREE).await;
    daemon.wait_state("one", StateName::AwaitingPort).await;
    daemon.wait_state("two", StateName::Up).await;
    let three = daemon.wait_state("three", StateName::Up).await;
    stop_signal(three.pid.unwrap());
    let ended = daemon.stop().await;
    assert!(ended.status.success(), "{:?}", ended.status);
    assert_eq!(lab.daemon_processes().len(), 0, "{:?}", lab.daemon_processes());
    assert_eq!(lab.sockets(), Vec::<std::path::PathBuf>::new());
    drop(squatted);
}
