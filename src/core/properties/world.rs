//! A small world that carries out a link's actions, answers in any order and breaks whatever can break.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;

use super::relay::{Order, Relay};
use super::*;
use crate::clock::Moment;
use crate::core::demand::Demand;
use crate::core::link::{Login, Tunnel, Wanted};
use crate::port::{Holder, Occupant, OccupantKind, Protocol};

pub(in crate::core) fn policy(kind: Kind, on_conflict: OnConflict) -> Policy {
    Policy {
        kind,
        min_delay: Duration::from_millis(250),
        max_delay: Duration::from_secs(60),
        reset_after: Duration::from_secs(60),
        ready_timeout: Duration::from_secs(25),
        stop_grace: Duration::from_secs(5),
        on_conflict,
        standby: false,
        drain: Duration::ZERO,
        on_demand: None,
        destinations: 1,
    }
}

pub(super) fn stranger() -> Vec<Occupant> {
    vec![occupant(Some(4711))]
}

/// A listener of the process `pid`.
pub(in crate::core) fn occupant(pid: Option<u32>) -> Occupant {
    Occupant {
        port: 13306,
        protocol: Protocol::Tcp,
        kind: OccupantKind::Listener,
        address: SocketAddr::from(([127, 0, 0, 1], 13306)),
        path: None,
        dual_stack: false,
        peer: None,
        time_wait_ms: None,
        until: None,
        holder: Some(Holder { pid, command: pid.map(|_| "python3 x.py".to_owned()), ..Holder::default() }),
    }
}

/// One process that the link started.
#[derive(Debug, Default, Clone)]
pub(super) struct Process {
    /// The tunnels that it listens for.
    pub(super) listening: BTreeSet<Slot>,
    /// It answers requests.
    pub(super) is_ready: bool,
    /// Stopped by SIGSTOP: answers nothing, and dies of SIGKILL only.
    pub(super) is_hung: bool,
    /// Its leader has ended, and others of its tree have not.
    pub(super) is_headless: bool,
    /// Orders whose result is not known yet, oldest first.
    orders: VecDeque<Action>,
}

impl Process {
    /// Whether it is on its way.
    pub(super) fn is_starting(&self) -> bool {
        self.orders.iter().any(|order| matches!(order, Action::StartConnection(..)))
    }

    /// As the next link finds it: what it was asked for is forgotten, and it goes on with its start.
    pub(super) fn inherited(mut self) -> Self {
        self.orders.retain(|order| matches!(order, Action::StartConnection(..)));
        self
    }
}

/// What the link's actions act on.
#[derive(Debug)]
pub(super) struct World {
    pub(super) link: Link,
    pub(super) kind: Kind,
    pub(super) policy: Policy,
    pub(super) slots: Vec<Slot>,
    pub(super) now: Moment,
    pub(super) processes: BTreeMap<ConnectionId, Process>,
    /// Those who wait for a port, and for which.
    waits: BTreeMap<Request, Slot>,
    /// Ports that were confirmed unbound, and have not been used since.
    confirmed: BTreeSet<Slot>,
    /// Orders to end strangers.
    evictions: VecDeque<Action>,
    /// Ports that a stranger holds.
    pub(super) squatted: BTreeSet<Slot>,
    /// The strangers may not be ended.
    is_spared: bool,
    /// Connections that refuse every forward: what a server allows is decided at login.
    pub(super) refusing: BTreeSet<ConnectionId>,
    /// Connections of which the network loses what they send: a probe is not answered.
    pub(super) cut_off: BTreeSet<ConnectionId>,
    /// The held listeners, for tunnels that may have `on_demand`.
    relays: BTreeMap<Slot, Relay>,
    pub(super) starts: usize,
    pub(super) actions: Vec<Action>,
}

