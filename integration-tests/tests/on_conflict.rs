//! `on_conflict: kill`: exactly the processes that hold the port are signalled, and nobody else.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::os::unix::process::ExitStatusExt as _;

use integration_tests::{
    Bystander, Daemon, Lab, LogLine, Squatter, Sshd, Tripwire, process_end, python, within_deadline,
};
use portward::protocol::{FailureKind, StateName};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

const PORT: u16 = 9443;
const WEB: &str = "
  - name: web
    remote_host: server
    remote_port: 127.0.0.1:8000
    local_port: 9443
    on_conflict: kill
    stop_grace: 200ms
";

/// Two processes have the one listener open, and the second one, which says its pid, ignores SIGTERM.
const INHERITED: &str = "import os, signal, socket\n\
                         squatter = socket.create_server(('127.0.0.1', 9443))\n\
                         if os.fork() == 0:\n\
                         \x20   signal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
                         \x20   print(os.getpid(), flush=True)\n\
                         signal.pause()\n";

/// Is connected to the port. `lsof -ti :9443 | xargs kill -9` would kill it as well.
const CLIENT: &str = "import signal, socket\n\
                      client = socket.create_connection(('127.0.0.1', 9443))\n\
                      print('ready', flush=True)\n\
                      signal.pause()\n";

#[tokio::test]
async fn the_holder_is_terminated_and_a_client_of_the_port_survives() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let squatter = Squatter::listen(&lab, "127.0.0.1", PORT).await;
    let (mut client, _) = python(&lab, CLIENT).await;
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
    let (mut squatter, _) = python(&lab, ignores).await;
    let (mut client, _) = python(&lab, CLIENT).await;
    let daemon = Daemon::start(&lab, WEB).await;
    daemon.wait_state("web", StateName::Up).await;
    let status = squatter.wait().await.unwrap();
    assert_eq!(status.signal(), Some(9));
    assert_eq!(client.try_wait().unwrap(), None, "the client lives");
    daemon.stop().await;
    client.kill().await.unwrap();
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

#[tokio::test]
async fn every_process_that_has_the_socket_is_ended_each_with_a_line_of_its_own() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let (mut parent, child) = python(&lab, INHERITED).await;
    let (parent_pid, child): (u32, u32) = (parent.id().unwrap(), child.parse().unwrap());
    let daemon = Daemon::start(&lab, WEB).await;
    daemon.wait_state("web", StateName::Up).await;
    assert_eq!(parent.wait().await.unwrap().signal(), Some(15));
    process_end(child).await;
    let tells = |line: &LogLine, pid: u32, signal: &str| {
        line.has("event", "evict") && line.field("holder_pid").unwrap() == pid && line.raw.contains(signal)
    };
    for (pid, signal) in [(parent_pid, "SIGTERM"), (child, "SIGTERM"), (child, "SIGKILL")] {
        daemon.wait_log(0, signal, |line| tells(line, pid, signal)).await;
    }
    let lines = daemon.log().all();
    assert!(!lines.iter().any(|line| tells(line, parent_pid, "SIGKILL")), "{}", daemon.report());
    daemon.stop().await;
}

#[tokio::test]
async fn nobody_is_ended_where_the_port_would_stay_held() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    // This process started the daemon, and must be spared. Ending the other one alone would be for nothing.
    let ours = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    ours.set_reuse_port(true).unwrap();
    ours.bind(&"127.0.0.1:9443".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    ours.listen(1).unwrap();
    let joins = "import signal, socket\n\
                 squatter = socket.create_server(('127.0.0.1', 9443), reuse_port=True)\n\
                 print('ready', flush=True)\n\
                 signal.pause()\n";
    let (mut other, _) = python(&lab, joins).await;
    let daemon = Daemon::start(&lab, WEB).await;
    let waiting = daemon.wait_failure(0, "web", FailureKind::LocalPortHeld).await;
    let reason = waiting.last_error.unwrap().message;
    assert!(reason.contains("a process that started portward"), "{reason}");
    assert_eq!(other.try_wait().unwrap(), None);
    assert!(!daemon.log().all().iter().any(|line| line.has("event", "evict")), "{}", daemon.report());

    // With us gone, the other one is all that holds the port.
    drop(ours);
    daemon.wait_state("web", StateName::Up).await;
    assert_eq!(other.wait().await.unwrap().signal(), Some(15));
    daemon.stop().await;
}

