//! A daemon that is killed, and the next one: what has gone on meanwhile is taken over, and what nobody needs is ended.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::Duration;

use integration_tests::{
    Daemon, ECHO_PORT, Lab, NumberedStream, ORIGIN_PORT, Squatter, Sshd, Tripwire, fetch, kill, process_end,
    serve_echo, serve_page, starts, stop_signal,
};
use nix::sys::signal::Signal;
use portward::protocol::{FailureKind, Standby, StateName, TunnelStatus};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// Tunnels of all kinds that a process of their own listens for, each with the port that clients connect to.
const CARRIED: [(&str, u16); 7] = [
    ("own", 9001),
    ("guarded", 9002),
    ("one", 9003),
    ("two", 9004),
    ("range", 9010),
    ("relay", 9005),
    ("back", 9006),
];

const ALL: &str = "
  - {name: own, remote_host: server, remote_port: '127.0.0.1:7000', local_port: 9001}
  - {name: guarded, remote_host: server, remote_port: '127.0.0.1:7000', local_port: 9002, standby: true}
  - {name: one, remote_host: server, remote_port: '127.0.0.1:7000', local_port: 9003, share: true}
  - {name: two, remote_host: server, remote_port: '127.0.0.1:7000', local_port: 9004, share: true}
  - {name: range, remote_host: server, remote_port: '127.0.0.1:7000-7002', local_port: '9010-9012'}
  - {name: back, remote_host: server, direction: local_to_remote, remote_port: 9006, local_port: '127.0.0.1:7000'}
  - {name: proxy, remote_host: server, direction: dynamic, local_port: 9007}
  - {name: held, remote_host: server, remote_port: '127.0.0.1:8000', local_port: 9008, listener: portward}
  - name: relay
    command: [socat, 'TCP-LISTEN:9005,bind=127.0.0.1,fork,reuseaddr', 'TCP:127.0.0.1:7000']
    local_port: 9005
";

async fn all_up(daemon: &Daemon<'_>) -> BTreeMap<String, Option<u32>> {
    let mut pids = BTreeMap::new();
    for name in ["own", "guarded", "one", "two", "range", "back", "proxy", "held", "relay"] {
        let up = daemon.wait_state(name, StateName::Up).await;
        pids.insert(name.to_owned(), up.pid);
    }
    let is_covered = |status: &TunnelStatus| status.standby == Some(Standby::Ready);
    daemon.wait_status(0, "guarded", "covered", is_covered).await;
    pids
}

#[tokio::test]
async fn a_daemon_that_is_killed_costs_no_stream_and_no_login_and_the_next_one_stops_all() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let mut daemon = Daemon::start(&lab, ALL).await;
    all_up(&daemon).await;
    // `one` moves to another connection, and the old one stays for `two`.
    daemon.restart("one").await;
    let pids = all_up(&daemon).await;
    assert_ne!(pids["one"], pids["two"]);
    let (sshs, logins) = (lab.sshs(), lab.ssh_starts());
    let mut streams = Vec::new();
    for (_, port) in CARRIED {
        streams.push(NumberedStream::open(port).await);
    }
    for _ in 0..3 {
        daemon.crash().await;
        for stream in &streams {
            stream.next_bytes().await;
        }
        daemon = Daemon::start_as_configured(&lab).await;
        assert_eq!(all_up(&daemon).await, pids);
        fetch(9008).await.expect("the held listener serves again");
    }
    assert_eq!((lab.sshs(), lab.ssh_starts()), (sshs, logins));
    for stream in streams {
        stream.finish().await;
    }
    let ended = daemon.stop().await;
    assert_eq!(starts(&ended.log), 0, "it has started nothing");
    assert_eq!(ended.log.iter().filter(|line| line.has("event", "adopted")).count(), 10);
    let said = ended.log.iter().map(|line| line.raw.as_str()).collect::<String>();
    assert!(!said.contains("ended what an earlier portward"), "{said}");
    assert!(lab.daemon_processes().is_empty(), "{:?}", lab.daemon_processes());
    assert!(!lab.path("run/portward.ssh").exists(), "no file is left");
}

