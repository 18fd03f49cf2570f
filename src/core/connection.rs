//! One connection: a process from its start to its end. The first of the two machines.

use std::net::IpAddr;
use std::time::Duration;

use super::{Action, ConnectionEvent, ConnectionId, Failure, FailureKind, Kind, Policy};
use crate::clock::Moment;

/// How long a process may take to die of SIGKILL before it is reported as stuck in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a command may take to listen again after it closed its listener: a development server that reloads its code
/// does that within seconds.
const REOPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server may take to answer a probe: TCP sends a lost packet again after 0.2, 0.6 and 1.4 s.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// TCP_RTO_MAX of the kernel: TCP sends a lost packet again after no longer time than this.
const LONGEST_RETRANSMISSION: Duration = Duration::from_secs(120);

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    /// Index of the destination that it goes to.
    pub(super) destination: usize,
    pub(super) state: State,
    /// Its process is stopped by a signal.
    pub(super) suspended: Option<Suspended>,
    /// A probe that its server is to answer, if it is ready. Not while it is suspended: it would not ask.
    pub(super) probe: Option<Probe>,
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Started, and not ready yet.
    Starting { deadline: Moment },
    /// Not ready in time, or not `again`: what it does instead is being found out.
    Late { again: bool },
    /// An ssh master answers on its control socket; a command listens.
    Ready { since: Moment },
    /// A command closed its listener, and may open it again.
    Reopening { deadline: Moment },
    /// Was replaced, and carries on what its clients have begun.
    Draining { deadline: Moment },
    /// Got SIGTERM.
    Terminated { deadline: Moment },
    /// Got SIGKILL. The deadline is `None` once it has passed.
    Killed { deadline: Option<Moment> },
    /// Nothing of it is left.
    Ended,
}

/// A process that is stopped by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Suspended {
    pub(super) pid: u32,
    /// Until when it may go on, if it is ready; `None` once that has passed.
    pub(super) deadline: Option<Moment>,
}

/// A probe that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    /// The server has until then, and has not answered since.
    Sent { since: Moment, deadline: Moment },
    /// The network has changed since: an answer may have come the way that it was before.
    Outdated { since: Moment, deadline: Moment },
    /// This machine has no way to the server, so that its silence proves nothing.
    NoRoute { since: Moment },
}

/// What a connection is told: an event, an order of the link, or that its deadline has passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    Event(ConnectionEvent),
    /// It listens no more: its clients may finish.
    Drain,
    /// The network of this machine changed, or the machine was resumed.
    NetworkChanged,
    Terminate,
    Kill,
    DeadlinePassed,
}

/// What the link has to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Nothing,
    BecameReady,
    /// It ends without having become ready, or is being ended.
    Failed(Failure),
    /// It was ready, and ends.
    Lost(Failure),
    /// The network has taken it away, and may have another way: it ends, whether it was ready or not.
    CutOff(Failure),
    /// A command's listener is gone.
    ListenerLost,
    /// It is ready, and stopped by a signal.
    Suspended,
    /// It is ready, and goes on.
    Continued,
    /// It is ready, and this machine has no way to its server.
    Unreachable,
    /// It is ready, and this machine has a way to its server again.
    Reachable,
    /// It was stopped by a signal for too long.
    Unresponsive,
    Survived(Failure),
    Ended,
}

impl Connection {
    pub(super) fn start(
        id: ConnectionId,
        destination: usize,
        now: Moment,
        policy: &Policy,
        actions: &mut Vec<Action>,
    ) -> Self {
        actions.push(Action::StartConnection(id, destination));
        let deadline = now.after(policy.ready_timeout);
        Self { id, destination, state: State::Starting { deadline }, suspended: None, probe: None }
    }

