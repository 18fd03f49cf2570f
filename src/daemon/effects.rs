//! Carries out the core's actions. Starts the work and returns at once: results come back as events.

use std::collections::HashMap;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, spawn_blocking};

use super::attempt::{Attempt, Left, Listening, Order, Said, port_failure};
use super::tell::{Teller, tell};
use crate::config::desired::{SshTunnel, Work};
use crate::port::{Endpoint, HeldBy, HoldKind, Holder, Listener, Ports, Verdict, holder};
use crate::process::{self, Evictee, Remains, Signalled, SpawnError, Survivor, Tree};
use crate::ssh::{self, ControlDirectory};
use crate::tunnel::{Event, Failure, FailureKind, Generation, Slot};

/// The outside of all tunnels.
#[derive(Debug)]
pub(super) struct Effects {
    ports: Ports,
    control: ControlDirectory,
}

/// The outside of one tunnel: its processes and its waits.
#[derive(Debug)]
pub(super) struct Outside {
    slot: Slot,
    teller: Teller,
    running: HashMap<Generation, Running>,
    waits: HashMap<Generation, Wait>,
    /// What was left of the latest process that has ended.
    left: Remains,
}

/// A wait for the port.
#[derive(Debug)]
struct Wait {
    task: AbortHandle,
    /// Whom `on_conflict: kill` has told to leave. Locked while that is being done, on a thread that may block.
    evictees: Arc<Mutex<Vec<Evictee>>>,
}

#[derive(Debug)]
struct Running {
    tree: Tree,
    orders: mpsc::UnboundedSender<Order>,
    listening: Listening,
    left: Left,
    said: Said,
}

impl Outside {
    pub(super) fn new(slot: Slot, teller: Teller) -> Self {
        Self { slot, teller, running: HashMap::new(), waits: HashMap::new(), left: Remains::default() }
    }

    pub(super) fn teller(&self) -> &Teller {
        &self.teller
    }

    /// The pid of this generation's process.
    pub(super) fn pid(&self, generation: Generation) -> Option<u32> {
        self.running.get(&generation).and_then(|running| running.tree.pid())
    }

    /// What this generation's process listened on when it came up.
    pub(super) fn listeners(&self, generation: Generation) -> Vec<Listener> {
        self.running.get(&generation).map_or_else(Vec::new, |running| {
            running.listening.lock().unwrap_or_else(PoisonError::into_inner).clone()
        })
    }

    /// What this generation's ssh waits for that is not ready after `waited`; `None` for a command, and when it has ended.
    pub(super) fn why_not_ready(
        &self,
        generation: Generation,
        work: &Work,
        waited: Duration,
    ) -> Option<Failure> {
        match (work, self.running.get(&generation)) {
            (Work::Ssh(tunnel), Some(running)) => {
                let pid = running.tree.pid()?;
                Some(ssh::not_ready(tunnel, pid, &running.said.lines(), waited))
            }
            (Work::Ssh(_) | Work::Command(_), _) => None,
        }
    }

    /// The process has ended.
    pub(super) fn forget(&mut self, generation: Generation) {
        if let Some(running) = self.running.remove(&generation) {
            self.left = running.left.lock().unwrap_or_else(PoisonError::into_inner).clone();
        }
    }

    /// What was left of the latest process that has ended.
    pub(super) fn left(&self) -> &Remains {
        &self.left
    }

    pub(super) fn order(&self, generation: Generation, order: Order) {
        if let Some(running) = self.running.get(&generation) {
            // If the process has just ended, the news of it is on its way.
            let _ = running.orders.send(order);
        }
    }

    pub(super) fn terminate(&self, generation: Generation) {
        if let Some(running) = self.running.get(&generation) {
            running.tree.terminate();
        }
    }

    pub(super) fn kill(&self, generation: Generation) {
        if let Some(running) = self.running.get(&generation) {
            running.tree.kill();
        }
    }