#[tokio::test]
async fn a_client_whose_own_port_it_is_is_never_ended() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let _server = TcpListener::bind(("127.0.0.1", 9500)).await.unwrap();
    let connects = "import signal, socket\n\
                    client = socket.create_connection(('127.0.0.1', 9500), source_address=('127.0.0.1', 9443))\n\
                    print('ready', flush=True)\n\
                    signal.pause()\n";
    let (mut client, _) = python(&lab, connects).await;
    let daemon = Daemon::start(&lab, WEB).await;
    let waiting = daemon.wait_failure(0, "web", FailureKind::LocalPortHeld).await;
    assert_eq!(waiting.state, StateName::AwaitingPort);
    let reason = waiting.last_error.unwrap().message;
    for words in
        [&format!("pid {}", client.id().unwrap()), "client is never ended", "ip_local_reserved_ports=9443"]
    {
        assert!(reason.contains(words), "{words} in {reason}");
    }
    assert_eq!(client.try_wait().unwrap(), None, "the client lives");
    daemon.stop().await;
    client.kill().await.unwrap();
}

#[tokio::test]
async fn a_holder_that_may_not_be_signalled_is_named_with_the_way_to_end_it() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    // Root without the capability may not signal the processes of others.
    lab.wrap_portward("exec setpriv --bounding-set -kill --inh-caps -kill $DAEMON \"$@\"");
    let listens = "import os, signal, socket\n\
                   squatter = socket.create_server(('127.0.0.1', 9443))\n\
                   os.setresuid(65534, 65534, 65534)\n\
                   print('ready', flush=True)\n\
                   signal.pause()\n";
    let (mut squatter, _) = python(&lab, listens).await;
    let daemon = Daemon::start(&lab, WEB).await;
    let waiting = daemon.wait_failure(0, "web", FailureKind::LocalPortHeld).await;
    assert_eq!(waiting.state, StateName::AwaitingPort);
    let reason = waiting.last_error.unwrap().message;
    let pid = squatter.id().unwrap();
    for words in [&format!("sudo kill {pid}"), "CAP_KILL"] {
        assert!(reason.contains(words), "{words} in {reason}");
    }
    let shown = String::from_utf8(daemon.cli(&["status"]).await.stdout).unwrap();
    assert!(shown.contains(&format!("sudo kill {pid}")), "{shown}");
    assert_eq!(squatter.try_wait().unwrap(), None);
    squatter.kill().await.unwrap();
    daemon.wait_state("web", StateName::Up).await;
    daemon.stop().await;
}