    /// Total: no input in any state fails.
    pub(super) fn step(
        &mut self,
        input: Input,
        now: Moment,
        policy: &Policy,
        actions: &mut Vec<Action>,
    ) -> Outcome {
        match input {
            Input::Event(event) => self.hear(event, now, policy, actions),
            Input::Drain => {
                match self.state {
                    State::Ready { .. } if self.suspended.is_none() && !policy.drain.is_zero() => {
                        self.probe = None;
                        self.state = State::Draining { deadline: now.after(policy.drain) };
                        actions.push(Action::AwaitClients(self.id));
                    }
                    State::Starting { .. }
                    | State::Late { .. }
                    | State::Ready { .. }
                    | State::Reopening { .. } => {
                        self.terminate(now, policy, actions);
                    }
                    State::Draining { .. }
                    | State::Terminated { .. }
                    | State::Killed { .. }
                    | State::Ended => {}
                }
                Outcome::Nothing
            }
            Input::NetworkChanged => {
                match (policy.kind, self.state) {
                    (Kind::Ssh, State::Ready { .. }) if self.suspended.is_none() => match self.probe {
                        Some(Probe::Sent { since, deadline } | Probe::Outdated { since, deadline }) => {
                            self.probe = Some(Probe::Outdated { since, deadline });
                        }
                        // Whether there is a way now is being found out.
                        Some(Probe::NoRoute { .. }) => {}
                        None => self.send_probe(now, actions),
                    },
                    (
                        Kind::Ssh | Kind::Command,
                        State::Starting { .. }
                        | State::Late { .. }
                        | State::Ready { .. }
                        | State::Reopening { .. }
                        | State::Draining { .. }
                        | State::Terminated { .. }
                        | State::Killed { .. }
                        | State::Ended,
                    ) => {}
                }
                Outcome::Nothing
            }
            Input::Terminate => {
                match self.state {
                    State::Starting { .. }
                    | State::Late { .. }
                    | State::Ready { .. }
                    | State::Reopening { .. }
                    | State::Draining { .. } => {
                        self.terminate(now, policy, actions);
                    }
                    State::Terminated { .. } | State::Killed { .. } | State::Ended => {}
                }
                Outcome::Nothing
            }
            Input::Kill => {
                match self.state {
                    State::Starting { .. }
                    | State::Late { .. }
                    | State::Ready { .. }
                    | State::Reopening { .. }
                    | State::Draining { .. }
                    | State::Terminated { .. } => self.kill(now, actions),
                    State::Killed { .. } | State::Ended => {}
                }
                Outcome::Nothing
            }
            Input::DeadlinePassed => self.pass_deadline(now, policy, actions),
        }
    }

