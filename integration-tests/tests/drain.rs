//! `restart.drain`: after a restart the old connection carries on what its clients have begun.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use integration_tests::{Daemon, ECHO_PORT, Lab, NumberedStream, Sshd, process_end, serve_echo};
use portward::protocol::StateName;

const PORT: u16 = 9443;

fn echo(drain: &str) -> String {
    format!(
        "
  - name: echo
    remote_host: server
    remote_port: 127.0.0.1:7000
    local_port: 9443
    restart: {{drain: {drain}}}
"
    )
}

#[tokio::test]
async fn what_clients_have_begun_goes_on_and_the_old_connection_ends_with_the_last_of_them() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    let daemon = Daemon::start(&lab, &echo("1h")).await;
    daemon.wait_state("echo", StateName::Up).await;
    let streams = [NumberedStream::open(PORT).await, NumberedStream::open(PORT).await];
    let (old, _) = daemon.restart("echo").await;
    let status = daemon.status("echo").await;
    assert_eq!((status.state, status.draining), (StateName::Up, 1));
    let said = String::from_utf8(daemon.cli(&["status"]).await.stdout).unwrap();
    assert!(said.contains("replaced connection"), "{said}");
    let [first, last] = streams;
    first.next_bytes().await;
    first.finish().await;
    // New clients come and go on the new connection.
    for _ in 0..10 {
        NumberedStream::open(PORT).await.finish().await;
    }
    last.next_bytes().await;
    assert_eq!(daemon.status("echo").await.draining, 1);
    let mark = daemon.mark();
    last.finish().await;
    process_end(old).await;
    daemon.wait_status(mark, "echo", "drained", |status| status.draining == 0).await;

    // Without clients there is nothing to wait for.
    let (old, _) = daemon.restart("echo").await;
    process_end(old).await;
    daemon.stop().await;
}

#[tokio::test]
async fn the_old_connection_is_ended_when_its_time_is_over() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    let daemon = Daemon::start(&lab, &echo("1s")).await;
    daemon.wait_state("echo", StateName::Up).await;
    let stream = NumberedStream::open(PORT).await;
    let (old, _) = daemon.restart("echo").await;
    stream.next_bytes().await;
    stream.broken().await;
    process_end(old).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_stop_ends_what_drains_at_once() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    let daemon = Daemon::start(&lab, &echo("1h")).await;
    daemon.wait_state("echo", StateName::Up).await;
    let streams = [NumberedStream::open(PORT).await, NumberedStream::open(PORT).await];
    daemon.restart("echo").await;
    let (without_clients, _) = daemon.restart("echo").await;
    process_end(without_clients).await;
    assert_eq!(daemon.status("echo").await.draining, 1);
    daemon.post("/stop/echo?timeout=20s").await;
    for stream in streams {
        stream.broken().await;
    }
    assert_eq!(daemon.status("echo").await.state, StateName::Stopped);
    daemon.assert_alone();
    daemon.stop().await;
}

#[tokio::test]
async fn connections_of_clients_that_nobody_sees_are_kept_for_the_whole_time() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    let remote = "
  - name: echo
    remote_host: server
    remote_port: 9443
    local_port: 127.0.0.1:7000
    direction: local_to_remote
    restart: {drain: 2s}
";
    let held = format!("{}    listener: portward\n", echo("2s"));
    for tunnel in [remote, &held] {
        let daemon = Daemon::start(&lab, tunnel).await;
        daemon.wait_state("echo", StateName::Up).await;
        let stream = NumberedStream::open(PORT).await;
        let (old, _) = daemon.restart("echo").await;
        assert_eq!(daemon.status("echo").await.draining, 1);
        stream.next_bytes().await;
        stream.broken().await;
        process_end(old).await;
        daemon.stop().await;
    }
}
