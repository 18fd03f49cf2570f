//! The system calls of a process, by strace.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::signal::Signal;
use tokio::process::Child;

use crate::lab::Lab;
use crate::log::lines_of;
use crate::namespace::kill;
use crate::record::Record;

/// strace, attached to all threads of a process.
#[derive(Debug)]
pub struct Trace<'lab> {
    lab: &'lab Lab,
    strace: Child,
}

/// Apart from the configuration: the daemon watches that file's directory and the one above, and would see each line written.
const LOG: &str = "trace/strace.log";

/// Being attached to interrupts the call that a thread sleeps in, and it goes back to sleep by one call more. This long
/// after the attachment all have.
const SETTLING: Duration = Duration::from_millis(500);

impl<'lab> Trace<'lab> {
    /// Attaches to the process; all its threads are being watched when this returns.
    pub async fn attach(lab: &'lab Lab, pid: u32) -> Self {
        let mut strace = lab
            .command("strace")
            .args(["-f", "-ttt", "-p", &pid.to_string(), "-o"])
            .arg(lab.path(LOG))
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting strace (package strace)");
        let said = lines_of(strace.stderr.take().unwrap());
        let attached = said.find(0, |line| line.contains("attached")).await;
        assert!(attached.is_some(), "strace does not attach to pid {pid}: {:?}", said.all());
        Self { lab, strace }
    }

    /// Watches for this long and detaches: the calls that were begun meanwhile, as strace writes them.
    pub async fn calls_during(mut self, watch: Duration) -> Vec<String> {
        tokio::time::sleep(SETTLING).await;
        let from = Timestamp::now();
        tokio::time::sleep(watch).await;
        let until = Timestamp::now();
        kill(self.strace.id().unwrap(), Signal::SIGINT);
        self.strace.wait().await.unwrap();
        let log = fs::read_to_string(self.lab.path(LOG)).unwrap();
        log.lines()
            .filter(|line| moment(line).is_some_and(|at| from <= at && at < until))
            .map(str::to_owned)
            .collect()
    }
}

/// strace, attached to a process so as to stop it in the middle of what it does, as if the scheduler had forgotten it there, or to
/// slow it down.
#[derive(Debug)]
pub struct Tripwire {
    pid: u32,
    strace: Child,
    said: Record<String>,
}

impl Tripwire {
    /// The process stops (SIGSTOP) when a thread of it makes this system call for the first time; with `path`, on that file.
    pub async fn attach(lab: &Lab, pid: u32, call: &str, path: Option<&str>) -> Self {
        Self::inject(lab, pid, call, "signal=SIGSTOP:when=1", path).await
    }

    /// As if its disk were slow, the process is kept waiting for this long whenever it makes this system call.
    pub async fn slow(lab: &Lab, pid: u32, call: &str, wait: Duration) -> Self {
        Self::inject(lab, pid, call, &format!("delay_enter={}", wait.as_micros()), None).await
    }

    async fn inject(lab: &Lab, pid: u32, call: &str, what: &str, path: Option<&str>) -> Self {
        let mut command = lab.command("strace");
        command.args(["-f", "-p", &pid.to_string(), "-e", &format!("trace={call}")]);
        command.args(["-e", &format!("inject={call}:{what}")]);
        command.args(path.into_iter().flat_map(|path| ["-P", path]));
        let mut strace = command.stderr(Stdio::piped()).spawn().expect("starting strace (package strace)");
        let said = lines_of(strace.stderr.take().unwrap());
        let tripwire = Self { pid, strace, said };
        tripwire.await_line("attached").await;
        tripwire
    }

    /// Waits until the process has stopped.
    pub async fn tripped(&self) {
        self.await_line("stopped by SIGSTOP").await;
    }

    /// Lets the process go on.
    pub async fn release(mut self) {
        kill(self.strace.id().unwrap(), Signal::SIGINT);
        self.strace.wait().await.unwrap();
        kill(self.pid, Signal::SIGCONT);
    }

    async fn await_line(&self, text: &str) {
        let line = self.said.find(0, |line| line.contains(text)).await;
        assert!(line.is_some(), "strace does not say {text:?} of pid {}: {:?}", self.pid, self.said.all());
    }
}

/// The time in `PID SECONDS.MICROSECONDS call(...)`.
fn moment(line: &str) -> Option<Timestamp> {
    let (seconds, microseconds) = line.split_ascii_whitespace().nth(1)?.split_once('.')?;
    let nanoseconds = microseconds.parse::<i32>().ok()? * 1000;
    Timestamp::new(seconds.parse().ok()?, nanoseconds).ok()
}
