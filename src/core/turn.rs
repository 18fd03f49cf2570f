//! What a link decides on an event.
//!
//! After each event it [advances](Turn::advance) until nothing follows any more: a forward that is wanted begins with its port,
//! a confirmed port makes a connection start, a ready connection is asked to listen, and a connection that nobody needs is ended.
//!
//! A planned restart of an ssh link, make before break:
//!
//! ```text
//! up          active listens       StartConnection(next)
//! replacing   next is ready        CloseForward(active)       the port is down from here,
//!             closed               ConfirmPort, OpenForward(next)
//! up          opened               Terminate(active)          and up again from here
//! ```
//!
//! With `restart.drain` the old connection is not terminated then: it carries on what its clients have begun.
//! With `standby` a spare is made once the active connection listens, and is the active one as soon as that is lost.

use std::time::Duration;

use super::connection::{self, Connection};
use super::forward::{self, Context};
use super::link::{Link, Login, Target, Tunnel, Wanted};
use super::spare::Spare;
use super::{
    Action, ConnectionId, Event, Failure, FailureKind, ForwardEvent, Kind, Policy, Request, Slot, StateName,
    backoff,
};
use crate::clock::Moment;

impl Link {
    /// Decides what follows from `event`. Total: no event in any state fails.
    pub fn hear(&mut self, event: Event, now: Moment) -> Vec<Action> {
        let mut turn = Turn { link: self, now, actions: Vec::new() };
        turn.take(event);
        while turn.advance() {}
        let actions = turn.actions;
        for index in 0..self.tunnels.len() {
            let name = self.state_name(index);
            let tunnel = &mut self.tunnels[index];
            if tunnel.name != name {
                (tunnel.name, tunnel.entered) = (name, now);
                if name == StateName::Stopped {
                    tunnel.last_failure = None;
                }
            }
        }
        actions
    }
}

/// The work on one event.
struct Turn<'link> {
    link: &'link mut Link,
    now: Moment,
    actions: Vec<Action>,
}