const OWN: &str = "
  - {name: own, remote_host: server, remote_port: '127.0.0.1:7000', local_port: 9001, restart: {drain: 1h}}
";

#[tokio::test]
async fn what_is_taken_over_restarts_drains_fails_and_stops_as_what_was_started() {
    let lab = Lab::new();
    let sshd = Sshd::start(&lab).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    let daemon = Daemon::start(&lab, OWN).await;
    daemon.wait_state("own", StateName::Up).await;
    daemon.crash().await;

    // A restart moves the listener, the old connection drains, also under the next daemon, and ends with its client.
    let daemon = Daemon::start_as_configured(&lab).await;
    daemon.wait_state("own", StateName::Up).await;
    let stream = NumberedStream::open(9001).await;
    let (old, new) = daemon.restart("own").await;
    daemon.crash().await;
    let daemon = Daemon::start_as_configured(&lab).await;
    let up = daemon.wait_state("own", StateName::Up).await;
    assert_eq!((up.pid, up.draining), (Some(new), 1));
    stream.finish().await;
    process_end(old).await;

    // Its end is told with its class and its reason.
    let mark = daemon.mark();
    kill(new, Signal::SIGKILL);
    let killed = daemon.wait_failure(mark, "own", FailureKind::Killed).await;
    assert!(killed.last_error.unwrap().message.contains("signal 9"));
    daemon.wait_up_anew(mark, "own", Some(new)).await;
    daemon.crash().await;
    let daemon = Daemon::start_as_configured(&lab).await;
    daemon.wait_state("own", StateName::Up).await;
    let mark = daemon.mark();
    sshd.kill_sessions();
    daemon.wait_failure(mark, "own", FailureKind::Network).await;
    daemon.wait_state("own", StateName::Up).await;
    daemon.crash().await;

    // What nobody has looked at meanwhile is looked at.
    let gone = lab.sshs();
    for pid in &gone {
        kill(*pid, Signal::SIGKILL);
    }
    let daemon = Daemon::start_as_configured(&lab).await;
    let up = daemon.wait_state("own", StateName::Up).await;
    assert!(!gone.contains(&up.pid.unwrap()));
    daemon.crash().await;
    let daemon = Daemon::start_as_configured(&lab).await;
    daemon.wait_state("own", StateName::Up).await;
    assert_eq!(daemon.post("/stop/own").await.status, 200);
    daemon.wait_state("own", StateName::Stopped).await;
    assert!(lab.sshs().is_empty());
    daemon.stop().await;
}

#[tokio::test]
async fn what_fits_no_tunnel_any_more_is_ended_and_nobody_else() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    let both = "
  - {name: one, remote_host: server, remote_port: '127.0.0.1:7000', local_port: 9001}
  - {name: two, remote_host: server, remote_port: '127.0.0.1:7000', local_port: 9002}
  - name: work
    command: [sh, -c, 'setsid sleep 1000 & exec socat TCP-LISTEN:9003,bind=127.0.0.1,fork,reuseaddr TCP:127.0.0.1:7000']
    local_port: 9003
