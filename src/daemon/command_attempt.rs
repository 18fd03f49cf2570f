//! The process of a `command:` tunnel: up once it, or a descendant of it, listens on the port.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::process::ExitStatus;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use nix::unistd::{Pid, getpgid};
use tokio::process::{ChildStderr, ChildStdout};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::attempt::{Attempt, OUTPUT_GRACE, Said, port_failure};
use crate::config::desired::CommandTunnel;
use crate::port::{Listener, PortError, holder};
use crate::process::{Child, read_lines};
use crate::tunnel::{Event, Failure, FailureKind};

/// The kernel sends an event when a socket is destroyed, and none when one begins to listen. So while a command starts,
/// and only then, its port is looked at whenever it says something, and else after waits that grow from this one
const FIRST_LOOK: Duration = Duration::from_millis(2);
/// up to this one, until it listens or `start_timeout` is over.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// A process that dies closes its sockets first, and its end is told right after: only when that does not follow within this
/// has a living process stopped listening.
const END_FOLLOWS: Duration = Duration::from_millis(100);

impl Attempt {
    /// Looks after a command until it has ended.
    pub(super) async fn run_command(
        self,
        tunnel: CommandTunnel,
        (mut child, stdout, stderr): (Child, ChildStdout, ChildStderr),
    ) {
        let said = self.said.clone();
        let spoke = Arc::new(Notify::new());
        let output = tokio::spawn({
            let (said, spoke, teller, pace) =
                (said.clone(), spoke.clone(), self.teller.clone(), self.pace.clone());
            async move {
                let hear = |line: String| {
                    // A flood is no reason to look at the port time and again.
                    if teller.output(&line) {
                        spoke.notify_one();
                    }
                    said.push(line);
                };
                tokio::join!(read_lines(stdout, &pace, hear), read_lines(stderr, &pace, hear));
            }
        });
        let pid = child.group().pid();
        let ended = tokio::select! {
            ended = child.ended() => ended,
            never = self.watch_listener(pid, &spoke) => match never {},
        };
        let _ = timeout(OUTPUT_GRACE, output).await;
        self.teller.output_ended();
        let failure = match ended {
            Ok(status) => how_it_ended(&tunnel, status, &said),
            Err(error) => {
                Failure::new(FailureKind::Exited, format!("cannot learn how the command ended: {error}"))
            }
        };
        self.report(Event::ProcessEnded(self.generation, failure));
    }

    async fn watch_listener(&self, pid: u32, spoke: &Notify) -> Infallible {
        let mut wait = FIRST_LOOK;
        while !self.look(pid).await {
            tokio::select! {
                () = spoke.notified() => {}
                () = sleep(wait) => wait = (wait * 3 / 2).min(LAST_LOOK),
            }
        }
        self.report(Event::ProcessReady(self.generation));
        if let Err(error) = self.until_listener_lost(pid).await {
            self.teller.warn(&port_failure(&error).message);
        } else {
            sleep(END_FOLLOWS).await;
            self.report(Event::ListenerLost(self.generation));
        }
        std::future::pending().await
    }

    /// Resolves once no socket of the process listens on the port any more; the kernel tells when one was destroyed.
    async fn until_listener_lost(&self, pid: u32) -> Result<(), PortError> {
        let mut subscription = self.ports.watch(&self.endpoints)?;
        while self.look(pid).await {
            subscription.changed().await;
        }
        Ok(())
    }

    /// Whether the process listens on the port; remembers on what.
    async fn look(&self, pid: u32) -> bool {
        let listeners = match self.listeners(|endpoint, listener| listener.overlaps(endpoint)) {
            Ok(listeners) => listeners,
            Err(error) => {
                self.teller.warn(&error.to_string());
                return false;
            }
        };
        let known = self.listening.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut ours = Vec::new();
        let mut unknown = Vec::new();
        for listener in listeners {
            if known.contains(&listener) || holder::pid_owns(pid, listener.inode) {
                ours.push(listener);
            } else {
                unknown.push(listener);
            }
        }
        // Reading all of /proc takes 10 ms: only for sockets that the leader itself does not hold.
        if !unknown.is_empty() {
            ours.extend(owned_by_descendants(pid, unknown).await);
        }
        let listens = !ours.is_empty();
        *self.listening.lock().unwrap_or_else(PoisonError::into_inner) = ours;
        listens
    }
}

async fn owned_by_descendants(leader: u32, listeners: Vec<Listener>) -> Vec<Listener> {
    let inodes: BTreeSet<_> = listeners.iter().map(|listener| listener.inode).collect();
    let owners: HashMap<u32, u32> =
        tokio::task::spawn_blocking(move || holder::owners(&inodes)).await.unwrap_or_default();
    let owned = |listener: &Listener| owners.get(&listener.inode).is_some_and(|pid| belongs_to(leader, *pid));
    listeners.into_iter().filter(owned).collect()
}

/// Whether the process `pid` is of the command with the process `leader`.
pub(super) fn belongs_to(leader: u32, pid: u32) -> bool {
    in_group_of(leader, pid) || holder::is_descendant_of(pid, leader)
}

/// A descendant whose parents have ended is still in the group.
fn in_group_of(leader: u32, pid: u32) -> bool {
    let (Ok(leader), Ok(pid)) = (i32::try_from(leader), i32::try_from(pid)) else { return false };
    getpgid(Some(Pid::from_raw(pid))).is_ok_and(|group| group.as_raw() == leader)
}

fn how_it_ended(tunnel: &CommandTunnel, status: ExitStatus, said: &Said) -> Failure {
    use std::os::unix::process::ExitStatusExt;

    let program = &tunnel.argv[0];
    let last = said.lines().pop().map(|line| format!(": {line}")).unwrap_or_default();
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            Failure::new(FailureKind::Killed, format!("{program} was ended by signal {signal}{last}"))
        }
        (None, Some(code)) => {
            Failure::new(FailureKind::Exited, format!("{program} ended with status {code}{last}"))
        }
        (None, None) => Failure::new(FailureKind::Exited, format!("{program} ended{last}")),
    }
}
