//! One forward: the listener that serves a tunnel. The second of the two machines.

use std::time::Duration;

use super::evicted::{self, Evicted};
use super::{
    Action, ConnectionId, Failure, FailureKind, ForwardEvent, OnConflict, Policy, Request, Retry, Slot,
    backoff,
};
use crate::clock::Moment;
use crate::port::Occupant;

/// Deadline for the answer to a request for a listener. A remote forward takes a round trip to the server.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Deadline for the answer to a request to close one: 0.2 ms measured. Later than this the process hangs (it may be stopped),
/// and only SIGKILL frees the port.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long holders of the port may take to die of SIGKILL before that is given up.
const EVICTION_TIMEOUT: Duration = Duration::from_secs(5);

/// So often in a row a forward may be refused before it needs a new connection: what a server allows is decided at login.
const TRIES_PER_CONNECTION: u32 = 3;

/// One forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Forward {
    pub(super) slot: Slot,
    pub(super) policy: Policy,
    pub(super) state: State,
    /// Failures in a row; having listened for `reset_after` ends the row.
    failures: u32,
    /// The connection that refused it last.
    refused_by: Option<ConnectionId>,
    /// Whom `on_conflict: kill` has told to go last; forgotten with the failures.
    evicted: Option<Box<Evicted>>,
    /// Chooses the jitter of its retries.
    pub(super) seed: u64,
}

/// Where a forward stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Asks for nothing.
    Idle,
    /// Waits for the kernel to confirm the port unbound, as long as it takes.
    AwaitingPort { request: Request, holders: Vec<Occupant>, eviction: Eviction },
    /// The port was unbound; the connection that is to listen is not ready yet.
    Confirmed,
    /// The connection was asked to listen.
    Opening { request: Request, on: ConnectionId, deadline: Moment },
    /// The connection was asked to listen, and that is not wanted any more: once it listens, it is asked to stop.
    Withdrawing { request: Request, on: ConnectionId, deadline: Moment },
    /// The connection listens since this moment.
    Listening { request: Request, on: ConnectionId, since: Moment },
    /// The connection was asked to stop listening.
    Closing { request: Request, on: ConnectionId, deadline: Moment },
    /// Failed; tries again at the deadline.
    Backoff { deadline: Moment },
    /// Failed; only an edit helps.
    Failed,
}

/// How far `on_conflict: kill` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eviction {
    /// Nobody was told to go.
    None,
    /// The holders were ended before, and have come back: they are told to go at the deadline.
    Postponed { deadline: Moment },
    /// The holders got SIGTERM.
    Terminated { deadline: Moment },
    /// The holders got SIGKILL.
    Killed { deadline: Moment },
    /// The holders may not be ended, or do not die.
    GivenUp,
}

/// What a forward is told: an answer to its request, an order of the link, or that its deadline has passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    Event(Request, ForwardEvent),
    /// Begin with the port. The connection that is to listen, if it is ready.
    Confirm(Option<ConnectionId>),
    /// Ask the connection to listen.
    Open(ConnectionId),
    /// The command listens.
    Serve(ConnectionId),
    /// The command does not listen any more, and may again.
    Unserve,
    /// Ask the connection to stop listening.
    Close,
    /// The connection is gone, or nothing is wanted any more.
    Release,
    PolicyChanged,
    DeadlinePassed,
}

/// What the link has to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Nothing,
    Opened(ConnectionId),
    Refused(ConnectionId, Failure),
    /// A listener on this connection is gone.
    ListenerLost,
    /// Nothing can be learned about the port.
    Unusable(Failure),
    /// The connection did not answer a request to listen.
    OpenUnanswered(ConnectionId),
    /// The connection did not answer a request to stop listening.
    CloseUnanswered(ConnectionId),
    /// `on_conflict: kill` did not help.
    HoldersStay(Failure),
    /// What `on_conflict: kill` has done is not wanted any more.
    EvictionEnded,
}

/// What a step needs besides the forward.
pub(super) struct Context<'a> {
    pub(super) now: Moment,
    pub(super) requests: &'a mut Request,
    pub(super) actions: &'a mut Vec<Action>,
}

impl Forward {
    pub(super) const fn new(slot: Slot, policy: Policy) -> Self {
        Self { slot, policy, state: State::Idle, failures: 0, refused_by: None, evicted: None, seed: slot.0 }
    }

