//! A small world that carries out a tunnel's actions, answers in any order and breaks whatever can break.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

pub(super) fn policy(kind: Kind, on_conflict: OnConflict) -> Policy {
    Policy {
        kind,
        min_delay: Duration::from_millis(250),
        max_delay: Duration::from_secs(60),
        reset_after: Duration::from_secs(60),
        ready_timeout: Duration::from_secs(25),
        stop_grace: Duration::from_secs(5),
        on_conflict,
    }
}

pub(super) fn stranger() -> Vec<Occupant> {
    vec![occupant(Some(4711))]
}

/// A listener of the process `pid`.
pub(super) fn occupant(pid: Option<u32>) -> Occupant {
    Occupant {
        port: 13306,
        protocol: Protocol::Tcp,
        kind: OccupantKind::Listener,
        address: SocketAddr::from(([127, 0, 0, 1], 13306)),
        dual_stack: false,
        peer: None,
        time_wait_ms: None,
        until: None,
        holder: Some(Holder { pid, ..Holder::default() }),
    }
}

/// One process that the tunnel started.
#[derive(Debug, Default, Clone)]
pub(super) struct Process {
    pub(super) listening: bool,
    /// Stopped by SIGSTOP: answers nothing, and dies of SIGKILL only.
    hung: bool,
    /// Its leader has ended, and others of its tree have not.
    headless: bool,
}

/// What the tunnel's actions act on.
#[derive(Debug)]
pub(super) struct World {
    pub(super) tunnel: Tunnel,
    pub(super) policy: Policy,
    pub(super) now: Moment,
    pub(super) processes: BTreeMap<Generation, Process>,
    /// Orders whose result is not known yet, oldest first for each generation.
    orders: BTreeMap<Generation, VecDeque<Action>>,
    waiting_for_port: BTreeSet<Generation>,
    confirmed: BTreeSet<Generation>,
    pub(super) deadlines: BTreeMap<Generation, Moment>,
    pub(super) squatted: bool,
    /// Whoever holds the port may not be ended.
    spared: bool,
    pub(super) starts: usize,
}

/// What may happen next.
#[derive(Debug, Clone, Copy)]
pub(super) enum Happening {
    Start,
    Stop,
    Restart,
    /// One order is carried out.
    CarryOut(Index),
    /// The kernel answers one of those who wait for the port.
    AnswerPort(Index),
    /// The next deadline passes.
    PassDeadline,
    Squat(bool),
    Spare(bool),
    ChangePolicy(OnConflict),
    Die(Index),
    Hang(Index),
    GoOn(Index),
    /// The leader ends, the rest of its tree does not.
    LoseLeader(Index),
    /// An order is answered with a failure.
    Refuse(Index, FailureKind),
    LoseListener(Index),
    PortUnusable(FailureKind),
    Stale(Index),
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
    let one = prop_oneof![
        2 => Just(Happening::Start),
        1 => Just(Happening::Stop),
        3 => Just(Happening::Restart),
        12 => any::<Index>().prop_map(Happening::CarryOut),
        8 => any::<Index>().prop_map(Happening::AnswerPort),
        2 => Just(Happening::PassDeadline),
        1 => any::<bool>().prop_map(Happening::Squat),
        1 => any::<bool>().prop_map(Happening::Spare),
        1 => conflicts().prop_map(Happening::ChangePolicy),
        1 => any::<Index>().prop_map(Happening::Die),
        2 => any::<Index>().prop_map(Happening::Hang),
        1 => any::<Index>().prop_map(Happening::GoOn),
        1 => any::<Index>().prop_map(Happening::LoseLeader),
        1 => (any::<Index>(), kinds()).prop_map(|(index, kind)| Happening::Refuse(index, kind)),
        1 => any::<Index>().prop_map(Happening::LoseListener),
        1 => kinds().prop_map(Happening::PortUnusable),
        1 => any::<Index>().prop_map(Happening::Stale),
    ];
    prop::collection::vec(one, 0..120)
}

