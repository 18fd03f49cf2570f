//! The event loop: the sole owner of all state. Hears, decides by the pure core, acts, publishes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::sleep_until;

use super::attempt::Order;
use super::effects::Effects;
use super::entry::Entry;
use super::handle::{Command, Outcome};
use super::narrate::{self, Before};
use super::published::Published;
use super::reporter::Report;
use super::runtime::Runtime;
use super::timers::{Timer, Timers};
use super::waiter::Waiter;
use super::warnings::Warnings;
use crate::clock::Clock;
use crate::config::{ConfigWatch, Desired, desired};
use crate::core::{Action, ConnectionEvent, Event, ForwardEvent, HealthEvent, Kind, Slot, StateName};
use crate::network::Network;
use crate::observe::recent::RecentLogs;
use crate::observe::systemd;
use crate::port::{Kinship, Listener, Occupant};
use crate::process;
use crate::protocol::{Change, Verb};

/// What the event loop is made of.
#[derive(Debug)]
pub(super) struct EventLoop {
    pub(super) clock: Clock,
    pub(super) effects: Effects,
    pub(super) events: mpsc::UnboundedReceiver<(Slot, Report)>,
    pub(super) report: mpsc::UnboundedSender<(Slot, Report)>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) changes: broadcast::Sender<Change>,
    pub(super) logs: Arc<RecentLogs>,
    pub(super) config_path: PathBuf,
    pub(super) config: ConfigWatch,
    pub(super) runtime: Runtime,
    pub(super) network: Network,
    pub(super) state: State,
}