    /// Total: no input in any state fails.
    pub(super) fn step(&mut self, input: Input, context: &mut Context<'_>) -> Outcome {
        match input {
            Input::Event(request, _) if self.request() != Some(request) => Outcome::Nothing,
            Input::Event(_, event) => self.hear(event, context),
            Input::Confirm(on) => {
                match self.state {
                    State::Idle | State::Confirmed | State::Backoff { .. } => self.confirm(on, context),
                    State::AwaitingPort { .. }
                    | State::Opening { .. }
                    | State::Listening { .. }
                    | State::Withdrawing { .. }
                    | State::Closing { .. }
                    | State::Failed => {}
                }
                Outcome::Nothing
            }
            Input::Open(on) => {
                match self.state {
                    State::Confirmed => self.open(on, context),
                    State::Idle
                    | State::AwaitingPort { .. }
                    | State::Opening { .. }
                    | State::Listening { .. }
                    | State::Withdrawing { .. }
                    | State::Closing { .. }
                    | State::Backoff { .. }
                    | State::Failed => {}
                }
                Outcome::Nothing
            }
            Input::Serve(on) => match self.state {
                State::Confirmed => {
                    let request = context.requests.take_next();
                    self.state = State::Listening { request, on, since: context.now };
                    Outcome::Opened(on)
                }
                State::Idle
                | State::AwaitingPort { .. }
                | State::Opening { .. }
                | State::Listening { .. }
                | State::Withdrawing { .. }
                | State::Closing { .. }
                | State::Backoff { .. }
                | State::Failed => Outcome::Nothing,
            },
            Input::Unserve => {
                match self.state {
                    State::Listening { since, .. } => {
                        self.forgive(since, context.now);
                        self.state = State::Confirmed;
                    }
                    State::Idle
                    | State::AwaitingPort { .. }
                    | State::Confirmed
                    | State::Opening { .. }
                    | State::Withdrawing { .. }
                    | State::Closing { .. }
                    | State::Backoff { .. }
                    | State::Failed => {}
                }
                Outcome::Nothing
            }
            Input::Close => {
                match self.state {
                    State::Listening { on, .. } => self.close(on, context),
                    // What it is asked for by then may be something else.
                    State::Opening { request, on, deadline } => {
                        self.state = State::Withdrawing { request, on, deadline };
                    }
                    State::Idle
                    | State::AwaitingPort { .. }
                    | State::Confirmed
                    | State::Withdrawing { .. }
                    | State::Closing { .. }
                    | State::Backoff { .. }
                    | State::Failed => {}
                }
                Outcome::Nothing
            }
            Input::Release => {
                match self.state {
                    State::AwaitingPort { request, .. } => {
                        context.actions.push(Action::AbandonPort(self.slot, request));
                    }
                    State::Listening { since, .. } => self.forgive(since, context.now),
                    State::Idle
                    | State::Confirmed
                    | State::Opening { .. }
                    | State::Withdrawing { .. }
                    | State::Closing { .. }
                    | State::Backoff { .. }
                    | State::Failed => {}
                }
                self.state = State::Idle;
                Outcome::Nothing
            }
            Input::PolicyChanged => self.policy_changed(context),
            Input::DeadlinePassed => self.pass_deadline(context),
        }
    }