    /// Names the processes that are left, on a thread that may block.
    pub(super) fn find_survivors(&self, generation: Generation) {
        let Some(running) = self.running.get(&generation) else { return };
        let (tree, teller) = (running.tree.clone(), self.teller.clone());
        spawn_blocking(move || {
            let who = match tree.survivors() {
                // The news of its end is on its way.
                Ok(survivors) if survivors.is_empty() => return,
                Ok(survivors) => named(&survivors),
                Err(error) => format!("what is left of the process ({error})"),
            };
            let message = format!(
                "{who} did not die of SIGKILL within 5 s: stuck in the kernel (state D in ps), most often on a network file \
                 system; portward waits for its end"
            );
            teller.report(Event::ProcessSurvived(generation, Failure::new(FailureKind::Killed, message)));
        });
    }

    pub(super) fn abandon_port(&mut self, generation: Generation) {
        if let Some(wait) = self.waits.remove(&generation) {
            wait.task.abort();
        }
    }
}

impl Effects {
    pub(super) fn new(ports: Ports, control: ControlDirectory) -> Self {
        Self { ports, control }
    }

    /// The listeners on `endpoints` now.
    pub(super) fn listeners(&self, endpoints: &[Endpoint]) -> Result<Vec<Listener>, crate::port::PortError> {
        self.ports.listeners(endpoints)
    }

    /// Reports `PortUnbound` as soon as the kernel confirms it.
    pub(super) fn confirm_port(&self, outside: &mut Outside, generation: Generation, work: &Work) {
        let teller = outside.teller.clone();
        let endpoints = self.ports.usable(work.endpoints());
        // In most cases the port is free, and the answer takes microseconds.
        match self.ports.verdict(&endpoints) {
            Ok(Verdict::Unbound) => return teller.report(Event::PortUnbound(generation)),
            Ok(Verdict::Held(_)) => {}
            Err(error) => return teller.report(Event::PortUnusable(generation, port_failure(&error))),
        }
        let ports = self.ports.clone();
        let own: Arc<[Tree]> = outside.running.values().map(|running| running.tree.clone()).collect();
        let task = tokio::spawn(async move {
            let report =
                |held: &[HeldBy]| report_holders(teller.clone(), generation, held.to_vec(), own.clone());
            let unbound = ports.unbound(&endpoints, report).await;
            teller.report(match unbound {
                Ok(()) => Event::PortUnbound(generation),
                Err(error) => Event::PortUnusable(generation, port_failure(&error)),
            });
        });
        let wait = Wait { task: task.abort_handle(), evictees: Arc::default() };
        outside.waits.insert(generation, wait);
    }

    /// Starts the process of `work`.
    pub(super) fn start(&self, outside: &mut Outside, generation: Generation, work: &Work) {
        outside.left = Remains::default();
        let (listening, left) = (Listening::default(), Left::default());
        let said = Said::default();
        let attempt = Attempt {
            generation,
            teller: outside.teller.clone(),
            ports: self.ports.clone(),
            endpoints: self.ports.usable(work.endpoints()),
            listening: listening.clone(),
            left: left.clone(),
            said: said.clone(),
        };
        let (orders, received) = mpsc::unbounded_channel();
        let started = match work {
            Work::Ssh(tunnel) => self.start_ssh(attempt, outside.slot, tunnel, received),
            Work::Command(tunnel) => {
                let mut command = Command::new(&tunnel.argv[0]);
                command.args(&tunnel.argv[1..]);
                process::spawn(command).map(|process| {
                    let tree = process.0.tree();
                    tokio::spawn(attempt.run_command(tunnel.clone(), process));
                    tree
                })
            }
        };
        match started {
            Ok(tree) => {
                outside.running.insert(generation, Running { tree, orders, listening, left, said });
            }
            Err(error) => outside.teller.report(Event::ProcessEnded(generation, error.failure())),
        }
    }

    fn start_ssh(
        &self,
        attempt: Attempt,
        slot: Slot,
        tunnel: &SshTunnel,
        orders: mpsc::UnboundedReceiver<Order>,
    ) -> Result<Tree, SpawnError> {
        let (control, made) = self.control.socket(&format!("{}-{}", slot.0, attempt.generation));
        let process = process::spawn(ssh::command(tunnel, control.path()))?;
        let tree = process.0.tree();
        tokio::spawn(attempt.run_ssh(tunnel.clone(), process, (control, made), orders));
        Ok(tree)
    }