";
    let daemon = Daemon::start(&lab, both).await;
    let one = daemon.wait_state("one", StateName::Up).await.pid;
    let two = daemon.wait_state("two", StateName::Up).await.pid;
    daemon.wait_state("work", StateName::Up).await;
    daemon.crash().await;

    // `one` keeps its connection under another name; `two` has another port, and `work` is gone with all that it has started.
    lab.write_config(
        "
  - {name: first, remote_host: server, remote_port: '127.0.0.1:7000', local_port: 9001}
  - {name: two, remote_host: server, remote_port: '127.0.0.1:7000', local_port: 9012}
",
    );
    let daemon = Daemon::start_as_configured(&lab).await;
    assert_eq!(daemon.wait_state("first", StateName::Up).await.pid, one);
    let anew = daemon.wait_state("two", StateName::Up).await.pid;
    assert_ne!(anew, two);
    daemon
        .wait_log(0, "the ended", |line| line.raw.contains("no tunnel needs") && line.raw.contains("socat"))
        .await;
    let mut left: Vec<_> = lab.daemon_processes().into_iter().map(|process| process.pid).collect();
    left.sort_unstable();
    let mut wanted = vec![daemon.pid(), one.unwrap(), anew.unwrap()];
    wanted.sort_unstable();
    assert_eq!(left, wanted);
    daemon.crash().await;

    // Records that nobody can use harm nobody: one cut short, one of a later version, one of an earlier boot, and one whose pid is that of
    // another process by now.
    let directory = lab.path("run/portward.ssh");
    let records: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    let records: Vec<_> = records.into_iter().filter(|path| is_record(path)).collect();
    let [first, second] = &records[..] else { panic!("{records:?}") };
    let (text, other) = (fs::read_to_string(first).unwrap(), fs::read_to_string(second).unwrap());
    let later = directory.join("901-1.json");
    fs::write(&later, text.replace("\"version\":1", "\"version\":99")).unwrap();
    fs::set_permissions(&later, Permissions::from_mode(0o600)).unwrap();
    fs::write(directory.join(format!("{}-1.json", u64::MAX)), &text).unwrap();
    fs::write(directory.join("902-1.json"), text.replace("\"boot\":\"", "\"boot\":\"0")).unwrap();
    let mut bystander = lab.command("sleep").arg("1000").spawn().unwrap();
    let pid = |record: &str| {
        serde_json::from_str::<serde_json::Value>(record).unwrap()["origin"]["pid"].to_string()
    };
    let recycled = other.replace(&pid(&other), &bystander.id().unwrap().to_string());
    assert_ne!(other, recycled);
    fs::write(second, recycled).unwrap();
    fs::write(first, &text[..text.len() / 2]).unwrap();
    let before = lab.sshs();
    let daemon = Daemon::start_as_configured(&lab).await;
    daemon.wait_log(0, "the record", |line| line.raw.contains("it is of version 99")).await;
    let first = daemon.wait_state("first", StateName::Up).await.pid.unwrap();
    let two = daemon.wait_state("two", StateName::Up).await.pid.unwrap();
    assert_eq!(lab.sshs(), [first, two].into(), "they are new, and the old ones are ended");
    assert!(!before.contains(&first) && !before.contains(&two));
    daemon.stop().await;
    assert!(bystander.try_wait().unwrap().is_none(), "it has nothing to do with all that");
}

/// A daemon that ends a command which nobody needs any more, and the pid of that, which takes 5 s to end.
async fn ending_what_is_left(lab: &Lab) -> (Daemon<'_>, u32) {
    let stubborn = "[sh, -c, 'trap \"\" TERM; while :; do sleep 1000; done']";
    let tunnel = format!("  - {{name: stubborn, command: {stubborn}, local_port: 9001}}\n");
    let daemon = Daemon::start(lab, &tunnel).await;
    let pid = daemon.wait_status(0, "stubborn", "started", |status| status.pid.is_some()).await.pid.unwrap();
    daemon.crash().await;
    lab.write_config("");
    let daemon = Daemon::start_as_configured(lab).await;
    assert!(lab.daemon_processes().iter().any(|process| process.pid == pid), "it takes 5 s to end");
    (daemon, pid)
}

/// It knows of the process by the mark of its run alone: the record is gone.
#[tokio::test]
async fn what_a_daemon_was_ending_when_it_was_killed_the_next_one_ends() {
    let lab = Lab::new();
    let (daemon, pid) = ending_what_is_left(&lab).await;
    daemon.crash().await;
    let daemon = Daemon::start_as_configured(&lab).await;
    process_end(pid).await;
    daemon.wait_log(0, "the end", |line| line.raw.contains("no tunnel needs")).await;
    daemon.stop().await;
    assert!(lab.daemon_processes().is_empty());
}

#[tokio::test]
async fn a_daemon_that_is_stopped_while_it_ends_what_nobody_needs_ends_that_first() {
    let lab = Lab::new();
    let (daemon, _) = ending_what_is_left(&lab).await;
    let ended = daemon.stop().await;
    assert!(ended.status.success(), "{:?}", ended.status);
    assert!(lab.daemon_processes().is_empty(), "{:?}", lab.daemon_processes());
    assert!(!lab.path("run/portward.ssh").exists(), "no file is left");
}