    /// An answer to the present request.
    fn hear(&mut self, event: ForwardEvent, context: &mut Context<'_>) -> Outcome {
        match event {
            ForwardEvent::PortUnbound => match self.state {
                State::AwaitingPort { .. } => {
                    if let Some(evicted) = &mut self.evicted {
                        evicted.has_left = true;
                    }
                    self.state = State::Confirmed;
                    Outcome::Nothing
                }
                State::Idle
                | State::Confirmed
                | State::Opening { .. }
                | State::Listening { .. }
                | State::Withdrawing { .. }
                | State::Closing { .. }
                | State::Backoff { .. }
                | State::Failed => Outcome::Nothing,
            },
            ForwardEvent::PortHeld(holders) => match &self.state {
                State::AwaitingPort { request, holders: known, eviction } => {
                    let eviction = match *eviction {
                        present if *known == holders => present,
                        // As its supervisor starts it again, it may be another process each time.
                        postponed @ Eviction::Postponed { .. } if self.has_evicted_like(&holders) => {
                            postponed
                        }
                        Eviction::None
                        | Eviction::Postponed { .. }
                        | Eviction::Terminated { .. }
                        | Eviction::Killed { .. }
                        | Eviction::GivenUp => Eviction::None,
                    };
                    self.wait(*request, holders, eviction, context)
                }
                State::Idle
                | State::Confirmed
                | State::Opening { .. }
                | State::Listening { .. }
                | State::Withdrawing { .. }
                | State::Closing { .. }
                | State::Backoff { .. }
                | State::Failed => Outcome::Nothing,
            },
            // Reports about holders that have changed since are ignored.
            ForwardEvent::HoldersSpared(spared, failure) => match &mut self.state {
                State::AwaitingPort {
                    holders,
                    eviction: eviction @ (Eviction::Terminated { .. } | Eviction::Killed { .. }),
                    ..
                } if *holders == spared => {
                    *eviction = Eviction::GivenUp;
                    self.evicted = None;
                    Outcome::HoldersStay(failure)
                }
                State::AwaitingPort { .. }
                | State::Idle
                | State::Confirmed
                | State::Opening { .. }
                | State::Listening { .. }
                | State::Withdrawing { .. }
                | State::Closing { .. }
                | State::Backoff { .. }
                | State::Failed => Outcome::Nothing,
            },
            ForwardEvent::PortUnusable(failure) => match self.state {
                State::AwaitingPort { .. } => {
                    self.state = State::Idle;
                    Outcome::Unusable(failure)
                }
                State::Idle
                | State::Confirmed
                | State::Opening { .. }
                | State::Listening { .. }
                | State::Withdrawing { .. }
                | State::Closing { .. }
                | State::Backoff { .. }
                | State::Failed => Outcome::Nothing,
            },
            ForwardEvent::Opened => match self.state {
                State::Opening { request, on, .. } => {
                    self.refused_by = None;
                    self.state = State::Listening { request, on, since: context.now };
                    Outcome::Opened(on)
                }
                State::Withdrawing { on, .. } => {
                    self.close(on, context);
                    Outcome::Nothing
                }
                State::Idle
                | State::AwaitingPort { .. }
                | State::Confirmed
                | State::Listening { .. }
                | State::Closing { .. }
                | State::Backoff { .. }
                | State::Failed => Outcome::Nothing,
            },
            ForwardEvent::Refused(failure) => match self.state {
                State::Opening { on, .. } => {
                    self.state = State::Idle;
                    Outcome::Refused(on, failure)
                }
                State::Withdrawing { .. } => {
                    self.state = State::Idle;
                    Outcome::Nothing
                }
                State::Idle
                | State::AwaitingPort { .. }
                | State::Confirmed
                | State::Listening { .. }
                | State::Closing { .. }
                | State::Backoff { .. }
                | State::Failed => Outcome::Nothing,
            },
            ForwardEvent::Closed => {
                match self.state {
                    State::Closing { .. } => self.state = State::Idle,
                    State::Withdrawing { .. }
                    | State::Idle
                    | State::AwaitingPort { .. }
                    | State::Confirmed
                    | State::Opening { .. }
                    | State::Listening { .. }
                    | State::Backoff { .. }
                    | State::Failed => {}
                }
                Outcome::Nothing
            }
            // Of several listeners others may be left.
            ForwardEvent::ListenerLost => match self.state {
                State::Listening { on, since, .. } => {
                    self.forgive(since, context.now);
                    self.close(on, context);
                    Outcome::ListenerLost
                }
                State::Idle
                | State::AwaitingPort { .. }
                | State::Confirmed
                | State::Opening { .. }
                | State::Withdrawing { .. }
                | State::Closing { .. }
                | State::Backoff { .. }
                | State::Failed => Outcome::Nothing,
            },
        }
    }