/// What may happen next.
#[derive(Debug, Clone, Copy)]
pub(super) enum Happening {
    Start(Index),
    Stop(Index),
    Restart(Index),
    /// One order is carried out.
    CarryOut(Index),
    Evict,
    /// The kernel answers one of those who wait for a port.
    AnswerPort(Index),
    PassDeadline,
    Squat(Index, bool),
    Spare(bool),
    ChangePolicy(Index, OnConflict),
    Die(Index),
    Hang(Index),
    GoOn(Index),
    /// The leader ends, the rest of its tree does not.
    LoseLeader(Index),
    /// A request for a listener is refused.
    Refuse(Index, FailureKind),
    LoseListener(Index),
    /// The network of this machine changes.
    ChangeNetwork,
    /// The network loses what a process sends, and nobody is told.
    CutOff(Index),
    /// The address from which a process is connected goes away.
    RemoveAddress(Index),
    PortUnusable(FailureKind),
    Stale,
    ClientComes(Index),
    ClientLeaves(Index),
    /// The relay carries out an order.
    RelayObeys(Index),
    /// The link hears of what the relay told.
    RelayTells(Index),
    /// `on_demand` is edited.
    ChangeDemand(Index, Option<Duration>),
}

fn kinds() -> impl Strategy<Value = FailureKind> {
    prop::sample::select(vec![
        FailureKind::Auth,
        FailureKind::Network,
        FailureKind::RemotePortHeld,
        FailureKind::LocalPortHeld,
        FailureKind::Config,
        FailureKind::Killed,
    ])
}

pub(super) fn conflicts() -> impl Strategy<Value = OnConflict> {
    prop::sample::select(vec![OnConflict::Wait, OnConflict::Kill])
}

pub(super) fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    prop::collection::vec(happening(), 0..120)
}

pub(super) fn happening() -> impl Strategy<Value = Happening> {
    let index = any::<Index>;
    prop_oneof![
        3 => index().prop_map(Happening::Start),
        1 => index().prop_map(Happening::Stop),
        3 => index().prop_map(Happening::Restart),
        12 => index().prop_map(Happening::CarryOut),
        1 => Just(Happening::Evict),
        8 => index().prop_map(Happening::AnswerPort),
        2 => Just(Happening::PassDeadline),
        1 => (index(), any::<bool>()).prop_map(|(index, squat)| Happening::Squat(index, squat)),
        1 => any::<bool>().prop_map(Happening::Spare),
        1 => (index(), conflicts()).prop_map(|(index, conflict)| Happening::ChangePolicy(index, conflict)),
        1 => index().prop_map(Happening::Die),
        2 => index().prop_map(Happening::Hang),
        1 => index().prop_map(Happening::GoOn),
        1 => index().prop_map(Happening::LoseLeader),
        2 => (index(), kinds()).prop_map(|(index, kind)| Happening::Refuse(index, kind)),
        2 => index().prop_map(Happening::LoseListener),
        2 => Just(Happening::ChangeNetwork),
        1 => index().prop_map(Happening::CutOff),
        1 => index().prop_map(Happening::RemoveAddress),
        1 => kinds().prop_map(Happening::PortUnusable),
        1 => Just(Happening::Stale),
    ]
}

fn pick<T: Copy>(index: Index, from: &[T]) -> Option<T> {
    (!from.is_empty()).then(|| *index.get(from))
}

impl World {
    /// A link that serves so many tunnels.
    pub(super) fn new(policy: Policy, tunnels: u64) -> Self {
        Self::with(policy, tunnels, false)
    }

    /// As [`Self::new`], for tunnels for which a person logs in if they are `interactive`.
    pub(super) fn with(policy: Policy, tunnels: u64, interactive: bool) -> Self {
        let slots: Vec<_> = (1..=tunnels).map(Slot).collect();
        let mut link = Link::new(slots[0], policy, interactive, Moment::default());
        for slot in &slots[1..] {
            link.add(*slot, policy, Moment::default());
        }
        Self {
            link,
            kind: policy.kind,
            policy,
            slots,
            now: Moment::default(),
            processes: BTreeMap::new(),
            waits: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            evictions: VecDeque::new(),
            squatted: BTreeSet::new(),
            is_spared: false,
            refusing: BTreeSet::new(),
            cut_off: BTreeSet::new(),
            relays: BTreeMap::new(),
            starts: 0,
            actions: Vec::new(),
        }
    }

    /// A link whose tunnels are all up.
    pub(super) fn up(policy: Policy, tunnels: u64) -> Self {
        let mut world = Self::new(policy, tunnels);
        world.start_all();
        world.settle(Self::all_up);
        world
    }

