//! The state machine: one event in, the next state and the orders out.
//!
//! A supervisor is a table: every event names every state, those that it does not concern included. News of a generation
//! that the tunnel has forgotten is dropped before the table is looked at.

use std::time::Duration;

use super::backoff::delay;
use super::state::{Ending, Eviction, Next, Stage, State, Tunnel};
use super::{Action, Event, Failure, FailureKind, Generation, Kind, OnConflict, Policy};
use crate::clock::Moment;
use crate::port::Holder;

/// Deadline for the answer to a forward request. A remote forward takes a round trip to the server.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(10);

/// Deadline for the answer to closing a forward, which ssh gives without asking the server: 0.2 ms measured. Later
/// than this, the process hangs (it may be stopped), and only SIGKILL frees the port.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a process may take to die of SIGKILL before it is said to be stuck in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Decides what follows from `event`. Total: no event in any state fails.
pub fn step(tunnel: Tunnel, event: Event, now: Moment, policy: &Policy) -> (Tunnel, Vec<Action>) {
    let before = tunnel.name();
    let mut step = Step { tunnel, actions: Vec::new(), now, policy };
    step.take(event);
    let Step { mut tunnel, actions, .. } = step;
    if tunnel.name() != before {
        tunnel.entered = now;
    }
    (tunnel, actions)
}

struct Step<'policy> {
    tunnel: Tunnel,
    actions: Vec<Action>,
    now: Moment,
    policy: &'policy Policy,
}