    fn hear(
        &mut self,
        event: ConnectionEvent,
        now: Moment,
        policy: &Policy,
        actions: &mut Vec<Action>,
    ) -> Outcome {
        match event {
            ConnectionEvent::Ready => match self.state {
                State::Starting { .. } | State::Late { .. } | State::Reopening { .. } => {
                    self.state = State::Ready { since: now };
                    Outcome::BecameReady
                }
                State::Ready { .. }
                | State::Draining { .. }
                | State::Terminated { .. }
                | State::Killed { .. }
                | State::Ended => Outcome::Nothing,
            },
            ConnectionEvent::NotReady(why) => match self.state {
                State::Late { again } => {
                    self.terminate(now, policy, actions);
                    let late = || if again { not_again_in_time() } else { not_ready_in_time(policy) };
                    Outcome::Failed(why.unwrap_or_else(late))
                }
                State::Starting { .. }
                | State::Ready { .. }
                | State::Reopening { .. }
                | State::Draining { .. }
                | State::Terminated { .. }
                | State::Killed { .. }
                | State::Ended => Outcome::Nothing,
            },
            ConnectionEvent::LeaderEnded(failure) => match self.state {
                State::Starting { .. } | State::Late { .. } => {
                    self.terminate(now, policy, actions);
                    Outcome::Failed(failure)
                }
                State::Ready { .. } | State::Reopening { .. } => {
                    self.terminate(now, policy, actions);
                    Outcome::Lost(failure)
                }
                State::Draining { .. } => {
                    self.terminate(now, policy, actions);
                    Outcome::Nothing
                }
                State::Terminated { .. } | State::Killed { .. } | State::Ended => Outcome::Nothing,
            },
            ConnectionEvent::Ended(failure) => {
                (self.suspended, self.probe) = (None, None);
                match std::mem::replace(&mut self.state, State::Ended) {
                    State::Starting { .. } | State::Late { .. } => Outcome::Failed(failure),
                    State::Ready { .. } | State::Reopening { .. } => Outcome::Lost(failure),
                    State::Draining { .. }
                    | State::Terminated { .. }
                    | State::Killed { .. }
                    | State::Ended => Outcome::Ended,
                }
            }
            ConnectionEvent::Survived(failure) => match self.state {
                State::Killed { .. } => Outcome::Survived(failure),
                State::Starting { .. }
                | State::Late { .. }
                | State::Ready { .. }
                | State::Reopening { .. }
                | State::Draining { .. }
                | State::Terminated { .. }
                | State::Ended => Outcome::Nothing,
            },
            ConnectionEvent::Stopped(pid) => match self.state {
                State::Ready { .. } if self.suspended.is_none() => {
                    // It answers nobody, and until when it may, its suspension says.
                    self.probe = None;
                    self.suspend(pid, now, policy);
                    Outcome::Suspended
                }
                State::Starting { .. } | State::Late { .. } | State::Reopening { .. } => {
                    self.suspend(pid, now, policy);
                    Outcome::Nothing
                }
                State::Ready { .. }
                | State::Draining { .. }
                | State::Terminated { .. }
                | State::Killed { .. }
                | State::Ended => Outcome::Nothing,
            },
            ConnectionEvent::Continued => match (self.state, self.suspended.take()) {
                (State::Ready { .. }, Some(_)) => Outcome::Continued,
                (
                    State::Starting { .. }
                    | State::Late { .. }
                    | State::Ready { .. }
                    | State::Reopening { .. }
                    | State::Draining { .. }
                    | State::Terminated { .. }
                    | State::Killed { .. }
                    | State::Ended,
                    _,
                ) => Outcome::Nothing,
            },
            ConnectionEvent::Answered => {
                match self.probe.take() {
                    Some(Probe::Outdated { .. }) => self.send_probe(now, actions),
                    // The answer may be older than the loss of the way.
                    Some(probe @ Probe::NoRoute { .. }) => self.probe = Some(probe),
                    Some(Probe::Sent { .. }) | None => {}
                }
                Outcome::Nothing
            }
            ConnectionEvent::Unreachable => match self.probe {
                // There may be a way to another destination.
                Some(Probe::Sent { .. } | Probe::Outdated { .. }) if policy.destinations > 1 => {
                    Outcome::Nothing
                }
                Some(Probe::Sent { since, .. } | Probe::Outdated { since, .. }) => {
                    self.probe = Some(Probe::NoRoute { since });
                    Outcome::Unreachable
                }
                Some(Probe::NoRoute { .. }) | None => Outcome::Nothing,
            },
            ConnectionEvent::Reachable => match self.probe {
                Some(Probe::NoRoute { since }) => {
                    // What TCP sent meanwhile is lost, and it waits for up to as long again before it sends that once more.
                    let missed = now.since(since).min(LONGEST_RETRANSMISSION);
                    self.probe = Some(Probe::Sent { since, deadline: now.after(missed + PROBE_TIMEOUT) });
                    actions.push(Action::Probe(self.id));
                    Outcome::Reachable
                }
                Some(Probe::Sent { .. } | Probe::Outdated { .. }) | None => Outcome::Nothing,
            },
            ConnectionEvent::AddressRemoved(address) => match self.state {
                State::Starting { .. }
                | State::Late { .. }
                | State::Ready { .. }
                | State::Reopening { .. } => {
                    self.terminate(now, policy, actions);
                    Outcome::CutOff(address_removed(address))
                }
                State::Draining { .. } => {
                    self.terminate(now, policy, actions);
                    Outcome::Nothing
                }
                State::Terminated { .. } | State::Killed { .. } | State::Ended => Outcome::Nothing,
            },
            ConnectionEvent::ListenerLost => match self.state {
                State::Ready { .. } => {
                    self.probe = None;
                    self.state = State::Reopening { deadline: now.after(REOPEN_TIMEOUT) };
                    Outcome::ListenerLost
                }
                State::Starting { .. }
                | State::Late { .. }
                | State::Reopening { .. }
                | State::Draining { .. }
                | State::Terminated { .. }
                | State::Killed { .. }
                | State::Ended => Outcome::Nothing,
            },
            ConnectionEvent::Drained => {
                match self.state {
                    State::Draining { .. } => self.terminate(now, policy, actions),
                    State::Starting { .. }
                    | State::Late { .. }
                    | State::Ready { .. }
                    | State::Reopening { .. }
                    | State::Terminated { .. }
                    | State::Killed { .. }
                    | State::Ended => {}
                }
                Outcome::Nothing
            }
        }
    }

