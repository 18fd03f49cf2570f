//! A new configuration: read, compared with what runs, and put in force as a difference.

use std::collections::BTreeMap;

use super::checks::Checks;
use super::connections::Connections;
use super::counts::Counts;
use super::effects::TunnelResources;
use super::entry::{Entry, Phases, Told, View};
use super::event_loop::EventLoop;
use super::held::HeldListener;
use super::hook::Hook;
use super::links::{Common, LinkEntry};
use super::narrate;
use super::predecessor::Predecessor;
use super::reporter::{Identity, Reporter};
use super::timers::Timer;
use crate::clock::Moment;
use crate::config::{self, Accepted, Desired, desired};
use crate::core::{Candidate, Event, Health, Link, LinkId, Plan, Slot, StateName, reconcile};
use crate::observe::systemd;
use crate::protocol::{Change, ReloadReport};

impl EventLoop {
    pub(super) fn read_config(&mut self) -> Result<Accepted, String> {
        let text = self.config.read_now().map_err(|error| error.to_string())?;
        self.parse(&text)
    }

    pub(super) fn parse(&self, text: &str) -> Result<Accepted, String> {
        let accepted = config::accept(text, &self.config_path)
            .map_err(|diagnostics| diagnostics.without_secrets().render(false))?;
        if accepted.says_nothing && !self.state.order.is_empty() {
            return Err(config::Emptied(self.config_path.clone()).to_string());
        }
        Ok(accepted)
    }

    /// Puts a configuration in force as far as it is valid, or keeps what is, and shows why.
    pub(super) fn reload(&mut self, wanted: Result<Accepted, String>) -> Result<ReloadReport, String> {
        let result = match wanted {
            Ok(accepted) => {
                if accepted.desired.api != self.state.api {
                    tracing::warn!(
                        "the `api` section changed; it takes effect when portward is started again"
                    );
                }
                self.state.config_version.clone_from(&accepted.desired.version);
                Ok(self.apply(accepted))
            }
            Err(error) => {
                tracing::error!(
                    event = "reload",
                    "the configuration is not valid; the tunnels keep running as before:\n{error}"
                );
                Err(error)
            }
        };
        let error = match &result {
            Ok(report) => report.error.as_ref(),
            Err(error) => Some(error),
        };
        self.metrics.note_reload(result.as_ref().ok().map(|report| report.error.is_none()));
        self.show_config_error(error.cloned());
        result
    }

    fn show_config_error(&mut self, error: Option<String>) {
        if error != self.state.config_error {
            self.state.config_error.clone_from(&error);
            // Nobody following is not an error.
            let _ = self.changes.send(Change::Config { error });
        }
    }

    pub(super) fn plan(&self, wanted: &[desired::Tunnel]) -> Plan {
        let entries = self.state.entries.iter().filter(|(_, entry)| !entry.removed);
        let running: Vec<_> = entries.map(|(slot, entry)| (*slot, candidate(&entry.desired))).collect();
        reconcile(&running, &wanted.iter().map(candidate).collect::<Vec<_>>())
    }

    /// What the plan does. A file with errors removes nothing: it may be half of a file.
    pub(super) fn report_of(&self, plan: &Plan, accepted: &Accepted) -> ReloadReport {
        let Desired { tunnels: wanted, broken, .. } = &accepted.desired;
        let removed = if accepted.problems.is_some() { &[][..] } else { &plan.removed };
        let named = |index: &usize| wanted[*index].name.clone();
        let gone = |slot: &Slot| self.state.entries.get(slot).map(|entry| entry.desired.name.clone());
        ReloadReport {
            added: plan.added.iter().map(named).collect(),
            removed: removed.iter().filter_map(gone).collect(),
            changed: plan.changed.iter().map(|(_, index)| named(index)).collect(),
            unchanged: plan.unchanged.iter().map(|(_, index)| named(index)).collect(),
            broken: broken.iter().map(|broken| broken.name.clone()).collect(),
            error: accepted.problems.clone().map(|problems| problems.without_secrets().render(false)),
        }
    }

