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
//! Where tunnels share a connection, those move that are to be restarted; the others stay on the old one, which is kept as `former`
//! until it serves nobody.
//!
//! What follows from the end of a connection is in the file `loss.rs`.

use super::connection::{self, Connection};
use super::demand;
use super::forward::{self, Context};
use super::link::{Attendance, Link, Login, Target, Tunnel, Wanted};
use super::spare::Spare;
use super::{
    Action, ConnectionId, Event, Failure, FailureKind, ForwardEvent, Kind, Request, Slot, StateName,
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
pub(super) struct Turn<'link> {
    pub(super) link: &'link mut Link,
    pub(super) now: Moment,
    pub(super) actions: Vec<Action>,
}

impl Turn<'_> {
    fn take(&mut self, event: Event) {
        match event {
            Event::StartRequested(slot) => self.with_tunnel(slot, Self::start),
            Event::PersonCame(slot) => self.with_tunnel(slot, Self::attend),
            Event::PersonLeft => self.leave_unattended(),
            Event::StopRequested(slot) => self.with_tunnel(slot, Self::stop),
            Event::RestartRequested(slot) => self.with_tunnel(slot, Self::restart),
            Event::PolicyChanged(slot, policy) => self.with_tunnel(slot, |turn, index| {
                turn.link.tunnels[index].forward.policy = policy;
                turn.link.combine_policies();
                turn.retry_spare();
                turn.step_forward(index, forward::Input::PolicyChanged);
                turn.step_demand(index, demand::Input::PolicyChanged);
            }),
            Event::ClientsCame(slot) => self.tell_demand(slot, demand::Input::Came),
            Event::ClientsLeft(slot) => self.tell_demand(slot, demand::Input::Left),
            Event::NoClients(slot, request) => self.tell_demand(slot, demand::Input::Nobody(request)),
            Event::PortLost(slot) => self.with_tunnel(slot, |turn, index| {
                let tunnel = &turn.link.tunnels[index];
                // In other states it is confirmed before it is used.
                if matches!(tunnel.forward.state, forward::State::Confirmed) {
                    turn.step_forward(
                        index,
                        forward::Input::Confirm(turn.link.usable(&turn.link.tunnels[index])),
                    );
                }
            }),
            Event::Removed(slot) => {
                self.link.tunnels.retain(|tunnel| tunnel.forward.slot != slot);
                self.link.combine_policies();
            }
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
            Wanted::Down => self.want(index),
            Wanted::Up => {}
        }
        let tunnel = &mut self.link.tunnels[index];
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
            | forward::State::Withdrawing { .. }
            | forward::State::Closing { .. } => {}
        }
        match self.link.login {
            Login::Failed => (self.link.login, self.link.failures) = (Login::Open, 0),
            Login::Backoff { .. } => self.link.login = Login::Open,
            Login::Open | Login::AfterEnd => {}
        }
    }

    fn want(&mut self, index: usize) {
        self.link.tunnels[index].wanted = Wanted::Up;
        if self.link.active.is_none() && !self.link.ending.is_empty() {
            self.link.login = Login::AfterEnd;
        }
        self.step_demand(index, demand::Input::Reset);
    }

    /// A person is there for the tunnel: a connection that is there already needs no login.
    fn attend(&mut self, index: usize) {
        if !self.link.is_by_hand() {
            return;
        }
        if self.link.serving().next().is_none() {
            self.link.attendance = Attendance::Present;
        }
        if self.link.tunnels[index].wanted == Wanted::ByHand {
            self.link.tunnels[index].last_failure = None;
            self.want(index);
        }
        self.start(index);
    }

    /// A connection that is ready goes on by itself; a login does not.
    fn leave_unattended(&mut self) {
        if !self.link.is_by_hand() {
            return;
        }
        self.link.attendance = Attendance::Absent;
        if self.link.active.as_ref().is_some_and(|active| !active.is_ready()) {
            self.end_active();
        }
    }

    /// Without a connection, and with nobody who could make one, nothing is wanted of tunnels for which a person logs in.
    fn gives_up_unattended(&mut self) -> bool {
        let is_lost = self.link.attendance == Attendance::Absent
            && self.link.serving().next().is_none()
            && self.link.tunnels.iter().any(|tunnel| tunnel.wanted == Wanted::Up);
        if is_lost {
            for index in 0..self.link.tunnels.len() {
                self.link.tunnels[index].wanted = Wanted::ByHand;
                self.link.tunnels[index].forward.forget_failures();
                self.step_demand(index, demand::Input::Reset);
            }
            (self.link.login, self.link.failures) = (Login::Open, 0);
        }
        is_lost
    }

    fn stop(&mut self, index: usize) {
        let unwanted = self.link.unwanted();
        let tunnel = &mut self.link.tunnels[index];
        match tunnel.wanted {
            Wanted::ByHand | Wanted::Down => {}
            Wanted::Up => {
                tunnel.wanted = unwanted;
                tunnel.last_failure = None;
                tunnel.forward.forget_failures();
                self.step_demand(index, demand::Input::Reset);
            }
        }
        if self.link.tunnels.iter().all(|tunnel| tunnel.wanted != Wanted::Up) {
            (self.link.login, self.link.failures) = (Login::Open, 0);
            if self.link.attendance == Attendance::Present {
                self.link.attendance = Attendance::Absent;
            }
        }
    }

    /// Requests coalesce: while a connection is on its way, it is the new one.
    fn restart(&mut self, index: usize) {
        self.start(index);
        if self.link.is_by_hand() {
            // Nobody is there for a second login.
            return;
        }
        match (self.link.policy.kind, &self.link.active) {
            // It has no part in the connection.
            (Kind::Ssh, Some(_)) if self.link.tunnels[index].demand.is_asleep() => {}
            (Kind::Ssh, Some(_)) => self.renew(index),
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
                | connection::State::Late { .. }
                | connection::State::Draining { .. }
                | connection::State::Terminated { .. }
                | connection::State::Killed { .. }
                | connection::State::Ended => {}
            },
            (Kind::Command, None) => {}
        }
    }

    /// Has the tunnel move to a new connection: beside the active one, if that serves anybody.
    pub(super) fn renew(&mut self, index: usize) {
        let Some(active) = &self.link.active else { return };
        let id = active.id;
        let home = match &self.link.next {
            Some(next) => next.id,
            None if !active.is_ready() => id,
            None => {
                self.link.destination = 0;
                let listens = |tunnel: &Tunnel| tunnel.forward.listening() == Some(id);
                if self.link.former.is_empty() && !self.link.tunnels.iter().any(listens) {
                    self.end_active();
                    // It is older than what asks for a new one.
                    self.end_spare();
                    return;
                }
                let next = self.start_connection(self.link.destination);
                self.link.next.insert(next).id
            }
        };
        self.link.tunnels[index].home = home;
    }

    /// Takes one step of what follows; says whether there was one.
    fn advance(&mut self) -> bool {
        if self.link.login == Login::AfterEnd && self.link.ending.is_empty() {
            self.link.login = Login::Open;
            return true;
        }
        if self.gives_up_unattended() {
            return true;
        }
        if self.link.active.is_none()
            && self.link.next.is_none()
            && let Some(index) = self.link.tunnels.iter().position(|tunnel| tunnel.demand.lingers())
        {
            self.step_demand(index, demand::Input::Disconnected);
            return true;
        }
        if !self.link.needs_connection()
            && (self.link.active.is_some() || self.link.next.is_some() || self.link.draining() > 0)
        {
            self.end_active();
            self.end_next();
            while let Some(connection) = self.link.former.pop() {
                self.end(connection, connection::Input::Terminate);
            }
            self.end_draining();
            return true;
        }
        let unused = self.link.former.iter().position(|connection| !self.link.is_used(connection.id));
        if let Some(index) = unused {
            let connection = self.link.former.remove(index);
            self.end(connection, connection::Input::Drain);
            return true;
        }
        if self.link.is_active_idle() {
            self.drop_active(connection::Input::Drain);
            self.take_back();
            return true;
        }
        if !self.link.wants_spare() && self.link.spare != Spare::Absent {
            self.end_spare();
            return true;
        }
        if self.link.needs_spare() {
            let present =
                self.link.active.as_ref().map_or(self.link.destination, |active| active.destination);
            let destination = (present + 1) % self.link.policy.destinations;
            self.link.spare = Spare::Alive(self.start_connection(destination));
            return true;
        }
        if (0..self.link.tunnels.len()).any(|index| self.advance_tunnel(index)) {
            return true;
        }
        if self.link.has_moved() {
            if let Some(old) = std::mem::replace(&mut self.link.active, self.link.next.take()) {
                // It is ended as soon as nobody uses it any more.
                self.link.former.push(old);
            }
            // What the server allows is decided at login: the spare is to be as new as the connection that it stands by.
            self.end_spare();
            return true;
        }
        false
    }

    fn advance_tunnel(&mut self, index: usize) -> bool {
        let tunnel = &self.link.tunnels[index];
        let is_wanted = tunnel.wanted == Wanted::Up && self.link.login != Login::Failed;
        let order = match &tunnel.forward.state {
            forward::State::Idle if is_wanted && self.may_begin() => {
                forward::Input::Confirm(self.link.usable(tunnel))
            }
            forward::State::Confirmed if is_wanted => match (self.link.login, self.link.target(tunnel)) {
                // By the time that it may be used, it may be held.
                (Login::AfterEnd | Login::Backoff { .. } | Login::Failed, _) => forward::Input::Release,
                (Login::Open, _) if tunnel.demand.is_asleep() => return false,
                (Login::Open, Target::Ready(id)) => {
                    self.link.tunnels[index].home = id;
                    match self.link.policy.kind {
                        Kind::Ssh => forward::Input::Open(id),
                        Kind::Command => forward::Input::Serve(id),
                    }
                }
                (Login::Open, Target::Wait) => return false,
                (Login::Open, Target::Move(id)) => {
                    self.link.tunnels[index].home = id;
                    return true;
                }
                (Login::Open, Target::Renew) => {
                    self.renew(index);
                    return true;
                }
                // What an earlier run has left had not listened yet, and is being ended.
                (Login::Open, Target::Start) if !self.may_begin() => forward::Input::Release,
                (Login::Open, Target::Start) => {
                    if !self.take_over() {
                        self.link.active = Some(self.start_connection(self.link.destination));
                    }
                    return true;
                }
            },
            // Nobody needs it, and portward's own listener has the port.
            forward::State::Listening { on, .. }
                if is_wanted
                    && tunnel.demand.is_asleep()
                    && !self.link.serving().any(|connection| connection.id == *on) =>
            {
                forward::Input::Unserve
            }
            forward::State::Opening { on, .. }
            | forward::State::Listening { on, .. }
            | forward::State::Withdrawing { on, .. }
            | forward::State::Closing { on, .. }
                if !self.link.serving().any(|connection| connection.id == *on) =>
            {
                forward::Input::Release
            }
            forward::State::Listening { on, .. } => {
                let has_successor = self.link.usable(tunnel).is_some_and(|successor| successor != *on);
                if is_wanted && !has_successor && !tunnel.demand.is_asleep() {
                    return false;
                }
                forward::Input::Close
            }
            // The connection goes on for others.
            forward::State::Opening { .. } if !is_wanted => forward::Input::Close,
            forward::State::AwaitingPort { .. }
            | forward::State::Confirmed
            | forward::State::Backoff { .. }
                if !is_wanted =>
            {
                forward::Input::Release
            }
            forward::State::Failed if tunnel.wanted != Wanted::Up => forward::Input::Release,
            forward::State::Idle
            | forward::State::Confirmed
            | forward::State::AwaitingPort { .. }
            | forward::State::Opening { .. }
            | forward::State::Withdrawing { .. }
            | forward::State::Closing { .. }
            | forward::State::Backoff { .. }
            | forward::State::Failed => return false,
        };
        self.step_forward(index, order);
        true
    }

    /// A command that is being ended still has its port: its tree is waited for.
    fn may_begin(&self) -> bool {
        let is_free = match self.link.policy.kind {
            Kind::Ssh => true,
            Kind::Command => self.link.ending.is_empty(),
        };
        is_free && self.link.login == Login::Open
    }

    pub(super) fn start_connection(&mut self, destination: usize) -> Connection {
        self.link.latest = self.link.latest.next();
        if self.link.attendance == Attendance::Present {
            self.link.attendance = Attendance::Absent;
        }
        // There may be fewer since it was chosen.
        let destination = if destination < self.link.policy.destinations { destination } else { 0 };
        let policy = self.link.policy;
        Connection::start(self.link.latest, destination, self.now, &policy, &mut self.actions)
    }

    fn hear_of_forward(&mut self, request: Request, event: ForwardEvent) {
        let concerned = |tunnel: &Tunnel| tunnel.forward.request() == Some(request);
        if let Some(index) = self.link.tunnels.iter().position(concerned) {
            self.step_forward(index, forward::Input::Event(request, event));
        }
    }

    fn tell_demand(&mut self, slot: Slot, input: demand::Input) {
        self.with_tunnel(slot, |turn, index| turn.step_demand(index, input));
    }

    fn step_demand(&mut self, index: usize, input: demand::Input) {
        let Self { link, now, actions } = self;
        let Tunnel { forward, demand, .. } = &mut link.tunnels[index];
        let mut context = Context { now: *now, requests: &mut link.requests, actions };
        demand.step(input, forward.slot, forward.policy.on_demand, &mut context);
    }

    pub(super) fn step_forward(&mut self, index: usize, input: forward::Input) {
        let Self { link, now, actions } = self;
        let now = *now;
        let tunnel = &mut link.tunnels[index];
        let mut context = Context { now, requests: &mut link.requests, actions };
        match tunnel.forward.step(input, &mut context) {
            forward::Outcome::Nothing => {}
            forward::Outcome::Opened(on) => {
                tunnel.last_failure = None;
                self.note_suspension(on);
                self.note_unreachable(on);
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
                if self.link.is_next(on) && self.link.active.as_ref().is_some_and(Connection::is_usable) {
                    self.move_back(index, failure);
                    return;
                }
                Some(on)
            }
        };
        let tunnel = &mut self.link.tunnels[index];
        tunnel.forward.fail(failure.retry, by, self.now);
        tunnel.last_failure = Some(failure);
    }

    pub(super) fn end_active(&mut self) {
        self.drop_active(connection::Input::Terminate);
    }

    pub(super) fn drop_active(&mut self, order: connection::Input) {
        if let Some(connection) = self.link.active.take() {
            self.end(connection, order);
        }
    }

    pub(super) fn end_next(&mut self) {
        if let Some(connection) = self.link.next.take() {
            self.end(connection, connection::Input::Terminate);
        }
    }

    pub(super) fn end_spare(&mut self) {
        self.retry_spare();
        if let Some(connection) = self.link.spare.take() {
            self.end(connection, connection::Input::Terminate);
        }
    }

    fn end_draining(&mut self) {
        let policy = self.link.policy;
        for connection in self.link.ending.iter_mut().filter(|connection| connection.is_draining()) {
            connection.step(connection::Input::Terminate, self.now, &policy, &mut self.actions);
        }
    }

    pub(super) fn end(&mut self, mut connection: Connection, order: connection::Input) {
        connection.step(order, self.now, &self.link.policy, &mut self.actions);
        if connection.state != connection::State::Ended {
            self.link.ending.push(connection);
        }
    }

    /// What failed for want of a network is tried again, and what is up has to show that it still is.
    fn network_changed(&mut self) {
        self.link.end_backoff_of_network();
        let connections = self.link.serving().chain(self.link.spare.connection());
        for id in connections.map(|connection| connection.id).collect::<Vec<_>>() {
            self.step_connection(id, connection::Input::NetworkChanged);
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
            let Tunnel { forward, demand, .. } = &self.link.tunnels[index];
            if is_due(demand.deadline(forward.policy.on_demand)) {
                self.step_demand(index, demand::Input::DeadlinePassed);
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