    fn pass_deadline(&mut self, context: &mut Context<'_>) -> Outcome {
        match &mut self.state {
            State::AwaitingPort { request, holders, eviction: Eviction::Postponed { .. } } => {
                let (request, holders) = (*request, std::mem::take(holders));
                let returns = self.evicted.as_ref().map_or(0, |evicted| evicted.returns);
                self.evict(request, holders, returns, context);
                Outcome::Nothing
            }
            State::AwaitingPort { request, eviction: eviction @ Eviction::Terminated { .. }, .. } => {
                *eviction = Eviction::Killed { deadline: context.now.after(EVICTION_TIMEOUT) };
                context.actions.push(Action::KillHolders(self.slot, *request));
                Outcome::Nothing
            }
            State::AwaitingPort { holders, eviction: eviction @ Eviction::Killed { .. }, .. } => {
                *eviction = Eviction::GivenUp;
                Outcome::HoldersStay(survived(holders))
            }
            State::Opening { on, .. } | State::Withdrawing { on, .. } => {
                let on = *on;
                self.state = State::Idle;
                Outcome::OpenUnanswered(on)
            }
            State::Closing { on, .. } => {
                let on = *on;
                self.state = State::Idle;
                Outcome::CloseUnanswered(on)
            }
            State::Backoff { .. } => {
                self.state = State::Idle;
                Outcome::Nothing
            }
            State::AwaitingPort { eviction: Eviction::None | Eviction::GivenUp, .. }
            | State::Idle
            | State::Confirmed
            | State::Listening { .. }
            | State::Failed => Outcome::Nothing,
        }
    }

    /// `on_conflict` counts for the holders of today: the user who has just written `kill` means them, and so does the one who
    /// has taken it back.
    fn policy_changed(&mut self, context: &mut Context<'_>) -> Outcome {
        match &mut self.state {
            State::AwaitingPort { request, holders, eviction: Eviction::None } => {
                let (request, holders) = (*request, std::mem::take(holders));
                self.wait(request, holders, Eviction::None, context)
            }
            State::AwaitingPort { eviction, .. } if self.policy.on_conflict == OnConflict::Wait => {
                *eviction = Eviction::None;
                self.evicted = None;
                Outcome::EvictionEnded
            }
            State::AwaitingPort { .. }
            | State::Idle
            | State::Confirmed
            | State::Opening { .. }
            | State::Listening { .. }
            | State::Withdrawing { .. }
            | State::Closing { .. }
            | State::Backoff { .. }
            | State::Failed => Outcome::Nothing,
        }
    }

    /// Counts a failure, and waits as its class asks.
    pub(super) fn fail(&mut self, retry: super::Retry, by: Option<ConnectionId>, now: Moment) {
        self.failures = self.failures.saturating_add(1);
        self.refused_by = by;
        self.state = match backoff::delay(retry, self.failures, &self.policy, self.seed) {
            None => State::Failed,
            Some(Duration::ZERO) => State::Idle,
            Some(wait) => State::Backoff { deadline: now.after(wait) },
        };
    }

    /// Begins a new row of failures, and of returns of holders.
    pub(super) fn forget_failures(&mut self) {
        (self.failures, self.refused_by, self.evicted) = (0, None, None);
    }

    /// Whether this connection has refused it so often that another one is needed.
    pub(super) fn needs_another_than(&self, connection: ConnectionId) -> bool {
        self.failures >= TRIES_PER_CONNECTION && self.refused_by == Some(connection)
    }

    /// Whether the connection is asked for something, or listens.
    pub(super) fn uses(&self, connection: ConnectionId) -> bool {
        match self.state {
            State::Opening { on, .. }
            | State::Withdrawing { on, .. }
            | State::Listening { on, .. }
            | State::Closing { on, .. } => on == connection,
            State::Idle
            | State::AwaitingPort { .. }
            | State::Confirmed
            | State::Backoff { .. }
            | State::Failed => false,
        }
    }

    /// The connection that listens.
    pub(super) fn listening(&self) -> Option<ConnectionId> {
        match self.state {
            State::Listening { on, .. } => Some(on),
            State::Idle
            | State::AwaitingPort { .. }
            | State::Confirmed
            | State::Opening { .. }
            | State::Withdrawing { .. }
            | State::Closing { .. }
            | State::Backoff { .. }
            | State::Failed => None,
        }
    }

    /// Who holds the port that it waits for.
    pub(super) fn holders(&self) -> &[Occupant] {
        match &self.state {
            State::AwaitingPort { holders, .. } => holders,
            State::Idle
            | State::Confirmed
            | State::Opening { .. }
            | State::Listening { .. }
            | State::Withdrawing { .. }
            | State::Closing { .. }
            | State::Backoff { .. }
            | State::Failed => &[],
        }
    }

    /// The request whose answer it takes.
    pub(super) fn request(&self) -> Option<Request> {
        match self.state {
            State::AwaitingPort { request, .. }
            | State::Opening { request, .. }
            | State::Listening { request, .. }
            | State::Withdrawing { request, .. }
            | State::Closing { request, .. } => Some(request),
            State::Idle | State::Confirmed | State::Backoff { .. } | State::Failed => None,
        }
    }

