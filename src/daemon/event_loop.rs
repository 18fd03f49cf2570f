//! The event loop: the sole owner of all state. Hears, decides by the pure core, acts, publishes.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::sleep_until;

use super::attempt::Order;
use super::effects::Effects;
use super::entry::Entry;
use super::handle::{Change, Command, Outcome, Verb};
use super::narrate;
use super::snapshot::Snapshot;
use super::waiter::Waiter;
use crate::clock::{Clock, Moment};
use crate::config::{ConfigWatch, Desired, desired};
use crate::observe::recent::RecentLogs;
use crate::observe::systemd;
use crate::port::Listener;
use crate::tunnel::{Action, Event, Generation, Slot, StateName, step};

/// What the event loop is made of.
#[derive(Debug)]
pub(super) struct EventLoop {
    pub(super) clock: Clock,
    pub(super) effects: Effects,
    pub(super) events: mpsc::UnboundedReceiver<(Slot, Event)>,
    pub(super) report: mpsc::UnboundedSender<(Slot, Event)>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) snapshot: watch::Sender<Arc<Snapshot>>,
    pub(super) changes: broadcast::Sender<Change>,
    pub(super) logs: Arc<RecentLogs>,
    pub(super) config_path: PathBuf,
    pub(super) config: ConfigWatch,
    pub(super) state: State,
}

/// What the event loop knows.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) entries: BTreeMap<Slot, Entry>,
    /// Slots in the order of the file.
    pub(super) order: Vec<Slot>,
    pub(super) next_slot: u64,
    pub(super) deadlines: HashMap<(Slot, Generation), Moment>,
    pub(super) waiters: Vec<Waiter>,
    pub(super) api: desired::Api,
    pub(super) config_error: Option<String>,
    pub(super) stopping: bool,
}

impl EventLoop {
    /// Runs until SIGTERM or SIGINT has stopped every tunnel.
    pub(super) async fn run(mut self, wanted: Desired) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let watchdog = systemd::watchdog_interval();
        let mut next_ping = watchdog.map(|interval| self.clock.now().after(interval));