impl Turn<'_> {
    fn take(&mut self, event: Event) {
        match event {
            Event::StartRequested(slot) => self.with_tunnel(slot, Self::start),
            Event::StopRequested(slot) => self.with_tunnel(slot, Self::stop),
            Event::RestartRequested(slot) => self.with_tunnel(slot, Self::restart),
            Event::PolicyChanged(slot, policy) => self.with_tunnel(slot, |turn, index| {
                turn.link.tunnels[index].forward.policy = policy;
                turn.retry_spare();
                turn.step_forward(index, forward::Input::PolicyChanged);
            }),
            Event::Forward(request, event) => self.hear_of_forward(request, event),
            Event::Connection(id, event) => self.step_connection(id, connection::Input::Event(event)),
            Event::NetworkChanged => self.network_changed(),
            Event::DeadlinePassed => self.pass_deadlines(),
        }
    }

    fn with_tunnel(&mut self, slot: Slot, work: impl FnOnce(&mut Self, usize)) {
        let found = self.link.tunnels.iter().position(|tunnel| tunnel.forward.slot == slot);
        if let Some(index) = found {
            work(self, index);
        }
    }

    fn start(&mut self, index: usize) {
        let tunnel = &mut self.link.tunnels[index];
        match tunnel.wanted {
            Wanted::ByHand => return,
            Wanted::Down => {
                tunnel.wanted = Wanted::Up;
                if self.link.active.is_none() && !self.link.ending.is_empty() {
                    self.link.login = Login::AfterEnd;
                }
            }
            Wanted::Up => {}
        }
        match tunnel.forward.state {
            forward::State::Failed => {
                tunnel.forward.forget_failures();
                self.step_forward(index, forward::Input::Release);
            }
            forward::State::Backoff { .. } => self.step_forward(index, forward::Input::Release),
            forward::State::Idle
            | forward::State::AwaitingPort { .. }
            | forward::State::Confirmed
            | forward::State::Opening { .. }
            | forward::State::Listening { .. }
            | forward::State::Closing { .. } => {}
        }
        match self.link.login {
            Login::Failed => (self.link.login, self.link.failures) = (Login::Open, 0),
            Login::Backoff { .. } => self.link.login = Login::Open,
            Login::Open | Login::AfterEnd => {}
        }
    }

    fn stop(&mut self, index: usize) {
        let tunnel = &mut self.link.tunnels[index];
        match tunnel.wanted {
            Wanted::ByHand | Wanted::Down => {}
            Wanted::Up => {
                tunnel.wanted = Wanted::Down;
                tunnel.last_failure = None;
                tunnel.forward.forget_failures();
            }
        }
        if self.link.tunnels.iter().all(|tunnel| tunnel.wanted != Wanted::Up) {
            (self.link.login, self.link.failures) = (Login::Open, 0);
        }
    }

    /// Requests coalesce: while a connection is on its way, it is the new one.
    fn restart(&mut self, index: usize) {
        self.start(index);
        match (self.link.policy().kind, &self.link.active) {
            (Kind::Ssh, Some(_)) => self.renew(),
            (Kind::Ssh, None) => {
                self.link.destination = 0;
                // It is older than the request.
                self.end_spare();
            }
            (Kind::Command, Some(active)) => match active.state {
                connection::State::Ready { .. } | connection::State::Reopening { .. } => {
                    self.end_active();
                    self.link.login = Login::AfterEnd;
                }
                connection::State::Starting { .. }
                | connection::State::Late
                | connection::State::Draining { .. }
                | connection::State::Terminated { .. }
                | connection::State::Killed { .. }
                | connection::State::Ended => {}
            },
            (Kind::Command, None) => {}
        }
    }

    /// Makes a new connection: beside the active one, if that serves anybody.
    fn renew(&mut self) {
        let Some(active) = &self.link.active else { return };
        if !active.is_ready() || self.link.next.is_some() {
            return;
        }
        let id = active.id;
        self.link.destination = 0;
        if self.link.tunnels.iter().any(|tunnel| tunnel.forward.listening() == Some(id)) {
            self.link.next = Some(self.start_connection(self.link.destination));
        } else {
            self.end_active();
            // It is older than what asks for a new one.
            self.end_spare();
        }
    }

    /// Takes one step of what follows; says whether there was one.
    fn advance(&mut self) -> bool {
        if self.link.login == Login::AfterEnd && self.link.ending.is_empty() {
            self.link.login = Login::Open;
            return true;
        }
        if !self.link.needs_connection()
            && (self.link.active.is_some() || self.link.next.is_some() || self.link.draining() > 0)
        {
            self.end_active();
            self.end_next();
            self.end_draining();
            return true;
        }
        if !self.link.wants_spare() && self.link.spare != Spare::Absent {
            self.end_spare();
            return true;
        }
        if self.link.needs_spare() {
            let destination = (self.link.destination() + 1) % self.link.policy().destinations;
            self.link.spare = Spare::Alive(self.start_connection(destination));
            return true;
        }
        if (0..self.link.tunnels.len()).any(|index| self.advance_tunnel(index)) {
            return true;
        }
        if self.link.has_moved() {
            self.drop_active(connection::Input::Drain);
            self.link.active = self.link.next.take();
            // What the server allows is decided at login: the spare is to be as new as the connection that it stands by.
            self.end_spare();
            return true;
        }
        false
    }

    fn advance_tunnel(&mut self, index: usize) -> bool {
        let Tunnel { wanted, forward, .. } = &self.link.tunnels[index];
        let is_wanted = *wanted == Wanted::Up && self.link.login != Login::Failed;
        let order = match &forward.state {
            forward::State::Idle if is_wanted && self.may_begin() => {
                forward::Input::Confirm(self.link.ready())
            }
            forward::State::Confirmed if is_wanted => match (self.link.login, self.link.target(forward)) {
                // By the time that it may be used, it may be held.
                (Login::AfterEnd | Login::Backoff { .. } | Login::Failed, _) => forward::Input::Release,
                (Login::Open, Target::Ready(id)) => match self.link.policy().kind {
                    Kind::Ssh => forward::Input::Open(id),
                    Kind::Command => forward::Input::Serve(id),
                },
                (Login::Open, Target::Wait) => return false,
                (Login::Open, Target::Renew) => {
                    self.renew();
                    return true;
                }
                (Login::Open, Target::Start) => {
                    if !self.take_over() {
                        self.link.active = Some(self.start_connection(self.link.destination));
                    }
                    return true;
                }
            },
            forward::State::Opening { on, .. }
            | forward::State::Listening { on, .. }
            | forward::State::Closing { on, .. }
                if !self.link.is_active(*on) && !self.link.is_next(*on) =>
            {
                forward::Input::Release
            }
            forward::State::Listening { on, .. } => {
                let has_successor = self.link.is_active(*on) && self.link.ready() != Some(*on);
                if is_wanted && !has_successor {
                    return false;
                }
                forward::Input::Close
            }
            forward::State::AwaitingPort { .. }
            | forward::State::Confirmed
            | forward::State::Backoff { .. }
                if !is_wanted =>
            {
                forward::Input::Release
            }
            forward::State::Failed if *wanted != Wanted::Up => forward::Input::Release,
            forward::State::Idle
            | forward::State::Confirmed
            | forward::State::AwaitingPort { .. }
            | forward::State::Opening { .. }
            | forward::State::Closing { .. }
            | forward::State::Backoff { .. }
            | forward::State::Failed => return false,
        };
        self.step_forward(index, order);
        true
    }

    /// A command that is being ended still has its port: its tree is waited for.
    fn may_begin(&self) -> bool {
        let is_free = match self.link.policy().kind {
            Kind::Ssh => true,
            Kind::Command => self.link.ending.is_empty(),
        };
        is_free && self.link.login == Login::Open
    }

    fn start_connection(&mut self, destination: usize) -> Connection {
        self.link.latest = self.link.latest.next();
        // There may be fewer since it was chosen.
        let destination = if destination < self.link.policy().destinations { destination } else { 0 };
        Connection::start(self.link.latest, destination, self.now, &self.link.policy(), &mut self.actions)
    }

    fn hear_of_forward(&mut self, request: Request, event: ForwardEvent) {
        let concerned = |tunnel: &Tunnel| tunnel.forward.request() == Some(request);
        if let Some(index) = self.link.tunnels.iter().position(concerned) {
            self.step_forward(index, forward::Input::Event(request, event));
        }
    }

    fn step_forward(&mut self, index: usize, input: forward::Input) {
        let Self { link, now, actions } = self;
        let now = *now;
        let tunnel = &mut link.tunnels[index];
        let mut context = Context { now, requests: &mut link.requests, actions };
        match tunnel.forward.step(input, &mut context) {
            forward::Outcome::Nothing => {}
            forward::Outcome::Opened(on) => {
                tunnel.last_failure = None;
                if self
                    .link
                    .active
                    .as_ref()
                    .is_some_and(|active| active.id == on && active.suspended.is_some())
                {
                    self.note_suspension();
                }
            }
            forward::Outcome::Refused(on, failure) => self.refused(index, on, failure),
            forward::Outcome::ListenerLost => {
                tunnel.last_failure = Some(Failure::new(
                    FailureKind::Exited,
                    "ssh runs and does not listen any more, although portward did not close the listener; it is asked to \
                     listen again",
                ));
            }
            forward::Outcome::Unusable(failure) => {
                tunnel.forward.fail(failure.retry, None, now);
                tunnel.last_failure = Some(failure);
            }
            forward::Outcome::OpenUnanswered(on) => self.give_up(on, "listen", "10 s"),
            // Its port is free when it is dead, and the kernel will say so.
            forward::Outcome::CloseUnanswered(on) => self.give_up(on, "close its listener", "500 ms"),
            forward::Outcome::HoldersStay(failure) => tunnel.last_failure = Some(failure),
            forward::Outcome::EvictionEnded => tunnel.last_failure = None,
        }
    }

    fn refused(&mut self, index: usize, on: ConnectionId, failure: Failure) {
        let by = match failure.kind {
            // The connection is good, and no other one would fare better.
            FailureKind::LocalPortHeld => None,
            FailureKind::RemotePortHeld
            | FailureKind::Auth
            | FailureKind::HostKey
            | FailureKind::Dns
            | FailureKind::Refused
            | FailureKind::Timeout
            | FailureKind::Network
            | FailureKind::Config
            | FailureKind::Killed
            | FailureKind::Exited => {
                if self.link.is_next(on) {
                    self.end_next();
                    self.replacement_failed(failure);
                    return;
                }
                Some(on)
            }
        };
        let tunnel = &mut self.link.tunnels[index];
        tunnel.forward.fail(failure.retry, by, self.now);
        tunnel.last_failure = Some(failure);
    }

    /// The connection does not answer.
    fn give_up(&mut self, on: ConnectionId, request: &str, waited: &str) {
        let message = format!("ssh did not answer the request to {request} within {waited}");
        let failure = Failure::new(FailureKind::Timeout, message);
        if self.link.is_next(on) {
            self.end_next();
            self.replacement_failed(failure);
        } else if self.link.is_active(on) {
            let before = self.link.active.as_ref().map(|active| active.state);
            self.active_lost(before, connection::Input::Kill, &failure);
        }
    }

    fn step_connection(&mut self, id: ConnectionId, input: connection::Input) {
        let policy = self.link.policy();
        let Link { active, next, spare, ending, .. } = &mut *self.link;
        let mut connections = active.iter_mut().chain(next).chain(spare.connection_mut()).chain(ending);
        let Some(connection) = connections.find(|one| one.id == id) else { return };
        let before = connection.state;
        match connection.step(input, self.now, &policy, &mut self.actions) {
            connection::Outcome::Nothing => {}
            connection::Outcome::BecameReady => self.became_ready(id),
            connection::Outcome::Failed(failure) | connection::Outcome::Lost(failure) => {
                self.connection_lost(id, before, failure);
            }
            // The next change of the network may be long in coming; how often it changes is bounded.
            connection::Outcome::CutOff(failure) => {
                self.connection_lost(id, before, failure);
                self.link.end_backoff_of_network();
            }
            connection::Outcome::ListenerLost => {
                self.note_failure(&Failure::new(
                    FailureKind::Exited,
                    "the process runs and does not listen on its port any more; unless it does again within 5 s, it is \
                     started again",
                ));
                for index in 0..self.link.tunnels.len() {
                    self.step_forward(index, forward::Input::Unserve);
                }
            }
            connection::Outcome::Suspended => {
                if self.link.is_active(id) {
                    self.note_suspension();
                }
            }
            connection::Outcome::Continued => {
                for tunnel in &mut self.link.tunnels {
                    if tunnel.forward.listening() == Some(id) {
                        tunnel.last_failure = None;
                    }
                }
            }
            connection::Outcome::Unresponsive => match policy.kind {
                Kind::Ssh if self.link.is_active(id) => self.renew(),
                Kind::Ssh if self.link.is_next(id) => {
                    self.end_next();
                    self.replacement_failed(stopped_for_good(&policy));
                }
                Kind::Ssh if self.link.is_spare(id) => self.end_spare(),
                Kind::Ssh => {}
                Kind::Command => {
                    let failure = stopped_for_good(&policy);
                    self.active_lost(Some(before), connection::Input::Terminate, &failure);
                }
            },
            connection::Outcome::Survived(failure) => {
                for tunnel in &mut self.link.tunnels {
                    tunnel.last_failure = Some(failure.clone());
                }
            }
            connection::Outcome::Ended => {
                self.link.ending.retain(|connection| connection.state != connection::State::Ended);
            }
        }
    }

    fn connection_lost(&mut self, id: ConnectionId, before: connection::State, failure: Failure) {
        if self.link.is_next(id) {
            self.end_next();
            self.replacement_failed(failure);
        } else if self.link.is_spare(id) {
            self.spare_failed(before, failure);
        } else {
            self.active_lost(Some(before), connection::Input::Terminate, &failure);
        }
    }

    /// What failed for want of a network is tried again, and what is up has to show that it still is.
    fn network_changed(&mut self) {
        self.link.end_backoff_of_network();
        let Link { active, next, spare, .. } = &*self.link;
        let connections = active.iter().chain(next).chain(spare.connection());
        for id in connections.map(|connection| connection.id).collect::<Vec<_>>() {
            self.step_connection(id, connection::Input::NetworkChanged);
        }
    }

    /// A port that was confirmed before a login is confirmed again after it.
    fn became_ready(&mut self, id: ConnectionId) {
        match self.link.policy().kind {
            Kind::Ssh if self.link.is_spare(id) => {}
            Kind::Ssh => self.step_confirmed(&forward::Input::Confirm(Some(id))),
            Kind::Command => {}
        }
    }

    /// Tells this every forward whose port was confirmed.
    fn step_confirmed(&mut self, input: &forward::Input) {
        for index in 0..self.link.tunnels.len() {
            if matches!(self.link.tunnels[index].forward.state, forward::State::Confirmed) {
                self.step_forward(index, input.clone());
            }
        }
    }

    /// It serves, but its process is stopped by a signal.
    fn note_suspension(&mut self) {
        let policy = self.link.policy();
        let Some(suspended) = self.link.active.as_ref().and_then(|active| active.suspended) else { return };
        let listening = self.link.active.as_ref().map(|active| active.id);
        for tunnel in &mut self.link.tunnels {
            if tunnel.forward.listening() == listening {
                tunnel.last_failure = Some(serves_nobody(suspended.pid, &policy));
            }
        }
    }

    /// The active connection is of no use any more. What was to replace it does.
    fn active_lost(
        &mut self,
        before: Option<connection::State>,
        order: connection::Input,
        failure: &Failure,
    ) {
        if let Some(connection::State::Ready { since }) = before
            && self.now.since(since) >= self.link.policy().reset_after
        {
            self.link.failures = 0;
        }
        self.drop_active(order);
        match self.link.next.take() {
            Some(next) => self.link.active = Some(next),
            None if self.take_over() => {
                // What was confirmed for the one that is lost may be held by it since.
                self.step_confirmed(&forward::Input::Release);
                self.note_failure(failure);
            }
            None => self.lost(failure, matches!(before, Some(connection::State::Ready { .. }))),
        }
    }

    /// Makes the spare the active connection, if it can be.
    fn take_over(&mut self) -> bool {
        let Some(spare) = self.link.spare.take_promising() else { return false };
        self.actions.push(Action::ReportTakeover(spare.id));
        self.link.destination = spare.destination;
        self.link.active = Some(spare);
        true
    }

    fn spare_failed(&mut self, before: connection::State, failure: Failure) {
        if let connection::State::Ready { since } = before
            && self.now.since(since) >= self.link.policy().reset_after
        {
            self.link.spare_failures = 0;
        }
        self.end_spare();
        self.link.spare_failures = self.link.spare_failures.saturating_add(1);
        let (policy, seed) = (self.link.policy(), self.link.tunnels[0].forward.seed);
        self.link.spare = Spare::failed(&failure, self.link.spare_failures, &policy, seed, self.now);
        self.actions.push(Action::ReportStandbyFailed(failure));
    }

    /// What was wrong with the last one may be mended.
    fn retry_spare(&mut self) {
        match self.link.spare {
            Spare::Backoff { .. } | Spare::Failed => {
                (self.link.spare, self.link.spare_failures) = (Spare::Absent, 0);
            }
            Spare::Absent | Spare::Alive(_) => {}
        }
    }

    /// No connection is left.
    fn lost(&mut self, failure: &Failure, was_ready: bool) {
        let policy = self.link.policy();
        // It is the port that is waited for: the connection is made anew when that is free.
        let mut wanted = self.link.tunnels.iter().filter(|tunnel| tunnel.wanted == Wanted::Up);
        let only_waits = wanted.all(|tunnel| !tunnel.forward.holders().is_empty());
        self.step_confirmed(&forward::Input::Release);
        self.note_failure(failure);
        if only_waits || (!was_ready && self.turns_to_next_destination(failure)) {
            return;
        }
        self.link.failures = self.link.failures.saturating_add(1);
        let seed = self.link.tunnels[0].forward.seed;
        self.link.login = match backoff::delay(failure.retry, self.link.failures, &policy, seed) {
            None => Login::Failed,
            Some(Duration::ZERO) => Login::Open,
            Some(wait) => Login::Backoff { until: self.now.after(wait) },
        };
    }

    /// Whether another destination may be reached where this one was not: they are tried in order, and then waited for together.
    fn turns_to_next_destination(&mut self, failure: &Failure) -> bool {
        if !failure.kind.is_unreachable() {
            return false;
        }
        self.link.destination = (self.link.destination + 1) % self.link.policy().destinations;
        self.link.destination != 0
    }

    /// What was to replace the active connection is gone: everything stays on that one, or goes back to it.
    fn replacement_failed(&mut self, failure: Failure) {
        if self.link.active.as_ref().is_some_and(|active| active.suspended.is_some()) {
            self.end_active();
            self.lost(&failure, true);
            return;
        }
        self.step_confirmed(&forward::Input::Release);
        self.note_failure(&failure);
        self.actions.push(Action::ReportReplacementFailed(failure));
    }

    fn note_failure(&mut self, failure: &Failure) {
        for tunnel in &mut self.link.tunnels {
            if tunnel.wanted == Wanted::Up {
                tunnel.last_failure = Some(failure.clone());
            }
        }
    }

    fn end_active(&mut self) {
        self.drop_active(connection::Input::Terminate);
    }

    fn drop_active(&mut self, order: connection::Input) {
        if let Some(connection) = self.link.active.take() {
            self.end(connection, order);
        }
    }

    fn end_next(&mut self) {
        if let Some(connection) = self.link.next.take() {
            self.end(connection, connection::Input::Terminate);
        }
    }

    fn end_spare(&mut self) {
        self.retry_spare();
        if let Some(connection) = self.link.spare.take() {
            self.end(connection, connection::Input::Terminate);
        }
    }

    fn end_draining(&mut self) {
        let policy = self.link.policy();
        for connection in self.link.ending.iter_mut().filter(|connection| connection.is_draining()) {
            connection.step(connection::Input::Terminate, self.now, &policy, &mut self.actions);
        }
    }

    fn end(&mut self, mut connection: Connection, order: connection::Input) {
        connection.step(order, self.now, &self.link.policy(), &mut self.actions);
        if connection.state != connection::State::Ended {
            self.link.ending.push(connection);
        }
    }

    fn pass_deadlines(&mut self) {
        let now = self.now;
        let is_due = |deadline: Option<Moment>| deadline.is_some_and(|deadline| deadline <= now);
        let connections = self.link.connections().filter(|connection| is_due(connection.deadline()));
        for id in connections.map(|connection| connection.id).collect::<Vec<_>>() {
            self.step_connection(id, connection::Input::DeadlinePassed);
        }
        for index in 0..self.link.tunnels.len() {
            if is_due(self.link.tunnels[index].forward.deadline()) {
                self.step_forward(index, forward::Input::DeadlinePassed);
            }
        }
        if let Login::Backoff { until } = self.link.login
            && until <= now
        {
            self.link.login = Login::Open;
        }
        if is_due(self.link.spare.deadline()) {
            self.link.spare = Spare::Absent;
        }
    }
}

fn serves_nobody(pid: u32, policy: &Policy) -> Failure {
    let what = match policy.kind {
        Kind::Ssh => "replaced by a new connection",
        Kind::Command => "started again",
    };
    Failure::new(
        FailureKind::Timeout,
        format!(
            "pid {pid} is stopped by a signal (SIGSTOP, or a debugger) and serves nobody; unless it goes on within {} s \
             (`kill -CONT {pid}`), it is {what}",
            policy.stop_grace.as_secs_f64()
        ),
    )
}

fn stopped_for_good(policy: &Policy) -> Failure {
    Failure::new(
        FailureKind::Timeout,
        format!(
            "the process was stopped by a signal for {} s; it is started again",
            policy.stop_grace.as_secs_f64()
        ),
    )
}
