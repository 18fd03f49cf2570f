//! `on_conflict: kill`: exactly the processes that hold the port are signalled, and nobody else.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::process::Stdio;

use integration_tests::{Daemon, Lab, Squatter, Sshd, process_end};
use portward::tunnel::{FailureKind, StateName};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::Child;

const PORT: u16 = 9443;
const WEB: &str = "
  - name: web
    remote_host: server
    remote_port: 127.0.0.1:8000
    local_port: 9443
    on_conflict: kill
    stop_grace: 200ms
";

/// A python process, once it has said a line.
async fn python(lab: &Lab, program: &str) -> Child {
    let mut command = lab.command("/usr/bin/python3");
    let mut child = command.args(["-c", program]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    assert_eq!(line, "ready\n");
    child
}

#[tokio::test]
async fn the_holder_is_terminated_and_a_client_of_the_port_survives() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let squatter = Squatter::listen(&lab, "127.0.0.1", PORT).await;
    // `lsof -ti :9443 | xargs kill -9` would kill this one as well.
    let connects = "import signal, socket\n\
                    client = socket.create_connection(('127.0.0.1', 9443))\n\
                    print('ready', flush=True)\n\
                    signal.pause()\n";
    let mut client = python(&lab, connects).await;
    let holder = squatter.pid();
    let daemon = Daemon::start(&lab, WEB).await;

    daemon.wait_state("web", StateName::Up).await;
    process_end(holder).await;
    assert_eq!(client.try_wait().unwrap(), None, "the client lives");
    let line = daemon.wait_log(0, "that tells of the eviction", |line| line.has("event", "evict")).await;
    assert!(line.has("level", "WARN"), "{}", line.raw);
    assert!(line.raw.contains("python3"), "it shows the command line: {}", line.raw);
    assert_eq!(line.field("holder_pid").unwrap(), holder);
    daemon.stop().await;
    client.kill().await.unwrap();
}

#[tokio::test]
async fn a_holder_that_ignores_sigterm_is_killed_after_the_grace_time() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let ignores = "import signal, socket\n\
                   signal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
                   squatter = socket.create_server(('127.0.0.1', 9443))\n\
                   print('ready', flush=True)\n\
                   signal.pause()\n";
    let mut squatter = python(&lab, ignores).await;
    let daemon = Daemon::start(&lab, WEB).await;
    daemon.wait_state("web", StateName::Up).await;
    let status = squatter.wait().await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    daemon.stop().await;
}

#[tokio::test]
async fn a_process_that_started_portward_is_spared_and_the_reason_shown() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    // This process is the daemon's parent.
    let listener = TcpListener::bind(("127.0.0.1", PORT)).await.unwrap();
    let daemon = Daemon::start(&lab, WEB).await;
    let waiting = daemon.wait_failure(0, "web", FailureKind::LocalPortHeld).await;
    assert_eq!(waiting.state, StateName::AwaitingPort);
    assert_eq!(waiting.holder.unwrap().pid, Some(std::process::id()));
    daemon.wait_log(0, "that says why", |line| line.raw.contains("a process that started portward")).await;
    drop(listener);
    daemon.wait_state("web", StateName::Up).await;
    daemon.stop().await;
}
