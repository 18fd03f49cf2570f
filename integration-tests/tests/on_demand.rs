//! `on_demand`: portward listens, and ssh runs only while there are clients, and for some time after the last one.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::io;

use integration_tests::{
    Daemon, ECHO_PORT, Lab, NumberedStream, ORIGIN_PORT, Sshd, fetch, fetch_patiently, held_tunnel,
    listens_on, process_end, serve_echo, serve_page, within_deadline,
};
use portward::port::{Endpoint, Ports};
use portward::protocol::{HealthState, StateName, TunnelStatus};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

const PORT: u16 = 9443;

/// A tunnel to the page with these keys besides.
fn web(keys: &str) -> String {
    held_tunnel("web", ORIGIN_PORT, PORT, keys)
}

async fn asleep(daemon: &Daemon<'_>, mark: usize, name: &str) -> TunnelStatus {
    daemon.wait_status(mark, name, "asleep", TunnelStatus::is_asleep).await
}

#[tokio::test]
async fn no_ssh_runs_before_the_first_client_and_some_time_after_the_last() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &web(", on_demand: 1s")).await;
    let sleeping = asleep(&daemon, 0, "web").await;
    assert_eq!((sleeping.state, sleeping.pid, &sleeping.last_error), (StateName::Up, None, &None));
    assert_eq!(listens_on(&sleeping), ["127.0.0.1:9443", "[::1]:9443"]);
    assert_eq!((lab.ssh_starts().len(), lab.daemon_processes().len()), (0, 1), "the daemon alone runs");
    let status = daemon.get("/status").await.json();
    assert_eq!(status[0]["connection"], "asleep");
    let shown = daemon.cli(&["status"]).await;
    assert!(String::from_utf8(shown.stdout).unwrap().contains("up, asleep"));

    for served in 1..=3 {
        let (mark, log) = (daemon.mark(), daemon.log().mark());
        fetch_patiently(PORT).await.unwrap();
        let awake = daemon
            .wait_status(mark, "web", "awake", |status| status.state == StateName::Up && !status.is_asleep())
            .await;
        assert_eq!((lab.ssh_starts().len(), awake.connection), (served, None));
        assert_eq!(awake.listeners, sleeping.listeners);
        daemon.wait_log(log, "of the client", |line| line.has("event", "woken")).await;
        let again = asleep(&daemon, mark, "web").await;
        assert_eq!((again.restarts, again.last_error), (0, None), "no client, no connection, no fault");
        daemon.wait_log(log, "of the end", |line| line.has("event", "asleep")).await;
        process_end(awake.pid.unwrap()).await;
    }
    let counted = daemon.status("web").await.clients.unwrap();
    assert_eq!((counted.total, counted.refused), (3, 0));
}

#[tokio::test]
async fn a_client_keeps_the_connection_for_as_long_as_it_stays() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    let both = held_tunnel("web", ECHO_PORT, PORT, ", on_demand: 1s")
        + held_tunnel("other", ECHO_PORT, 9444, ", on_demand: 1s").trim_start_matches('\n');
    let daemon = Daemon::start(&lab, &both).await;
    asleep(&daemon, 0, "web").await;
    let stream = NumberedStream::open(PORT).await;
    // The time of the other one begins later, and is over first.
    for _ in 0..2 {
        let mark = daemon.mark();
        NumberedStream::open(9444).await.finish().await;
        asleep(&daemon, mark, "other").await;
    }
    stream.next_bytes().await;
    assert!(!daemon.status("web").await.is_asleep());
    let mark = daemon.mark();
    stream.finish().await;
    asleep(&daemon, mark, "web").await;
    assert_eq!(lab.ssh_starts().len(), 3);
}

