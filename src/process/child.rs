//! One child process: its start, its signals, its end.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{ChildStderr, ChildStdout};

use crate::config::environment::SERVICE_MANAGER_VARIABLES;
use crate::home;

/// A process could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {program:?}: {source}")]
pub struct SpawnError {
    /// The program as given.
    pub program: OsString,
    /// Why.
    pub source: io::Error,
}

/// A child process, not reaped yet.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    pidfd: AsyncFd<OwnedFd>,
    group: Group,
}

/// The process group that a [`Child`] leads. The kernel keeps the group's number from being given to anybody else until
/// the leader is reaped, and after that this sends nothing: a signal never reaches a stranger.
#[derive(Debug, Clone)]
pub struct Group {
    pid: u32,
    leader: Arc<Mutex<Option<Pid>>>,
}

/// Starts `command` as the leader of a process group of its own, with nothing on its standard input, and its standard
/// output and error as pipes.
pub fn spawn(mut command: Command) -> Result<(Child, ChildStdout, ChildStderr), SpawnError> {
    for variable in SERVICE_MANAGER_VARIABLES {
        command.env_remove(variable);
    }
    give_home(&mut command);
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    start(&mut command).map_err(|source| SpawnError { program: command.get_program().to_owned(), source })
}

/// A system service without `User=` has no HOME, and ssh's helpers and most other programs look for their files there.
fn give_home(command: &mut Command) {
    let is_given = command.get_envs().any(|(name, _)| name == home::VARIABLE);
    if !is_given
        && home::from_environment().is_none()
        && let Some(directory) = home::directory()
    {
        command.env(home::VARIABLE, directory);
    }
}

fn start(command: &mut Command) -> io::Result<(Child, ChildStdout, ChildStderr)> {
    let mut child = command.spawn()?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("a pipe is missing"));
    };
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    // The child is not reaped yet, so the number cannot have changed hands.
    let watched = rustix::process::Pid::from_raw(pid.as_raw())
        .ok_or_else(|| io::Error::other("pid 0"))
        .and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::NONBLOCK)?))
        .and_then(watch);
    let pidfd = match watched {
        Ok(pidfd) => pidfd,
        Err(error) => {
            // Without its pidfd nobody would hear of its end.
            child.kill()?;
            child.wait()?;
            return Err(error);
        }
    };
    let group = Group { pid: child.id(), leader: Arc::new(Mutex::new(Some(pid))) };
    Ok((
        Child { process: child, pidfd, group },
        ChildStdout::from_std(stdout)?,
        ChildStderr::from_std(stderr)?,
    ))
}

fn watch(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is open and owned, and nobody closes or replaces it while the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?)
}

impl Child {
    /// A handle for its signals.
    pub fn group(&self) -> Group {
        self.group.clone()
    }

    /// Waits for its end, then kills what is left of its group and reaps it. Cancel-safe.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.pidfd.readable().await?.retain_ready();
        let mut leader = self.group.leader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pid) = leader.take() {
            // ESRCH would say that the leader was the last one.
            let _ = killpg(pid, Signal::SIGKILL);
        }
        self.process.wait()
    }
}

impl Drop for Child {
    /// Nothing outlives its owner: whoever drops a running child kills it.
    fn drop(&mut self) {
        let mut leader = self.group.leader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pid) = leader.take() {
            let _ = killpg(pid, Signal::SIGKILL);
            let _ = self.process.wait();
        }
    }
}

impl Group {
    /// Pid of the leader.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends SIGTERM to every process of the group.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Sends SIGKILL to every process of the group.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    fn signal(&self, signal: Signal) {
        let leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pid) = *leader {
            // ESRCH and EPERM mean that there is nothing left of ours to signal; the pidfd tells when it has ended.
            let _ = killpg(pid, signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Pace, read_lines};

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    async fn lines_of(pipe: impl tokio::io::AsyncRead + Unpin) -> Vec<String> {
        let mut lines = Vec::new();
        read_lines(pipe, &Pace::default(), |line| lines.push(line)).await;
        lines
    }

    #[tokio::test]
    async fn the_end_of_the_leader_ends_its_group() {
        // The grandchild holds the pipe: it closes only when the grandchild is dead, too.
        let (mut child, stdout, _) = spawn(shell("sleep 1000 & echo started")).unwrap();
        let lines = tokio::spawn(lines_of(stdout));
        assert!(child.ended().await.unwrap().success());
        assert_eq!(lines.await.unwrap(), ["started"]);
    }

    #[tokio::test]
    async fn a_signal_after_the_end_reaches_nobody() {
        let (mut child, _stdout, _stderr) = spawn(shell("true")).unwrap();
        let group = child.group();
        child.ended().await.unwrap();
        assert!(group.leader.lock().unwrap().is_none());
        group.kill();
    }

    #[tokio::test]
    async fn a_dropped_child_is_killed_with_its_group() {
        let (child, stdout, _stderr) = spawn(shell("sleep 1000 & echo started; sleep 1000")).unwrap();
        let lines = tokio::spawn(lines_of(stdout));
        drop(child);
        // The pipe's end comes with the last process that holds it.
        lines.await.unwrap();
    }

    #[tokio::test]
    async fn a_child_does_not_inherit_what_systemd_gave_to_us() {
        let mut command = shell("echo \"$NOTIFY_SOCKET$WATCHDOG_USEC.\"");
        command.env("NOTIFY_SOCKET", "/run/notify").env("WATCHDOG_USEC", "1");
        let (mut child, stdout, _stderr) = spawn(command).unwrap();
        assert_eq!(lines_of(stdout).await, ["."]);
        child.ended().await.unwrap();
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let error = spawn(Command::new("/no/such/program")).unwrap_err();
        assert!(error.to_string().contains("/no/such/program"), "{error}");
    }
}
