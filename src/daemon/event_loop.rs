//! The event loop: the sole owner of all state. Hears, decides by the pure core, acts, publishes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::sleep_until;

use super::counts::Metrics;
use super::effects::Effects;
use super::entry::{Entry, Told, View};
use super::handle::{Command, Outcome};
use super::leave::{self, End};
use super::links::{LinkEntry, Links};
use super::logins::Logins;
use super::narrate;
use super::predecessor::Predecessor;
use super::published::Published;
use super::reporter::{LinkReport, Report, TunnelReport};
use super::runtime::Runtime;
use super::timers::{Timer, Timers};
use super::waiter::Waiter;
use super::warnings::Warnings;
use crate::clock::Clock;
use crate::config::{Accepted, ConfigWatch, desired};
use crate::core::{
    ConnectionEvent, ConnectionId, Event, ForwardEvent, HealthEvent, Kind, LinkId, Slot, StateName,
    TunnelState,
};
use crate::network::Network;
use crate::observe::recent::RecentLogs;
use crate::observe::systemd;
use crate::port::{Kinship, Listener, Occupant};
use crate::process;
use crate::protocol::{Change, TunnelStatus, Verb};

/// What the event loop is made of.
#[derive(Debug)]
pub(super) struct EventLoop {
    pub(super) clock: Clock,
    pub(super) effects: Effects,
    pub(super) events: mpsc::UnboundedReceiver<Report>,
    pub(super) report: mpsc::UnboundedSender<Report>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) changes: broadcast::Sender<Change>,
    pub(super) logs: Arc<RecentLogs>,
    pub(super) config_path: PathBuf,
    pub(super) config: ConfigWatch,
    pub(super) runtime: Runtime,
    pub(super) network: Network,
    pub(super) metrics: Metrics,
    pub(super) state: State,
}

/// What the event loop knows.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Boxed, for a node of the map has room for eleven.
    pub(super) entries: BTreeMap<Slot, Box<Entry>>,
    pub(super) links: Links,
    pub(super) logins: Logins,
    /// Slots in the order of the file.
    pub(super) order: Vec<Slot>,
    /// The entries that are not valid, and are no tunnels therefore.
    pub(super) broken: Vec<Arc<TunnelStatus>>,
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
    /// Of what is in force.
    pub(super) config_version: String,
    pub(super) config_error: Option<String>,
    pub(super) warnings: Warnings,
    pub(super) stopping: bool,
}

impl EventLoop {
    /// Runs until SIGTERM or SIGINT has stopped every tunnel, or until the service is restarted.
    pub(super) async fn run(mut self, wanted: Accepted) -> std::io::Result<End> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let watchdog = systemd::watchdog_interval();
        let mut is_restart: Option<Pin<Box<dyn Future<Output = bool>>>> = None;
        let mut next_ping = watchdog.map(|interval| self.clock.now().after(interval));