/// It has a session of its own, an empty environment, and a parent that has gone: of its origin it has the output alone.
#[tokio::test]
async fn what_is_left_of_a_command_that_was_taken_over_and_shows_nothing_is_not_denied() {
    let lab = Lab::new();
    let path = lab.path("hidden");
    let script = format!(
        "(env -i setsid /bin/sh -c \"echo \\$\\$ > {}; exec sleep 1000\" &); exec socat TCP-LISTEN:9001,bind=127.0.0.1,fork \
         TCP:127.0.0.1:7000",
        path.display()
    );
    let tunnel = format!("  - {{name: work, command: [sh, -c, '{script}'], local_port: 127.0.0.1:9001}}\n");
    let daemon = Daemon::start(&lab, &tunnel).await;
    daemon.wait_state("work", StateName::Up).await;
    daemon.crash().await;
    let daemon = Daemon::start_as_configured(&lab).await;
    daemon.wait_state("work", StateName::Up).await;
    let mark = daemon.log().mark();
    assert_eq!(daemon.post("/stop/work?timeout=20s").await.status, 200);
    daemon
        .wait_log(mark, "of the stop", |line| line.raw.contains("stopped; something has its output open"))
        .await;
    let hidden = fs::read_to_string(path).unwrap().trim().parse().unwrap();
    kill(hidden, Signal::SIGKILL);
    process_end(hidden).await;
    daemon.stop().await;
}

#[tokio::test]
async fn tunnels_that_start_the_same_ssh_have_each_their_own_again() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    lab.name_server("other", "127.0.0.1");
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    let tunnels = "
  - {name: held-1, remote_host: server, remote_port: '127.0.0.1:7000', local_port: 9001, listener: portward}
  - {name: held-2, remote_host: server, remote_port: '127.0.0.1:7000', local_port: 9002, listener: portward, standby: true}
  - {name: held-3, remote_host: server, remote_port: '127.0.0.1:7000', local_port: 9003, listener: portward}
  - {name: share-1, remote_host: server, remote_port: '127.0.0.1:7000', local_port: 9004, share: true}
  - {name: share-2, remote_host: other, fallback_hosts: [server], remote_port: '127.0.0.1:7000', local_port: 9005, share: true}
";
    let mut daemon = Daemon::start(&lab, tunnels).await;
    let names = ["held-1", "held-2", "held-3", "share-1", "share-2"];
    let mut pids = BTreeMap::new();
    for name in names {
        pids.insert(name, daemon.wait_state(name, StateName::Up).await.pid);
    }
    let is_covered = |status: &TunnelStatus| status.standby == Some(Standby::Ready);
    daemon.wait_status(0, "held-2", "covered", is_covered).await;
    let starts = lab.ssh_starts();
    for _ in 0..2 {
        daemon.crash().await;
        daemon = Daemon::start_as_configured(&lab).await;
        for name in names {
            assert_eq!(daemon.wait_state(name, StateName::Up).await.pid, pids[name], "{name}");
        }
        daemon.wait_status(0, "held-2", "covered", is_covered).await;
        assert_eq!(lab.ssh_starts(), starts);
    }
    daemon.stop().await;
}