    /// Begins with these tunnels, and with what an earlier run of portward has left.
    pub(super) fn begin(&mut self, accepted: Accepted, predecessor: Predecessor) {
        let report = self.report_of(&self.plan(&accepted.desired.tunnels), &accepted);
        narrate::reloaded(&report);
        let Desired { tunnels: wanted, broken, .. } = accepted.desired;
        self.state.next_slot = predecessor.last_link;
        let placed: Vec<_> = wanted.into_iter().map(|desired| self.place(desired)).collect();
        self.inherit(predecessor);
        // A tunnel for which nobody has logged in has no port.
        let is_to_run = |entry: &&Entry| {
            let is_wanted = || self.state.view(entry.slot()).is_some_and(|tunnel| tunnel.is_wanted());
            entry.may_run() && (!entry.desired.interactive || is_wanted())
        };
        let entries = self.state.entries.values().map(Box::as_ref).filter(is_to_run);
        let held = entries.filter(|entry| entry.desired.work.is_held());
        let wanted: Vec<_> = held.flat_map(|entry| entry.desired.work.endpoints()).copied().collect();
        self.effects.inherit_sockets(systemd::kept(), &wanted);
        for slot in &placed {
            self.start(*slot);
        }
        self.state.order = placed;
        self.show_broken(broken);
        self.show_config_error(report.error);
    }

    /// Applies the difference between what runs and what is wanted.
    fn apply(&mut self, accepted: Accepted) -> ReloadReport {
        let plan = self.plan(&accepted.desired.tunnels);
        let report = self.report_of(&plan, &accepted);
        narrate::reloaded(&report);
        let Desired { tunnels: wanted, broken, .. } = accepted.desired;
        let mut kept = plan.removed;
        if accepted.problems.is_none() {
            for slot in kept.drain(..) {
                self.remove(slot);
            }
        }
        let mut order = BTreeMap::new();
        let mut wanted: BTreeMap<_, _> = wanted.into_iter().enumerate().collect();
        for (slot, index) in &plan.unchanged {
            if let Some(desired) = wanted.remove(index) {
                self.keep(*slot, desired);
                order.insert(*index, *slot);
            }
        }
        for (slot, index) in &plan.changed {
            if let Some(desired) = wanted.remove(index) {
                order.insert(*index, self.change(*slot, desired));
            }
        }
        for (index, desired) in wanted {
            order.insert(index, self.add(desired));
        }
        self.state.order = order.into_values().chain(kept).collect();
        self.show_broken(broken);
        report
    }

    fn add(&mut self, desired: desired::Tunnel) -> Slot {
        let slot = self.place(desired);
        self.start(slot);
        slot
    }

    fn start(&mut self, slot: Slot) {
        if self.state.entries.get(&slot).is_some_and(|entry| entry.desired.enabled) {
            self.hear(slot, Event::StartRequested(slot));
        }
    }

    fn place(&mut self, desired: desired::Tunnel) -> Slot {
        self.state.next_slot += 1;
        let slot = Slot(self.state.next_slot);
        let reporter =
            Reporter::new(slot, Identity::of(&desired), self.report.clone(), self.effects.shares());
        let health = desired.health.as_ref().map(|health| Box::new(Health::new(health.policy, slot.0)));
        let (link, state) = self.join(&reporter, &desired);
        let entry = Entry {
            desired,
            link,
            resources: TunnelResources::new(reporter),
            phases: Phases::default(),
            starts: 0,
            removed: false,
            config_error: None,
            counts: Counts::default(),
            listeners: Vec::new(),
            server_listens: None,
            connection_errors: None,
            health,
            checks: Checks::default(),
            hook: Hook::default(),
            told: Told::new(state),
            published: None,
        };
        self.state.slots.insert(entry.desired.hash.clone(), slot);
        self.state.entries.insert(slot, Box::new(entry));
        // Those that share a connection with it show that.
        self.state.touched.extend(self.state.slots_of(link));
        slot
    }

    /// Adds a tunnel to the link of those that it shares its connection with, or to a new one.
    fn join(
        &mut self,
        reporter: &Reporter<Slot>,
        desired: &desired::Tunnel,
    ) -> (LinkId, (StateName, Moment)) {
        let (slot, now) = (reporter.slot(), self.clock.now());
        let common = Common::of(desired);
        let shared = common.as_ref().and_then(|common| self.state.links.shared(common));
        if let Some(id) = shared
            && let Some(LinkEntry { link, .. }) = self.state.links.get_mut(id)
        {
            link.add(slot, desired.policy, now);
            return (id, link.state(slot));
        }
        let id = LinkId(slot);
        let link = Link::new(slot, desired.policy, desired.interactive, now);
        let state = link.state(slot);
        let connections = Connections::new(reporter.of_link(id));
        self.state.links.add(id, LinkEntry { link, connections }, common);
        (id, state)
    }

