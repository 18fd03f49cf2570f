//! `fallback_hosts`: other destinations with the same services, tried in order when the first one is not reached.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use integration_tests::{Daemon, Lab, ORIGIN_PORT, Sshd, fetch, kill, serve_page};
use nix::sys::signal::Signal;
use portward::protocol::{FailureKind, Standby, StateName};

const PORT: u16 = 9443;
const OTHER_SSHD: u16 = 2200;
/// A wait in backoff would outlast every test.
const FIRST_IS_AWAY: &str = "
  - name: web
    remote_host: ssh://server:2200
    fallback_hosts: ['ssh://server:9', server]
    remote_port: 127.0.0.1:8000
    local_port: 9443
    restart: {min_delay: 1h, max_delay: 1h}
";
const COVERED: &str = "
  - name: web
    remote_host: server
    fallback_hosts: ['ssh://server:2200']
    remote_port: 127.0.0.1:8000
    local_port: 9443
    standby: true
";

#[tokio::test]
async fn the_next_host_serves_while_the_first_is_away_and_a_restart_returns() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, FIRST_IS_AWAY).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    assert_eq!(up.destination.as_deref(), Some("server"), "the second fallback host");
    assert_eq!(up.remote_host, "ssh://server:2200", "as written");
    fetch(PORT).await.unwrap();
    let said = String::from_utf8(daemon.cli(&["status"]).await.stdout).unwrap();
    assert!(said.contains("goes through server in place of ssh://server:2200"), "{said}");

    // A restart that reaches the first host no better leaves the connection that there is.
    let answer = daemon.post("/restart/web?timeout=20s").await;
    assert_ne!(answer.status, 200, "{answer:?}");
    assert_eq!(daemon.status("web").await.pid, up.pid);

    let _first = Sshd::start_on(&lab, OTHER_SSHD, "").await;
    daemon.restart("web").await;
    assert_eq!(daemon.status("web").await.destination, None);
    fetch(PORT).await.unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn when_no_host_is_reached_the_tunnel_backs_off_and_begins_with_the_first() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, FIRST_IS_AWAY).await;
    let backoff =
        daemon.wait_status(0, "web", "in backoff", |status| status.state == StateName::Backoff).await;
    assert_eq!(backoff.last_error.unwrap().kind, FailureKind::Refused);
    assert_eq!(backoff.destination, None);
    // The first failure in a row is retried at once, and so are the others.
    assert_eq!(lab.ssh_starts().len(), 6);
    let _first = Sshd::start_on(&lab, OTHER_SSHD, "").await;
    daemon.post("/start/web?timeout=20s").await;
    assert_eq!(daemon.status("web").await.destination, None);
    daemon.stop().await;
}

#[tokio::test]
async fn the_standby_connection_goes_to_the_next_host() {
    let lab = Lab::new();
    let mut sshd = Sshd::start(&lab).await;
    let other = Sshd::start_on(&lab, OTHER_SSHD, "").await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, COVERED).await;
    let is_covered = |status: &portward::protocol::TunnelStatus| {
        status.state == StateName::Up && status.standby == Some(Standby::Ready)
    };
    let up = daemon.wait_status(0, "web", "covered", is_covered).await;
    assert_eq!(up.destination, None);
    let logins = other.log().all().iter().filter(|line| line.starts_with("Accepted publickey")).count();
    assert_eq!(logins, 1);

    sshd.stop_listening().await;
    let mark = daemon.mark();
    kill(up.pid.unwrap(), Signal::SIGKILL);
    let after = daemon.wait_up_anew(mark, "web", up.pid).await;
    assert_eq!(after.destination.as_deref(), Some("ssh://server:2200"));
    fetch(PORT).await.unwrap();
    daemon.stop().await;
}