/// All that others can see of the mark is the run, whose name the next run shows to other daemons.
#[tokio::test]
async fn a_stranger_cannot_pass_for_a_process_of_a_command_that_was_taken_over() {
    let lab = Lab::new();
    let daemon = Daemon::start(
        &lab,
        "
  - name: work
    command:
      - python3
      - -c
      - |
        import signal, socket
        listener = socket.create_server(('127.0.0.1', 9001))
        signal.signal(signal.SIGUSR1, lambda *_: listener.close())
        while True: signal.pause()
    local_port: 127.0.0.1:9001
",
    )
    .await;
    daemon.wait_state("work", StateName::Up).await;
    daemon.crash().await;
    let daemon = Daemon::start_as_configured(&lab).await;
    let up = daemon.wait_state("work", StateName::Up).await;
    let sockets = fs::read_to_string("/proc/thread-self/net/unix").unwrap();
    let (_, shown) = sockets.split_once("@portward/run/").expect("the run is shown");
    let run = shown.split('/').next().unwrap();
    let mark = daemon.mark();
    kill(up.pid.unwrap(), Signal::SIGUSR1);
    daemon.wait_status(mark, "work", "without a listener", |status| status.state != StateName::Up).await;
    let mut stranger = lab
        .command("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .args(["socat", "TCP-LISTEN:9001,bind=127.0.0.1,reuseaddr,fork", "TCP:127.0.0.1:7000"])
        .env("PORTWARD_TREE", format!("{run}-1"))
        .spawn()
        .unwrap();
    let holder = daemon.wait_holder("work").await;
    assert_eq!(holder.pid, stranger.id(), "{holder:?}");
    assert!(daemon.statuses(mark, "work").iter().all(|status| status.state != StateName::Up));
    stranger.kill().await.unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn what_has_just_come_up_is_taken_over_however_slowly_its_record_is_written() {
    let lab = Lab::new();
    let sshd = Sshd::start_with(&lab, "LogLevel DEBUG1").await;
    let path = lab.path("own.sock");
    let kinds = [
        "command: [socat, 'TCP-LISTEN:9001,bind=127.0.0.1,fork', 'TCP:127.0.0.1:7000'], local_port: 127.0.0.1:9001",
        "remote_host: server, remote_port: '127.0.0.1:7000', local_port: 127.0.0.1:9001",
        "remote_host: server, direction: local_to_remote, remote_port: 9001, local_port: '127.0.0.1:7000'",
        &format!("remote_host: server, remote_port: '127.0.0.1:7000', local_port: {}", path.display()),
    ];
    for kind in kinds {
        let daemon = Daemon::start(&lab, &format!("  - {{name: own, enabled: false, {kind}}}\n")).await;
        let _slow = Tripwire::slow(&lab, daemon.pid(), "/^rename", Duration::from_millis(300)).await;
        let mark = daemon.mark();
        let starting = daemon.post("/start/own?timeout=0s").await;
        assert_eq!(starting.status, 202, "{starting:?}");
        let up = daemon.wait_status(mark, "own", "up", |status| status.state == StateName::Up).await;
        daemon.crash().await;
        let (starts, log) = (lab.ssh_starts().len(), sshd.log().mark());
        let inode = || fs::metadata(&path).ok().map(|file| file.ino());
        let socket = inode();
        lab.write_config(&format!("  - {{name: own, {kind}}}\n"));
        let daemon = Daemon::start_as_configured(&lab).await;
        assert_eq!(daemon.wait_state("own", StateName::Up).await.pid, up.pid, "{kind}");
        assert_eq!((lab.ssh_starts().len(), inode()), (starts, socket), "{kind}");
        let asked = sshd.log().since(log);
        assert!(!asked.iter().any(|line| line.contains("tcpip-forward")), "{kind}: {asked:#?}");
        daemon.stop().await;
    }
}

/// An ssh that is killed leaves its socket, and nobody is there to remove it.
#[tokio::test]
async fn a_socket_that_nobody_listens_on_any_more_is_removed() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    let (gone, kept) = (lab.path("gone.sock"), lab.path("kept.sock"));
    let tunnel = |name: &str| {
        let path = lab.path(format!("{name}.sock"));
        let path = path.display();
        format!(
            "  - {{name: {name}, remote_host: server, remote_port: '127.0.0.1:7000', local_port: {path}}}\n"
        )
    };
    let daemon = Daemon::start(&lab, &(tunnel("gone") + &tunnel("kept"))).await;
    let ssh = daemon.wait_state("gone", StateName::Up).await.pid.unwrap();
    let other = daemon.wait_state("kept", StateName::Up).await.pid;
    daemon.crash().await;
    kill(ssh, Signal::SIGKILL);
    process_end(ssh).await;
    assert!(gone.exists());

    lab.write_config(&tunnel("kept"));
    let daemon = Daemon::start_as_configured(&lab).await;
    daemon.wait_log(0, "the removal", |line| line.has("event", "stale")).await;
    assert!(!gone.exists() && kept.exists());
    assert_eq!(daemon.wait_state("kept", StateName::Up).await.pid, other);
    daemon.stop().await;
    assert!(!kept.exists());
}

#[tokio::test]
async fn an_ssh_that_is_stopped_meanwhile_is_not_told_as_up_and_replaced() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    let tunnel = "
  - name: own
    remote_host: server
    remote_port: 127.0.0.1:7000
    local_port: 127.0.0.1:9001
    ssh: {connect_timeout: 1s}
";
    let daemon = Daemon::start(&lab, tunnel).await;
    let stopped = daemon.wait_state("own", StateName::Up).await.pid;
    daemon.crash().await;
    stop_signal(stopped.unwrap());
    let daemon = Daemon::start_as_configured(&lab).await;
    let up = daemon.wait_state("own", StateName::Up).await;
    assert_ne!(up.pid, stopped);
    let failures = daemon.statuses(0, "own").into_iter().filter_map(|status| status.last_error);
    assert_eq!(failures.collect::<Vec<_>>(), [], "it was no login that came to nothing");
    NumberedStream::open(9001).await.finish().await;
    assert_eq!(lab.sshs(), up.pid.into_iter().collect());
    daemon.stop().await;
}