impl Step<'_> {
    fn take(&mut self, event: Event) {
        if let Some(generation) = event.generation() {
            if let Some(index) = self.tunnel.ending.iter().position(|ending| ending.generation == generation)
            {
                self.hear_of_ending(index, &event);
                return;
            }
            if !self.tunnel.state.involves(generation) {
                return;
            }
        }
        match event {
            Event::StartRequested => self.start(),
            Event::StopRequested => self.stop(Next::Stay),
            Event::RestartRequested => self.restart(),
            Event::PortUnbound(generation) => self.port_unbound(generation),
            Event::PortHeld(generation, holders) => self.port_held(generation, holders),
            Event::PortUnusable(_, failure) => self.port_unusable(failure),
            Event::ProcessReady(generation) => self.process_ready(generation),
            Event::ProcessEnded(generation, failure) => self.process_ended(generation, failure),
            Event::ForwardListening(generation) => self.forward_listening(generation),
            Event::ForwardRefused(generation, failure) => self.forward_refused(generation, failure),
            Event::ForwardClosed(generation) => self.forward_closed(generation),
            Event::ListenerLost(generation) => self.listener_lost(generation),
            Event::DeadlinePassed(generation) => self.deadline_passed(generation),
        }
    }

    /// All that matters of a process that is being ended is when it is gone.
    fn hear_of_ending(&mut self, index: usize, event: &Event) {
        let Ending { generation, killed } = self.tunnel.ending[index];
        match event {
            Event::ProcessEnded(..) => {
                self.tunnel.ending.swap_remove(index);
                self.actions.push(Action::Disarm(generation));
                self.finish_stopping();
            }
            Event::DeadlinePassed(_) if killed => {
                self.tunnel.last_failure = Some(Failure::new(
                    FailureKind::Killed,
                    "the process does not die of SIGKILL: it is stuck in the kernel (state D in ps), most often on a \
                     network file system",
                ));
            }
            Event::DeadlinePassed(_) => {
                self.tunnel.ending[index].killed = true;
                self.kill(generation);
            }
            Event::StartRequested
            | Event::StopRequested
            | Event::RestartRequested
            | Event::PortUnbound(_)
            | Event::PortHeld(..)
            | Event::PortUnusable(..)
            | Event::ProcessReady(_)
            | Event::ForwardListening(_)
            | Event::ForwardRefused(..)
            | Event::ForwardClosed(_)
            | Event::ListenerLost(_) => {}
        }
    }

    fn start(&mut self) {
        match self.tunnel.state {
            State::Stopped | State::Failed => {
                self.tunnel.failures = 0;
                self.attempt();
            }
            State::Backoff { generation, connected } => self.retry(generation, connected),
            State::Stopping { .. } => self.tunnel.state = State::Stopping { then: Next::Start },
            State::NeedsAuth
            | State::AwaitingPort { .. }
            | State::Connecting { .. }
            | State::Forwarding { .. }
            | State::Up { .. }
            | State::Replacing { .. }
            | State::HandingOver { .. } => {}
        }
    }

    fn restart(&mut self) {
        match self.tunnel.state {
            State::Up { generation } => match self.policy.kind {
                Kind::Ssh => {
                    let new = self.new_generation();
                    self.tunnel.state = State::Replacing { old: generation, new };
                    self.start_process(new);
                }
                Kind::Command => self.stop(Next::Start),
            },
            State::Stopped | State::Failed | State::Backoff { .. } | State::Stopping { .. } => self.start(),
            // A start or a restart is under way: this request shares its result.
            State::NeedsAuth
            | State::AwaitingPort { .. }
            | State::Connecting { .. }
            | State::Forwarding { .. }
            | State::Replacing { .. }
            | State::HandingOver { .. } => {}
        }
    }

    fn stop(&mut self, then: Next) {
        self.abandon_waits();
        let running = match self.tunnel.state {
            State::NeedsAuth | State::Stopped => return,
            State::Failed => [None, None],
            State::Stopping { .. } => {
                self.tunnel.state = State::Stopping { then };
                return;
            }
            State::AwaitingPort { generation, connected, .. } | State::Backoff { generation, connected } => {
                [connected.then_some(generation), None]
            }
            State::Connecting { generation } | State::Up { generation } => [Some(generation), None],
            State::Forwarding { generation, fallback, .. } => [Some(generation), fallback],
            State::Replacing { old, new } | State::HandingOver { old, new } => [Some(old), Some(new)],
        };
        for generation in running.into_iter().flatten() {
            self.end(generation);
        }
        self.tunnel.failures = 0;
        self.tunnel.last_failure = None;
        self.tunnel.state = State::Stopping { then };
        self.finish_stopping();
    }

    fn port_unbound(&mut self, generation: Generation) {
        match self.tunnel.state {
            State::AwaitingPort { connected: false, .. } => {
                self.actions.push(Action::Disarm(generation));
                self.tunnel.state = State::Connecting { generation };
                self.start_process(generation);
            }
            State::AwaitingPort { connected: true, .. } => self.request_forward(generation, None),
            State::Forwarding { fallback, stage: Stage::Confirming, generation: confirming }
                if confirming == generation =>
            {
                self.request_forward(generation, fallback);
            }
            State::Forwarding { .. }
            | State::Stopped
            | State::NeedsAuth
            | State::Connecting { .. }
            | State::Up { .. }
            | State::Replacing { .. }
            | State::HandingOver { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed => {}
        }
    }

    fn port_held(&mut self, generation: Generation, holders: Vec<Holder>) {
        match &self.tunnel.state {
            State::AwaitingPort { connected, holders: known, eviction, .. } => {
                let eviction = if *known == holders { *eviction } else { Eviction::None };
                self.await_port(generation, *connected, holders, eviction);
            }
            State::Forwarding { fallback, stage: Stage::Confirming, generation: confirming }
                if *confirming == generation =>
            {
                // Somebody took the port between the old listener and the new one. The old connection cannot have it
                // back either.
                if let Some(old) = *fallback {
                    self.end(old);
                }
                self.await_port(generation, true, holders, Eviction::None);
            }
            State::Forwarding { .. }
            | State::Stopped
            | State::NeedsAuth
            | State::Connecting { .. }
            | State::Up { .. }
            | State::Replacing { .. }
            | State::HandingOver { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed => {}
        }
    }

    fn port_unusable(&mut self, failure: Failure) {
        match self.tunnel.state {
            State::AwaitingPort { generation, connected, .. } => {
                self.actions.push(Action::Disarm(generation));
                if connected {
                    self.end(generation);
                }
                self.fail(failure);
            }
            State::Forwarding { generation, fallback, stage: Stage::Confirming } => {
                for ended in [Some(generation), fallback].into_iter().flatten() {
                    self.end(ended);
                }
                self.fail(failure);
            }
            State::Forwarding { stage: Stage::Requesting, .. }
            | State::Stopped
            | State::NeedsAuth
            | State::Connecting { .. }
            | State::Up { .. }
            | State::Replacing { .. }
            | State::HandingOver { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed => {}
        }
    }

    fn process_ready(&mut self, generation: Generation) {
        match self.tunnel.state {
            State::Connecting { .. } => {
                self.actions.push(Action::Disarm(generation));
                match self.policy.kind {
                    Kind::Ssh => self.confirm_port(generation, None),
                    Kind::Command => self.up(generation),
                }
            }
            State::Replacing { old, new } if new == generation => {
                self.actions.push(Action::Disarm(new));
                self.actions.push(Action::CloseForward(old));
                self.arm(old, CLOSE_TIMEOUT);
                self.tunnel.state = State::HandingOver { old, new };
            }
            State::Replacing { .. }
            | State::Stopped
            | State::NeedsAuth
            | State::AwaitingPort { .. }
            | State::Forwarding { .. }
            | State::Up { .. }
            | State::HandingOver { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed => {}
        }
    }

    fn process_ended(&mut self, generation: Generation, failure: Failure) {
        match self.tunnel.state {
            State::Connecting { .. } => {
                self.actions.push(Action::Disarm(generation));
                self.fail(failure);
            }
            State::AwaitingPort { connected: true, .. } => {
                // It is the port that is waited for: the connection is made anew when that is free.
                self.abandon_waits();
                self.tunnel.last_failure = Some(failure);
                self.attempt();
            }
            State::Forwarding { generation: current, fallback, .. } if current == generation => {
                self.abandon_waits();
                self.actions.push(Action::Disarm(generation));
                self.fall_back_or_fail(fallback, failure);
            }
            State::Forwarding { generation: current, stage, .. } => {
                self.tunnel.state = State::Forwarding { generation: current, fallback: None, stage };
            }
            State::Up { .. } => {
                self.forgive_after_long_up();
                self.fail(failure);
            }
            State::Replacing { old, new } if new == generation => {
                self.actions.push(Action::Disarm(new));
                self.keep_old(old, failure);
            }
            State::Replacing { new, .. } => self.tunnel.state = State::Connecting { generation: new },
            State::HandingOver { old, new } if new == generation => {
                // Whether the old one still listens is not known: its answer is under way.
                self.end(old);
                self.fail(failure);
            }
            State::HandingOver { old, new } => {
                self.actions.push(Action::Disarm(old));
                self.confirm_port(new, None);
            }
            State::Backoff { connected: true, .. } => {
                self.tunnel.last_failure = Some(failure);
                self.tunnel.state = State::Backoff { generation, connected: false };
            }
            State::AwaitingPort { connected: false, .. }
            | State::Backoff { connected: false, .. }
            | State::Stopped
            | State::NeedsAuth
            | State::Stopping { .. }
            | State::Failed => {}
        }
    }

    fn forward_listening(&mut self, generation: Generation) {
        match self.tunnel.state {
            State::Forwarding { generation: current, fallback, stage: Stage::Requesting }
                if current == generation =>
            {
                self.actions.push(Action::Disarm(generation));
                if let Some(old) = fallback {
                    self.end(old);
                }
                self.up(generation);
            }
            State::Forwarding { .. }
            | State::Stopped
            | State::NeedsAuth
            | State::AwaitingPort { .. }
            | State::Connecting { .. }
            | State::Up { .. }
            | State::Replacing { .. }
            | State::HandingOver { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed => {}
        }
    }

    fn forward_refused(&mut self, generation: Generation, failure: Failure) {
        match self.tunnel.state {
            State::Forwarding { generation: current, fallback, stage: Stage::Requesting }
                if current == generation =>
            {
                self.actions.push(Action::Disarm(generation));
                match failure.kind {
                    // The connection is good, only the port was taken. The old connection would fare no better.
                    FailureKind::LocalPortHeld | FailureKind::RemotePortHeld => {
                        if let Some(old) = fallback {
                            self.end(old);
                        }
                        self.back_off(failure, Some(generation));
                    }
                    FailureKind::Auth
                    | FailureKind::HostKey
                    | FailureKind::Dns
                    | FailureKind::Refused
                    | FailureKind::Timeout
                    | FailureKind::Network
                    | FailureKind::Config
                    | FailureKind::Killed
                    | FailureKind::Exited => {
                        self.end(generation);
                        self.fall_back_or_fail(fallback, failure);
                    }
                }
            }
            State::Forwarding { .. }
            | State::Stopped
            | State::NeedsAuth
            | State::AwaitingPort { .. }
            | State::Connecting { .. }
            | State::Up { .. }
            | State::Replacing { .. }
            | State::HandingOver { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed => {}
        }
    }

    fn forward_closed(&mut self, generation: Generation) {
        match self.tunnel.state {
            State::HandingOver { old, new } if old == generation => {
                self.actions.push(Action::Disarm(old));
                self.confirm_port(new, Some(old));
            }
            State::HandingOver { .. }
            | State::Stopped
            | State::NeedsAuth
            | State::AwaitingPort { .. }
            | State::Connecting { .. }
            | State::Forwarding { .. }
            | State::Up { .. }
            | State::Replacing { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed => {}
        }
    }

    fn listener_lost(&mut self, generation: Generation) {
        match self.tunnel.state {
            State::Up { generation: current } if current == generation => {
                self.forgive_after_long_up();
                self.end(generation);
                self.fail(Failure::new(
                    FailureKind::Exited,
                    "the process runs but does not listen on its port any more; it is started anew",
                ));
            }
            State::Replacing { old, new } if old == generation => {
                // The replacement that is under way takes over.
                self.end(old);
                self.tunnel.state = State::Connecting { generation: new };
            }
            State::Up { .. }
            | State::Replacing { .. }
            | State::HandingOver { .. }
            | State::Stopped
            | State::NeedsAuth
            | State::AwaitingPort { .. }
            | State::Connecting { .. }
            | State::Forwarding { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed => {}
        }
    }

    fn deadline_passed(&mut self, generation: Generation) {
        match &self.tunnel.state {
            State::Connecting { .. } => {
                self.end(generation);
                self.fail(not_ready_in_time(self.policy));
            }
            State::Forwarding { fallback, stage: Stage::Requesting, generation: current }
                if *current == generation =>
            {
                let fallback = *fallback;
                self.end(generation);
                self.fall_back_or_fail(
                    fallback,
                    Failure::new(
                        FailureKind::Timeout,
                        "ssh did not answer the request for the forward within 10 s",
                    ),
                );
            }
            State::Replacing { old, new } if *new == generation => {
                let old = *old;
                self.end(generation);
                self.keep_old(old, not_ready_in_time(self.policy));
            }
            State::HandingOver { old, new } if *old == generation => {
                // It hangs. Its port is free when it is dead, and the kernel will say so.
                let (old, new) = (*old, *new);
                self.tunnel.ending.push(Ending { generation: old, killed: true });
                self.kill(old);
                self.confirm_port(new, None);
            }
            State::Backoff { generation, connected } => self.retry(*generation, *connected),
            State::AwaitingPort { connected, holders, eviction: Eviction::Terminated, .. } => {
                self.tunnel.state = State::AwaitingPort {
                    generation,
                    connected: *connected,
                    holders: holders.clone(),
                    eviction: Eviction::Killed,
                };
                self.actions.push(Action::KillHolders(generation));
                self.arm(generation, KILL_TIMEOUT);
            }
            State::AwaitingPort { eviction: Eviction::Killed, .. } => {
                self.tunnel.last_failure = Some(Failure::new(
                    FailureKind::LocalPortHeld,
                    "the holder of the port survived on_conflict: kill, or may not be signalled; stop it by hand",
                ));
            }
            State::AwaitingPort { eviction: Eviction::None, .. }
            | State::Forwarding { .. }
            | State::Replacing { .. }
            | State::HandingOver { .. }
            | State::Stopped
            | State::NeedsAuth
            | State::Up { .. }
            | State::Stopping { .. }
            | State::Failed => {}
        }
    }

    /// Begins anew, from the port.
    fn attempt(&mut self) {
        let generation = self.new_generation();
        self.tunnel.state = State::AwaitingPort {
            generation,
            connected: false,
            holders: Vec::new(),
            eviction: Eviction::None,
        };
        self.actions.push(Action::ConfirmPort(generation));
    }

    fn retry(&mut self, generation: Generation, connected: bool) {
        self.actions.push(Action::Disarm(generation));
        if connected {
            self.confirm_port(generation, None);
        } else {
            self.attempt();
        }
    }

    fn start_process(&mut self, generation: Generation) {
        self.actions.push(Action::StartProcess(generation));
        self.arm(generation, self.policy.ready_timeout);
    }

    fn confirm_port(&mut self, generation: Generation, fallback: Option<Generation>) {
        self.tunnel.state = State::Forwarding { generation, fallback, stage: Stage::Confirming };
        self.actions.push(Action::ConfirmPort(generation));
    }

    fn request_forward(&mut self, generation: Generation, fallback: Option<Generation>) {
        self.tunnel.state = State::Forwarding { generation, fallback, stage: Stage::Requesting };
        self.actions.push(Action::RequestForward(generation));
        self.arm(generation, FORWARD_TIMEOUT);
    }

    fn await_port(
        &mut self,
        generation: Generation,
        connected: bool,
        holders: Vec<Holder>,
        mut eviction: Eviction,
    ) {
        if self.policy.on_conflict == OnConflict::Kill && eviction == Eviction::None && !holders.is_empty() {
            eviction = Eviction::Terminated;
            self.actions.push(Action::TerminateHolders(generation));
            self.arm(generation, self.policy.stop_grace);
        }
        self.tunnel.state = State::AwaitingPort { generation, connected, holders, eviction };
    }

    fn up(&mut self, generation: Generation) {
        self.tunnel.last_failure = None;
        self.tunnel.state = State::Up { generation };
    }

    /// A restart failed before the old connection was touched.
    fn keep_old(&mut self, old: Generation, failure: Failure) {
        self.tunnel.last_failure = Some(failure.clone());
        self.tunnel.state = State::Up { generation: old };
        self.actions.push(Action::ReportRestartFailed(failure));
    }

    /// The new connection failed after the old one had given up its listener: gives that back, if there is an old one.
    fn fall_back_or_fail(&mut self, fallback: Option<Generation>, failure: Failure) {
        match fallback {
            Some(old) => {
                self.tunnel.last_failure = Some(failure.clone());
                self.actions.push(Action::ReportRestartFailed(failure));
                self.confirm_port(old, None);
            }
            None => self.fail(failure),
        }
    }

    /// The tunnel has no process any more (what is left of it is being ended).
    fn fail(&mut self, failure: Failure) {
        self.back_off(failure, None);
    }

    fn back_off(&mut self, failure: Failure, connected: Option<Generation>) {
        self.tunnel.failures = self.tunnel.failures.saturating_add(1);
        let wait = delay(failure.kind, self.tunnel.failures, self.policy, self.tunnel.seed);
        self.tunnel.last_failure = Some(failure);
        match (wait, connected) {
            (None, None) => self.tunnel.state = State::Failed,
            (None, Some(generation)) => {
                self.end(generation);
                self.tunnel.state = State::Failed;
            }
            (Some(Duration::ZERO), None) => self.attempt(),
            (Some(Duration::ZERO), Some(generation)) => self.confirm_port(generation, None),
            (Some(wait), connected) => {
                let generation = connected.unwrap_or_else(|| self.new_generation());
                self.tunnel.state = State::Backoff { generation, connected: connected.is_some() };
                self.arm(generation, wait);
            }
        }
    }

    fn forgive_after_long_up(&mut self) {
        if self.now.since(self.tunnel.entered) >= self.policy.reset_after {
            self.tunnel.failures = 0;
        }
    }

    fn end(&mut self, generation: Generation) {
        self.tunnel.ending.push(Ending { generation, killed: false });
        self.actions.push(Action::Terminate(generation));
        self.arm(generation, self.policy.stop_grace);
    }

    fn kill(&mut self, generation: Generation) {
        self.actions.push(Action::Kill(generation));
        self.arm(generation, KILL_TIMEOUT);
    }

    fn finish_stopping(&mut self) {
        if !self.tunnel.ending.is_empty() {
            return;
        }
        match self.tunnel.state {
            State::Stopping { then: Next::Stay } => {
                self.tunnel.last_failure = None;
                self.tunnel.state = State::Stopped;
            }
            State::Stopping { then: Next::Start } => self.attempt(),
            State::Stopped
            | State::NeedsAuth
            | State::AwaitingPort { .. }
            | State::Connecting { .. }
            | State::Forwarding { .. }
            | State::Up { .. }
            | State::Replacing { .. }
            | State::HandingOver { .. }
            | State::Backoff { .. }
            | State::Failed => {}
        }
    }

    /// Takes back what the present state waits for.
    fn abandon_waits(&mut self) {
        match self.tunnel.state {
            State::AwaitingPort { generation, .. } => {
                self.actions.push(Action::AbandonPort(generation));
                self.actions.push(Action::Disarm(generation));
            }
            State::Forwarding { generation, stage: Stage::Confirming, .. } => {
                self.actions.push(Action::AbandonPort(generation));
            }
            State::Backoff { generation, .. } => self.actions.push(Action::Disarm(generation)),
            State::Forwarding { stage: Stage::Requesting, .. }
            | State::Stopped
            | State::NeedsAuth
            | State::Connecting { .. }
            | State::Up { .. }
            | State::Replacing { .. }
            | State::HandingOver { .. }
            | State::Stopping { .. }
            | State::Failed => {}
        }
    }

    fn new_generation(&mut self) -> Generation {
        self.tunnel.latest = self.tunnel.latest.next();
        self.tunnel.latest
    }

    fn arm(&mut self, generation: Generation, wait: Duration) {
        self.actions.push(Action::Arm(generation, self.now.after(wait)));
    }
}

fn not_ready_in_time(policy: &Policy) -> Failure {
    let waited = policy.ready_timeout.as_secs_f64();
    Failure::new(
        FailureKind::Timeout,
        match policy.kind {
            Kind::Ssh => format!(
                "ssh was not connected after {waited} s; see whether the server answers, or raise ssh.connect_timeout"
            ),
            Kind::Command => format!(
                "the command did not listen on its port within {waited} s; see its output with `portward logs`, or \
                 raise start_timeout"
            ),
        },
    )
}