impl World {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            tunnel: Tunnel::stopped(Moment::default(), 1),
            policy,
            now: Moment::default(),
            processes: BTreeMap::new(),
            orders: BTreeMap::new(),
            waiting_for_port: BTreeSet::new(),
            confirmed: BTreeSet::new(),
            deadlines: BTreeMap::new(),
            squatted: false,
            spared: false,
            starts: 0,
        }
    }

    /// Lets the tunnel hear of `event`, notes its actions, and checks what must hold at every step.
    pub(super) fn hear(&mut self, event: Event) {
        let heard = format!("{event:?}");
        if let Event::PortUnbound(generation) = event {
            self.confirmed.insert(generation);
        }
        let (tunnel, actions) = step(self.tunnel.clone(), event, self.now, &self.policy);
        for (index, action) in actions.iter().enumerate() {
            if let Action::Terminate(killed)
            | Action::Kill(killed)
            | Action::TerminateHolders(killed)
            | Action::KillHolders(killed) = action
            {
                let armed = |action: &Action| matches!(action, Action::Arm(armed, _) if armed == killed);
                assert!(actions[index..].iter().any(armed), "{action:?} without a deadline after {heard}");
            }
        }
        self.tunnel = tunnel;
        for action in actions {
            self.note(action);
        }
        if self.tunnel.name() == StateName::Stopped {
            assert!(self.processes.is_empty(), "stopped with processes {:?}", self.processes);
            assert!(self.deadlines.is_empty(), "stopped with deadlines {:?}", self.deadlines);
            assert!(self.tunnel.suspended.is_empty(), "stopped with processes that are stopped by a signal");
            assert!(self.waiting_for_port.is_empty(), "stopped and waiting for the port");
        }
    }

    fn note(&mut self, action: Action) {
        match action {
            Action::ConfirmPort(generation) => {
                self.confirmed.remove(&generation);
                self.waiting_for_port.insert(generation);
            }
            Action::AbandonPort(generation) => {
                self.waiting_for_port.remove(&generation);
            }
            Action::Arm(generation, at) => {
                self.deadlines.insert(generation, at);
            }
            Action::Disarm(generation) => {
                self.deadlines.remove(&generation);
            }
            Action::StartProcess(generation) => {
                self.starts += 1;
                if self.policy.kind == Kind::Command {
                    assert!(self.confirmed.remove(&generation), "started on a port not confirmed unbound");
                    assert!(self.processes.is_empty(), "a command is started beside {:?}", self.processes);
                }
                self.processes.insert(generation, Process::default());
                self.orders.entry(generation).or_default().push_back(Action::StartProcess(generation));
            }
            Action::RequestForward(generation) => {
                assert!(self.confirmed.remove(&generation), "requested on a port not confirmed unbound");
                let owners: Vec<_> = self.processes.iter().filter(|(_, process)| process.listening).collect();
                assert!(owners.is_empty(), "a second owner is asked for beside {owners:?}");
                self.orders.entry(generation).or_default().push_back(Action::RequestForward(generation));
            }
            Action::ExplainDelay(generation)
            | Action::CloseForward(generation)
            | Action::Terminate(generation)
            | Action::Kill(generation)
            | Action::FindSurvivors(generation) => {
                self.orders.entry(generation).or_default().push_back(action);
            }
            Action::TerminateHolders(generation) | Action::KillHolders(generation) => {
                assert_eq!(self.policy.on_conflict, OnConflict::Kill, "{action:?} against the policy");
                self.orders.entry(generation).or_default().push_back(action);
            }
            Action::ReportRestartFailed(_) => {
                assert!(self.tunnel.latest() > Generation::default());
            }
        }
    }

    fn somebody_listens(&self) -> bool {
        self.squatted || self.processes.values().any(|process| process.listening)
    }

    fn carry_out(&mut self, generation: Generation) {
        let Some(order) = self.orders.get_mut(&generation).and_then(VecDeque::pop_front) else { return };
        match order {
            Action::TerminateHolders(_) if self.spared => {
                let failure = Failure::new(FailureKind::LocalPortHeld, "may not be ended");
                return self.hear(Event::HoldersSpared(generation, stranger(), failure));
            }
            Action::TerminateHolders(_) => self.squatted = false,
            Action::KillHolders(_) if !self.spared => self.squatted = false,
            _ => {}
        }
        let held = self.somebody_listens();
        let Some(process) = self.processes.get_mut(&generation) else { return };
        match order {
            Action::Kill(_) => self.die(generation),
            // The process need not answer for this.
            Action::ExplainDelay(_) => self.hear(Event::NotReady(generation, None)),
            Action::FindSurvivors(_) => {
                let failure = Failure::new(FailureKind::Killed, "it does not die");
                self.hear(Event::ProcessSurvived(generation, failure));
            }
            // What a leader alone can answer, nobody answers any more.
            Action::StartProcess(_) | Action::RequestForward(_) | Action::CloseForward(_)
                if process.headless => {}
            Action::Terminate(_) if !process.hung => self.die(generation),
            Action::StartProcess(_) if !process.hung => {
                if self.policy.kind == Kind::Command {
                    process.listening = true;
                }
                self.hear(Event::ProcessReady(generation));
            }
            Action::RequestForward(_) if !process.hung => {
                if held {
                    let failure = Failure::new(FailureKind::LocalPortHeld, "taken");
                    self.hear(Event::ForwardRefused(generation, failure));
                } else {
                    self.processes.entry(generation).or_default().listening = true;
                    self.hear(Event::ForwardListening(generation));
                }
            }
            Action::CloseForward(_) if !process.hung => {
                process.listening = false;
                self.hear(Event::ForwardClosed(generation));
            }
            _ => {}
        }
    }

    fn die(&mut self, generation: Generation) {
        self.processes.remove(&generation);
        self.orders.remove(&generation);
        self.hear(Event::ProcessEnded(generation, Failure::new(FailureKind::Killed, "killed")));
    }

    fn answer_port(&mut self, generation: Generation) {
        if self.somebody_listens() {
            self.hear(Event::PortHeld(generation, stranger()));
        } else {
            self.waiting_for_port.remove(&generation);
            self.hear(Event::PortUnbound(generation));
        }
    }

    fn pass_deadline(&mut self) {
        let Some((&generation, &at)) = self.deadlines.iter().min_by_key(|(_, at)| **at) else { return };
        self.deadlines.remove(&generation);
        self.now = self.now.max(at);
        self.hear(Event::DeadlinePassed(generation));
    }

    pub(super) fn happen(&mut self, happening: Happening) {
        let pick = |index: Index, from: Vec<Generation>| (!from.is_empty()).then(|| *index.get(&from));
        let running = self.processes.keys().copied().collect::<Vec<_>>();
        match happening {
            Happening::Start => self.hear(Event::StartRequested),
            Happening::Stop => self.hear(Event::StopRequested),
            Happening::Restart => self.hear(Event::RestartRequested),
            Happening::CarryOut(index) => {
                let open = self.orders.iter().filter(|(_, orders)| !orders.is_empty());
                if let Some(generation) = pick(index, open.map(|(generation, _)| *generation).collect()) {
                    self.carry_out(generation);
                }
            }
            Happening::AnswerPort(index) => {
                if let Some(generation) = pick(index, self.waiting_for_port.iter().copied().collect()) {
                    self.answer_port(generation);
                }
            }
            Happening::PassDeadline => self.pass_deadline(),
            Happening::Squat(squat) => {
                self.squatted = squat && !self.processes.values().any(|process| process.listening);
            }
            Happening::Spare(spare) => self.spared = spare,
            Happening::ChangePolicy(on_conflict) => {
                self.policy.on_conflict = on_conflict;
                self.hear(Event::PolicyChanged);
            }
            Happening::Die(index) => {
                if let Some(generation) = pick(index, running) {
                    self.die(generation);
                }
            }
            Happening::Hang(index) => self.suspend(index, true),
            Happening::GoOn(index) => self.suspend(index, false),
            Happening::LoseLeader(index) => {
                if let Some(generation) = pick(index, running)
                    && let Some(process) = self.processes.get_mut(&generation)
                    && !process.headless
                {
                    process.headless = true;
                    let failure = Failure::new(FailureKind::Exited, "the leader ended");
                    self.hear(Event::LeaderEnded(generation, failure));
                }
            }
            Happening::Refuse(index, kind) => {
                if let Some(generation) = pick(index, running)
                    && let Some(Action::RequestForward(_)) =
                        self.orders.get(&generation).and_then(VecDeque::front)
                {
                    self.orders.entry(generation).or_default().pop_front();
                    self.hear(Event::ForwardRefused(generation, Failure::new(kind, "refused")));
                }
            }
            Happening::LoseListener(index) => {
                if let Some(generation) = pick(index, running)
                    && let Some(process) = self.processes.get_mut(&generation)
                    && process.listening
                {
                    process.listening = false;
                    self.hear(Event::ListenerLost(generation));
                }
            }
            Happening::PortUnusable(kind) => {
                if let Some(generation) = self.waiting_for_port.pop_first() {
                    self.hear(Event::PortUnusable(generation, Failure::new(kind, "no such address")));
                }
            }
            Happening::Stale(index) => self.check_stale(index),
        }
    }

    /// Stops a process or lets it go on; the kernel tells of both.
    pub(super) fn suspend(&mut self, index: Index, hung: bool) {
        if self.processes.is_empty() {
            return;
        }
        let running: Vec<_> = self.processes.keys().copied().collect();
        let generation = *index.get(&running);
        self.processes.entry(generation).or_default().hung = hung;
        self.hear(if hung {
            Event::ProcessStopped(generation, 7)
        } else {
            Event::ProcessContinued(generation)
        });
    }

    /// News of a generation that no process, wait or deadline belongs to changes nothing.
    fn check_stale(&self, index: Index) {
        let mut stale = self.tunnel.latest();
        for _ in 0..=index.index(3) {
            stale = stale.next();
        }
        for event in all_events(stale).into_iter().filter(|event| event.generation().is_some()) {
            let (tunnel, actions) = step(self.tunnel.clone(), event.clone(), self.now, &self.policy);
            assert_eq!((&tunnel, actions), (&self.tunnel, vec![]), "{event:?} of a forgotten generation");
        }
    }

    /// Runs on without further faults, though what is stopped by a signal stays stopped, until nothing is left to happen; passes deadlines only when nothing else can happen.
    pub(super) fn settle(&mut self, done: impl Fn(&Self) -> bool) {
        (self.squatted, self.spared) = (false, false);
        for _ in 0..1000 {
            if done(self) && self.tunnel.ending.is_empty() {
                return;
            }
            let order = self.orders.iter().find(|(_, orders)| !orders.is_empty()).map(|(open, _)| *open);
            match (order, self.waiting_for_port.first().copied()) {
                (Some(generation), _) => self.carry_out(generation),
                (None, Some(generation)) if !self.somebody_listens() || self.deadlines.is_empty() => {
                    self.answer_port(generation);
                }
                (None, _) => self.pass_deadline(),
            }
        }
        panic!("does not settle: {self:#?}");
    }
}

pub(super) fn all_events(generation: Generation) -> Vec<Event> {
    let failure = || Failure::new(FailureKind::Network, "gone");
    vec![
        Event::StartRequested,
        Event::StopRequested,
        Event::RestartRequested,
        Event::PolicyChanged,
        Event::PortUnbound(generation),
        Event::PortHeld(generation, stranger()),
        Event::HoldersSpared(generation, stranger(), failure()),
        Event::PortUnusable(generation, failure()),
        Event::ProcessReady(generation),
        Event::NotReady(generation, Some(failure())),
        Event::LeaderEnded(generation, failure()),
        Event::ProcessEnded(generation, failure()),
        Event::ProcessSurvived(generation, failure()),
        Event::ProcessStopped(generation, 7),
        Event::ProcessContinued(generation),
        Event::ProcessMoved(generation),
        Event::ProcessEnded(generation, Failure::new(FailureKind::Config, "no such program")),
        Event::ForwardListening(generation),
        Event::ForwardRefused(generation, failure()),
        Event::ForwardClosed(generation),
        Event::ListenerLost(generation),
        Event::DeadlinePassed(generation),
    ]
}