#[tokio::test]
async fn a_client_waits_during_an_outage_and_for_nobody_no_login_is_tried() {
    let lab = Lab::new();
    let mut sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &web(", on_demand: 1s")).await;
    asleep(&daemon, 0, "web").await;
    sshd.stop_listening().await;
    let mark = daemon.mark();
    let client = tokio::spawn(fetch_patiently(PORT));
    let failing = daemon.wait_status(mark, "web", "without a server", |status| status.last_error.is_some());
    failing.await;
    sshd.start_again().await;
    client.await.unwrap().unwrap();
    let again = asleep(&daemon, mark, "web").await;
    assert_eq!(again.last_error, None);

    sshd.stop_listening().await;
    lab.write_config(&web(", on_demand: 1s, connect_wait: 300ms"));
    assert_eq!(daemon.post("/reload").await.status, 200);
    let mark = daemon.mark();
    let mut client = TcpStream::connect(("127.0.0.1", PORT)).await.unwrap();
    let read = within_deadline("the end of the client", client.read(&mut [0])).await;
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let sleeping = daemon
        .wait_status(mark, "web", "asleep after a failure", |status| {
            status.is_asleep() && status.last_error.is_some()
        })
        .await;
    assert_eq!(sleeping.clients.unwrap().refused, 1);
    let shown = daemon.cli(&["status"]).await;
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.contains("web sleeps until a client comes; its last connection failed (refused"),
        "{shown}"
    );
    sshd.start_again().await;
    lab.write_config(&web(", on_demand: 1s"));
    assert_eq!(daemon.post("/reload").await.status, 200);
    fetch_patiently(PORT).await.unwrap();
}

#[tokio::test]
async fn a_restart_leaves_a_sleeping_tunnel_as_it_is_and_a_stop_closes_its_port() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &web(", on_demand: 10m")).await;
    asleep(&daemon, 0, "web").await;
    for (verb, said) in [("restart", "web sleeps: there is no connection to restart"), ("start", "web is up")]
    {
        let output = daemon.cli(&[verb, "web"]).await;
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains(said), "{text}");
    }
    let ports = Ports::new().unwrap();
    let endpoints = [Endpoint::new([127, 0, 0, 1].into(), PORT)];
    assert_eq!(daemon.post("/stop/web?timeout=20s").await.status, 200);
    within_deadline("the end of the listener", ports.unbound(&endpoints, |_, _| {})).await.unwrap();
    let stopped = daemon.status("web").await;
    assert_eq!((stopped.state, stopped.connection), (StateName::Stopped, None));
    assert_eq!(daemon.post("/start/web?timeout=20s").await.status, 200);
    assert!(daemon.status("web").await.is_asleep());
    assert_eq!(lab.ssh_starts().len(), 0);

    // One that is awake is restarted as ever.
    fetch_patiently(PORT).await.unwrap();
    daemon.restart("web").await;
    assert_eq!(lab.ssh_starts().len(), 2);
    assert!(daemon.stop().await.status.success());
    assert_eq!(lab.sockets(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn the_key_can_be_added_changed_and_removed_without_a_restart() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &web("")).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    for keys in [", on_demand: 10m", ", on_demand: 5m", "", ", on_demand: 10m"] {
        lab.write_config(&web(keys));
        assert_eq!(daemon.post("/reload").await.status, 200);
        fetch(PORT).await.unwrap();
        let status = daemon.status("web").await;
        assert_eq!((status.pid, status.connection), (up.pid, None), "{keys}");
    }
    let mark = daemon.mark();
    lab.write_config(&web(", on_demand: 1s"));
    asleep(&daemon, mark, "web").await;
    let mark = daemon.mark();
    lab.write_config(&web(""));
    let connected = |status: &TunnelStatus| status.state == StateName::Up && status.connection.is_none();
    daemon.wait_status(mark, "web", "connected for good", connected).await;
    assert_eq!(lab.ssh_starts().len(), 2);
}

#[tokio::test]
async fn health_checks_keep_no_tunnel_awake_and_wake_none() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    for check in ["connect: true", "http: /"] {
        let keys = format!(", on_demand: 3s, health: {{{check}, every: 1s, timeout: 900ms}}");
        let daemon = Daemon::start(&lab, &web(&keys)).await;
        asleep(&daemon, 0, "web").await;
        let mark = daemon.mark();
        fetch_patiently(PORT).await.unwrap();
        let passing = |status: &TunnelStatus| {
            status.health.as_ref().is_some_and(|health| health.state == HealthState::Passing)
        };
        daemon.wait_status(mark, "web", "checked", passing).await;
        let sleeping = asleep(&daemon, mark, "web").await;
        assert!(!passing(&sleeping), "nothing is known of a connection that there is not");
        let made = lab.ssh_starts().len();
        // It was awake for three seconds, and was checked meanwhile.
        let clients = sleeping.clients.unwrap();
        assert!(clients.total >= 2, "{clients:?}");
        // The next client is what wakes it.
        fetch_patiently(PORT).await.unwrap();
        assert_eq!(lab.ssh_starts().len(), made + 1);
        assert!(daemon.stop().await.status.success());
    }
}
