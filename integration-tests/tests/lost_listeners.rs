//! A listener that is up is watched: when it goes away behind portward's back, nobody has to ask before it is back.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use integration_tests::{
    Daemon, ECHO_PORT, Lab, NumberedStream, ORIGIN_PORT, Sshd, fetch, kill, serve_echo, serve_page,
    within_deadline,
};
use nix::sys::signal::Signal;
use portward::protocol::{FailureKind, StateName};

const PORT: u16 = 9443;
const BOTH: &str = "
  - {name: web, remote_host: server, remote_port: 127.0.0.1:8000, local_port: 9443}
";
const SOCKS: &str = "
  - {name: web, remote_host: server, direction: dynamic, local_port: '127.0.0.1:9443'}
";

/// The control socket of the only ssh.
fn control_socket(daemon: &Daemon<'_>) -> PathBuf {
    let directory = daemon.socket().with_extension("ssh");
    let sockets = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let sockets: Vec<_> = sockets.filter(|path| path.extension().is_none()).collect();
    let [socket] = &sockets[..] else { panic!("{sockets:?}") };
    socket.clone()
}

/// Has ssh close a listener, as a user may; `forward` as for ssh's command line.
async fn cancel(lab: &Lab, daemon: &Daemon<'_>, forward: &[&str]) {
    let mut ssh = lab.command("/usr/bin/ssh");
    ssh.arg("-S").arg(control_socket(daemon)).args(["-O", "cancel"]).args(forward).arg("server");
    let output = within_deadline("ssh -O cancel", ssh.output()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Waits until the tunnel was seen without a listener and then up again; nobody asks for the status.
async fn comes_back(daemon: &Daemon<'_>, mark: usize) -> Option<u32> {
    let lost =
        daemon.wait_status(mark, "web", "without a listener", |status| status.listeners.is_empty()).await;
    assert_eq!(lost.last_error.map(|failure| failure.kind), Some(FailureKind::Exited));
    daemon
        .wait_status(mark, "web", "up again", |status| {
            status.state == StateName::Up && status.last_error.is_none()
        })
        .await
        .pid
}

#[tokio::test]
async fn a_listener_cancelled_behind_portwards_back_listens_again_without_a_login() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    // One of two, then the other.
    for (tunnel, forwards) in [
        (BOTH, [["-L", "127.0.0.1:9443:127.0.0.1:8000"], ["-L", "[::1]:9443:127.0.0.1:8000"]]),
        (SOCKS, [["-D", "127.0.0.1:9443"], ["-D", "127.0.0.1:9443"]]),
    ] {
        let starts = lab.ssh_starts().len();
        let daemon = Daemon::start(&lab, tunnel).await;
        let up = daemon.wait_state("web", StateName::Up).await;
        for forward in forwards {
            for _ in 0..3 {
                let mark = daemon.mark();
                cancel(&lab, &daemon, &forward).await;
                assert_eq!(comes_back(&daemon, mark).await, up.pid, "on the same connection");
            }
        }
        assert_eq!(daemon.status("web").await.listeners, up.listeners);
        assert_eq!(lab.ssh_starts().len(), starts + 1, "no login was needed");
        let ended = daemon.stop().await;
        let told = ended.log.iter().filter(|line| line.has("event", "failure")).count();
        assert_eq!(told, 6, "{:#?}", ended.log);
    }
}

#[tokio::test]
async fn connections_outlive_the_loss_of_a_listener_and_their_ends_are_none() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let echo = "
  - {name: web, remote_host: server, remote_port: 127.0.0.1:7000, local_port: '127.0.0.1:9443'}
";
    let daemon = Daemon::start(&lab, echo).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    let stream = NumberedStream::open(PORT).await;
    stream.next_bytes().await;
    let mark = daemon.mark();
    for _ in 0..50 {
        NumberedStream::open(PORT).await.finish().await;
    }
    cancel(&lab, &daemon, &["-L", "127.0.0.1:9443:127.0.0.1:7000"]).await;
    assert_eq!(comes_back(&daemon, mark).await, up.pid);
    stream.next_bytes().await;
    stream.finish().await;
    daemon.wait_log(0, "of the loss", |line| line.has("event", "failure")).await;
    let lost = daemon.statuses(mark, "web").iter().filter(|status| status.listeners.is_empty()).count();
    let told = daemon.log().since(0).iter().filter(|line| line.has("event", "failure")).count();
    assert_eq!(told, 1, "the ends of connections are no loss ({lost} statuses)");
}

#[tokio::test]
async fn an_ssh_that_is_killed_is_no_lost_listener() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, BOTH).await;
    for _ in 0..5 {
        let up = daemon.wait_state("web", StateName::Up).await;
        let mark = daemon.mark();
        kill(up.pid.unwrap(), Signal::SIGKILL);
        let failed = daemon.wait_status(mark, "web", "failed", |status| status.last_error.is_some()).await;
        assert_eq!(failed.last_error.map(|failure| failure.kind), Some(FailureKind::Killed));
        daemon
            .wait_status(mark, "web", "up again", |status| {
                status.state == StateName::Up && status.pid != up.pid
            })
            .await;
    }
}

/// Listens, closes its listener at SIGUSR1, and listens again `again` seconds later, if that is not negative.
fn development_server(again: f64) -> String {
    format!(
        "
  - name: web
    local_port: 127.0.0.1:9443
    command:
      - /usr/bin/python3
      - -c
      - |
        import signal, socket, time
        signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGUSR1}})
        listener = socket.create_server(('127.0.0.1', 9443))
        while signal.sigwait({{signal.SIGUSR1}}):
            listener.close()
            if {again} >= 0:
                time.sleep({again})
                listener = socket.create_server(('127.0.0.1', 9443))
                print('reloaded', flush=True)
"
    )
}

#[tokio::test]
async fn a_command_that_opens_its_listener_again_is_left_running() {
    let lab = Lab::new();
    for again in [0.0, 0.5] {
        let daemon = Daemon::start(&lab, &development_server(again)).await;
        let up = daemon.wait_state("web", StateName::Up).await;
        for _ in 0..3 {
            let (mark, log) = (daemon.mark(), daemon.log().mark());
            kill(up.pid.unwrap(), Signal::SIGUSR1);
            daemon.wait_log(log, "`reloaded`", |line| line.raw.contains("reloaded")).await;
            if again > 0.0 {
                assert_eq!(comes_back(&daemon, mark).await, up.pid);
            }
        }
        let status = daemon.status("web").await;
        assert_eq!((status.state, status.pid, status.restarts), (StateName::Up, up.pid, 0));
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_command_that_does_not_listen_again_is_started_anew() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &development_server(-1.0)).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    let mark = daemon.mark();
    kill(up.pid.unwrap(), Signal::SIGUSR1);
    let lost =
        daemon.wait_status(mark, "web", "without a listener", |status| status.listeners.is_empty()).await;
    assert_eq!(lost.state, StateName::Connecting);
    let again = daemon
        .wait_status(mark, "web", "up again", |status| status.state == StateName::Up && status.pid != up.pid)
        .await;
    assert_eq!(again.restarts, 1);
    fetch(PORT).await.expect_err("nobody speaks HTTP there");
}