        self.state.api = wanted.api.clone();
        self.apply(wanted.tunnels);
        self.publish();
        systemd::ready();
        while !(self.state.stopping && self.state.entries.is_empty()) {
            let wake = self.next_deadline().into_iter().chain(next_ping).min();
            let clock = self.clock;
            tokio::select! {
                Some((slot, event)) = self.events.recv() => self.hear(slot, event),
                Some(command) = self.commands.recv() => self.obey(command),
                content = self.config.changed(), if !self.state.stopping => {
                    let result = content.map_err(|error| error.to_string()).and_then(|text: String| self.parse(&text));
                    // The error is logged, and the status shows it.
                    let _ = self.reload(result);
                }
                () = sleep_until(clock.instant(wake.unwrap_or_default())), if wake.is_some() => self.pass_deadlines(),
                _ = terminate.recv() => self.stop_all(),
                _ = interrupt.recv() => self.stop_all(),
                _ = hangup.recv() => {
                    systemd::reloading();
                    let result = self.read_config();
                    let _ = self.reload(result);
                    systemd::ready();
                }
            }
            // What can be decided at once is decided before anybody is told.
            while let Ok((slot, event)) = self.events.try_recv() {
                self.hear(slot, event);
            }
            self.answer_waiters();
            self.publish();
            if let (Some(interval), Some(due)) = (watchdog, next_ping)
                && self.clock.now() >= due
            {
                systemd::ping();
                next_ping = Some(self.clock.now().after(interval));
            }
        }
        Ok(())
    }

    /// Lets a tunnel hear of an event, and carries out what follows.
    pub(super) fn hear(&mut self, slot: Slot, event: Event) {
        let now = self.clock.now();
        let Some(entry) = self.state.entries.get_mut(&slot) else { return };
        if let Event::ProcessEnded(generation, _) = &event {
            entry.outside.forget(*generation);
        }
        if let Event::PortUnbound(generation) | Event::PortUnusable(generation, _) = &event {
            entry.outside.abandon_port(*generation);
        }
        entry.phases.note_event(&event, now);
        let before = entry.tunnel.clone();
        let (tunnel, actions) = step(entry.tunnel.clone(), event, now, &entry.desired.policy);
        entry.tunnel = tunnel;
        for action in actions {
            self.carry_out(slot, action);
        }
        let Some(entry) = self.state.entries.get_mut(&slot) else { return };
        if let Some(generation) = entry.tunnel.listening() {
            entry.listeners = addresses(entry, generation);
        }
        narrate::transition(entry, &before, now);
        if entry.removed && entry.tunnel.name() == StateName::Stopped {
            self.forget(slot);
        }
    }

    fn carry_out(&mut self, slot: Slot, action: Action) {
        let now = self.clock.now();
        let Some(entry) = self.state.entries.get_mut(&slot) else { return };
        entry.phases.note_action(&action, now);
        let work = &entry.desired.work;
        match action {
            Action::ConfirmPort(generation) => {
                self.effects.confirm_port(&mut entry.outside, generation, work);
            }
            Action::AbandonPort(generation) => entry.outside.abandon_port(generation),
            Action::StartProcess(generation) => {
                entry.starts += 1;
                narrate::starting(entry);
                self.effects.start(&mut entry.outside, generation, &entry.desired.work);
            }
            Action::RequestForward(generation) => entry.outside.order(generation, Order::OpenForward),
            Action::CloseForward(generation) => entry.outside.order(generation, Order::CloseForward),
            Action::Terminate(generation) => entry.outside.terminate(generation),
            Action::Kill(generation) => entry.outside.kill(generation),
            Action::FindSurvivors(generation) => entry.outside.find_survivors(generation),
            Action::TerminateHolders(generation) => {
                let holders = entry.tunnel.holders().to_vec();
                self.effects.terminate_holders(&entry.outside, generation, work, holders);
            }
            Action::KillHolders(generation) => Effects::kill_holders(&entry.outside, generation),
            Action::Arm(generation, at) => {
                self.state.deadlines.insert((slot, generation), at);
            }
            Action::Disarm(generation) => {
                self.state.deadlines.remove(&(slot, generation));
            }
            Action::ReportRestartFailed(failure) => {
                narrate::restart_failed(entry, &failure);
                let waiting = std::mem::take(&mut self.state.waiters);
                let (failed, others) = waiting
                    .into_iter()
                    .partition(|waiter| waiter.slot == slot && waiter.verb == Verb::Restart);
                self.state.waiters = others;
                for waiter in failed {
                    let outcome =
                        Outcome::NotDone { status: entry.status(&self.clock), failure: failure.clone() };
                    // Whoever asked may have gone.
                    let _ = waiter.reply.send(Some(outcome));
                }
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Act { verb, hash, timeout, reply } => {
                let found =
                    self.state.entries.iter().find(|(_, entry)| !entry.removed && entry.desired.hash == hash);
                let Some((&slot, _)) = found else {
                    let _ = reply.send(None);
                    return;
                };
                self.act(slot, verb, timeout, reply);
            }
            Command::Refresh { reply } => {
                self.refresh();
                self.publish();
                let _ = reply.send(self.snapshot.borrow().clone());
            }
            Command::Reload { dry_run: true, reply } => {
                let report = self
                    .read_config()
                    .map(|wanted| self.report_of(&self.plan(&wanted.tunnels), &wanted.tunnels));
                let _ = reply.send(report);
            }
            Command::Reload { dry_run: false, reply } => {
                let result = self.read_config();
                let _ = reply.send(self.reload(result));
            }
        }
    }

    fn act(
        &mut self,
        slot: Slot,
        verb: Verb,
        timeout: Duration,
        reply: tokio::sync::oneshot::Sender<Option<Outcome>>,
    ) {
        let asked = self.clock.now();
        self.hear(
            slot,
            match verb {
                Verb::Start => Event::StartRequested,
                Verb::Stop => Event::StopRequested,
                Verb::Restart => Event::RestartRequested,
            },
        );
        let Some(entry) = self.state.entries.get(&slot) else { return };
        let generation = entry.tunnel.latest();
        self.state.waiters.push(Waiter {
            slot,
            verb,
            generation,
            asked,
            deadline: asked.after(timeout),
            reply,
        });
    }

    /// Answers every request whose tunnel is where it was wanted, or whose time is over.
    fn answer_waiters(&mut self) {
        let now = self.clock.now();
        for waiter in std::mem::take(&mut self.state.waiters) {
            match self.state.entries.get(&waiter.slot) {
                Some(entry) => match waiter.outcome(entry, &self.clock, now) {
                    // Whoever asked may have gone.
                    Some(outcome) => drop(waiter.reply.send(Some(outcome))),
                    None => self.state.waiters.push(waiter),
                },
                // At the end of the daemon, the dropped reply says so.
                None if self.state.stopping => {}
                None => drop(waiter.reply.send(None)),
            }
        }
    }

    fn next_deadline(&self) -> Option<Moment> {
        let waiters = self.state.waiters.iter().map(|waiter| waiter.deadline);
        self.state.deadlines.values().copied().chain(waiters).min()
    }

    fn pass_deadlines(&mut self) {
        let now = self.clock.now();
        let passed: Vec<_> =
            self.state.deadlines.iter().filter(|(_, at)| **at <= now).map(|(key, _)| *key).collect();
        for (slot, generation) in passed {
            self.state.deadlines.remove(&(slot, generation));
            self.hear(slot, Event::DeadlinePassed(generation));
        }
    }

    /// Looks at the kernel's listeners: what is up must be there.
    fn refresh(&mut self) {
        let up =
            |entry: &Entry| entry.tunnel.listening().map(|generation| entry.outside.listeners(generation));
        let expected: Vec<_> =
            self.state.entries.iter().filter_map(|(slot, entry)| Some((*slot, up(entry)?))).collect();
        let listeners = expected.iter().flat_map(|(_, listeners)| listeners);
        let endpoints: Vec<_> = listeners.map(Listener::endpoint).collect();
        let present = match self.effects.listeners(&endpoints) {
            Ok(present) => present,
            Err(error) => {
                tracing::error!("cannot look at the listeners: {error}");
                return;
            }
        };
        for (slot, listeners) in expected {
            let lost = !listeners.iter().all(|listener| present.contains(listener));
            let Some(entry) = self.state.entries.get(&slot) else { continue };
            if let (true, Some(generation)) = (lost, entry.tunnel.listening()) {
                self.hear(slot, Event::ListenerLost(generation));
            }
        }
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        let Some(entry) = self.state.entries.get_mut(&slot) else { return };
        entry.removed = true;
        let state = entry.tunnel.name();
        if matches!(state, StateName::Stopped | StateName::NeedsAuth) {
            self.forget(slot);
        } else {
            self.hear(slot, Event::StopRequested);
        }
    }

    fn forget(&mut self, slot: Slot) {
        let Some(entry) = self.state.entries.remove(&slot) else { return };
        let replaced = self.state.entries.values().any(|other| other.desired.hash == entry.desired.hash);
        // At the end of the daemon the tunnels are stopped, but still wanted.
        if !replaced && !self.state.stopping {
            self.logs.rehash(&entry.desired.hash, None);
            let _ = self.changes.send(Change::Removed { hash: entry.desired.hash });
        }
    }

    fn stop_all(&mut self) {
        if self.state.stopping {
            return;
        }
        self.state.stopping = true;
        systemd::stopping();
        tracing::info!(event = "stopping", "stopping all tunnels");
        for slot in self.state.entries.keys().copied().collect::<Vec<_>>() {
            self.remove(slot);
        }
    }
}

fn addresses(entry: &Entry, generation: Generation) -> Vec<String> {
    entry.outside.listeners(generation).iter().map(|listener| listener.address.to_string()).collect()
}