    fn send_probe(&mut self, now: Moment, actions: &mut Vec<Action>) {
        self.probe = Some(Probe::Sent { since: now, deadline: now.after(PROBE_TIMEOUT) });
        actions.push(Action::Probe(self.id));
    }

    fn pass_deadline(&mut self, now: Moment, policy: &Policy, actions: &mut Vec<Action>) -> Outcome {
        match self.state {
            State::Starting { .. } | State::Reopening { .. } => {
                self.state = State::Late { again: matches!(self.state, State::Reopening { .. }) };
                actions.push(Action::ExplainDelay(self.id));
                Outcome::Nothing
            }
            State::Ready { .. } => match (&mut self.suspended, self.probe) {
                (Some(suspended), _) => {
                    suspended.deadline = None;
                    Outcome::Unresponsive
                }
                (None, Some(Probe::Sent { since, .. } | Probe::Outdated { since, .. })) => {
                    self.terminate(now, policy, actions);
                    Outcome::CutOff(not_answered(now.since(since)))
                }
                (None, Some(Probe::NoRoute { .. }) | None) => Outcome::Nothing,
            },
            State::Draining { .. } => {
                self.terminate(now, policy, actions);
                Outcome::Nothing
            }
            State::Terminated { .. } => {
                self.kill(now, actions);
                Outcome::Nothing
            }
            State::Killed { .. } => {
                self.state = State::Killed { deadline: None };
                actions.push(Action::FindSurvivors(self.id));
                Outcome::Nothing
            }
            State::Late { .. } | State::Ended => Outcome::Nothing,
        }
    }

    /// When the link has to tell it that its deadline has passed.
    pub(super) fn deadline(&self) -> Option<Moment> {
        match self.state {
            State::Starting { deadline }
            | State::Reopening { deadline }
            | State::Draining { deadline }
            | State::Terminated { deadline } => Some(deadline),
            State::Killed { deadline } => deadline,
            State::Ready { .. } => match self.suspended {
                Some(suspended) => suspended.deadline,
                None => match self.probe {
                    Some(Probe::Sent { deadline, .. } | Probe::Outdated { deadline, .. }) => Some(deadline),
                    Some(Probe::NoRoute { .. }) | None => None,
                },
            },
            State::Late { .. } | State::Ended => None,
        }
    }

    pub(super) const fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }

    /// It is ready, and answers.
    pub(super) const fn is_usable(&self) -> bool {
        self.is_ready() && self.suspended.is_none()
    }

    pub(super) const fn is_draining(&self) -> bool {
        matches!(self.state, State::Draining { .. })
    }

    /// It is ready, or may become so, and its process runs.
    pub(super) const fn is_promising(&self) -> bool {
        let lives = matches!(self.state, State::Starting { .. } | State::Late { .. } | State::Ready { .. });
        lives && self.suspended.is_none()
    }

    fn suspend(&mut self, pid: u32, now: Moment, policy: &Policy) {
        self.suspended = Some(Suspended { pid, deadline: Some(now.after(policy.stop_grace)) });
    }

    fn terminate(&mut self, now: Moment, policy: &Policy, actions: &mut Vec<Action>) {
        self.probe = None;
        self.state = State::Terminated { deadline: now.after(policy.stop_grace) };
        actions.push(Action::Terminate(self.id));
    }

    fn kill(&mut self, now: Moment, actions: &mut Vec<Action>) {
        self.probe = None;
        self.state = State::Killed { deadline: Some(now.after(KILL_TIMEOUT)) };
        actions.push(Action::Kill(self.id));
    }
}

fn not_answered(waited: Duration) -> Failure {
    let waited = waited.as_secs();
    Failure::new(
        FailureKind::Timeout,
        format!(
            "the network changed, or the machine was resumed, and the server has not answered within {waited} s since; ssh is \
             ended"
        ),
    )
}

fn address_removed(address: IpAddr) -> Failure {
    Failure::new(
        FailureKind::Network,
        format!(
            "ssh was connected from {address}, and that address was removed from this machine (`ip addr` lists those it has); \
             ssh is ended"
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

fn not_again_in_time() -> Failure {
    let waited = REOPEN_TIMEOUT.as_secs();
    Failure::new(
        FailureKind::Timeout,
        format!(
            "the command closed its listener, and has not listened again within {waited} s; see its output with `portward logs`"
        ),
    )
}
