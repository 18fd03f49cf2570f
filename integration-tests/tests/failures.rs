//! Each fault ends in its own class of failure, and the tunnel comes up by itself when the cause goes.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::time::Duration;

use integration_tests::{Daemon, Lab, ORIGIN_PORT, Sshd, fetch, kill, serve_page};
use nix::sys::signal::Signal;
use portward::protocol::{FailureKind, StateName, TunnelStatus};
use tokio::net::TcpListener;

const PORT: u16 = 9443;

fn web(destination: &str) -> String {
    format!(
        "
  - name: web
    remote_host: {destination}
    remote_port: 127.0.0.1:8000
    local_port: 9443
"
    )
}

/// Waits until the tunnel is up with another process than before.
async fn up_anew(daemon: &Daemon<'_>, mark: usize, before: &TunnelStatus) {
    let after = daemon.wait_up_anew(mark, "web", before.pid).await;
    assert_eq!(after.last_error, None, "an error is over when the tunnel is up");
    fetch(PORT).await.expect("the tunnel carries data again");
}

#[tokio::test]
async fn kill_9_of_ssh_is_killed() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &web("server")).await;
    let before = daemon.wait_state("web", StateName::Up).await;
    let mark = daemon.mark();
    kill(before.pid.unwrap(), Signal::SIGKILL);
    daemon.wait_failure(mark, "web", FailureKind::Killed).await;
    up_anew(&daemon, mark, &before).await;
    assert_eq!(lab.ssh_starts().len(), 2);
}

#[tokio::test]
async fn kill_9_of_the_servers_session_is_network() {
    let lab = Lab::new();
    let sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &web("server")).await;
    let before = daemon.wait_state("web", StateName::Up).await;
    let mark = daemon.mark();
    sshd.kill_sessions();
    daemon.wait_failure(mark, "web", FailureKind::Network).await;
    up_anew(&daemon, mark, &before).await;
    assert_eq!(lab.ssh_starts().len(), 2);
}

#[tokio::test]
async fn a_server_that_is_away_for_three_seconds_is_refused() {
    let lab = Lab::new();
    let mut sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &web("server")).await;
    let before = daemon.wait_state("web", StateName::Up).await;
    let mark = daemon.mark();
    sshd.stop().await;
    daemon.wait_failure(mark, "web", FailureKind::Refused).await;
    // The server's absence is the fault itself, not a wait for something.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let away = daemon.status("web").await;
    assert_ne!(away.state, StateName::Up);
    assert_eq!(away.listeners, []);
    sshd.start_again().await;
    up_anew(&daemon, mark, &before).await;
}

#[tokio::test]
async fn a_wrong_key_is_auth() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &web("wrong-key")).await;
    daemon.wait_failure(0, "web", FailureKind::Auth).await;
    lab.accept_other_key();
    daemon.wait_state("web", StateName::Up).await;
    fetch(PORT).await.expect("the tunnel carries data");
}

#[tokio::test]
async fn an_unknown_host_key_is_host_key() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &web("stranger")).await;
    daemon.wait_failure(0, "web", FailureKind::HostKey).await;
    lab.trust_server("no_known_hosts");
    daemon.wait_state("web", StateName::Up).await;
    fetch(PORT).await.expect("the tunnel carries data");
}

#[tokio::test]
async fn an_unknown_host_name_is_dns() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &web("nowhere")).await;
    daemon.wait_failure(0, "web", FailureKind::Dns).await;
    lab.add_host("nowhere.invalid");
    daemon.wait_state("web", StateName::Up).await;
    fetch(PORT).await.expect("the tunnel carries data");
}

#[tokio::test]
async fn a_port_taken_on_the_server_is_remote_port_held() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    // The server is content with one of its two loopbacks: only when both are taken does it refuse.
    let taken = [
        TcpListener::bind(("127.0.0.1", PORT)).await.unwrap(),
        TcpListener::bind(("::1", PORT)).await.unwrap(),
    ];
    let tunnels = "
  - name: web
    remote_host: server
    direction: local_to_remote
    remote_port: 9443
    local_port: 127.0.0.1:8000
";
    let daemon = Daemon::start(&lab, tunnels).await;
    let held = daemon.wait_failure(0, "web", FailureKind::RemotePortHeld).await;
    assert!(held.last_error.unwrap().message.contains("9443"));
    drop(taken);
    daemon.wait_state("web", StateName::Up).await;
    fetch(PORT).await.expect("the remote forward carries data");
    assert_eq!(lab.ssh_starts().len(), 1, "the connection that was refused the port is used again");
}

#[tokio::test]
async fn an_ssh_that_is_missing_is_config_and_comes_up_when_it_is_installed() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let program = lab.path("bin/late-ssh");
    let ssh = format!("    ssh: {{program: {}}}\n", program.display());
    let daemon = Daemon::start(&lab, &format!("{}{ssh}", web("server"))).await;
    let failed = daemon.wait_failure(0, "web", FailureKind::Config).await;
    assert_eq!(failed.state, StateName::Backoff);
    assert!(failed.last_error.unwrap().message.contains(&*program.to_string_lossy()));
    lab.install_script("late-ssh", "exec /usr/bin/ssh \"$@\"\n");
    daemon.wait_state("web", StateName::Up).await;
    fetch(PORT).await.expect("the tunnel carries data");
}
