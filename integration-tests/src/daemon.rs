//! `portward run`: its log, its events, its API and its command line.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use portward::port::Holder;
use portward::protocol::{FailureKind, StateName, TunnelStatus};
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::api::{Answer, follow_events, request};
use crate::lab::Lab;
use crate::log::{LogLine, capture};
use crate::namespace::{ends_in_time, kill, open_process};
use crate::record::{DEADLINE, Record};

/// The real daemon. When it goes, it is ended with SIGTERM; what it then leaves behind, the [`Lab`] finds.
#[derive(Debug)]
pub struct Daemon<'lab> {
    lab: &'lab Lab,
    child: Child,
    pid: u32,
    pidfd: OwnedFd,
    socket: PathBuf,
    log: Record<LogLine>,
    log_reader: JoinHandle<()>,
    statuses: Record<TunnelStatus>,
}

/// How the daemon ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// All that it logged.
    pub log: Vec<LogLine>,
}

impl<'lab> Daemon<'lab> {
    /// Writes the configuration with these tunnels and starts the daemon on it.
    pub async fn start(lab: &'lab Lab, tunnels: &str) -> Self {
        lab.write_config(tunnels);
        Self::start_as_configured(lab).await
    }

    /// Starts the daemon on the lab's configuration as it is. When this returns, the daemon has said READY.
    pub async fn start_as_configured(lab: &'lab Lab) -> Self {
        let notify_socket = lab.path("notify");
        let _ = std::fs::remove_file(&notify_socket);
        let notifications = UnixDatagram::bind(&notify_socket).unwrap();
        let socket = lab.path("run/portward.sock");
        let mut child = Command::new(lab.path("bin/portward"))
            .args(["run", "--log", "json", "--config"])
            .arg(lab.config_path())
            .arg("--socket")
            .arg(&socket)
            .env_clear()
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", lab.path("bin").display()))
            .env("HOME", lab.path("home"))
            .env("RUNTIME_DIRECTORY", lab.path("run"))
            .env("NOTIFY_SOCKET", &notify_socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting portward");
        let pid = child.id().unwrap();
        let log = Record::default();
        let log_reader = capture(child.stderr.take().unwrap(), log.clone(), LogLine::new);
        let pidfd = open_process(pid).unwrap();
        let statuses = Record::default();
        let daemon = Self { lab, child, pid, pidfd, socket, log, log_reader, statuses };
        daemon.await_ready(notifications).await;
        follow_events(&daemon.socket, daemon.statuses.clone()).await;
        daemon
    }

    async fn await_ready(&self, notifications: UnixDatagram) {
        let ready = Record::default();
        let sender = ready.clone();
        // Goes on for as long as the daemon may send: nobody reading would stall it.
        tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok(length) = notifications.recv(&mut buffer).await {
                sender.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
        });
        let said = ready.find(0, |text: &String| text.lines().any(|line| line == "READY=1")).await;
        assert!(said.is_some(), "the daemon does not get ready\n{}", self.report());
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The API's socket.
    pub fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// What it logs.
    pub fn log(&self) -> &Record<LogLine> {
        &self.log
    }

    /// Waits for a log line at or after `mark` for which `wanted` holds.
    pub async fn wait_log(&self, mark: usize, what: &str, wanted: impl FnMut(&LogLine) -> bool) -> LogLine {
        let found = self.log.find(mark, wanted).await;
        found.unwrap_or_else(|| panic!("no log line {what} within {DEADLINE:?}\n{}", self.report()))
    }

    /// A mark for [`Daemon::wait_status`]: statuses from now on.
    pub fn mark(&self) -> usize {
        self.statuses.mark()
    }

    /// All statuses of the tunnel `name` that `/events` has told of since `mark`.
    pub fn statuses(&self, mark: usize, name: &str) -> Vec<TunnelStatus> {
        self.statuses.since(mark).into_iter().filter(|status| status.name == name).collect()
    }

    /// Waits for a status of the tunnel `name`, told by `/events` at or after `mark`, for which `wanted` holds.
    pub async fn wait_status(
        &self,
        mark: usize,
        name: &str,
        what: &str,
        mut wanted: impl FnMut(&TunnelStatus) -> bool,
    ) -> TunnelStatus {
        let found = self.statuses.find(mark, |status| status.name == name && wanted(status)).await;
        found.unwrap_or_else(|| {
            panic!("tunnel {name} was not seen {what} within {DEADLINE:?}\n{}", self.report())
        })
    }

    /// Waits for the status at `position` of all that `/events` has told and will tell.
    pub async fn next_status(&self, position: usize) -> TunnelStatus {
        let found = self.statuses.find(position, |_| true).await;
        found.unwrap_or_else(|| panic!("no status was told within {DEADLINE:?}\n{}", self.report()))
    }

    /// Waits as [`Daemon::wait_status`] does; `None` when there is no such status by `deadline`.
    pub async fn find_status(
        &self,
        mark: usize,
        name: &str,
        deadline: Instant,
        mut wanted: impl FnMut(&TunnelStatus) -> bool,
    ) -> Option<TunnelStatus> {
        let search = self.statuses.find(mark, |status| status.name == name && wanted(status));
        tokio::time::timeout_at(deadline, search).await.ok().flatten()
    }

    /// Waits until the tunnel `name` is in `state`; returns at once if the last status told so.
    pub async fn wait_state(&self, name: &str, state: StateName) -> TunnelStatus {
        let latest = self.statuses.last_position(|status| status.name == name).unwrap_or(0);
        self.wait_status(latest, name, state.as_str(), |status| status.state == state).await
    }

    /// Waits until the tunnel `name` waits for its port and names who holds it.
    pub async fn wait_holder(&self, name: &str) -> Holder {
        let named =
            |status: &TunnelStatus| status.state == StateName::AwaitingPort && status.holder.is_some();
        let status = self.wait_status(0, name, "waiting for a holder", named).await;
        status.holder.unwrap()
    }

    /// Waits until the tunnel `name` tells, at or after `mark`, of a failure of this class.
    pub async fn wait_failure(&self, mark: usize, name: &str, kind: FailureKind) -> TunnelStatus {
        let what = format!("with last_error.kind {kind}");
        self.wait_status(mark, name, &what, |status| {
            status.last_error.as_ref().is_some_and(|failure| failure.kind == kind)
        })
        .await
    }

    /// Waits until the tunnel `name` is up, at or after `mark`, with another process than `before`.
    pub async fn wait_up_anew(&self, mark: usize, name: &str, before: Option<u32>) -> TunnelStatus {
        let is_anew = |status: &TunnelStatus| {
            status.state == StateName::Up && status.pid.is_some_and(|pid| Some(pid) != before)
        };
        self.wait_status(mark, name, "up with another process", is_anew).await
    }

    /// Restarts the tunnel `name` through the API; returns the pids before and after.
    pub async fn restart(&self, name: &str) -> (u32, u32) {
        let before = self.tunnel_pid(name).await;
        let answer = self.post(&format!("/restart/{name}?timeout=20s")).await;
        assert_eq!(answer.status, 200, "{answer:?}\n{}", self.report());
        let status = self.status(name).await;
        assert_eq!(status.state, StateName::Up);
        (before, status.pid.unwrap())
    }

    /// Checks that of all that the daemon has started no process is left.
    pub fn assert_alone(&self) {
        let left = self.lab.daemon_processes();
        assert!(left.iter().all(|process| process.pid == self.pid), "{left:?}\n{}", self.report());
    }

    /// The most memory that it has had, in KiB.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Processor time that it has used, that of its children left out; known to 10 ms.
    pub fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        // utime and stime are the 14th and 15th field, and the name is the second.
        let fields = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().skip(11).take(2);
        Duration::from_millis(10 * fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>())
    }