#[tokio::test]
async fn what_was_taken_over_is_ours_to_the_other_tunnels_and_to_the_doctor() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    let tunnels = "
  - name: work
    command:
      - python3
      - -c
      - |
        import signal, socket
        listeners = [socket.create_server(('127.0.0.1', port)) for port in (9003, 9004)]
        signal.pause()
    local_port: 127.0.0.1:9003
  - name: greedy
    remote_host: server
    remote_port: 127.0.0.1:7000
    local_port: 127.0.0.1:9004
    on_conflict: kill
    enabled: false
";
    let daemon = Daemon::start(&lab, tunnels).await;
    let work = daemon.wait_state("work", StateName::Up).await.pid;
    daemon.crash().await;
    lab.write_config(&tunnels.replace("    enabled: false\n", ""));
    let daemon = Daemon::start_as_configured(&lab).await;
    assert_eq!(daemon.wait_state("work", StateName::Up).await.pid, work);
    let spared = daemon.wait_failure(0, "greedy", FailureKind::LocalPortHeld).await;
    assert!(spared.last_error.unwrap().message.contains("ended no process"));
    assert_eq!(daemon.status("work").await.pid, work);
    let said = String::from_utf8(daemon.cli(&["doctor"]).await.stdout).unwrap();
    assert!(!said.contains("127.0.0.1:9003 of"), "{said}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_connection_that_stands_by_for_a_port_that_is_held_stands_by_still() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let squatter = Squatter::listen(&lab, "127.0.0.1", 9001).await;
    let tunnel = "
  - {name: own, remote_host: server, remote_port: '127.0.0.1:7000', local_port: '127.0.0.1:9001', standby: true}
";
    let is_ready = |status: &TunnelStatus| {
        status.state == StateName::AwaitingPort
            && status.holder.is_some()
            && status.standby == Some(Standby::Ready)
    };
    let daemon = Daemon::start(&lab, tunnel).await;
    daemon.wait_status(0, "own", "ready for its port", is_ready).await;
    let starts = lab.ssh_starts();
    assert_eq!(starts.len(), 1);
    daemon.crash().await;
    let daemon = Daemon::start_as_configured(&lab).await;
    let held = daemon.wait_status(0, "own", "ready for its port", is_ready).await;
    assert_eq!(held.pid, None);
    squatter.leave().await;
    let pid = daemon.wait_state("own", StateName::Up).await.pid.expect("ssh carries it");
    assert!(starts[0].starts_with(&format!("{pid} ")), "it is the one that was ready: {starts:?}");
    assert_eq!(lab.ssh_starts(), starts);
    daemon.stop().await;
}