#[tokio::test]
async fn on_conflict_counts_from_when_it_is_written() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let squatter = Squatter::listen(&lab, "127.0.0.1", PORT).await;
    let daemon = Daemon::start(&lab, &WEB.replace("kill", "wait")).await;
    assert_eq!(daemon.wait_holder("web").await.pid, Some(squatter.pid()));
    lab.write_config(WEB);
    process_end(squatter.pid()).await;
    daemon.wait_state("web", StateName::Up).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_program_that_comes_back_is_told_of_and_ended_once_for_each_return() {
    let lab = Lab::new();
    let mut squatter = Squatter::listen(&lab, "127.0.0.1", PORT).await;
    // As long as no server is there, the port is asked about again before each login.
    let daemon = Daemon::start(&lab, WEB).await;
    let mut told = 0;
    for times in ["once", "2 times", "3 times"] {
        process_end(squatter.pid()).await;
        squatter = Squatter::listen(&lab, "127.0.0.1", PORT).await;
        let words = format!("python3 has come back {times} after `on_conflict: kill`");
        let line = daemon.wait_log(told, "of the return", |line| line.raw.contains(&words)).await;
        assert!(line.has("event", "failure") && line.has("error_kind", "local_port_held"), "{}", line.raw);
        assert!(line.raw.contains(&format!("pid {} ", squatter.pid())), "{}", line.raw);
        told = daemon.log().last_position(|line| line.raw.contains(&words)).unwrap();
    }
    let lines = daemon.log().all();
    let evictions = lines[..told].iter().filter(|line| line.has("event", "evict")).count();
    assert_eq!(evictions, 3, "{}", daemon.report());
    let shown = String::from_utf8(daemon.cli(&["status"]).await.stdout).unwrap();
    assert!(
        shown.contains("its supervisor starts it again") && shown.contains("on_conflict: wait"),
        "{shown}"
    );

    // Its supervisor is stopped.
    process_end(squatter.pid()).await;
    let _sshd = Sshd::start(&lab).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    assert_eq!(up.last_error, None);
    daemon.stop().await;
}

/// The daemon is stopped where it knows the holder's pid and has not signalled it. By the time it goes on, that pid is somebody
/// else's.
async fn recycled_before_the_signal(call: &str, path: impl FnOnce(u32) -> Option<String>) {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let mut squatter = Squatter::listen(&lab, "127.0.0.1", PORT).await;
    let pid = squatter.pid();
    let daemon = Daemon::start(&lab, &format!("{WEB}    enabled: false\n")).await;
    let tripwire = Tripwire::attach(&lab, daemon.pid(), call, path(daemon.pid()).as_deref()).await;
    let started = daemon.post("/start/web?timeout=20s");
    let recycled = async {
        tripwire.tripped().await;
        squatter.kill().await;
        let bystander = Bystander::recycling(pid);
        tripwire.release().await;
        bystander
    };
    let (_, bystander) = tokio::join!(started, recycled);
    daemon.wait_state("web", StateName::Up).await;
    assert!(bystander.is_alive(), "{}", daemon.report());
    assert!(!daemon.log().all().iter().any(|line| line.has("event", "evict")), "{}", daemon.report());
    daemon.stop().await;
    drop(bystander);
}

#[tokio::test]
async fn a_bystander_with_the_holders_pid_lives_if_the_pid_was_recycled_before_its_pidfd_is_opened() {
    // portward looks at its own parents between finding the holder and opening the pidfd.
    recycled_before_the_signal("openat", |daemon| Some(format!("/proc/{daemon}/stat"))).await;
}

#[tokio::test]
async fn a_bystander_with_the_holders_pid_lives_if_the_pid_was_recycled_once_its_pidfd_is_open() {
    recycled_before_the_signal("pidfd_open", |_| None).await;
}

#[tokio::test]
async fn a_bystander_with_a_former_holders_pid_lives_when_the_others_are_killed() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let (mut parent, child) = python(&lab, INHERITED).await;
    let (parent_pid, child) = (parent.id().unwrap(), child.parse().unwrap());
    let daemon = Daemon::start(&lab, &WEB.replace("200ms", "3s")).await;
    // The parent goes on SIGTERM, the child holds on to the socket.
    assert_eq!(within_deadline("the parent's end", parent.wait()).await.unwrap().signal(), Some(15));
    let bystander = Bystander::recycling(parent_pid);
    let killed = |daemon: &Daemon<'_>| daemon.log().all().iter().any(|line| line.raw.contains("SIGKILL"));
    assert!(!killed(&daemon), "the bystander came too late: {}", daemon.report());
    daemon.wait_state("web", StateName::Up).await;
    process_end(child).await;
    assert!(killed(&daemon), "{}", daemon.report());
    assert!(bystander.is_alive(), "{}", daemon.report());
    daemon.stop().await;
}
