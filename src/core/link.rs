//! A link: what belongs to one set of ssh settings, or to one command. It joins the two machines.
//!
//! It holds the connection that serves (`active`), the one that is to replace it (`next`), the one that stands by (`spare`), those
//! that are drained or being ended, and the forwards that need one. What it decides on an event is in the file `turn.rs`.

use super::connection::Connection;
use super::forward::{self, Forward};
use super::spare::{Spare, Standby};
use super::{ConnectionId, Failure, Kind, Policy, Request, Slot, StateName};
use crate::clock::Moment;
use crate::port::Occupant;

/// Connections and the forwards that use them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub(super) tunnels: Vec<Tunnel>,
    pub(super) active: Option<Connection>,
    pub(super) next: Option<Connection>,
    /// Takes the place of the active one when that is lost.
    pub(super) spare: Spare,
    /// Spares in a row that failed.
    pub(super) spare_failures: u32,
    /// No forward is opened on these any more: they are drained, or being ended.
    pub(super) ending: Vec<Connection>,
    pub(super) login: Login,
    /// Index of the destination that the next connection goes to.
    pub(super) destination: usize,
    /// Connections in a row that failed, or were lost before they had been ready for `reset_after`.
    pub(super) failures: u32,
    pub(super) latest: ConnectionId,
    pub(super) requests: Request,
}

/// What one tunnel wants, and the forward that serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tunnel {
    pub(super) wanted: Wanted,
    pub(super) forward: Forward,
    /// The last failure, until the tunnel is up or stopped.
    pub(super) last_failure: Option<Failure>,
    pub(super) name: StateName,
    /// When the present [`StateName`] was entered.
    pub(super) entered: Moment,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Up,
    Down,
    /// A person has to authenticate.
    ByHand,
}

/// Whether a connection may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Login {
    Open,
    /// As soon as everything that is being ended is gone.
    AfterEnd,
    /// Not before this moment.
    Backoff {
        until: Moment,
    },
    /// Only an edit helps.
    Failed,
}

/// What a forward that has its port does next.
pub(super) enum Target {
    /// This connection can be asked.
    Ready(ConnectionId),
    /// One is on its way.
    Wait,
    /// The active one refuses it.
    Renew,
    /// There is none.
    Start,
}

impl Link {
    /// A link that serves one tunnel, which is not wanted yet; an `interactive` one waits for a person.
    pub fn new(slot: Slot, policy: Policy, interactive: bool, now: Moment) -> Self {
        let mut link = Self {
            tunnels: Vec::with_capacity(1),
            active: None,
            next: None,
            spare: Spare::Absent,
            spare_failures: 0,
            ending: Vec::new(),
            login: Login::Open,
            destination: 0,
            failures: 0,
            latest: ConnectionId::default(),
            requests: Request::default(),
        };
        link.add(slot, policy, interactive, now);
        link
    }

    /// Serves one more tunnel.
    pub fn add(&mut self, slot: Slot, policy: Policy, interactive: bool, now: Moment) {
        let (wanted, name) = if interactive {
            (Wanted::ByHand, StateName::NeedsAuth)
        } else {
            (Wanted::Down, StateName::Stopped)
        };
        let forward = Forward::new(slot, policy);
        self.tunnels.push(Tunnel { wanted, forward, last_failure: None, name, entered: now });
    }

    /// When it has to hear [`Event::DeadlinePassed`](super::Event::DeadlinePassed).
    pub fn deadline(&self) -> Option<Moment> {
        let login = match self.login {
            Login::Backoff { until } => Some(until),
            Login::Open | Login::AfterEnd | Login::Failed => None,
        };
        let connections = self.connections().filter_map(Connection::deadline);
        let forwards = self.tunnels.iter().filter_map(|tunnel| tunnel.forward.deadline());
        connections.chain(forwards).chain(login).chain(self.spare.deadline()).min()
    }

    /// Whether the tunnel is to be up, whatever its state.
    pub fn is_wanted(&self, slot: Slot) -> bool {
        self.tunnel(slot).is_some_and(|tunnel| tunnel.wanted == Wanted::Up)
    }

    /// The word for a tunnel's state, and when that state was entered.
    pub fn state(&self, slot: Slot) -> (StateName, Moment) {
        let tunnel = self.tunnel(slot);
        tunnel.map_or((StateName::Stopped, Moment::default()), |tunnel| (tunnel.name, tunnel.entered))
    }