    pub(super) fn start_all(&mut self) {
        for slot in self.slots.clone() {
            self.hear(Event::StartRequested(slot));
        }
    }

    pub(super) fn stop_all(&mut self) {
        for slot in self.slots.clone() {
            self.hear(Event::StopRequested(slot));
        }
    }

    pub(super) fn name(&self, slot: Slot) -> StateName {
        self.link.state(slot).0
    }

    pub(super) fn all(&self, name: StateName) -> bool {
        self.slots.iter().all(|slot| self.name(*slot) == name)
    }

    pub(super) fn all_up(&self) -> bool {
        let owners: BTreeSet<_> = self.slots.iter().filter_map(|slot| self.owner(*slot)).collect();
        let spares = usize::from(self.policy.standby);
        self.all(StateName::Up) && self.processes.len() == owners.len() + spares && self.has_spare()
    }

    /// The spare is ready, where one is asked for.
    pub(super) fn has_spare(&self) -> bool {
        self.link.standby().is_none_or(|standby| standby == Standby::Ready)
    }

    /// What its clients are connected to.
    pub(super) fn serving(&self, slot: Slot) -> Option<(ConnectionId, Request)> {
        self.link.tunnels().find(|tunnel| tunnel.slot == slot)?.serving
    }

    /// The connection that listens for a tunnel.
    pub(super) fn owner(&self, slot: Slot) -> Option<ConnectionId> {
        let mut owners = self.processes.iter().filter(|(_, process)| process.listening.contains(&slot));
        let owner = owners.next().map(|(id, _)| *id);
        assert_eq!(owners.next().map(|(id, _)| *id), None, "a second owner of {slot:?}: {self:#?}");
        owner
    }

    /// Lets the link hear of `event`, carries out what needs no answer, and checks what must hold at every step.
    pub(super) fn hear(&mut self, event: Event) {
        if let Event::Forward(request, ForwardEvent::PortUnbound) = &event
            && let Some(slot) = self.waits.remove(request)
        {
            self.confirmed.insert(slot);
        }
        let news = event.clone();
        self.actions = self.link.hear(event, self.now);
        self.direct_clients();
        for action in self.actions.clone() {
            self.note(action);
        }
        let waits: Vec<_> = self.slots.iter().filter_map(|slot| self.link.awaiting_port(*slot)).collect();
        assert!(waits.len() == self.waits.len(), "{self:#?}");
        assert!(waits.iter().all(|request| self.waits.contains_key(request)), "{self:#?}");
        if self.all(StateName::Stopped) || self.all(StateName::NeedsAuth) {
            assert!(self.processes.is_empty(), "stopped with processes: {self:#?}");
            assert_eq!(self.link.deadline(), None, "stopped with a deadline: {self:#?}");
        }
        self.check_demand(&news);
    }

    fn note(&mut self, action: Action) {
        match action {
            Action::ConfirmPort(slot, request, _) => {
                self.confirmed.remove(&slot);
                self.waits.insert(request, slot);
            }
            Action::AbandonPort(_, request) => {
                assert!(self.waits.remove(&request).is_some(), "nobody waits: {request:?}");
            }
            Action::TerminateHolders(..) | Action::KillHolders(..) => self.evictions.push_back(action),
            Action::StartConnection(id, _) => {
                self.starts += 1;
                if self.kind == Kind::Command {
                    assert!(self.confirmed.remove(&self.slots[0]), "started on a port not confirmed unbound");
                    assert!(self.processes.is_empty(), "a command is started beside {:?}", self.processes);
                }
                let orders = VecDeque::from([action]);
                self.processes.insert(id, Process { orders, ..Process::default() });
            }
            Action::OpenForward(slot, _, id) => {
                assert!(self.confirmed.remove(&slot), "requested on a port not confirmed unbound");
                assert_eq!(self.owner(slot), None, "a second owner is asked for: {self:#?}");
                let process = self.processes.get(&id).unwrap();
                assert!(process.is_ready, "asked before it is ready: {self:#?}");
                self.order(id, action);
            }
            Action::AskForClients(slot, request) => {
                self.relays.entry(slot).or_default().orders.push_back(Order::Ask(request));
            }
            Action::Probe(id) => {
                assert_eq!(self.kind, Kind::Ssh, "a command is probed");
                assert!(self.processes.get(&id).unwrap().is_ready, "probed before it is ready: {self:#?}");
                self.order(id, action);
            }
            Action::CloseForward(_, _, id)
            | Action::ExplainDelay(id)
            | Action::AwaitClients(id)
            | Action::Terminate(id)
            | Action::Kill(id)
            | Action::FindSurvivors(id) => self.order(id, action),
            Action::ReportReplacementFailed(..) => {
                assert!(!self.processes.is_empty(), "nothing stays: {self:#?}");
            }
            Action::ReportTakeover(_) | Action::ReportStandbyFailed(_) => assert!(self.policy.standby),
        }
    }

