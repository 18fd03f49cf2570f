//! `on_change`: programs that are told what becomes of a tunnel.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use integration_tests::{Daemon, Lab, LogLine, Squatter, Sshd, kill, process_end};
use nix::sys::signal::Signal;
use portward::protocol::StateName;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::unix::pipe::{OpenOptions, Receiver};
use tokio::time::timeout;

/// What the programs are told: they write it into a FIFO.
struct Told(Lines<BufReader<Receiver>>);

impl Told {
    fn of(lab: &Lab) -> Self {
        let path = lab.path("told");
        mkfifo(&path);
        // Open for writing as well, it does not end with a program.
        let fifo = OpenOptions::new().read_write(true).open_receiver(path).unwrap();
        Self(BufReader::new(fifo).lines())
    }

    async fn next(&mut self) -> String {
        let line = timeout(DEADLINE, self.0.next_line()).await.expect("nothing is told");
        line.unwrap().unwrap().trim_end().to_owned()
    }
}

const DEADLINE: Duration = Duration::from_secs(30);

fn mkfifo(path: &Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
}

/// A tunnel whose program tells what it is told, and then does what `rest` says.
fn tunnel(lab: &Lab, rest: &str) -> String {
    tunnel_with(lab, "web", 9442, rest)
}

fn tunnel_with(lab: &Lab, name: &str, port: u16, rest: &str) -> String {
    let told = lab.path("told");
    let facts = "$PORTWARD_TUNNEL $PORTWARD_PREVIOUS_STATE>$PORTWARD_STATE $PORTWARD_LISTEN $PORTWARD_ERROR_KIND \
                 $PORTWARD_HOLDER_PID";
    let script = format!("printf '%s\\n' \"$1 {facts}\" > {}\n{rest}\n", told.display());
    lab.install_script(&format!("tell-{name}"), &script);
    format!(
        "  - {{name: {name}, remote_host: server, remote_port: 8000, local_port: '127.0.0.1:{port}', on_change: [{}, 'a b; $x']}}\n",
        lab.path(format!("bin/tell-{name}")).display()
    )
}

#[tokio::test]
async fn a_program_is_told_of_each_state_that_lasts_with_its_facts() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let mut told = Told::of(&lab);
    let squatter = Squatter::listen(&lab, "127.0.0.1", 9442).await;
    let daemon = Daemon::start(&lab, &tunnel(&lab, "")).await;
    assert_eq!(told.next().await, format!("a b; $x web >awaiting_port   {}", squatter.pid()));
    drop(squatter);
    assert_eq!(told.next().await, "a b; $x web awaiting_port>up 127.0.0.1:9442");
    lab.write_config("");
    assert_eq!(told.next().await, "a b; $x web up>stopped");
    daemon.stop().await;
}

#[tokio::test]
async fn one_runs_at_a_time_and_what_changes_meanwhile_is_told_once() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let mut told = Told::of(&lab);
    let gate = lab.path("gate");
    mkfifo(&gate);
    let rest = format!("read line < {}; echo over > {}", gate.display(), lab.path("told").display());
    let clock = tunnel_with(&lab, "clock", 9443, "").replace("{name", "{enabled: false, name");
    let daemon = Daemon::start(&lab, &(tunnel(&lab, &rest) + &clock)).await;
    assert_eq!(told.next().await, "a b; $x web >up 127.0.0.1:9442");
    let (pid, mark) = (daemon.tunnel_pid("web").await, daemon.mark());
    kill(pid, Signal::SIGKILL);
    process_end(pid).await;
    daemon.wait_status(mark, "web", "down", |status| status.state != StateName::Up).await;
    daemon.wait_state("web", StateName::Up).await;
    assert_eq!(daemon.post("/stop/web").await.status, 200, "it does not wait for the program");
    // One a second at most: when the other tunnel has been told twice, the second program might run here if the first did not.
    assert_eq!(daemon.post("/start/clock").await.status, 200);
    assert_eq!(told.next().await, "a b; $x clock >up 127.0.0.1:9443");
    assert_eq!(daemon.post("/stop/clock").await.status, 200);
    assert_eq!(told.next().await, "a b; $x clock up>stopped");
    // Opened for writing, it lets the program that reads go on, and each one after it.
    let gate = OpenOptions::new().read_write(true).open_sender(gate).unwrap();
    gate.writable().await.unwrap();
    gate.try_write(b"on\non\n").unwrap();
    assert_eq!(told.next().await, "over");
    assert_eq!(told.next().await, "a b; $x web up>stopped");
    daemon.stop().await;
}

#[tokio::test]
async fn a_program_that_fails_or_is_missing_is_logged_and_changes_nothing() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let _told = Told::of(&lab);
    let failing = tunnel(&lab, "echo no mail >&2; exit 3");
    let missing =
        failing.replace("web", "other").replace("9442", "9443").replace("bin/tell-other", "bin/missing");
    let daemon = Daemon::start(&lab, &(failing + &missing)).await;
    for (name, why) in [("web", "ended with status 3, and said: no mail"), ("other", "missing")] {
        let wanted = |line: &LogLine| {
            line.has("tunnel", name) && line.raw.contains("on_change:") && line.raw.contains(why)
        };
        daemon.wait_log(0, why, wanted).await;
        daemon.wait_state(name, StateName::Up).await;
    }
    daemon.stop().await;
}

#[tokio::test]
async fn programs_that_do_not_end_do_not_keep_portward_from_ending() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let mut told = Told::of(&lab);
    let daemon = Daemon::start(&lab, &tunnel(&lab, "trap '' TERM; sleep 1000")).await;
    told.next().await;
    let mark = daemon.mark();
    kill(daemon.pid(), Signal::SIGTERM);
    daemon.wait_status(mark, "web", "stopped", |status| status.state == StateName::Stopped).await;
    let ended = daemon.stop().await;
    assert!(ended.status.success(), "{:?}", ended.status);
    assert!(told.next().await.contains(">stopped"), "the end is told");
    assert!(lab.daemon_processes().is_empty(), "{:?}", lab.daemon_processes());
}