    /// SIGTERM to exactly the processes that hold the port, or `HoldersSpared`.
    pub(super) fn terminate_holders(
        &self,
        outside: &Outside,
        generation: Generation,
        work: &Work,
        holders: Vec<Holder>,
    ) {
        let Some(wait) = outside.waits.get(&generation) else { return };
        let (ports, endpoints, teller) =
            (self.ports.clone(), self.ports.usable(work.endpoints()), outside.teller.clone());
        let evictees = wait.evictees.clone();
        spawn_blocking(move || {
            let mut evictees = evictees.lock().unwrap_or_else(PoisonError::into_inner);
            evictees.clear();
            let reason = match ports.holders(&endpoints).map(|held| process::evictees(&held)) {
                Ok(Ok(found)) => {
                    *evictees = found;
                    return log_signalled(&teller, "SIGTERM", process::signal(&evictees, Signal::TERM));
                }
                Ok(Err(spared)) => {
                    let spared: Vec<_> = spared.iter().map(ToString::to_string).collect();
                    format!("the port would stay held by {}", spared.join("; and by "))
                }
                Err(error) => format!("the holders cannot be found out: {error}"),
            };
            let message = format!("on_conflict: kill has ended nobody, for {reason}");
            let failure = Failure::new(FailureKind::LocalPortHeld, message);
            teller.report(Event::HoldersSpared(generation, holders, failure));
        });
    }

    /// SIGKILL to those who were told to leave the port and still hold it. Who has taken it since has had no SIGTERM yet.
    pub(super) fn kill_holders(outside: &Outside, generation: Generation) {
        let Some(wait) = outside.waits.get(&generation) else { return };
        let (evictees, teller) = (wait.evictees.clone(), outside.teller.clone());
        spawn_blocking(move || {
            let evictees = evictees.lock().unwrap_or_else(PoisonError::into_inner);
            log_signalled(&teller, "SIGKILL", process::signal(&evictees, Signal::KILL));
        });
    }
}

fn log_signalled(teller: &Teller, sent: &str, signalled: Vec<Signalled<'_>>) {
    for Signalled { holder, result } in signalled {
        let done = match result {
            Ok(()) => format!("sent {sent} to {holder}, which holds the port"),
            Err(error) => format!("could not send {sent} to {holder}, which holds the port: {error}"),
        };
        let holder_pid = holder.pid;
        tell!(warn, teller.identity(), event = "evict", holder_pid, "on_conflict: kill: {done}");
    }
}

/// The processes as one text.
pub(super) fn named(survivors: &[Survivor]) -> String {
    survivors.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// Finds out who holds the port, on a thread that may block, and reports it. What is left of the tunnel's `own` processes is
/// being ended, and no stranger.
fn report_holders(teller: Teller, generation: Generation, held: Vec<HeldBy>, own: Arc<[Tree]>) {
    spawn_blocking(move || {
        let is_own = |holder: &Holder| {
            let mut pids = holder.pid.iter().chain(&holder.others).peekable();
            pids.peek().is_some() && pids.all(|pid| own.iter().any(|tree| tree.contains(*pid)))
        };
        let mut holders: Vec<Holder> = Vec::new();
        for held in &held {
            match held.kind {
                HoldKind::Listener | HoldKind::Bound | HoldKind::Connection => {
                    let holder = holder::describe(held);
                    if !holders.contains(&holder) && !is_own(&holder) {
                        holders.push(holder);
                    }
                }
                // These sockets have no process, or none that the kernel names.
                HoldKind::TimeWait(left) => teller.warn(&format!(
                    "{} is in TIME_WAIT of a closed connection for another {} s; the tunnel comes up after that",
                    held.endpoint,
                    left.as_secs()
                )),
                HoldKind::Unexplained => teller.warn(&format!(
                    "{} cannot be bound, and the kernel does not show which socket is in the way; the tunnel comes up as \
                     soon as it is gone",
                    held.endpoint
                )),
            }
        }
        teller.report(Event::PortHeld(generation, holders));
    });
}