    fn order(&mut self, id: ConnectionId, action: Action) {
        if let Some(process) = self.processes.get_mut(&id) {
            process.orders.push_back(action);
        }
    }

    fn is_held(&self, slot: Slot) -> bool {
        self.squatted.contains(&slot) || self.owner(slot).is_some()
    }

    /// Carries out the oldest order of a connection.
    pub(super) fn carry_out(&mut self, id: ConnectionId) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        let Some(order) = process.orders.pop_front() else { return };
        let answers = !process.is_hung && !process.is_headless;
        let tell = |event| Event::Connection(id, event);
        match order {
            Action::Kill(_) => self.die(id),
            Action::Terminate(_) if !process.is_hung => self.die(id),
            // The process need not answer for these.
            Action::ExplainDelay(_) => self.hear(tell(ConnectionEvent::NotReady(None))),
            Action::AwaitClients(_) => {
                assert!(process.listening.is_empty(), "drained while it listens");
                self.hear(tell(ConnectionEvent::Drained));
            }
            Action::FindSurvivors(_) => {
                let failure = Failure::new(FailureKind::Killed, "it does not die");
                self.hear(tell(ConnectionEvent::Survived(failure)));
            }
            Action::StartConnection(..) if answers => {
                process.is_ready = true;
                if self.kind == Kind::Command {
                    process.listening.insert(self.slots[0]);
                }
                self.hear(tell(ConnectionEvent::Ready));
            }
            Action::Probe(_) if answers && !self.cut_off.contains(&id) => {
                self.hear(tell(ConnectionEvent::Answered));
            }
            Action::OpenForward(slot, request, _) if answers => {
                let event = if self.refusing.contains(&id) {
                    ForwardEvent::Refused(Failure::new(FailureKind::RemotePortHeld, "not allowed"))
                } else if self.is_held(slot) {
                    ForwardEvent::Refused(Failure::new(FailureKind::LocalPortHeld, "taken"))
                } else {
                    self.processes.entry(id).or_default().listening.insert(slot);
                    ForwardEvent::Opened
                };
                self.hear(Event::Forward(request, event));
            }
            Action::CloseForward(slot, request, _) if answers => {
                process.listening.remove(&slot);
                self.hear(Event::Forward(request, ForwardEvent::Closed));
            }
            _ => {}
        }
    }

    fn evict(&mut self) {
        match self.evictions.pop_front() {
            Some(Action::TerminateHolders(_, request)) if self.is_spared => {
                let failure = Failure::new(FailureKind::LocalPortHeld, "may not be ended");
                self.hear(Event::Forward(request, ForwardEvent::HoldersSpared(stranger(), failure)));
            }
            Some(Action::KillHolders(slot, _)) if !self.is_spared => drop(self.squatted.remove(&slot)),
            _ => {}
        }
    }

    pub(super) fn die(&mut self, id: ConnectionId) {
        self.processes.remove(&id);
        for (slot, relay) in &mut self.relays {
            relay.lose(*slot, id);
        }
        self.hear(Event::Connection(id, ConnectionEvent::Ended(Failure::new(FailureKind::Killed, "killed"))));
    }

    fn answer_port(&mut self, request: Request) {
        let slot = self.waits[&request];
        let event =
            if self.is_held(slot) { ForwardEvent::PortHeld(stranger()) } else { ForwardEvent::PortUnbound };
        self.hear(Event::Forward(request, event));
    }

    fn pass_deadline(&mut self) {
        if let Some(deadline) = self.link.deadline() {
            self.now = self.now.max(deadline);
            self.hear(Event::DeadlinePassed);
        }
    }

    pub(super) fn happen(&mut self, happening: Happening) {
        let running: Vec<_> = self.processes.keys().copied().collect();
        match happening {
            Happening::Start(index) => self.hear(Event::StartRequested(*index.get(&self.slots))),
            Happening::Stop(index) => self.hear(Event::StopRequested(*index.get(&self.slots))),
            Happening::Restart(index) => self.hear(Event::RestartRequested(*index.get(&self.slots))),
            Happening::CarryOut(index) => {
                if let Some(id) = pick(index, &running) {
                    self.carry_out(id);
                }
            }
            Happening::Evict => self.evict(),
            Happening::AnswerPort(index) => {
                if let Some(request) = pick(index, &self.waits.keys().copied().collect::<Vec<_>>()) {
                    self.answer_port(request);
                }
            }
            Happening::PassDeadline => self.pass_deadline(),
            Happening::Squat(index, squat) => {
                let slot = *index.get(&self.slots);
                self.squatted.remove(&slot);
                if squat && !self.is_held(slot) {
                    self.squatted.insert(slot);
                }
            }
            Happening::Spare(spare) => self.is_spared = spare,
            Happening::ChangePolicy(index, on_conflict) => {
                let event =
                    Event::PolicyChanged(*index.get(&self.slots), Policy { on_conflict, ..self.policy });
                self.hear(event);
            }
            Happening::Die(index) => {
                if let Some(id) = pick(index, &running) {
                    self.die(id);
                }
            }
            Happening::Hang(index) => self.suspend(index, true),
            Happening::GoOn(index) => self.suspend(index, false),
            Happening::LoseLeader(index) => {
                if let Some(id) = pick(index, &running)
                    && let Some(process) = self.processes.get_mut(&id)
                    && !process.is_headless
                {
                    process.is_headless = true;
                    let failure = Failure::new(FailureKind::Exited, "the leader ended");
                    self.hear(Event::Connection(id, ConnectionEvent::LeaderEnded(failure)));
                }
            }
            Happening::Refuse(index, kind) => {
                if let Some(id) = pick(index, &running)
                    && let Some(process) = self.processes.get_mut(&id)
                    && let Some(Action::OpenForward(_, request, _)) = process.orders.front().cloned()
                {
                    process.orders.pop_front();
                    let failure = Failure::new(kind, "refused");
                    self.hear(Event::Forward(request, ForwardEvent::Refused(failure)));
                }
            }
            Happening::LoseListener(index) => {
                let listening: Vec<_> =
                    self.slots.iter().filter_map(|slot| Some((*slot, self.owner(*slot)?))).collect();
                if let Some((slot, id)) = pick(index, &listening) {
                    self.lose_listener(slot, id);
                }
            }
            Happening::ChangeNetwork => self.hear(Event::NetworkChanged),
            Happening::CutOff(index) => {
                self.cut_off.extend(pick(index, &running));
            }
            Happening::RemoveAddress(index) => {
                if let Some(id) = pick(index, &running) {
                    self.hear(Event::Connection(id, address_removed()));
                }
            }
            Happening::PortUnusable(kind) => {
                if let Some((request, _)) = self.waits.pop_first() {
                    let failure = Failure::new(kind, "no such address");
                    self.hear(Event::Forward(request, ForwardEvent::PortUnusable(failure)));
                }
            }
            Happening::Stale => self.check_stale(),
            Happening::ClientComes(index) => self.client_comes(*index.get(&self.slots)),
            Happening::ClientLeaves(index) => {
                let slot = *index.get(&self.slots);
                self.relays.entry(slot).or_default().leave(slot);
            }
            Happening::RelayObeys(index) => {
                let slot = *index.get(&self.slots);
                self.relays.entry(slot).or_default().obey(slot);
            }
            Happening::RelayTells(index) => {
                let slot = *index.get(&self.slots);
                if let Some(event) = self.relays.entry(slot).or_default().told.pop_front() {
                    self.hear(event);
                }
            }
            Happening::ChangeDemand(index, on_demand) => {
                let event =
                    Event::PolicyChanged(*index.get(&self.slots), Policy { on_demand, ..self.policy });
                self.hear(event);
            }
        }
    }

    /// A client comes to a held listener; that of a tunnel which is not wanted is closed.
    pub(super) fn client_comes(&mut self, slot: Slot) {
        if self.link.is_wanted(slot) {
            self.relays.entry(slot).or_default().come(slot);
        }
    }

    /// The relay carries out all that it was ordered.
    pub(super) fn relay_obeys(&mut self, slot: Slot) {
        let relay = self.relays.entry(slot).or_default();
        while !relay.orders.is_empty() {
            relay.obey(slot);
        }
    }

    pub(super) fn all_clients_leave(&mut self) {
        for (slot, relay) in &mut self.relays {
            while relay.clients() > 0 {
                relay.leave(*slot);
            }
        }
    }

    pub(super) fn clients(&self, slot: Slot) -> usize {
        self.relays.get(&slot).map_or(0, Relay::clients)
    }

    pub(super) fn relay_is_quiet(&self) -> bool {
        self.relays.values().all(Relay::is_quiet)
    }

    /// Whether the tunnel has `on_demand`.
    pub(super) fn sleeps(&self, slot: Slot) -> bool {
        let tunnel = self.link.tunnels.iter().find(|tunnel| tunnel.forward.slot == slot).unwrap();
        tunnel.forward.policy.on_demand.is_some()
    }

    /// Lets the link hear of all that the relays have told.
    pub(super) fn deliver(&mut self) {
        while let Some(event) = self.relays.values_mut().find_map(|relay| relay.told.pop_front()) {
            self.hear(event);
        }
    }

    /// As the event loop does after each event. The listener of a tunnel that is not wanted any more is closed.
    fn direct_clients(&mut self) {
        for slot in self.slots.clone() {
            if !self.link.is_wanted(slot) {
                self.relays.remove(&slot);
                continue;
            }
            let (serving, tells) = (self.serving(slot).map(|(on, _)| on), self.sleeps(slot));
            let relay = self.relays.entry(slot).or_default();
            if relay.ordered_to_tell != tells {
                relay.ordered_to_tell = tells;
                relay.orders.push_back(Order::Tell(tells));
            }
            if relay.ordered != serving {
                relay.ordered = serving;
                relay.orders.push_back(Order::Serve(serving));
            }
        }
    }

    fn check_demand(&self, news: &Event) {
        for tunnel in self.link.tunnels.iter().filter(|tunnel| tunnel.wanted == Wanted::Up) {
            let Some(relay) = self.relays.get(&tunnel.forward.slot) else { continue };
            let fell_asleep = matches!(news, Event::NoClients(slot, _) if *slot == tunnel.forward.slot)
                && tunnel.demand.is_asleep();
            assert!(!fell_asleep || relay.connected() == 0, "a client's connection is ended: {self:#?}");
            let is_known = relay.is_quiet() && self.sleeps(tunnel.forward.slot) && relay.clients() > 0;
            assert!(!is_known || tunnel.demand == Demand::Clients, "nobody cares for a client: {self:#?}");
            let may_fail =
                self.link.login == Login::Failed || matches!(tunnel.forward.state, forward::State::Failed);
            assert!(!is_known || may_fail || self.link.needs_connection(), "no connection: {self:#?}");
        }
        let needs = |tunnel: &Tunnel| tunnel.wanted == Wanted::Up && !tunnel.demand.is_asleep();
        if !self.link.tunnels.iter().any(needs) {
            let lives = self.link.active.is_some() || self.link.next.is_some();
            assert!(!lives, "a connection for those who sleep: {self:#?}");
        }
    }

    /// A listener is gone, and the process that had it lives.
    pub(super) fn lose_listener(&mut self, slot: Slot, id: ConnectionId) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        process.listening.remove(&slot);
        match (self.kind, self.link.listening(slot)) {
            (Kind::Ssh, Some((on, request))) if on == id => {
                self.hear(Event::Forward(request, ForwardEvent::ListenerLost));
            }
            (Kind::Ssh, _) => {}
            (Kind::Command, _) => {
                // It may open it again.
                process.orders.push_back(Action::StartConnection(id, 0));
                self.hear(Event::Connection(id, ConnectionEvent::ListenerLost));
            }
        }
    }

    /// Stops a process or lets it go on; the kernel reports both.
    pub(super) fn suspend(&mut self, index: Index, is_hung: bool) {
        let running: Vec<_> = self.processes.keys().copied().collect();
        if let Some(id) = pick(index, &running) {
            self.suspend_one(id, is_hung);
        }
    }

    pub(super) fn suspend_one(&mut self, id: ConnectionId, is_hung: bool) {
        self.processes.entry(id).or_default().is_hung = is_hung;
        let event = if is_hung { ConnectionEvent::Stopped(7) } else { ConnectionEvent::Continued };
        self.hear(Event::Connection(id, event));
    }

    /// Events of connections and requests that do not exist change nothing.
    fn check_stale(&self) {
        let mut link = self.link.clone();
        let (mut stale, mut request) = (link.awaited(), Request::default());
        for event in forward_events() {
            assert_eq!(link.hear(Event::Forward(request, event), self.now), []);
        }
        for _ in 0..1000 {
            request.take_next();
            stale = stale.next();
        }
        for event in forward_events() {
            assert_eq!(link.hear(Event::Forward(request, event), self.now), []);
        }
        for event in connection_events() {
            assert_eq!(link.hear(Event::Connection(stale, event), self.now), []);
        }
        assert_eq!(link, self.link);
    }

    /// Runs on without further faults, though what is stopped by a signal stays stopped, until `done`; passes deadlines only when
    /// nothing else can happen.
    pub(super) fn settle(&mut self, done: impl Fn(&Self) -> bool) {
        self.squatted.clear();
        self.is_spared = false;
        for _ in 0..1000 {
            if done(self) {
                return;
            }
            let told = self.relays.values_mut().find_map(|relay| relay.told.pop_front());
            if let Some(event) = told {
                self.hear(event);
                continue;
            }
            if let Some((slot, relay)) = self.relays.iter_mut().find(|(_, relay)| !relay.orders.is_empty()) {
                relay.obey(*slot);
                continue;
            }
            let ordered = self.processes.iter().find(|(_, process)| !process.orders.is_empty());
            let ordered = ordered.map(|(id, _)| *id);
            let free = self.waits.iter().find(|(_, slot)| !self.is_held(**slot)).map(|(request, _)| *request);
            match (ordered, free) {
                (Some(id), _) => self.carry_out(id),
                (None, Some(request)) => self.answer_port(request),
                (None, None) => self.pass_deadline(),
            }
        }
        panic!("does not settle: {self:#?}");
    }
}