/// What the event loop knows.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Boxed, for a node of the map has room for eleven.
    pub(super) entries: BTreeMap<Slot, Box<Entry>>,
    /// Slots in the order of the file.
    pub(super) order: Vec<Slot>,
    pub(super) next_slot: u64,
    /// The slot of each wanted tunnel, by its hash.
    pub(super) slots: HashMap<String, Slot>,
    /// Tunnels that something happened to since they were last published.
    pub(super) touched: BTreeSet<Slot>,
    pub(super) published: Published,
    pub(super) timers: Timers,
    /// Requests that are not answered yet, by tunnel and number.
    pub(super) waiters: BTreeMap<(Slot, u64), Waiter>,
    pub(super) last_request: u64,
    pub(super) api: desired::Api,
    pub(super) config_error: Option<String>,
    pub(super) warnings: Warnings,
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
        self.note_config_watch();
        self.apply(wanted.tunnels);
        self.publish();
        systemd::ready();
        while !(self.state.stopping && self.state.entries.is_empty()) {
            let wake = self.state.timers.next().into_iter().chain(next_ping).min();
            let clock = self.clock;
            tokio::select! {
                Some((slot, report)) = self.events.recv() => self.take(slot, report),
                Some(command) = self.commands.recv() => self.obey(command),
                content = self.config.changed(), if !self.state.stopping => {
                    let result = content.map_err(|error| error.to_string()).and_then(|text: String| self.parse(&text));
                    // The error is logged, and the status shows it.
                    let _ = self.reload(result);
                }
                changes = self.network.changed(), if !self.state.stopping => self.hear_of_network(&changes),
                () = self.runtime.disturbed(), if !self.state.stopping => self.restore_runtime(),
                () = sleep_until(clock.instant(wake.unwrap_or_default())), if wake.is_some() => self.pass_deadlines(),
                _ = terminate.recv() => self.stop_all(),
                _ = interrupt.recv() => self.stop_all(),
                _ = hangup.recv() => {
                    systemd::reloading();
                    self.restore_runtime();
                    let result = self.read_config();
                    let _ = self.reload(result);
                    systemd::ready();
                }
            }
            // What can be decided at once is decided before anybody is told.
            while let Ok((slot, report)) = self.events.try_recv() {
                self.take(slot, report);
            }
            self.note_config_watch();
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

    fn take(&mut self, slot: Slot, report: Report) {
        self.state.touched.insert(slot);
        match report {
            Report::Event(event) => self.hear(slot, event),
            // The status that is published next has its pid.
            Report::ProcessChanged => {}
            Report::Listening(connection, listeners) => {
                if let Some(entry) = self.state.entries.get_mut(&slot) {
                    entry.resources.set_listeners(connection, listeners);
                    entry.note_listeners();
                }
            }
            Report::Remains(remains) => {
                if let Some(entry) = self.state.entries.get_mut(&slot) {
                    entry.resources.set_left(remains);
                }
            }
            Report::ConnectionsFailed(failed) => {
                if let Some(entry) = self.state.entries.get_mut(&slot) {
                    entry.note_failed_connections(&failed, &self.clock);
                    narrate::connections_failed(entry, &failed);
                }
            }
            Report::Checked(number, result) => self.hear_health(slot, HealthEvent::Checked(number, result)),
            Report::CheckOver(number) => self.check_over(slot, number),
            Report::Relay(number, news) => self.hear_relay(slot, number, news),
        }
    }

    /// Lets a tunnel hear of an event, and carries out what follows.
    pub(super) fn hear(&mut self, slot: Slot, mut event: Event) {
        let now = self.clock.now();
        if let Event::Forward(_, ForwardEvent::PortHeld(occupants)) = &mut event {
            self.name_tunnels(occupants);
        }
        if !self.hold(slot, &mut event) {
            return;
        }
        let Some(entry) = self.state.entries.get_mut(&slot) else { return };
        self.state.touched.insert(slot);
        if let Event::Connection(connection, ConnectionEvent::Ended(_)) = &event {
            entry.resources.forget(*connection);
        }
        if let Event::Forward(request, ForwardEvent::PortUnbound | ForwardEvent::PortUnusable(_)) = &event {
            entry.resources.abandon_port(*request);
        }
        entry.phases.note_event(&event, now);
        let before = Before::of(entry);
        let slept = entry.link.is_asleep(slot);
        let actions = entry.link.hear(event, now);
        // Clients wait before their way is closed, and those that come later wait from the start.
        entry.direct_clients();
        for action in actions {
            self.carry_out(slot, action);
        }
        let Some(entry) = self.state.entries.get_mut(&slot) else { return };
        match entry.link.deadline() {
            Some(deadline) => self.state.timers.arm(Timer::Link(slot), deadline),
            None => self.state.timers.disarm(Timer::Link(slot)),
        }
        entry.note_listeners();
        narrate::transition(entry, &before, now);
        entry.note_sleep(slept);
        self.observe_health(slot);
        self.forget_removed(slot);
    }

    fn carry_out(&mut self, slot: Slot, action: Action) {
        let now = self.clock.now();
        let Some(entry) = self.state.entries.get_mut(&slot) else { return };
        let is_of_spare =
            matches!(&action, Action::StartConnection(connection, _) if entry.link.is_spare(*connection));
        if !is_of_spare {
            entry.phases.note_action(&action, now);
        }
        match action {
            Action::ConfirmPort(_, request, connection) => {
                let destination = entry.link.destination();
                let work = entry.desired.work_at(destination);
                self.effects.confirm_port(&mut entry.resources, request, connection, destination, &work);
            }
            Action::AbandonPort(_, request) => entry.resources.abandon_port(request),
            Action::TerminateHolders(_, request) => {
                let holders = entry.link.holders(slot).to_vec();
                self.effects.terminate_holders(&entry.resources, request, holders);
            }
            Action::KillHolders(_, request) => Effects::kill_holders(&entry.resources, request),
            Action::OpenForward(_, request, connection) => {
                entry.resources.order(connection, Order::Open(request));
            }
            Action::CloseForward(_, request, connection) => {
                entry.resources.order(connection, Order::Close(request));
            }
            Action::StartConnection(connection, destination) => {
                entry.starts += u64::from(!is_of_spare);
                self.effects.start(&mut entry.resources, connection, destination, &entry.desired);
            }
            Action::ExplainDelay(connection) => {
                let waited = entry.desired.policy.ready_timeout;
                let work = entry.desired.work_at(entry.link.destination_of(connection));
                self.effects.explain_delay(&entry.resources, connection, &work, waited);
            }
            Action::AskForClients(_, request) => entry.resources.ask_for_clients(request),
            Action::AwaitClients(connection) => entry.resources.order(connection, Order::AwaitClients),
            Action::Probe(connection) => entry.resources.probe(connection),
            Action::Terminate(connection) => entry.resources.terminate(connection),
            Action::Kill(connection) => entry.resources.kill(connection),
            Action::FindSurvivors(connection) => entry.resources.find_survivors(connection),
            Action::ReportTakeover(_) => {
                entry.starts += 1;
                narrate::takeover(entry);
            }
            Action::ReportStandbyFailed(failure) => narrate::standby_failed(entry, &failure),
            Action::ReportReplacementFailed(failure) => {
                narrate::restart_failed(entry, &failure);
                let status = entry.status(&self.clock);
                let restarts = self.state.waiters_of(slot, |waiter| waiter.verb == Verb::Restart);
                for request in restarts {
                    let outcome = Outcome::NotDone { status: status.clone(), failure: failure.clone() };
                    self.state.answer(slot, request, Some(outcome));
                }
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Act { verb, hash, timeout, reply } => {
                let Some(&slot) = self.state.slots.get(&hash) else {
                    let _ = reply.send(None);
                    return;
                };
                self.act(slot, verb, timeout, reply);
            }
            Command::AskAgain { reply } => self.ask_again(reply),
            Command::Snapshot { refresh, reply } => {
                if refresh {
                    self.refresh();
                    while let Ok((slot, report)) = self.events.try_recv() {
                        self.take(slot, report);
                    }
                }
                self.publish();
                let _ = reply.send(self.snapshot());
            }
            Command::Reload { dry_run: true, reply } => {
                let report = self
                    .read_config()
                    .map(|wanted| self.report_of(&self.plan(&wanted.tunnels), &wanted.tunnels));
                let _ = reply.send(report);
            }
            Command::Reload { dry_run: false, reply } => {
                self.restore_runtime();
                let result = self.read_config();
                let _ = reply.send(self.reload(result));
            }
        }
    }

    fn act(&mut self, slot: Slot, verb: Verb, timeout: Duration, reply: oneshot::Sender<Option<Outcome>>) {
        let asked = self.clock.now();
        self.hear(
            slot,
            match verb {
                Verb::Start => Event::StartRequested(slot),
                Verb::Stop => Event::StopRequested(slot),
                Verb::Restart => Event::RestartRequested(slot),
            },
        );
        let Some(entry) = self.state.entries.get(&slot) else { return };
        let awaited = entry.link.awaited();
        let deadline = asked.after(timeout);
        self.state.last_request += 1;
        let request = self.state.last_request;
        self.state.timers.arm(Timer::Request(slot, request), deadline);
        self.state.waiters.insert((slot, request), Waiter { verb, awaited, asked, deadline, reply });
    }

    fn pass_deadlines(&mut self) {
        let now = self.clock.now();
        while let Some(timer) = self.state.timers.take_passed(now) {
            match timer {
                Timer::Link(slot) => self.hear(slot, Event::DeadlinePassed),
                Timer::Health(slot) => self.hear_health(slot, HealthEvent::DeadlinePassed),
                Timer::Request(slot, _) => drop(self.state.touched.insert(slot)),
            }
        }
    }

    /// Asks about the ports that are waited for: not every change of a holder is told.
    fn ask_again(&self, reply: oneshot::Sender<()>) {
        let waiting = |entry: &Entry| {
            let slot = entry.slot();
            entry.resources.waiting(entry.link.awaiting_port(slot)?, entry.link.holders(slot))
        };
        let waiting: Vec<_> = self.state.entries.values().map(Box::as_ref).filter_map(waiting).collect();
        // Whoever asked may have gone.
        let done = move || {
            let _ = reply.send(());
        };
        if waiting.is_empty() { done() } else { self.effects.ask_again(waiting, done) }
    }

    /// Says which of our tunnels has the port, where one has.
    fn name_tunnels(&self, occupants: &mut [Occupant]) {
        for occupant in occupants {
            let Some(holder) = &mut occupant.holder else { continue };
            if holder.kinship == Kinship::Itself {
                holder.tunnel = self.tunnel_that_holds(occupant.address);
                continue;
            }
            let Some(pid) = holder.pid.filter(|pid| process::is_of_a_tree(*pid)) else { continue };
            let entry = self.state.entries.values().find(|entry| entry.resources.contains(pid));
            holder.tunnel = entry.map(|entry| entry.desired.name.clone());
        }
    }

    /// Looks at the kernel's listeners: what is up must be there.
    fn refresh(&mut self) {
        let up = |slot: Slot, entry: &Entry| {
            let (connection, request) = entry.link.listening(slot)?;
            Some((slot, connection, request, entry.resources.listeners(connection).to_vec()))
        };
        let expected: Vec<_> =
            self.state.entries.iter().filter_map(|(slot, entry)| up(*slot, entry)).collect();
        let listeners = expected.iter().flat_map(|(.., listeners)| listeners);
        let endpoints: Vec<_> = listeners.map(Listener::endpoint).collect();
        let present = match self.effects.listeners(&endpoints) {
            Ok(present) => present.into_iter().collect::<HashSet<_>>(),
            Err(error) => {
                tracing::error!("cannot look at the listeners: {error}");
                return;
            }
        };
        for (slot, connection, request, listeners) in expected {
            let Some(entry) = self.state.entries.get(&slot) else { continue };
            if listeners.iter().all(|listener| present.contains(listener)) {
                continue;
            }
            match entry.desired.policy.kind {
                Kind::Ssh => self.hear(slot, Event::Forward(request, ForwardEvent::ListenerLost)),
                // It may have opened another one, and its watch finds out whose that is.
                Kind::Command
                    if present
                        .iter()
                        .any(|one| listeners.iter().any(|listener| one.overlaps(&listener.endpoint()))) => {}
                Kind::Command => {
                    self.hear(slot, Event::Connection(connection, ConnectionEvent::ListenerLost));
                }
            }
        }
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        let Some(entry) = self.state.entries.get_mut(&slot) else { return };
        entry.removed = true;
        let (hash, state) = (entry.desired.hash.clone(), entry.state().0);
        self.state.release(&hash, slot);
        // At the end of the daemon the tunnels are stopped, but still wanted: they stay in the status.
        if !self.state.stopping {
            self.unpublish(slot);
        }
        if matches!(state, StateName::Stopped | StateName::NeedsAuth) {
            self.forget_removed(slot);
        } else {
            self.hear(slot, Event::StopRequested(slot));
        }
    }

    /// Forgets a tunnel that is gone from the configuration, once nothing of it is left.
    pub(super) fn forget_removed(&mut self, slot: Slot) {
        if self.state.entries.get(&slot).is_some_and(|entry| entry.removed && entry.rests()) {
            self.forget(slot);
        }
    }

    fn forget(&mut self, slot: Slot) {
        let Some(entry) = self.state.entries.remove(&slot) else { return };
        if self.state.stopping {
            // The dropped replies say that the daemon has ended.
            self.state.waiters.retain(|(waiting, _), _| *waiting != slot);
            return;
        }
        for request in self.state.waiters_of(slot, |_| true) {
            self.state.answer(slot, request, None);
        }
        if !self.state.slots.contains_key(&entry.desired.hash) {
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

impl State {
    /// Takes `hash` from the tunnel `slot`, unless another one has it by now.
    pub(super) fn release(&mut self, hash: &str, slot: Slot) {
        if self.slots.get(hash) == Some(&slot) {
            self.slots.remove(hash);
        }
    }

    /// The numbers of the requests about `slot` for which `wanted` holds.
    pub(super) fn waiters_of(&self, slot: Slot, wanted: impl Fn(&Waiter) -> bool) -> Vec<u64> {
        let waiters = self.waiters.range((slot, 0)..=(slot, u64::MAX));
        waiters.filter(|(_, waiter)| wanted(waiter)).map(|((_, request), _)| *request).collect()
    }

    /// Answers a request; `None`: there is no such tunnel any more.
    pub(super) fn answer(&mut self, slot: Slot, request: u64, outcome: Option<Outcome>) {
        self.timers.disarm(Timer::Request(slot, request));
        if let Some(waiter) = self.waiters.remove(&(slot, request)) {
            // Whoever asked may have gone.
            let _ = waiter.reply.send(outcome);
        }
    }
}
