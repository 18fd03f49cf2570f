//! What a link takes over from an earlier run of portward: connections whose processes have gone on, and what they listen on.

use super::connection::{self, Connection};
use super::demand::Demand;
use super::forward;
use super::link::{Link, Wanted};
use super::spare::Spare;
use super::{ConnectionId, Kind, Request, Slot};
use crate::clock::Moment;

/// What a connection is to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It serves; `is_ready`: it answers, or listens. Otherwise it is on its way.
    Active {
        /// Whether it can serve at once.
        is_ready: bool,
    },
    /// It was replaced for some tunnels, and still listens for others.
    Former,
    /// It stands by.
    Spare {
        /// Whether it is logged in. Otherwise it is on its way.
        is_ready: bool,
    },
    /// It was replaced, and carries on what its clients have begun.
    Draining,
}

/// A connection that an earlier run has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// An ssh master answers on its control socket; a command listens.
    pub is_ready: bool,
    /// It listens for tunnels of the link.
    pub serves: bool,
    /// It was asked to listen.
    pub was_asked: bool,
}

impl Link {
    /// What each of these is to the link, the oldest first; `None`: nothing, and it is to be ended.
    pub fn roles(&self, all: &[Left]) -> Vec<Option<Role>> {
        let newest = |wanted: fn(&Left) -> bool| all.iter().rposition(wanted);
        // What is still logging in has lost the person who did.
        let latest = if self.is_by_hand() { None } else { all.len().checked_sub(1) };
        let active = newest(|left| left.is_ready && (left.serves || left.was_asked)).or_else(|| {
            let any = newest(|left| left.is_ready).or(latest);
            // What serves nobody stands by, as it does while the port is held.
            any.filter(|_| !self.may_stand_by())
        });
        let behind = active.map_or(0, |active| active + 1);
        let spare = all.iter().skip(behind).position(|left| left.is_ready).map(|index| behind + index);
        let spare = spare.or(latest.filter(|latest| *latest >= behind)).filter(|_| self.may_stand_by());
        let drains = (!self.policy.drain.is_zero()).then_some(Role::Draining);
        let role = |(index, left): (usize, &Left)| match self.policy.kind {
            _ if Some(index) == active => Some(Role::Active { is_ready: left.is_ready }),
            _ if Some(index) == spare => Some(Role::Spare { is_ready: left.is_ready }),
            Kind::Ssh if left.is_ready && left.serves && Some(index) < active => Some(Role::Former),
            Kind::Ssh if left.is_ready => drains,
            Kind::Ssh | Kind::Command => None,
        };
        all.iter().enumerate().map(role).collect()
    }

    /// Takes over a connection to this destination. Of several the oldest comes first.
    pub fn inherit(&mut self, role: Role, destination: usize, now: Moment) -> ConnectionId {
        self.latest = self.latest.next();
        let state = match role {
            Role::Active { is_ready: true } | Role::Former | Role::Spare { is_ready: true } => {
                connection::State::Ready { since: now }
            }
            Role::Active { is_ready: false } | Role::Spare { is_ready: false } => {
                connection::State::Starting { deadline: now.after(self.policy.ready_timeout) }
            }
            Role::Draining => connection::State::Draining { deadline: now.after(self.policy.drain) },
        };
        let connection = Connection { id: self.latest, destination, state, suspended: None, probe: None };
        match role {
            Role::Active { .. } => {
                self.destination = destination;
                self.active = Some(connection);
            }
            Role::Former => self.former.push(connection),
            Role::Spare { .. } => self.spare = Spare::Alive(connection),
            Role::Draining => self.ending.push(connection),
        }
        self.latest
    }

    /// The tunnel was up, and belongs to this connection, unless another one listens for it. Where this one does, returns the request
    /// by which it counts as asked to.
    pub fn take_up(
        &mut self,
        slot: Slot,
        connection: ConnectionId,
        listens: bool,
        now: Moment,
    ) -> Option<Request> {
        let tunnel = self.tunnels.iter_mut().find(|tunnel| tunnel.forward.slot == slot)?;
        if tunnel.forward.listening().is_some() {
            return None;
        }
        tunnel.wanted = Wanted::Up;
        tunnel.home = connection;
        tunnel.demand = match tunnel.forward.policy.on_demand {
            Some(_) => Demand::Lingering { since: now },
            None => Demand::Permanent,
        };
        if !listens {
            if self.policy.kind == Kind::Command {
                // It was started on a port that was confirmed for it, and may listen at any time.
                tunnel.forward.state = forward::State::Confirmed;
            }
            return None;
        }
        let request = self.requests.take_next();
        tunnel.forward.state = forward::State::Listening { request, on: connection, since: now };
        Some(request)
    }
}