    /// A tunnel is forgotten: its link serves the others, or nobody any more.
    pub(super) fn leave(&mut self, slot: Slot, id: LinkId) {
        self.hear_of_link(id, Event::Removed(slot));
        match self.state.slots_of(id)[..] {
            [] => {
                self.state.timers.disarm(Timer::Link(id));
                self.state.links.remove(id);
                self.state.logins.forget(id);
            }
            [first, ..] => {
                self.name_link(id, first);
                self.state.touched.extend(self.state.slots_of(id));
            }
        }
    }

    /// What the connections of a link say is logged in the name of its first tunnel.
    fn name_link(&self, id: LinkId, first: Slot) {
        if let (Some(LinkEntry { connections, .. }), Some(entry)) =
            (self.state.links.get(id), self.state.entries.get(&first))
        {
            connections.reporter().rename(entry.identity());
        }
    }

    /// What it runs is the same: only what it is called and how it is treated may change.
    fn keep(&mut self, slot: Slot, desired: desired::Tunnel) {
        let Some(entry) = self.state.entries.get_mut(&slot) else { return };
        if entry.desired.hash != desired.hash {
            self.logs.rehash(&entry.desired.hash, Some(&desired.hash));
            let _ = self.changes.send(Change::Removed { hash: entry.desired.hash.clone() });
        }
        entry.resources.reporter().rename(Identity::of(&desired));
        let (hash, policy) = (desired.hash.clone(), desired.policy);
        let is_checked_anew = entry.desired.health != desired.health;
        if let Some(held) = entry.resources.held() {
            held.treat(&desired);
        }
        let link = entry.link;
        let old = std::mem::replace(&mut entry.desired, desired);
        if let Some(first) = self.state.slots_of(link).first() {
            self.name_link(link, *first);
        }
        self.state.release(&old.hash, slot);
        self.state.slots.insert(hash, slot);
        if is_checked_anew {
            self.redefine_health(slot);
        }
        self.hear(slot, Event::PolicyChanged(slot, policy));
    }

    /// The old process ends with its old definition before the new one starts.
    fn change(&mut self, slot: Slot, desired: desired::Tunnel) -> Slot {
        let Some(View { entry, link }) = self.state.view(slot) else { return slot };
        let (common, id) = (Common::of(&desired), entry.link);
        let is_alone = link.link.slots().len() == 1;
        let joins = common.as_ref().and_then(|common| self.state.links.shared(common));
        let moves = joins != Some(id) && (joins.is_some() || !is_alone);
        if moves || entry.desired.interactive != desired.interactive {
            // A tunnel that needs a person has another life altogether, and so has one that uses the connections of others.
            self.remove(slot);
            return self.add(desired);
        }
        let enabled = desired.enabled;
        // Where portward goes on listening, clients wait meanwhile.
        let listens = |work: &desired::Work| work.is_held().then(|| work.endpoints().to_vec());
        let stays = enabled && listens(&entry.desired.work) == listens(&desired.work);
        if is_alone {
            self.state.links.redefine(id, common);
        }
        let entry = self.state.entries.get_mut(&slot);
        let held = entry.filter(|_| stays).and_then(|entry| entry.resources.take_held());
        let clients = held.as_ref().map(HeldListener::clients);
        let has_clients = clients.is_some_and(|clients| clients.now + clients.waiting > 0);
        self.hear(slot, Event::StopRequested(slot));
        self.keep(slot, desired);
        if let Some(entry) = self.state.entries.get_mut(&slot) {
            // They were those of another tunnel, in effect.
            entry.connection_errors = None;
            entry.resources.set_held(held);
        }
        if enabled {
            self.hear(slot, Event::StartRequested(slot));
        }
        if has_clients {
            // To the link the tunnel begins anew.
            self.hear(slot, Event::ClientsCame(slot));
        }
        slot
    }
}

/// A tunnel is left running as long as it is the same in this.
fn candidate(tunnel: &desired::Tunnel) -> Candidate<'_, (&desired::Work, bool, bool, Option<&[String]>)> {
    let shares = tunnel.share.then_some(&tunnel.fallback_hosts[..]);
    Candidate { name: &tunnel.name, work: (&tunnel.work, tunnel.enabled, tunnel.interactive, shares) }
}