    /// The tunnel's last failure, until it is up or stopped.
    pub fn last_failure(&self, slot: Slot) -> Option<&Failure> {
        self.tunnel(slot)?.last_failure.as_ref()
    }

    /// Who holds the port that the tunnel waits for.
    pub fn holders(&self, slot: Slot) -> &[Occupant] {
        self.tunnel(slot).map_or(&[], |tunnel| tunnel.forward.holders())
    }

    /// The connection that listens for the tunnel, and the request that made it listen.
    pub fn listening(&self, slot: Slot) -> Option<(ConnectionId, Request)> {
        let forward = &self.tunnel(slot)?.forward;
        Some((forward.listening()?, forward.request()?))
    }

    /// The request by which the tunnel waits for its port.
    pub fn awaiting_port(&self, slot: Slot) -> Option<Request> {
        let forward = &self.tunnel(slot)?.forward;
        matches!(forward.state, forward::State::AwaitingPort { .. }).then(|| forward.request())?
    }

    /// The connection whose process stands for the link: the one that serves, is on its way, or is being ended.
    pub fn process(&self) -> Option<ConnectionId> {
        let ending = || self.ending.iter().find(|connection| !connection.is_draining());
        self.active.as_ref().or_else(ending).map(|connection| connection.id)
    }

    /// Index of the destination of the connection that serves, or is on its way.
    pub fn destination(&self) -> usize {
        self.active.as_ref().map_or(self.destination, |active| active.destination)
    }

    /// Index of the destination of this connection.
    pub fn destination_of(&self, id: ConnectionId) -> usize {
        let connection = self.connections().find(|connection| connection.id == id);
        connection.map_or(self.destination, |connection| connection.destination)
    }

    /// What is known of the standby connection; `None`: none is asked for.
    pub fn standby(&self) -> Option<Standby> {
        self.policy().standby.then(|| self.spare.standby())
    }

    /// Whether the connection stands by.
    pub fn is_spare(&self, id: ConnectionId) -> bool {
        self.spare.connection().is_some_and(|spare| spare.id == id)
    }

    /// How many replaced connections still carry what their clients have begun.
    pub fn draining(&self) -> usize {
        self.ending.iter().filter(|connection| connection.is_draining()).count()
    }

    /// The connection that a restart that is asked for now waits for; it may not exist yet.
    pub fn awaited(&self) -> ConnectionId {
        let starting = self.active.as_ref().filter(|connection| !connection.is_ready());
        let standing_by = self.spare.connection().filter(|_| self.active.is_none());
        let awaited = self.next.as_ref().or(starting).or(standing_by).map(|connection| connection.id);
        awaited.unwrap_or_else(|| self.latest.next())
    }

    fn tunnel(&self, slot: Slot) -> Option<&Tunnel> {
        self.tunnels.iter().find(|tunnel| tunnel.forward.slot == slot)
    }

    pub(super) fn policy(&self) -> Policy {
        self.tunnels[0].forward.policy
    }

