//! What follows from the life of the processes.

use std::time::Duration;

use super::Step;
use super::moves::KILL_TIMEOUT;
use crate::port::Occupant;
use crate::tunnel::state::{Ending, Eviction, Stage, State};
use crate::tunnel::{Action, Failure, FailureKind, Generation, Kind, Policy};

/// Deadline for the answer to closing a forward, which ssh gives without asking the server: 0.2 ms measured. Later
/// than this, the process hangs (it may be stopped), and only SIGKILL frees the port.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

impl Step<'_> {
    pub(super) fn process_ready(&mut self, generation: Generation) {
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

    pub(super) fn process_ended(&mut self, generation: Generation, failure: Failure) {
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
                // It has a deadline while its process is stopped.
                self.actions.push(Action::Disarm(generation));
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

    pub(super) fn not_ready(&mut self, generation: Generation, why: Option<Failure>) {
        let failure = why.unwrap_or_else(|| not_ready_in_time(self.policy));
        match self.tunnel.state {
            State::Connecting { .. } => {
                self.end(generation);
                self.fail(failure);
            }
            State::Replacing { old, new } if new == generation => {
                self.end(generation);
                self.keep_old(old, failure);
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

    /// As if it were all of it that has ended; but the rest of its tree gets SIGTERM and the grace.
    pub(super) fn leader_ended(&mut self, generation: Generation, failure: Failure) {
        let rest = Ending { generation, killed: false };
        match self.tunnel.state {
            // The deadline of its generation is needed for the grace.
            State::Backoff { connected: true, .. } => {
                self.tunnel.ending.push(rest);
                self.fail(failure);
            }
            State::AwaitingPort { connected: true, .. }
            | State::Connecting { .. }
            | State::Forwarding { .. }
            | State::Up { .. }
            | State::Replacing { .. }
            | State::HandingOver { .. } => {
                self.tunnel.ending.push(rest);
                self.process_ended(generation, failure);
            }
            State::AwaitingPort { connected: false, .. }
            | State::Backoff { connected: false, .. }
            | State::Stopped
            | State::NeedsAuth
            | State::Stopping { .. }
            | State::Failed => return,
        }
        self.terminate(generation);
    }

    pub(super) fn process_stopped(&mut self, generation: Generation, pid: u32) {
        if self.tunnel.suspended(generation).is_some() {
            return;
        }
        self.tunnel.suspended.push((generation, pid));
        match self.tunnel.state {
            State::Up { .. } => self.suspend(generation, pid),
            // Each of these has a deadline for the answer of a process that it waits for.
            State::Stopped
            | State::NeedsAuth
            | State::AwaitingPort { .. }
            | State::Connecting { .. }
            | State::Forwarding { .. }
            | State::Replacing { .. }
            | State::HandingOver { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed => {}
        }
    }

    pub(super) fn process_continued(&mut self, generation: Generation) {
        if self.tunnel.suspended(generation).is_none() {
            return;
        }
        self.tunnel.suspended.retain(|(stopped, _)| *stopped != generation);
        match self.tunnel.state {
            State::Up { .. } => {
                self.actions.push(Action::Disarm(generation));
                self.tunnel.last_failure = None;
            }
            State::Stopped
            | State::NeedsAuth
            | State::AwaitingPort { .. }
            | State::Connecting { .. }
            | State::Forwarding { .. }
            | State::Replacing { .. }
            | State::HandingOver { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed => {}
        }
    }

    pub(super) fn listener_lost(&mut self, generation: Generation) {
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

    pub(super) fn deadline_passed(&mut self, generation: Generation) {
        match &self.tunnel.state {
            // It may do something else, or wait for somebody.
            State::Connecting { .. } => self.actions.push(Action::ExplainDelay(generation)),
            State::Up { .. } if self.tunnel.suspended(generation).is_some() => match self.policy.kind {
                Kind::Ssh => self.replace(generation),
                Kind::Command => {
                    self.forgive_after_long_up();
                    self.end(generation);
                    self.fail(stopped_for_good(self.policy));
                }
            },
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
            State::Replacing { new, .. } if *new == generation => {
                self.actions.push(Action::ExplainDelay(generation));
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
            State::AwaitingPort { connected, holders, eviction: Eviction::Killed, .. } => {
                self.tunnel.last_failure = Some(survived(holders));
                self.tunnel.state = State::AwaitingPort {
                    generation,
                    connected: *connected,
                    holders: holders.clone(),
                    eviction: Eviction::GivenUp,
                };
            }
            State::AwaitingPort { eviction: Eviction::None | Eviction::GivenUp, .. }
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
}

fn survived(holders: &[Occupant]) -> Failure {
    let holders = holders.iter().filter_map(|occupant| occupant.holder.as_ref());
    let holders: Vec<_> = holders.map(ToString::to_string).collect();
    Failure::new(
        FailureKind::LocalPortHeld,
        format!(
            "{} held the port through SIGTERM and SIGKILL of on_conflict: kill; see whether a process is stuck (state D in \
             ps), or is being started again as soon as it ends",
            holders.join(" and ")
        ),
    )
}

fn stopped_for_good(policy: &Policy) -> Failure {
    Failure::new(
        FailureKind::Timeout,
        format!(
            "the process was stopped by a signal for {} s; it is started anew",
            policy.stop_grace.as_secs_f64()
        ),
    )
}

fn not_ready_in_time(policy: &Policy) -> Failure {
    let waited = policy.ready_timeout.as_secs_f64();
    Failure::new(
        FailureKind::Timeout,
        match policy.kind {
            Kind::Ssh => format!("ssh was not ready after {waited} s"),
            Kind::Command => format!(
                "the command did not listen on its port within {waited} s; see its output with `portward logs`, or \
                 raise start_timeout"
            ),
        },
    )
}