        self.state.api = wanted.desired.api.clone();
        self.state.config_version.clone_from(&wanted.desired.version);
        self.note_config_watch();
        let predecessor = Predecessor::find(self.effects.directory()).await;
        self.begin(wanted, predecessor);
        self.publish();
        systemd::ready();
        // What earlier runs have left is ended as well, or the next run would not know of it.
        while !(self.state.stopping && self.state.entries.is_empty() && !self.effects.ends_unwanted()) {
            let wake = self.state.timers.next().into_iter().chain(next_ping).min();
            let wake_at = self.clock.instant(wake.unwrap_or_default());
            tokio::select! {
                Some(report) = self.events.recv() => self.take(report),
                Some(command) = self.commands.recv() => self.obey(command),
                content = self.config.changed(), if !self.state.stopping => {
                    let result = content.map_err(|error| error.to_string()).and_then(|text: String| self.parse(&text));
                    // The error is logged, and the status shows it.
                    let _ = self.reload(result);
                }
                changes = self.network.changed(), if !self.state.stopping => self.hear_of_network(&changes),
                () = self.runtime.disturbed(), if !self.state.stopping => self.restore_runtime(),
                () = sleep_until(wake_at), if wake.is_some() => self.pass_deadlines(),
                _ = terminate.recv(), if !self.state.stopping => match leave::is_restart() {
                    Some(asking) if is_restart.is_none() => is_restart = Some(Box::pin(asking)),
                    Some(_) | None => self.stop_all(),
                },
                answer = async { Some(is_restart.as_mut()?.await) }, if is_restart.is_some() => {
                    is_restart = None;
                    if answer == Some(true) && !self.state.stopping {
                        return Ok(self.hand_over());
                    }
                    self.stop_all();
                }
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
            while let Ok(report) = self.events.try_recv() {
                self.take(report);
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
        self.effects.end_run();
        Ok(End::Stopped)
    }

    /// The processes of all tunnels go on, with their records, and held listeners go on with the service manager.
    fn hand_over(self) -> End {
        systemd::stopping();
        tracing::info!(event = "stopping", "the service is restarted: the tunnels go on meanwhile");
        // To drop a held listener would close it.
        std::mem::forget(self);
        End::HandedOver
    }

    fn take(&mut self, report: Report) {
        match report {
            Report::Tunnel(slot, report) => {
                self.state.touched.insert(slot);
                self.take_of_tunnel(slot, report);
            }
            Report::Link(id, report) => {
                // The status of all of its tunnels may show it.
                if let Some(entry) = self.state.links.get(id) {
                    self.state.touched.extend(entry.link.slots());
                }
                self.take_of_link(id, report);
            }
            Report::UnwantedEnded => self.effects.unwanted_ended(),
        }
    }

    fn take_of_tunnel(&mut self, slot: Slot, report: TunnelReport) {
        match report {
            TunnelReport::Forward(request, event) => self.hear(slot, Event::Forward(request, event)),
            TunnelReport::NoClients(request) => self.hear(slot, Event::NoClients(slot, request)),
            TunnelReport::Listening(connection, listeners) => {
                if let Some(entry) = self.state.entries.get_mut(&slot) {
                    entry.resources.set_listeners(connection, listeners);
                }
                self.note_listeners(slot);
            }
            TunnelReport::ServerListens(connection, addresses) => {
                self.note_server_listens(slot, connection, addresses);
            }
            TunnelReport::Checked(number, result) => {
                self.hear_health(slot, HealthEvent::Checked(number, result));
            }
            TunnelReport::CheckOver(number) => self.check_over(slot, number),
            TunnelReport::HookOver => self.hook_over(slot),
            TunnelReport::Relay(number, news) => self.hear_relay(slot, number, news),
        }
    }

    fn take_of_link(&mut self, id: LinkId, report: LinkReport) {
        match report {
            LinkReport::Connection(connection, event) => {
                self.hear_of_link(id, Event::Connection(connection, event));
            }
            // The status that is published next has its pid.
            LinkReport::ProcessChanged => {}
            LinkReport::Remains(remains) => {
                if let Some(entry) = self.state.links.get_mut(id) {
                    entry.connections.set_left(remains);
                }
            }
            LinkReport::PersonLeft(number) => self.person_left(id, number),
            LinkReport::ConnectionsFailed(failed) => self.connections_failed(id, &failed),
            LinkReport::SessionLeft(session) => {
                if let Some(entry) = self.state.links.get_mut(id) {
                    entry.connections.stale().add(session);
                }
            }
            LinkReport::ServerListens(boot, ports) => {
                if let Some(entry) = self.state.links.get_mut(id) {
                    entry.connections.stale().forget(&boot, &ports);
                }
            }
        }
    }

    /// Lets a tunnel hear of an event, and carries out what follows.
    pub(super) fn hear(&mut self, slot: Slot, mut event: Event) {
        if let Event::Forward(_, ForwardEvent::PortHeld(occupants)) = &mut event {
            self.name_tunnels(occupants);
        }
        if !self.hold(slot, &mut event) {
            return;
        }
        let Some(entry) = self.state.entries.get_mut(&slot) else { return };
        self.state.touched.insert(slot);
        if let Event::Forward(request, ForwardEvent::PortUnbound | ForwardEvent::PortUnusable(_)) = &event {
            entry.resources.abandon_port(*request);
        }
        if let Event::Forward(request, ForwardEvent::Opened) = &event {
            entry.phases.note_opened(*request, self.clock.now());
        }
        let link = entry.link;
        self.hear_of_link(link, event);
        self.observe_health(slot);
        self.forget_removed(slot);
    }

    /// Lets a link hear of an event, and carries out what follows for its tunnels.
    pub(super) fn hear_of_link(&mut self, id: LinkId, event: Event) {
        let now = self.clock.now();
        let Some(LinkEntry { link, connections }) = self.state.links.get_mut(id) else { return };
        if let Event::Connection(connection, ConnectionEvent::Ended(_)) = &event {
            connections.forget(*connection);
        }
        if let Event::Connection(connection, ConnectionEvent::Ready) = &event {
            // It was made for a tunnel that this connection serves as well.
            connections.forget_plan();
            let mut started = None;
            for slot in link.slots() {
                if let Some(entry) = self.state.entries.get_mut(&slot) {
                    started = entry.phases.note_ready(*connection, now).or(started);
                }
            }
            if let Some(started) = started {
                self.metrics.note_login(started, now);
            }
        }
        let actions = link.hear(event, now);
        // Clients wait before their way is closed, and those that come later wait from the start.
        for tunnel in link.tunnels() {
            if let Some(entry) = self.state.entries.get_mut(&tunnel.slot) {
                entry.direct_clients(&tunnel, connections);
            }
        }
        let deadline = link.deadline();
        for action in actions {
            self.carry_out(id, action);
        }
        match deadline {
            Some(deadline) => self.state.timers.arm(Timer::Link(id), deadline),
            None => self.state.timers.disarm(Timer::Link(id)),
        }
        for (slot, told) in self.state.changed_of(id) {
            self.state.touched.insert(slot);
            self.note_listeners(slot);
            if let Some(tunnel) = self.state.view(slot) {
                narrate::transition(tunnel, &tunnel.entry.told, now);
            }
            if let Some(entry) = self.state.entries.get_mut(&slot) {
                let (state, entered) = entry.told.state;
                if told.state != entry.told.state {
                    entry.counts.note_left(state, entered, told.state.1);
                }
                if let (true, Some(holder)) = (entry.told.holders.is_empty(), told.holders.first()) {
                    entry.counts.note_wait(holder.kind);
                }
                if told.is_asleep && !entry.told.is_asleep {
                    // The connection that a client will need is no restart.
                    entry.starts = entry.starts.saturating_sub(1);
                }
                entry.told = told;
            }
            self.run_hook(slot);
            self.observe_health(slot);
            self.forget_removed(slot);
        }
    }

    /// Takes over what the connection that serves the tunnel listens on.
    fn note_listeners(&mut self, slot: Slot) {
        let Some(View { entry, link }) = self.state.view(slot) else { return };
        let listeners = match (entry.resources.held(), link.link.listening(slot)) {
            (Some(held), _) => held.addresses().to_vec(),
            (None, Some((connection, _))) => {
                entry.resources.listeners(connection).iter().map(|listener| listener.address).collect()
            }
            (None, None) => return,
        };
        if let Some(entry) = self.state.entries.get_mut(&slot) {
            entry.listeners = listeners;
        }
    }

    /// Takes over where the server listens, and says so if that is not what was asked for.
    fn note_server_listens(&mut self, slot: Slot, connection: ConnectionId, addresses: Vec<SocketAddr>) {
        let Some(entry) = self.state.entries.get_mut(&slot) else { return };
        entry.server_listens = Some((connection, addresses));
        if let Some(note) = self.state.view(slot).and_then(|tunnel| tunnel.note()) {
            narrate::listens_elsewhere(&self.state.entries[&slot], &note);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Act { verb, hash, timeout, reply } => {
                let Some(&slot) = self.state.slots.get(&hash) else {
                    let _ = reply.send(self.outcome_of_broken(&hash, verb));
                    return;
                };
                self.act(slot, verb, timeout, reply);
            }
            Command::LogIn { hash, reply } => {
                // Whoever asked may have gone; then the login is over at once.
                let _ = reply.send(self.log_in(&hash));
            }
            Command::Ask { token, reply } => drop(reply.send(self.state.logins.asked(&token))),
            Command::Metrics { reply } => {
                self.publish();
                let _ = reply.send(self.metrics());
            }
            Command::AskAgain { reply } => self.ask_again(reply),
            Command::Snapshot { refresh, reply } => {
                if refresh {
                    self.refresh();
                    while let Ok(report) = self.events.try_recv() {
                        self.take(report);
                    }
                }
                self.publish();
                let _ = reply.send(self.snapshot());
            }
            Command::Reload { dry_run: true, reply } => {
                let report = self
                    .read_config()
                    .map(|wanted| self.report_of(&self.plan(&wanted.desired.tunnels), &wanted));
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
        let Some(View { link, .. }) = self.state.view(slot) else { return };
        let awaited = link.link.awaited();
        let deadline = asked.after(timeout);
        self.state.last_request += 1;
        let request = self.state.last_request;
        self.state.timers.arm(Timer::Request(slot, request), deadline);
        self.state.waiters.insert((slot, request), Waiter { verb, awaited, asked, deadline, reply });
    }

    fn pass_deadlines(&mut self) {
        let now = self.clock.now();
        if let Some(late) = self.state.timers.postpone_overslept(now) {
            tracing::debug!("a deadline was noticed {late:?} late: what was said meanwhile is heard first");
            return;
        }
        while let Some(timer) = self.state.timers.take_passed(now) {
            match timer {
                Timer::Link(id) => self.hear_of_link(id, Event::DeadlinePassed),
                Timer::Health(slot) => self.hear_health(slot, HealthEvent::DeadlinePassed),
                Timer::Request(slot, _) => drop(self.state.touched.insert(slot)),
            }
        }
    }

    /// Asks about the ports that are waited for: not every change of a holder is told.
    fn ask_again(&self, reply: oneshot::Sender<()>) {
        let waiting = |slot: &Slot| {
            let tunnel = self.state.view(*slot)?;
            let request = tunnel.link.link.awaiting_port(*slot)?;
            tunnel.entry.resources.waiting(request, tunnel.holders())
        };
        let waiting: Vec<_> = self.state.entries.keys().filter_map(waiting).collect();
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
            let link = self.state.links.iter().find(|(_, link)| link.connections.contains(pid));
            let slots = || link.iter().flat_map(|(_, link)| link.link.slots());
            let listens = |slot: &Slot| {
                let entry = self.state.entries.get(slot);
                entry.is_some_and(|entry| entry.listeners.contains(&occupant.address))
            };
            let slot = slots().find(listens).or_else(|| slots().next());
            let entry = slot.and_then(|slot| self.state.entries.get(&slot));
            holder.tunnel = entry.map(|entry| entry.desired.name.clone());
        }
    }

    /// Looks at the kernel's listeners: what is up must be there.
    fn refresh(&mut self) {
        let up = |slot: &Slot| {
            let tunnel = self.state.view(*slot)?;
            let (connection, request) = tunnel.listening()?;
            let listeners = tunnel.entry.resources.listeners(connection).to_vec();
            Some((*slot, connection, request, listeners))
        };
        let expected: Vec<_> = self.state.entries.keys().filter_map(up).collect();
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
                    let (link, event) = (entry.link, ConnectionEvent::ListenerLost);
                    self.hear_of_link(link, Event::Connection(connection, event));
                }
            }
        }
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        let Some(state) = self.state.view(slot).map(|tunnel| tunnel.state().0) else { return };
        let Some(entry) = self.state.entries.get_mut(&slot) else { return };
        entry.removed = true;
        let hash = entry.desired.hash.clone();
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
        if self
            .state
            .view(slot)
            .is_some_and(|tunnel| tunnel.entry.removed && tunnel.rests() && tunnel.entry.hook.is_over())
        {
            self.forget(slot);
        }
    }

