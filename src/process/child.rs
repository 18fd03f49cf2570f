//! One child process: its start, its signals, its end.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, PipeReader};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus};

use nix::sys::signal::Signal;
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;

use super::ends::how_it_ended;
use super::exec::{self, Image};
use super::limits;
use super::lines::Pipe;
use super::pipes::{Says, lasting_pipe};
use super::registry::{self, MARK};
use super::spawn_error::SpawnError;
use super::tree::{Tree, watch_pidfd};
use super::vfork::Start;
use crate::config::environment::SERVICE_MANAGER_VARIABLES;
use crate::paths;

/// A child process, the leader of a [`Tree`], or one that was the child of an earlier run of portward.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    pidfd: AsyncFd<OwnedFd>,
    tree: Tree,
    /// How it ended, once it is reaped.
    status: Option<ExitStatus>,
}

/// Starts `command` as the leader of a session and a process group of its own, with nothing on its standard input, and its
/// standard output and error as pipes, which outlive portward.
///
/// In a session of its own it has no terminal: ssh is not stopped (SIGTTIN) when it tries to read a password from one, and Ctrl-C
/// does not end it before portward does.
pub fn spawn(command: Command) -> Result<(Child, Pipe, Pipe), SpawnError> {
    spawn_saying(command, Says::All)
}

/// As [`spawn`]; `says` tells what becomes of what does not fit into the pipes.
pub fn spawn_saying(mut command: Command, says: Says) -> Result<(Child, Pipe, Pipe), SpawnError> {
    for variable in SERVICE_MANAGER_VARIABLES {
        command.env_remove(variable);
    }
    give_home(&mut command);
    let file = exec::resolve(&command);
    start(&mut command, &file, says).map_err(|source| SpawnError::new(&command, file, source))
}

/// A system service without `User=` has no HOME, and ssh's helpers and most other programs look for their files there.
fn give_home(command: &mut Command) {
    let is_given = command.get_envs().any(|(name, _)| name == paths::HOME);
    if !is_given
        && paths::home_from_environment().is_none()
        && let Some(directory) = paths::home()
    {
        command.env(paths::HOME, directory);
    }
}

fn start(command: &mut Command, path: &Path, says: Says) -> io::Result<(Child, Pipe, Pipe)> {
    // Held until the child is registered, so that it is not mistaken for an orphan before.
    let mut trees = registry::lock();
    command.env(MARK, trees.next_mark());
    let image = Image::of(command, path)?;
    let directory = command.get_current_dir().map(|path| CString::new(path.as_os_str().as_bytes()));
    let (stdin, output, errors) = (File::open("/dev/null")?, lasting_pipe(says)?, lasting_pipe(says)?);
    let streams = [stdin.as_fd(), output.1.as_fd(), errors.1.as_fd()];
    let limit = limits::of_children();
    let pid = Start { image: &image, directory: directory.transpose()?, streams, limit }.run()?;
    let tree = Tree::new(trees.add(pid));
    drop(trees);
    match watch(pid, output.0, errors.0) {
        Ok((pidfd, stdout, stderr)) => Ok((Child { pid, pidfd, tree, status: None }, stdout, stderr)),
        Err(error) => {
            // Without a pidfd its end would go unnoticed.
            tree.signal_group(Signal::SIGKILL);
            let reaped = tree.reap_leader();
            tree.forget();
            reaped.and(Err(error))
        }
    }
}

fn watch(pid: u32, output: PipeReader, errors: PipeReader) -> io::Result<(AsyncFd<OwnedFd>, Pipe, Pipe)> {
    let number = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    // The child is not reaped yet, so its pid cannot have been given to another process.
    let pidfd = pidfd_open(number.ok_or_else(|| io::Error::other("pid 0"))?, PidfdFlags::NONBLOCK)?;
    Ok((watch_pidfd(pidfd)?, Pipe::from_owned_fd(output.into())?, Pipe::from_owned_fd(errors.into())?))
}