    /// When the link has to tell it that its deadline has passed.
    pub(super) fn deadline(&self) -> Option<Moment> {
        match self.state {
            State::Opening { deadline, .. }
            | State::Withdrawing { deadline, .. }
            | State::Closing { deadline, .. }
            | State::Backoff { deadline }
            | State::AwaitingPort {
                eviction:
                    Eviction::Postponed { deadline }
                    | Eviction::Terminated { deadline }
                    | Eviction::Killed { deadline },
                ..
            } => Some(deadline),
            State::AwaitingPort { eviction: Eviction::None | Eviction::GivenUp, .. }
            | State::Idle
            | State::Confirmed
            | State::Listening { .. }
            | State::Failed => None,
        }
    }

    fn confirm(&mut self, on: Option<ConnectionId>, context: &mut Context<'_>) {
        let request = context.requests.take_next();
        self.state = State::AwaitingPort { request, holders: Vec::new(), eviction: Eviction::None };
        context.actions.push(Action::ConfirmPort(self.slot, request, on));
    }

    fn open(&mut self, on: ConnectionId, context: &mut Context<'_>) {
        let request = context.requests.take_next();
        self.state = State::Opening { request, on, deadline: context.now.after(OPEN_TIMEOUT) };
        context.actions.push(Action::OpenForward(self.slot, request, on));
    }

    fn close(&mut self, on: ConnectionId, context: &mut Context<'_>) {
        let request = context.requests.take_next();
        self.state = State::Closing { request, on, deadline: context.now.after(CLOSE_TIMEOUT) };
        context.actions.push(Action::CloseForward(self.slot, request, on));
    }

    fn wait(
        &mut self,
        request: Request,
        holders: Vec<Occupant>,
        eviction: Eviction,
        context: &mut Context<'_>,
    ) -> Outcome {
        // What no process has, no process can be made to release.
        let is_somebodys = holders.iter().any(|occupant| occupant.holder.is_some());
        if self.policy.on_conflict == OnConflict::Wait || eviction != Eviction::None || !is_somebodys {
            self.state = State::AwaitingPort { request, holders, eviction };
            return Outcome::Nothing;
        }
        let present = self.evicted.as_ref().filter(|evicted| {
            context.now.since(evicted.at()) < self.policy.reset_after && evicted.is_like(&holders)
        });
        let returns = match present {
            None => 0,
            Some(evicted) if evicted.is_left(&holders) => evicted.returns,
            Some(evicted) => {
                return self.postpone(request, holders, evicted.returns.saturating_add(1), context);
            }
        };
        self.evict(request, holders, returns, context);
        Outcome::Nothing
    }

    /// The holders have come back for the `returns`th time in a row: they are ended after a wait that grows.
    fn postpone(
        &mut self,
        request: Request,
        holders: Vec<Occupant>,
        returns: u32,
        context: &mut Context<'_>,
    ) -> Outcome {
        if let Some(evicted) = &mut self.evicted {
            evicted.returns = returns;
        }
        // The first eviction stands for the first failure, which is answered at once.
        let wait = backoff::delay(Retry::Prompt, returns.saturating_add(1), &self.policy, self.seed);
        let deadline = context.now.after(wait.unwrap_or(self.policy.max_delay));
        let outcome = Outcome::HoldersStay(evicted::came_back(&holders, returns));
        self.state = State::AwaitingPort { request, holders, eviction: Eviction::Postponed { deadline } };
        outcome
    }

    fn evict(&mut self, request: Request, holders: Vec<Occupant>, returns: u32, context: &mut Context<'_>) {
        self.evicted = Some(Box::new(Evicted::new(&holders, context.now, returns)));
        let eviction = Eviction::Terminated { deadline: context.now.after(self.policy.stop_grace) };
        context.actions.push(Action::TerminateHolders(self.slot, request));
        self.state = State::AwaitingPort { request, holders, eviction };
    }

    /// Whether one of `holders` runs the program of somebody who was told to go last.
    fn has_evicted_like(&self, holders: &[Occupant]) -> bool {
        self.evicted.as_ref().is_some_and(|evicted| evicted.is_like(holders))
    }

    fn forgive(&mut self, since: Moment, now: Moment) {
        if now.since(since) >= self.policy.reset_after {
            self.forget_failures();
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