    fn forget(&mut self, slot: Slot) {
        let Some(entry) = self.state.entries.remove(&slot) else { return };
        self.leave(slot, entry.link);
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
        self.effects.note_end();
        systemd::stopping();
        tracing::info!(event = "stopping", "stopping all tunnels");
        for slot in self.state.entries.keys().copied().collect::<Vec<_>>() {
            self.remove(slot);
        }
    }
}

impl State {
    /// A tunnel together with its link.
    pub(super) fn view(&self, slot: Slot) -> Option<View<'_>> {
        let entry = self.entries.get(&slot)?;
        Some(View { entry, link: self.links.get(entry.link)? })
    }

    pub(super) fn is_asleep(&self, slot: Slot) -> bool {
        self.view(slot).is_some_and(|tunnel| tunnel.is_asleep())
    }

    /// The tunnels of a link.
    pub(super) fn slots_of(&self, id: LinkId) -> Vec<Slot> {
        self.links.get(id).map(|entry| entry.link.slots().collect()).unwrap_or_default()
    }

    /// Those of a link whose state is not what the log has told, and how they are.
    fn changed_of(&self, id: LinkId) -> Vec<(Slot, Told)> {
        let Some(LinkEntry { link, .. }) = self.links.get(id) else { return Vec::new() };
        let has_changed = |tunnel: &TunnelState<'_>| {
            self.entries.get(&tunnel.slot).is_some_and(|entry| !entry.told.is_of(tunnel))
        };
        link.tunnels().filter(has_changed).map(|tunnel| (tunnel.slot, Told::of(&tunnel))).collect()
    }

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