impl Child {
    /// One that an earlier run of portward started.
    pub(super) fn inherited(pid: u32, pidfd: AsyncFd<OwnedFd>, tree: Tree) -> Self {
        Self { pid, pidfd, tree, status: None }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The tree that it leads, which may outlive it.
    pub fn tree(&self) -> Tree {
        self.tree.clone()
    }

    /// Waits for its end and reaps it. Others of its tree may be left. Cancel-safe.
    ///
    /// # Errors
    /// How it ended cannot be found out: of one that an earlier run of portward started, the kernel tells it since Linux 6.15.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.pidfd.readable().await?.retain_ready();
        if let Some(status) = self.status {
            return Ok(status);
        }
        if self.tree.is_inherited() {
            self.status = how_it_ended(self.pid, self.tree.start(), self.pidfd.get_ref());
            self.tree.leader_lost();
            return self.status.ok_or_else(|| {
                io::Error::other(
                    "it was not portward that collected it, and this kernel tells its parent alone",
                )
            });
        }
        let status = self.tree.reap_leader()?;
        self.status = Some(status);
        Ok(status)
    }
}

impl Drop for Child {
    /// Dropping a running child kills it with its process group. One that was inherited is only forgotten.
    fn drop(&mut self) {
        if !self.tree.is_leader_reaped() && !self.tree.is_inherited() {
            self.tree.signal_group(Signal::SIGKILL);
            let _ = self.tree.reap_leader();
        }
        self.tree.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::reaper::reap_orphans;
    use crate::process::{Pace, become_subreaper, read_lines};

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    async fn lines_of(pipe: Pipe) -> Vec<String> {
        let mut lines = Vec::new();
        read_lines(pipe, &Pace::default(), |line| lines.push(line)).await;
        lines
    }

    #[tokio::test]
    async fn what_the_leader_leaves_behind_is_known_and_ends_with_the_tree() {
        become_subreaper().unwrap();
        // The grandchild holds the pipe: it closes only when the grandchild is dead, too.
        let (mut child, stdout, _) = spawn(shell("setsid sleep 1000 & echo started")).unwrap();
        let lines = tokio::spawn(lines_of(stdout));
        assert!(child.ended().await.unwrap().success());
        let tree = child.tree();
        let left = tree.survivors().unwrap();
        assert_eq!(left.len(), 1, "{left:?}");
        tree.terminate();
        assert_eq!(tree.gone().await.forbidden, []);
        assert_eq!(lines.await.unwrap(), ["started"]);
    }

    #[tokio::test]
    async fn a_signal_after_the_end_reaches_nobody() {
        let (mut child, _stdout, _stderr) = spawn(shell("true")).unwrap();
        let tree = child.tree();
        child.ended().await.unwrap();
        assert_eq!((tree.pid(), tree.survivors().unwrap()), (None, vec![]));
        tree.signal_group(Signal::SIGKILL);
        assert_eq!(tree.gone().await.forbidden, []);
    }

    #[tokio::test]
    async fn a_child_has_a_session_of_its_own_and_the_old_limit_of_open_files() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(1000), ..limit }).unwrap();
        limits::raise_open_files();
        let (mut child, stdout, _stderr) = spawn(shell("cut -d' ' -f6 /proc/$$/stat; ulimit -Sn")).unwrap();
        assert_eq!(lines_of(stdout).await, [child.pid().to_string(), "1000".to_owned()]);
        assert_eq!(getrlimit(Resource::Nofile).current, limit.maximum);
        child.ended().await.unwrap();
    }

    #[tokio::test]
    async fn a_leader_that_is_about_to_be_reaped_is_no_orphan() {
        let (child, _stdout, _stderr) = spawn(shell("exit 7")).unwrap();
        child.pidfd.readable().await.unwrap().retain_ready();
        child.tree.leader_lost();
        reap_orphans();
        assert_eq!(child.tree.reap_leader().unwrap().code(), Some(7));
    }

    #[tokio::test]
    async fn a_dropped_child_is_killed_with_its_group() {
        let (child, stdout, _stderr) = spawn(shell("sleep 1000 & echo started; wait")).unwrap();
        stdout.readable().await.unwrap();
        drop(child);
        // The pipe's end comes with the last process that holds it.
        let lines = tokio::time::timeout(std::time::Duration::from_secs(30), lines_of(stdout)).await;
        assert_eq!(lines.expect("the group runs on"), ["started"]);
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