    pub(super) fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.active.iter().chain(&self.next).chain(self.spare.connection()).chain(&self.ending)
    }

    pub(super) fn is_active(&self, id: ConnectionId) -> bool {
        self.active.as_ref().is_some_and(|connection| connection.id == id)
    }

    pub(super) fn is_next(&self, id: ConnectionId) -> bool {
        self.next.as_ref().is_some_and(|connection| connection.id == id)
    }

    /// The connection that is ready and is to listen from now on.
    pub(super) fn ready(&self) -> Option<ConnectionId> {
        let ready = |connection: &&Connection| connection.is_ready();
        let connection = self.next.as_ref().filter(ready).or(self.active.as_ref().filter(ready))?;
        Some(connection.id)
    }

    pub(super) fn target(&self, forward: &Forward) -> Target {
        if let Some(next) = &self.next
            && next.is_ready()
        {
            return Target::Ready(next.id);
        }
        match &self.active {
            Some(active) if !active.is_ready() || active.suspended.is_some() => Target::Wait,
            Some(active) if !forward.needs_another_than(active.id) => Target::Ready(active.id),
            Some(_) if self.next.is_some() => Target::Wait,
            Some(_) => Target::Renew,
            None => Target::Start,
        }
    }

    pub(super) fn needs_connection(&self) -> bool {
        let needs = |tunnel: &Tunnel| {
            tunnel.wanted == Wanted::Up && !matches!(tunnel.forward.state, forward::State::Failed)
        };
        self.login != Login::Failed && self.tunnels.iter().any(needs)
    }

    /// Whether a spare is to be made: beside a connection that serves, and for a port that is held. What is about to listen comes
    /// first, for the start of a process would delay it.
    pub(super) fn needs_spare(&self) -> bool {
        let waits = |tunnel: &Tunnel| tunnel.wanted != Wanted::Up || !tunnel.forward.holders().is_empty();
        let is_done = |tunnel: &Tunnel| match &tunnel.forward.state {
            // The one that listened may just have been lost.
            forward::State::Listening { on, .. } => self.is_active(*on),
            forward::State::Idle
            | forward::State::AwaitingPort { .. }
            | forward::State::Confirmed
            | forward::State::Opening { .. }
            | forward::State::Closing { .. } => waits(tunnel),
            forward::State::Backoff { .. } | forward::State::Failed => true,
        };
        let is_due = match &self.active {
            Some(active) => {
                let is_in_use = active.is_ready() && active.suspended.is_none() && self.next.is_none();
                is_in_use && self.tunnels.iter().all(is_done)
            }
            None => self.tunnels.iter().all(waits),
        };
        self.wants_spare() && self.login == Login::Open && self.spare == Spare::Absent && is_due
    }

    pub(super) fn wants_spare(&self) -> bool {
        self.policy().standby && self.policy().kind == Kind::Ssh && self.needs_connection()
    }

    /// Whether everything has moved from the active connection to the next, as far as it can.
    pub(super) fn has_moved(&self) -> bool {
        let (Some(active), Some(next)) = (&self.active, &self.next) else { return false };
        let has_moved = |tunnel: &Tunnel| match &tunnel.forward.state {
            forward::State::Listening { on, .. } => *on == next.id,
            // The old connection could not have the port back either.
            forward::State::AwaitingPort { holders, .. } => !holders.is_empty(),
            forward::State::Backoff { .. } | forward::State::Failed => true,
            forward::State::Idle | forward::State::Confirmed => tunnel.wanted != Wanted::Up,
            forward::State::Opening { .. } | forward::State::Closing { .. } => false,
        };
        next.is_ready()
            && self.tunnels.iter().all(|tunnel| has_moved(tunnel) && !tunnel.forward.uses(active.id))
    }

    pub(super) fn state_name(&self, index: usize) -> StateName {
        let Tunnel { wanted, forward, .. } = &self.tunnels[index];
        let is_replacing = self.active.is_some() && self.next.is_some();
        match wanted {
            Wanted::ByHand => return StateName::NeedsAuth,
            Wanted::Down => {
                let ends =
                    self.active.is_none() && self.ending.iter().any(|connection| !connection.is_draining());
                let rests = matches!(forward.state, forward::State::Idle) && !ends;
                return if rests { StateName::Stopped } else { StateName::Stopping };
            }
            Wanted::Up => {}
        }
        match &forward.state {
            forward::State::Failed => StateName::Failed,
            forward::State::Backoff { .. } => StateName::Backoff,
            forward::State::Idle => match self.login {
                Login::Failed => StateName::Failed,
                Login::Backoff { .. } => StateName::Backoff,
                // The old process still has the port.
                Login::AfterEnd | Login::Open => StateName::Stopping,
            },
            forward::State::AwaitingPort { holders, .. } if holders.is_empty() => {
                match (self.ready().is_some(), self.login) {
                    (true, _) if is_replacing => StateName::Replacing,
                    (true, _) => StateName::Forwarding,
                    (false, Login::Backoff { .. }) => StateName::Backoff,
                    (false, Login::Open | Login::AfterEnd | Login::Failed) => StateName::AwaitingPort,
                }
            }
            forward::State::AwaitingPort { .. } => StateName::AwaitingPort,
            forward::State::Confirmed => StateName::Connecting,
            forward::State::Listening { .. } if is_replacing => StateName::Replacing,
            forward::State::Listening { .. } => StateName::Up,
            forward::State::Opening { .. } | forward::State::Closing { .. } if is_replacing => {
                StateName::Replacing
            }
            forward::State::Opening { .. } | forward::State::Closing { .. } => StateName::Forwarding,
        }
    }
}