#[tokio::test]
async fn a_login_that_was_under_way_for_a_port_that_is_held_goes_on_and_stands_by() {
    let lab = Lab::new();
    let sshd = Sshd::start(&lab).await;
    let squatter = Squatter::listen(&lab, "127.0.0.1", 9001).await;
    kill(sshd.pid().unwrap(), Signal::SIGSTOP);
    let tunnel = "
  - {name: own, remote_host: server, remote_port: '127.0.0.1:7000', local_port: '127.0.0.1:9001', standby: true, ssh: {options: {LogLevel: DEBUG1}}}
";
    let stands_by = |standby: Standby| {
        move |status: &TunnelStatus| {
            (status.state, status.standby) == (StateName::AwaitingPort, Some(standby))
                && status.holder.is_some()
        }
    };
    let daemon = Daemon::start(&lab, tunnel).await;
    daemon.wait_status(0, "own", "logging in", stands_by(Standby::Connecting)).await;
    daemon.wait_log(0, "of a connection", |line| line.raw.contains("Connection established")).await;
    let starts = lab.ssh_starts();
    assert_eq!(starts.len(), 1);
    daemon.crash().await;
    let daemon = Daemon::start_as_configured(&lab).await;
    let held = daemon.wait_status(0, "own", "logging in still", stands_by(Standby::Connecting)).await;
    assert_eq!(held.pid, None);
    kill(sshd.pid().unwrap(), Signal::SIGCONT);
    let held = daemon.wait_status(0, "own", "ready for its port", stands_by(Standby::Ready)).await;
    assert_eq!(held.pid, None);
    squatter.leave().await;
    let pid = daemon.wait_state("own", StateName::Up).await.pid.expect("ssh carries it");
    assert!(starts[0].starts_with(&format!("{pid} ")), "it is the one that was logging in: {starts:?}");
    assert_eq!(lab.ssh_starts(), starts, "one login is enough");
    daemon.stop().await;
}

fn is_record(path: &std::path::Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json") && path.file_stem().unwrap() != "runs"
}

#[tokio::test]
async fn output_that_nobody_reads_blocks_no_ssh_and_what_a_command_says_meanwhile_is_read_later() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    let tunnels = "
  - {name: loud, remote_host: server, remote_port: '127.0.0.1:7000', local_port: 9001, ssh: {options: {LogLevel: DEBUG3}}}
  - name: work
    command:
      - python3
      - -u
      - -c
      - |
        import signal, socket
        listener = socket.create_server(('127.0.0.1', 9003))
        while True:
            connection, _ = listener.accept()
            print('somebody came')
            connection.sendall(b'x')
            connection.close()
    local_port: 9003
";
    let daemon = Daemon::start(&lab, tunnels).await;
    let loud = daemon.wait_state("loud", StateName::Up).await.pid;
    let work = daemon.wait_state("work", StateName::Up).await.pid;
    daemon.crash().await;
    // Each client makes ssh say about 700 bytes; a pipe has room for 64 KiB.
    for _ in 0..500 {
        NumberedStream::open(9001).await.finish().await;
    }
    let mut byte = [0];
    let mut client = TcpStream::connect("127.0.0.1:9003").await.unwrap();
    client.read_exact(&mut byte).await.unwrap();

    let daemon = Daemon::start_as_configured(&lab).await;
    assert_eq!(daemon.wait_state("loud", StateName::Up).await.pid, loud);
    assert_eq!(daemon.wait_state("work", StateName::Up).await.pid, work);
    daemon.wait_log(0, "what was said before", |line| line.raw.contains("somebody came")).await;
    let mark = daemon.log().mark();
    TcpStream::connect("127.0.0.1:9003").await.unwrap().read_exact(&mut byte).await.unwrap();
    daemon.wait_log(mark, "what is said now", |line| line.raw.contains("somebody came")).await;

    // How a command ends is known as well.
    let mark = daemon.mark();
    kill(work.unwrap(), Signal::SIGTERM);
    let killed = daemon.wait_failure(mark, "work", FailureKind::Killed).await;
    assert!(killed.last_error.unwrap().message.contains("signal 15"));
    daemon.wait_up_anew(mark, "work", work).await;
    daemon.stop().await;
}
