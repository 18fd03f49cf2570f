//! Seed scenario 1: a restart through the API never meets a busy port, and starts ssh once.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::time::Duration;

use integration_tests::{
    Daemon, ECHO_PORT, Fetcher, Lab, NumberedStream, ORIGIN_PORT, Sshd, assert_no_busy_port, serve_echo,
    serve_page, starts, stop_signal, within_deadline,
};
use portward::protocol::{FailureKind, StateName};

const PORT: u16 = 9443;
const WEB: &str = "
  - name: web
    remote_host: server
    remote_port: 127.0.0.1:8000
    local_port: 9443
";
const ECHO: &str = "
  - name: echo
    remote_host: server
    remote_port: 127.0.0.1:7000
    local_port: 9443
";
/// autossh-tunnel promised a restart within 5 to 6 seconds.
const PROMISED: Duration = Duration::from_secs(5);

#[tokio::test]
async fn twenty_restarts_in_a_row_start_ssh_once_each_while_a_client_fetches() {
    const RESTARTS: usize = 20;
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, WEB).await;
    daemon.wait_state("web", StateName::Up).await;
    let fetcher = Fetcher::start(PORT);

    for done in 1..=RESTARTS {
        fetcher.next_page().await;
        let (before, after) = daemon.restart("web").await;
        assert_ne!(before, after, "the connection is a new one");
        assert_eq!(lab.ssh_starts().len(), 1 + done, "{:#?}", lab.ssh_starts());
    }
    fetcher.next_page().await;
    let seen = fetcher.finish();
    assert!(seen.longest_gap < PROMISED, "{seen:?}");
    assert_eq!(daemon.status("web").await.restarts, RESTARTS as u64);

    let ended = daemon.stop().await;
    assert!(ended.status.success(), "{:?}", ended.status);
    assert_no_busy_port(&ended.log);
    assert_eq!(starts(&ended.log), 1 + RESTARTS);
    assert_eq!(lab.ssh_starts().len(), 1 + RESTARTS);
}

#[tokio::test]
async fn a_stopped_old_ssh_does_not_hold_up_a_restart() {
    const RESTARTS: usize = 3;
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, WEB).await;
    daemon.wait_state("web", StateName::Up).await;
    let fetcher = Fetcher::start(PORT);

    for done in 1..=RESTARTS {
        fetcher.next_page().await;
        stop_signal(daemon.tunnel_pid("web").await);
        let (before, after) = daemon.restart("web").await;
        assert_ne!(before, after);
        assert_eq!(lab.ssh_starts().len(), 1 + done);
    }
    fetcher.next_page().await;
    let seen = fetcher.finish();
    assert!(seen.longest_gap < PROMISED, "{seen:?}");
    let ended = daemon.stop().await;
    assert_no_busy_port(&ended.log);
    assert_eq!(starts(&ended.log), 1 + RESTARTS);
}

#[tokio::test]
async fn connections_through_the_old_ssh_do_not_hold_up_a_restart() {
    const RESTARTS: usize = 5;
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    let daemon = Daemon::start(&lab, ECHO).await;
    daemon.wait_state("echo", StateName::Up).await;

    for done in 1..=RESTARTS {
        let streams = [NumberedStream::open(PORT).await, NumberedStream::open(PORT).await];
        let (before, after) = daemon.restart("echo").await;
        assert_ne!(before, after);
        assert_eq!(lab.ssh_starts().len(), 1 + done);
        for stream in streams {
            stream.broken().await;
        }
    }
    NumberedStream::open(PORT).await.finish().await;
    let ended = daemon.stop().await;
    assert_no_busy_port(&ended.log);
    assert_eq!(starts(&ended.log), 1 + RESTARTS);
}

#[tokio::test]
async fn fifty_concurrent_restarts_make_one_and_all_get_its_result() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, WEB).await;
    let before = daemon.wait_state("web", StateName::Up).await;

    let socket = daemon.socket().to_owned();
    let requests: Vec<_> = (0..50)
        .map(|_| {
            let socket = socket.clone();
            tokio::spawn(async move {
                integration_tests::request(&socket, "POST", "/restart/web?timeout=20s", "").await
            })
        })
        .collect();
    for request in requests {
        let answer = within_deadline("the answer to a restart", request).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["success"], true, "{answer:?}");
    }
    let after = daemon.status("web").await;
    assert_eq!(after.state, StateName::Up);
    assert_ne!(before.pid, after.pid);
    assert_eq!(after.restarts, 1);
    assert_eq!(lab.ssh_starts().len(), 2, "{:#?}", lab.ssh_starts());
}

#[tokio::test]
async fn a_failed_restart_leaves_the_old_connection_up() {
    let lab = Lab::new();
    let mut sshd = Sshd::start(&lab).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    let daemon = Daemon::start(&lab, ECHO).await;
    let before = daemon.wait_state("echo", StateName::Up).await;
    let stream = NumberedStream::open(PORT).await;

    sshd.stop_listening().await;
    let answer = daemon.post("/restart/echo?timeout=20s").await;
    assert!(![200, 202].contains(&answer.status), "{answer:?}");
    assert!(answer.body.contains(FailureKind::Refused.as_str()), "it says why: {answer:?}");
    let after = daemon.status("echo").await;
    assert_eq!((after.state, after.pid), (StateName::Up, before.pid));
    stream.next_bytes().await;
    NumberedStream::open(PORT).await.finish().await;
    assert!(stream.finish().await > 0);

    sshd.start_again().await;
    let (old, new) = daemon.restart("echo").await;
    assert_ne!(old, new);
    assert_eq!(daemon.status("echo").await.last_error, None);
}

#[tokio::test]
async fn a_restart_of_a_stopped_tunnel_starts_it() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, WEB).await;
    daemon.wait_state("web", StateName::Up).await;
    assert_eq!(daemon.post("/stop/web?timeout=20s").await.status, 200);
    assert_eq!(lab.daemon_processes().len(), 1, "the daemon alone is left");

    assert_eq!(daemon.post("/restart/web?timeout=20s").await.status, 200);
    assert_eq!(daemon.status("web").await.state, StateName::Up);
}
