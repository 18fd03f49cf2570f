//! The moves that the table is made of: each goes to a state and gives the orders that belong to it.

use std::time::Duration;

use super::Step;
use crate::port::Occupant;
use crate::tunnel::backoff::delay;
use crate::tunnel::state::{Ending, Eviction, Next, Stage, State};
use crate::tunnel::{Action, Failure, FailureKind, Generation, Kind, OnConflict};

/// Deadline for the answer to a forward request. A remote forward takes a round trip to the server.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a process may take to die of SIGKILL before it is said to be stuck in the kernel.
pub(super) const KILL_TIMEOUT: Duration = Duration::from_secs(5);

impl Step<'_> {
    /// Begins anew, from the port. A command that is being ended still has it: its tree is waited for.
    pub(super) fn attempt(&mut self) {
        if self.policy.kind == Kind::Command && !self.tunnel.ending.is_empty() {
            self.tunnel.state = State::Stopping { then: Next::Start };
            return;
        }
        let generation = self.new_generation();
        self.tunnel.state = State::AwaitingPort {
            generation,
            connected: false,
            holders: Vec::new(),
            eviction: Eviction::None,
        };
        self.actions.push(Action::ConfirmPort(generation));
    }

    pub(super) fn retry(&mut self, generation: Generation, connected: bool) {
        self.actions.push(Action::Disarm(generation));
        if connected {
            self.confirm_port(generation, None);
        } else {
            self.attempt();
        }
    }

    pub(super) fn start_process(&mut self, generation: Generation) {
        self.actions.push(Action::StartProcess(generation));
        self.arm(generation, self.policy.ready_timeout);
    }

    pub(super) fn confirm_port(&mut self, generation: Generation, fallback: Option<Generation>) {
        self.tunnel.state = State::Forwarding { generation, fallback, stage: Stage::Confirming };
        self.actions.push(Action::ConfirmPort(generation));
    }

    pub(super) fn request_forward(&mut self, generation: Generation, fallback: Option<Generation>) {
        self.tunnel.state = State::Forwarding { generation, fallback, stage: Stage::Requesting };
        self.actions.push(Action::RequestForward(generation));
        self.arm(generation, FORWARD_TIMEOUT);
    }

    pub(super) fn await_port(
        &mut self,
        generation: Generation,
        connected: bool,
        holders: Vec<Occupant>,
        mut eviction: Eviction,
    ) {
        // What nobody has, nobody can be made to let go.
        let is_somebodys = holders.iter().any(|occupant| occupant.holder.is_some());
        if self.policy.on_conflict == OnConflict::Kill && eviction == Eviction::None && is_somebodys {
            eviction = Eviction::Terminated;
            self.actions.push(Action::TerminateHolders(generation));
            self.arm(generation, self.policy.stop_grace);
        }
        self.tunnel.state = State::AwaitingPort { generation, connected, holders, eviction };
    }

    pub(super) fn up(&mut self, generation: Generation) {
        self.tunnel.last_failure = None;
        self.tunnel.state = State::Up { generation };
        if let Some(pid) = self.tunnel.suspended(generation) {
            self.suspend(generation, pid);
        }
    }

    /// It listens, but its process is stopped by a signal.
    pub(super) fn suspend(&mut self, generation: Generation, pid: u32) {
        let grace = self.policy.stop_grace;
        let what = match self.policy.kind {
            Kind::Ssh => "replaced by a new connection",
            Kind::Command => "started anew",
        };
        self.tunnel.last_failure = Some(Failure::new(
            FailureKind::Timeout,
            format!(
                "pid {pid} is stopped by a signal (SIGSTOP, or a debugger) and serves nobody; unless it goes on within {} s \
                 (`kill -CONT {pid}`), it is {what}",
                grace.as_secs_f64()
            ),
        ));
        self.arm(generation, grace);
    }

    /// Connects anew beside the connection that listens.
    pub(super) fn replace(&mut self, old: Generation) {
        if self.tunnel.suspended(old).is_some() {
            self.actions.push(Action::Disarm(old));
        }
        let new = self.new_generation();
        self.tunnel.state = State::Replacing { old, new };
        self.start_process(new);
    }

    /// A restart failed before the old connection was touched. It goes on, if it can.
    pub(super) fn keep_old(&mut self, old: Generation, failure: Failure) {
        self.actions.push(Action::ReportRestartFailed(failure.clone()));
        if self.tunnel.suspended(old).is_some() {
            self.end(old);
            self.fail(failure);
            return;
        }
        self.tunnel.last_failure = Some(failure);
        self.tunnel.state = State::Up { generation: old };
    }

    /// The new connection failed after the old one had given up its listener: gives that back, if there is an old one.
    pub(super) fn fall_back_or_fail(&mut self, fallback: Option<Generation>, failure: Failure) {
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
    pub(super) fn fail(&mut self, failure: Failure) {
        self.back_off(failure, None);
    }

    pub(super) fn back_off(&mut self, failure: Failure, connected: Option<Generation>) {
        self.tunnel.failures = self.tunnel.failures.saturating_add(1);
        let wait = delay(failure.retry, self.tunnel.failures, self.policy, self.tunnel.seed);
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

    pub(super) fn forgive_after_long_up(&mut self) {
        if self.now.since(self.tunnel.entered) >= self.policy.reset_after {
            self.tunnel.failures = 0;
        }
    }

    pub(super) fn end(&mut self, generation: Generation) {
        self.tunnel.ending.push(Ending { generation, killed: false });
        self.terminate(generation);
    }

    pub(super) fn terminate(&mut self, generation: Generation) {
        self.actions.push(Action::Terminate(generation));
        self.arm(generation, self.policy.stop_grace);
    }

    pub(super) fn kill(&mut self, generation: Generation) {
        self.actions.push(Action::Kill(generation));
        self.arm(generation, KILL_TIMEOUT);
    }

    pub(super) fn finish_stopping(&mut self) {
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
    pub(super) fn abandon_waits(&mut self) {
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

    pub(super) fn new_generation(&mut self) -> Generation {
        self.tunnel.latest = self.tunnel.latest.next();
        self.tunnel.latest
    }

    pub(super) fn arm(&mut self, generation: Generation, wait: Duration) {
        self.actions.push(Action::Arm(generation, self.now.after(wait)));
    }
}
