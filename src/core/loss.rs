//! What a link does about events of its connections: one is ready, is stopped by a signal, fails, is lost, ends.
//!
//! The end of a connection is one event for all tunnels that belong to it. What is ready takes its place: the connection that was to
//! replace it, the spare, or an older one that still serves other tunnels. If there is none, a new one is made, once for all.

use std::time::Duration;

use super::connection::{self, Probe};
use super::forward;
use super::link::{Link, Login, Wanted};
use super::spare::Spare;
use super::turn::Turn;
use super::{Action, ConnectionId, Failure, FailureKind, Kind, Policy, backoff};

impl Turn<'_> {
    pub(super) fn step_connection(&mut self, id: ConnectionId, input: connection::Input) {
        let policy = self.link.policy;
        let Link { active, next, former, spare, ending, .. } = &mut *self.link;
        let serving = active.iter_mut().chain(next).chain(former);
        let mut connections = serving.chain(spare.connection_mut()).chain(ending);
        let Some(connection) = connections.find(|one| one.id == id) else { return };
        let before = connection.state;
        match connection.step(input, self.now, &policy, &mut self.actions) {
            connection::Outcome::Nothing => {}
            connection::Outcome::BecameReady => self.became_ready(id),
            connection::Outcome::Failed(failure) | connection::Outcome::Lost(failure) => {
                self.connection_lost(id, before, connection::Input::Terminate, failure);
            }
            // The next change of the network may be long in coming; how often it changes is bounded.
            connection::Outcome::CutOff(failure) => {
                self.connection_lost(id, before, connection::Input::Terminate, failure);
                self.link.end_backoff_of_network();
            }
            connection::Outcome::ListenerLost => {
                let failure = Failure::new(
                    FailureKind::Exited,
                    "the process runs and does not listen on its port any more; unless it does again within 5 s, it is \
                     started again",
                );
                let concerned = self.link.tunnels_of(id);
                self.note_failure(&concerned, &failure);
                for index in concerned {
                    self.step_forward(index, forward::Input::Unserve);
                }
            }
            connection::Outcome::Suspended => self.note_suspension(id),
            connection::Outcome::Unreachable => self.note_unreachable(id),
            connection::Outcome::Continued | connection::Outcome::Reachable => {
                for tunnel in &mut self.link.tunnels {
                    if tunnel.forward.listening() == Some(id) {
                        tunnel.last_failure = None;
                    }
                }
            }
            connection::Outcome::Unresponsive => self.unresponsive(id, before),
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

    /// It does not answer.
    pub(super) fn give_up(&mut self, on: ConnectionId, request: &str, waited: &str) {
        let message = format!("ssh did not answer the request to {request} within {waited}");
        let failure = Failure::new(FailureKind::Timeout, message);
        let before = self.link.serving().find(|connection| connection.id == on).map(|one| one.state);
        if let Some(before) = before {
            let order =
                if self.link.is_next(on) { connection::Input::Terminate } else { connection::Input::Kill };
            self.connection_lost(on, before, order, failure);
        }
    }

    /// A port that was confirmed before a login is confirmed again after it.
    fn became_ready(&mut self, id: ConnectionId) {
        match self.link.policy.kind {
            Kind::Ssh => {
                let concerned = self.link.tunnels_of(id);
                self.step_confirmed(&concerned, &forward::Input::Confirm(Some(id)));
            }
            Kind::Command => {}
        }
    }

    /// It serves, but its process is stopped by a signal.
    pub(super) fn note_suspension(&mut self, id: ConnectionId) {
        let connection = self.link.serving().find(|connection| connection.id == id);
        let Some(suspended) = connection.and_then(|connection| connection.suspended) else { return };
        let is_by_hand = self.link.is_by_hand();
        for tunnel in &mut self.link.tunnels {
            if tunnel.forward.listening() == Some(id) {
                tunnel.last_failure = Some(if is_by_hand {
                    serves_nobody_by_hand(suspended.pid)
                } else {
                    serves_nobody(suspended.pid, &self.link.policy)
                });
            }
        }
    }

    /// It listens, but this machine has no way to its server.
    pub(super) fn note_unreachable(&mut self, id: ConnectionId) {
        let connection = self.link.serving().find(|connection| connection.id == id);
        if !connection.is_some_and(|connection| matches!(connection.probe, Some(Probe::NoRoute { .. }))) {
            return;
        }
        for tunnel in &mut self.link.tunnels {
            if tunnel.forward.listening() == Some(id) {
                tunnel.last_failure = Some(unreachable());
            }
        }
    }

    /// It was stopped by a signal for too long.
    fn unresponsive(&mut self, id: ConnectionId, before: connection::State) {
        match self.link.policy.kind {
            // It may go on yet, and nothing can take its place.
            Kind::Ssh if self.link.is_by_hand() => {}
            Kind::Ssh if self.link.is_active(id) => {
                for index in self.link.tunnels_of(id) {
                    self.renew(index);
                }
            }
            Kind::Ssh if self.link.is_spare(id) => self.end_spare(),
            Kind::Ssh | Kind::Command => {
                let failure = stopped_for_good(&self.link.policy);
                self.connection_lost(id, before, connection::Input::Terminate, failure);
            }
        }
    }

    /// It is of no use any more. `order` ends what is left of it.
    fn connection_lost(
        &mut self,
        id: ConnectionId,
        before: connection::State,
        order: connection::Input,
        failure: Failure,
    ) {
        if self.link.is_next(id) {
            self.replacement_lost(order, &failure);
        } else if self.link.is_spare(id) {
            self.spare_failed(before, failure);
        } else if self.link.is_active(id) {
            self.active_lost(before, order, &failure);
        } else if let Some(index) = self.link.former.iter().position(|connection| connection.id == id) {
            let concerned = self.link.tunnels_of(id);
            let connection = self.link.former.remove(index);
            self.end(connection, order);
            self.note_failure(&concerned, &failure);
        }
    }

    /// What was to replace the active connection, or what is ready, serves in its place.
    fn active_lost(&mut self, before: connection::State, order: connection::Input, failure: &Failure) {
        if self.has_been_ready(before) {
            self.link.failures = 0;
        }
        let active = self.link.active.as_ref().map(|active| active.id);
        let concerned = active.map(|active| self.link.tunnels_of(active)).unwrap_or_default();
        self.drop_active(order);
        match self.link.next.take() {
            Some(next) => self.link.active = Some(next),
            None if self.take_over() || self.take_back() => {
                // What was confirmed for the one that is lost may be held by it since.
                self.step_confirmed(&concerned, &forward::Input::Release);
                self.note_failure(&concerned, failure);
            }
            None => self.lost(failure, matches!(before, connection::State::Ready { .. })),
        }
    }

    /// Makes the spare the active connection, if it can be.
    pub(super) fn take_over(&mut self) -> bool {
        let Some(spare) = self.link.spare.take_promising() else { return false };
        self.actions.push(Action::ReportTakeover(spare.id));
        self.link.destination = spare.destination;
        self.link.active = Some(spare);
        true
    }

    /// Makes the newest of those that serve other tunnels the active connection.
    pub(super) fn take_back(&mut self) -> bool {
        self.link.active = self.link.former.pop();
        self.link.active.is_some()
    }

    fn spare_failed(&mut self, before: connection::State, failure: Failure) {
        if self.has_been_ready(before) {
            self.link.spare_failures = 0;
        }
        self.end_spare();
        self.link.spare_failures = self.link.spare_failures.saturating_add(1);
        let Link { policy, seed, spare_failures, .. } = *self.link;
        self.link.spare = Spare::failed(&failure, spare_failures, &policy, seed, self.now);
        self.actions.push(Action::ReportStandbyFailed(failure));
    }

    /// Whether it was ready for so long that failures are counted anew.
    fn has_been_ready(&self, before: connection::State) -> bool {
        matches!(before, connection::State::Ready { since } if self.now.since(since) >= self.link.policy.reset_after)
    }

    /// What was wrong with the last one may be mended.
    pub(super) fn retry_spare(&mut self) {
        match self.link.spare {
            Spare::Backoff { .. } | Spare::Failed => {
                (self.link.spare, self.link.spare_failures) = (Spare::Absent, 0);
            }
            Spare::Absent | Spare::Alive(_) => {}
        }
    }

    /// No connection is left.
    fn lost(&mut self, failure: &Failure, was_ready: bool) {
        // It is the port that is waited for: the connection is made anew when that is free.
        let mut wanted = self.link.tunnels.iter().filter(|tunnel| tunnel.wanted == Wanted::Up);
        let only_waits = wanted.all(|tunnel| !tunnel.forward.holders().is_empty());
        let all: Vec<_> = (0..self.link.tunnels.len()).collect();
        self.step_confirmed(&all, &forward::Input::Release);
        self.note_failure(&all, failure);
        if self.link.is_by_hand() {
            // Nothing is tried again: a person has to log in.
            return;
        }
        if only_waits || (!was_ready && self.turns_to_next_destination(failure)) {
            return;
        }
        self.link.failures = self.link.failures.saturating_add(1);
        let Link { policy, seed, failures, .. } = *self.link;
        self.link.login = match backoff::delay(failure.retry, failures, &policy, seed) {
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
        self.link.destination = (self.link.destination + 1) % self.link.policy.destinations;
        self.link.destination != 0
    }

    /// What was to replace the active connection is gone: what was to move stays where it is, or goes back.
    fn replacement_lost(&mut self, order: connection::Input, failure: &Failure) {
        let Some(id) = self.link.next.as_ref().map(|next| next.id) else { return };
        let concerned = self.link.tunnels_of(id);
        if let Some(next) = self.link.next.take() {
            self.end(next, order);
        }
        let suspended = self.link.active.as_ref().filter(|active| active.suspended.is_some());
        if let Some(state) = suspended.map(|active| active.state) {
            self.active_lost(state, connection::Input::Terminate, failure);
            return;
        }
        self.step_confirmed(&concerned, &forward::Input::Release);
        for index in concerned {
            self.stay(index, failure.clone());
        }
    }

    /// A tunnel that the next connection refuses goes back to the active one.
    pub(super) fn move_back(&mut self, index: usize, failure: Failure) {
        self.stay(index, failure);
        if let Some(next) = &self.link.next
            && self.link.tunnels_of(next.id).is_empty()
        {
            self.end_next();
        }
    }

    /// The tunnel does not move.
    fn stay(&mut self, index: usize, failure: Failure) {
        let active = self.link.active.as_ref().map(|active| active.id).unwrap_or_default();
        let tunnel = &mut self.link.tunnels[index];
        tunnel.home = tunnel.forward.listening().unwrap_or(active);
        if tunnel.wanted == Wanted::Up {
            tunnel.last_failure = Some(failure.clone());
            self.actions.push(Action::ReportReplacementFailed(tunnel.forward.slot, failure));
        }
    }

    /// Tells this those of the tunnels whose port was confirmed.
    fn step_confirmed(&mut self, tunnels: &[usize], input: &forward::Input) {
        for &index in tunnels {
            if matches!(self.link.tunnels[index].forward.state, forward::State::Confirmed) {
                self.step_forward(index, input.clone());
            }
        }
    }

    fn note_failure(&mut self, tunnels: &[usize], failure: &Failure) {
        for &index in tunnels {
            let tunnel = &mut self.link.tunnels[index];
            if tunnel.wanted == Wanted::Up && !tunnel.demand.is_asleep() {
                tunnel.last_failure = Some(failure.clone());
            }
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

fn serves_nobody_by_hand(pid: u32) -> Failure {
    Failure::new(
        FailureKind::Timeout,
        format!(
            "pid {pid} is stopped by a signal (SIGSTOP, or a debugger) and serves nobody; it is kept, because only a person can log \
             in again: `kill -CONT {pid}` lets it go on"
        ),
    )
}

fn unreachable() -> Failure {
    Failure::new(
        FailureKind::Network,
        "this machine has no way to the server at present (no route, or a link without a carrier: see `ip route` and `ip link`); \
         ssh is kept, with what its clients have begun, and its server is asked for an answer once there is a way again",
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