    /// The status of the tunnel `name` now, asked over the API.
    pub async fn status(&self, name: &str) -> TunnelStatus {
        let answer = self.get("/status").await;
        let statuses: Vec<TunnelStatus> = serde_json::from_str(&answer.body).unwrap();
        statuses
            .into_iter()
            .find(|status| status.name == name)
            .unwrap_or_else(|| panic!("{name} in {answer:?}"))
    }

    /// The process that carries the tunnel `name` now.
    pub async fn tunnel_pid(&self, name: &str) -> u32 {
        let status = self.status(name).await;
        status.pid.unwrap_or_else(|| panic!("no pid in {status:?}\n{}", self.report()))
    }

    /// `GET path`.
    pub async fn get(&self, path: &str) -> Answer {
        request(&self.socket, "GET", path, "").await
    }

    /// `POST path` without a body.
    pub async fn post(&self, path: &str) -> Answer {
        request(&self.socket, "POST", path, "").await
    }

    /// Runs `portward ARGUMENTS` against this daemon.
    pub async fn cli(&self, arguments: &[&str]) -> Output {
        self.cli_command(arguments).output().await.expect("running portward")
    }

    /// `portward ARGUMENTS` against this daemon, to be started by the test.
    pub fn cli_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.lab.command(self.lab.path("bin/portward"));
        command.args(arguments).env("PORTWARD_SOCKET", &self.socket).env("NO_COLOR", "1");
        command
    }

    /// Ends it with SIGKILL and waits: what it has started goes on.
    pub async fn crash(self) -> Ended {
        kill(self.pid, Signal::SIGKILL);
        self.ended().await
    }

    /// Ends it with SIGTERM and waits.
    pub async fn stop(self) -> Ended {
        kill(self.pid, Signal::SIGTERM);
        self.ended().await
    }

    /// Waits until it has ended, and its log with it.
    pub async fn ended(mut self) -> Ended {
        let wait = async {
            let status = self.child.wait().await.unwrap();
            // Whoever is left of its children holds the pipe open: then the lab says which.
            let _ = tokio::time::timeout(Duration::from_secs(2), &mut self.log_reader).await;
            status
        };
        let status = tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| {
            panic!("the daemon does not end");
        });
        Ended { status, log: self.log.all() }
    }

    /// The last statuses and log lines, for a failing test's message.
    pub fn report(&self) -> String {
        let mut report = String::from("--- last statuses told by /events\n");
        for status in self.statuses.all().iter().rev().take(10).rev() {
            report.push_str(&serde_json::to_string(status).unwrap());
            report.push('\n');
        }
        report.push_str("--- last lines of the daemon's log\n");
        for line in self.log.all().iter().rev().take(40).rev() {
            report.push_str(&line.raw);
            report.push('\n');
        }
        report
    }
}

/// What the tunnel listens on, as the API writes it.
pub fn listens_on(status: &TunnelStatus) -> Vec<String> {
    status.listeners.iter().map(ToString::to_string).collect()
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.report());
        }
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        kill(self.pid, Signal::SIGTERM);
        if !ends_in_time(&self.pidfd) {
            kill(self.pid, Signal::SIGKILL);
            assert!(std::thread::panicking(), "the daemon ignores SIGTERM\n{}", self.report());
        }
    }
}