fn forward_events() -> Vec<ForwardEvent> {
    let failure = || Failure::new(FailureKind::Network, "gone");
    vec![
        ForwardEvent::PortUnbound,
        ForwardEvent::PortHeld(stranger()),
        ForwardEvent::HoldersSpared(stranger(), failure()),
        ForwardEvent::PortUnusable(failure()),
        ForwardEvent::Opened,
        ForwardEvent::Refused(failure()),
        ForwardEvent::Closed,
        ForwardEvent::ListenerLost,
    ]
}

/// The address from which a process was connected is gone.
pub(super) fn address_removed() -> ConnectionEvent {
    ConnectionEvent::AddressRemoved([192, 0, 2, 1].into())
}

fn connection_events() -> Vec<ConnectionEvent> {
    let failure = || Failure::new(FailureKind::Network, "gone");
    vec![
        ConnectionEvent::Ready,
        ConnectionEvent::NotReady(None),
        ConnectionEvent::LeaderEnded(failure()),
        ConnectionEvent::Ended(failure()),
        ConnectionEvent::Survived(failure()),
        ConnectionEvent::Stopped(7),
        ConnectionEvent::Continued,
        ConnectionEvent::ListenerLost,
        ConnectionEvent::Drained,
        ConnectionEvent::Answered,
        ConnectionEvent::Unreachable,
        ConnectionEvent::Reachable,
        address_removed(),
    ]
}
