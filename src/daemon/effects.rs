//! Carries out the core's actions. Starts the work and returns at once: results come back as events.

use std::collections::HashMap;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, spawn_blocking};

use super::attempt::{Attempt, Listening, Order, port_failure};
use super::tell::{Teller, tell};
use crate::config::desired::{SshTunnel, Work};
use crate::port::{Endpoint, HeldBy, Listener, Occupant, PortError, Ports, Verdict, who};
use crate::process::{self, Evictee, Group, Signalled, SpawnError};
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
}

/// A wait for the port.
#[derive(Debug)]
struct Wait {
    task: AbortHandle,
    /// Whom `on_conflict: kill` has told to leave. Locked while that is being done, on a thread that may block.
    evictees: Arc<Mutex<Vec<Evictee>>>,
    /// The sockets that were told last.
    told: Arc<Mutex<Vec<HeldBy>>>,
}

/// A tunnel that waits for its port.
#[derive(Debug)]
pub(super) struct Waiting {
    teller: Teller,
    generation: Generation,
    endpoints: Vec<Endpoint>,
    /// The sockets that were told last, and who has them.
    told: Arc<Mutex<Vec<HeldBy>>>,
    occupants: Vec<Occupant>,
}

#[derive(Debug)]
struct Running {
    group: Group,
    orders: mpsc::UnboundedSender<Order>,
    listening: Listening,
}

impl Outside {
    pub(super) fn new(slot: Slot, teller: Teller) -> Self {
        Self { slot, teller, running: HashMap::new(), waits: HashMap::new() }
    }

    pub(super) fn teller(&self) -> &Teller {
        &self.teller
    }

    /// The pid of this generation's process.
    pub(super) fn pid(&self, generation: Generation) -> Option<u32> {
        self.running.get(&generation).map(|running| running.group.pid())
    }

    /// Whether one of the process groups is of a process of this tunnel.
    pub(super) fn runs_any(&self, groups: &[u32]) -> bool {
        self.running.values().any(|running| groups.contains(&running.group.pid()))
    }

    /// What is known of the wait for the port, if `generation` waits for it.
    pub(super) fn waiting(
        &self,
        generation: Generation,
        work: &Work,
        occupants: &[Occupant],
    ) -> Option<Waiting> {
        let wait = self.waits.get(&generation)?;
        Some(Waiting {
            teller: self.teller.clone(),
            generation,
            endpoints: work.endpoints().to_vec(),
            told: wait.told.clone(),
            occupants: occupants.to_vec(),
        })
    }

    /// What this generation's process listened on when it came up.
    pub(super) fn listeners(&self, generation: Generation) -> Vec<Listener> {
        self.running.get(&generation).map_or_else(Vec::new, |running| {
            running.listening.lock().unwrap_or_else(PoisonError::into_inner).clone()
        })
    }

    /// The process has ended.
    pub(super) fn forget(&mut self, generation: Generation) {
        self.running.remove(&generation);
    }

    pub(super) fn order(&self, generation: Generation, order: Order) {
        if let Some(running) = self.running.get(&generation) {
            // If the process has just ended, the news of it is on its way.
            let _ = running.orders.send(order);
        }
    }

    pub(super) fn terminate(&self, generation: Generation) {
        if let Some(running) = self.running.get(&generation) {
            running.group.terminate();
        }
    }

    pub(super) fn kill(&self, generation: Generation) {
        if let Some(running) = self.running.get(&generation) {
            running.group.kill();
        }
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
            // An address may yet come.
            Ok(Verdict::Held(_)) | Err(PortError::AddressNotAvailable(_)) => {}
            Err(error) => return teller.report(Event::PortUnusable(generation, port_failure(&error))),
        }
        let ports = self.ports.clone();
        let told = Arc::<Mutex<Vec<HeldBy>>>::default();
        let last = told.clone();
        let task = tokio::spawn(async move {
            let on_held = |held: &[HeldBy], occupants| {
                held.clone_into(&mut last.lock().unwrap_or_else(PoisonError::into_inner));
                teller.report(Event::PortHeld(generation, occupants));
            };
            let unbound = ports.unbound(&endpoints, on_held).await;
            teller.report(match unbound {
                Ok(()) => Event::PortUnbound(generation),
                Err(error) => Event::PortUnusable(generation, port_failure(&error)),
            });
        });
        let wait = Wait { task: task.abort_handle(), evictees: Arc::default(), told };
        outside.waits.insert(generation, wait);
    }

    /// Asks once more about the ports that tunnels wait for, and reports what has changed: the kernel does not tell of every
    /// change of a holder. Then calls `done`.
    pub(super) fn ask_again(&self, waiting: Vec<Waiting>, done: impl FnOnce() + Send + 'static) {
        let ports = self.ports.clone();
        spawn_blocking(move || {
            for Waiting { teller, generation, endpoints, told, occupants } in waiting {
                let mut held = told.lock().unwrap_or_else(PoisonError::into_inner);
                // As the wait does: what is known to be held is asked about first.
                let mut endpoints = ports.usable(&endpoints);
                endpoints.sort_by_key(|endpoint| !held.iter().any(|held| held.endpoint == *endpoint));
                // Where the kernel cannot be asked, the wait itself says so.
                let Ok(now) = ports.waited_for(&endpoints) else { continue };
                if now.is_empty() {
                    teller.report(Event::PortUnbound(generation));
                } else if !who::still_tells(&occupants, &held, &now) {
                    teller.report(Event::PortHeld(generation, who::describe(&now)));
                    *held = now;
                }
            }
            done();
        });
    }

    /// Starts the process of `work`.
    pub(super) fn start(&self, outside: &mut Outside, generation: Generation, work: &Work) {
        let listening = Listening::default();
        let attempt = Attempt {
            generation,
            teller: outside.teller.clone(),
            ports: self.ports.clone(),
            endpoints: self.ports.usable(work.endpoints()),
            listening: listening.clone(),
        };
        let (orders, received) = mpsc::unbounded_channel();
        let started = match work {
            Work::Ssh(tunnel) => self.start_ssh(attempt, outside.slot, tunnel, received),
            Work::Command(tunnel) => {
                let mut command = Command::new(&tunnel.argv[0]);
                command.args(&tunnel.argv[1..]);
                process::spawn(command).map(|process| {
                    let group = process.0.group();
                    tokio::spawn(attempt.run_command(tunnel.clone(), process));
                    group
                })
            }
        };
        match started {
            Ok(group) => {
                outside.running.insert(generation, Running { group, orders, listening });
            }
            Err(error) => {
                let message =
                    format!("{error}; check the program's path, and the PATH that portward runs with");
                outside
                    .teller
                    .report(Event::ProcessEnded(generation, Failure::new(FailureKind::Config, message)));
            }
        }
    }

    fn start_ssh(
        &self,
        attempt: Attempt,
        slot: Slot,
        tunnel: &SshTunnel,
        orders: mpsc::UnboundedReceiver<Order>,
    ) -> Result<Group, SpawnError> {
        let (control, made) = self.control.socket(&format!("{}-{}", slot.0, attempt.generation));
        let process = process::spawn(ssh::command(tunnel, control.path()))?;
        let group = process.0.group();
        tokio::spawn(attempt.run_ssh(tunnel.clone(), process, (control, made), orders));
        Ok(group)
    }

    /// SIGTERM to exactly the processes that hold the port, or `HoldersSpared`.
    pub(super) fn terminate_holders(
        &self,
        outside: &Outside,
        generation: Generation,
        work: &Work,
        holders: Vec<Occupant>,
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
