//! The state machine: one event in, the next state and the orders out.
//!
//! A supervisor is a table: every event names every state, those that it does not concern included. News of a generation
//! that the tunnel has forgotten is dropped before the table is looked at.

mod forward;
mod moves;
mod port;
mod process;

use super::state::{Ending, Next, State, Tunnel};
use super::{Action, Event, Kind, Policy};
use crate::clock::Moment;

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
        if let Event::ProcessEnded(ended, _) | Event::LeaderEnded(ended, _) = &event {
            self.tunnel.suspended.retain(|(generation, _)| generation != ended);
        }
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
            Event::PolicyChanged => self.policy_changed(),
            Event::PortUnbound(generation) => self.port_unbound(generation),
            Event::PortHeld(generation, holders) => self.port_held(generation, holders),
            Event::HoldersSpared(generation, holders, failure) => {
                self.holders_spared(generation, &holders, failure);
            }
            Event::PortUnusable(_, failure) => self.port_unusable(failure),
            Event::ProcessReady(generation) => self.process_ready(generation),
            Event::NotReady(generation, why) => self.not_ready(generation, why),
            Event::LeaderEnded(generation, failure) => self.leader_ended(generation, failure),
            Event::ProcessEnded(generation, failure) => self.process_ended(generation, failure),
            // Only what is being ended gets SIGKILL.
            Event::ProcessSurvived(..) | Event::ProcessMoved(_) => {}
            Event::ProcessStopped(generation, pid) => self.process_stopped(generation, pid),
            Event::ProcessContinued(generation) => self.process_continued(generation),
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
                self.actions.push(Action::FindSurvivors(generation));
            }
            Event::ProcessSurvived(_, failure) => self.tunnel.last_failure = Some(failure.clone()),
            Event::DeadlinePassed(_) => {
                self.tunnel.ending[index].killed = true;
                self.kill(generation);
            }
            Event::StartRequested
            | Event::StopRequested
            | Event::RestartRequested
            | Event::PolicyChanged
            | Event::PortUnbound(_)
            | Event::PortHeld(..)
            | Event::HoldersSpared(..)
            | Event::PortUnusable(..)
            | Event::ProcessReady(_)
            | Event::NotReady(..)
            | Event::LeaderEnded(..)
            | Event::ProcessStopped(..)
            | Event::ProcessContinued(_)
            | Event::ProcessMoved(_)
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
                Kind::Ssh => self.replace(generation),
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
}
