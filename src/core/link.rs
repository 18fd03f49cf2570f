//! A link: what belongs to one set of ssh settings, or to one command. It joins the two machines.
//!
//! It holds the connection that serves (`active`), the one that is to replace it (`next`), older ones that still serve some tunnels
//! (`former`), the one that stands by (`spare`), those that are drained or being ended, and the forwards that need one. What it
//! decides on an event is in the files `turn.rs` and `loss.rs`.

use std::time::Duration;

use super::connection::Connection;
use super::demand::Demand;
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
    /// Replaced for some tunnels, and still listening for others; the newest is the last. None without an active one.
    pub(super) former: Vec<Connection>,
    /// Takes the place of the active one when that is lost.
    pub(super) spare: Spare,
    /// Spares in a row that failed.
    pub(super) spare_failures: u32,
    /// No forward is opened on these any more: they are drained, or being ended.
    pub(super) ending: Vec<Connection>,
    pub(super) login: Login,
    pub(super) attendance: Attendance,
    /// Index of the destination that the next connection goes to.
    pub(super) destination: usize,
    /// Connections in a row that failed, or were lost before they had been ready for `reset_after`.
    pub(super) failures: u32,
    pub(super) latest: ConnectionId,
    pub(super) requests: Request,
    /// What counts for its connections: of what its tunnels ask for, that which serves them all.
    pub(super) policy: Policy,
    /// Chooses the jitter of its logins.
    pub(super) seed: u64,
}

/// What one tunnel wants, and the forward that serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tunnel {
    pub(super) wanted: Wanted,
    pub(super) forward: Forward,
    /// The connection that it was opened on last, or is to move to. If that cannot serve it any more, the active one does.
    pub(super) home: ConnectionId,
    /// Whether there are clients to whom a connection is of use.
    pub(super) demand: Demand,
    /// The last failure, until the tunnel is up or stopped.
    pub(super) last_failure: Option<Failure>,
    pub(super) name: StateName,
    /// When the present [`StateName`] was entered.
    pub(super) entered: Moment,
}

/// How a tunnel is, for whoever looks for changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelState<'l> {
    /// The tunnel.
    pub slot: Slot,
    /// The word for its state, and when that was entered.
    pub state: (StateName, Moment),
    /// Its last failure, until it is up or stopped.
    pub last_failure: Option<&'l Failure>,
    /// Who holds the port that it waits for.
    pub holders: &'l [Occupant],
    /// Whether it is to be up.
    pub is_wanted: bool,
    /// Whether it is up without a connection, which is made when a client comes.
    pub is_asleep: bool,
    /// What clients are to be connected to: the connection that listens and the request that made it listen, unless it is being given
    /// up for want of clients.
    pub serving: Option<(ConnectionId, Request)>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Up,
    Down,
    /// Nothing, until a person logs in.
    ByHand,
}

/// Whether a person takes part in the logins of a link. All of its tunnels have that in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attendance {
    /// portward logs in whenever it needs to.
    NotNeeded,
    /// Nobody is there who could log in: no connection is made.
    Absent,
    /// Somebody is there, for one login.
    Present,
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
    /// Its own one refuses it, and there is a newer one.
    Move(ConnectionId),
    /// The active one refuses it.
    Renew,
    /// There is none.
    Start,
}

impl Tunnel {
    fn listening(&self) -> Option<(ConnectionId, Request)> {
        Some((self.forward.listening()?, self.forward.request()?))
    }

    fn needs_connection(&self) -> bool {
        self.wanted == Wanted::Up
            && !matches!(self.forward.state, forward::State::Failed)
            && !self.demand.is_asleep()
    }

    fn is_asleep(&self) -> bool {
        self.name == StateName::Up && self.demand.is_asleep()
    }
}

impl Link {
    /// A link that serves one tunnel, which is not wanted yet. The connections of an `interactive` one are made by a person, and so are
    /// those of all that are added to it.
    pub fn new(slot: Slot, policy: Policy, interactive: bool, now: Moment) -> Self {
        let mut link = Self {
            tunnels: Vec::with_capacity(1),
            active: None,
            next: None,
            former: Vec::new(),
            spare: Spare::Absent,
            spare_failures: 0,
            ending: Vec::new(),
            login: Login::Open,
            attendance: if interactive { Attendance::Absent } else { Attendance::NotNeeded },
            destination: 0,
            failures: 0,
            latest: ConnectionId::default(),
            requests: Request::default(),
            policy,
            seed: slot.0,
        };
        link.add(slot, policy, now);
        link
    }

    /// Serves one more tunnel.
    pub fn add(&mut self, slot: Slot, policy: Policy, now: Moment) {
        let wanted = self.unwanted();
        let name = if wanted == Wanted::ByHand { StateName::NeedsAuth } else { StateName::Stopped };
        let (forward, home, demand) =
            (Forward::new(slot, policy), ConnectionId::default(), Demand::Permanent);
        self.tunnels.push(Tunnel { wanted, forward, home, demand, last_failure: None, name, entered: now });
        self.combine_policies();
    }

    /// The tunnels that it serves, in the order in which they were added.
    pub fn slots(&self) -> impl ExactSizeIterator<Item = Slot> {
        self.tunnels.iter().map(|tunnel| tunnel.forward.slot)
    }

    /// How its tunnels are, in the order in which they were added.
    pub fn tunnels(&self) -> impl Iterator<Item = TunnelState<'_>> {
        self.tunnels.iter().map(|tunnel| TunnelState {
            slot: tunnel.forward.slot,
            state: (tunnel.name, tunnel.entered),
            last_failure: tunnel.last_failure.as_ref(),
            holders: tunnel.forward.holders(),
            is_wanted: tunnel.wanted == Wanted::Up,
            is_asleep: tunnel.is_asleep(),
            serving: tunnel.listening().filter(|_| tunnel.demand.serves()),
        })
    }

    /// What is asked for of a tunnel that is not to be up.
    pub(super) fn unwanted(&self) -> Wanted {
        if self.is_by_hand() { Wanted::ByHand } else { Wanted::Down }
    }

    /// Whether its connections are made by a person.
    pub(super) fn is_by_hand(&self) -> bool {
        match self.attendance {
            Attendance::NotNeeded => false,
            Attendance::Absent | Attendance::Present => true,
        }
    }

    pub(super) fn combine_policies(&mut self) {
        let policies = self.tunnels.iter().map(|tunnel| tunnel.forward.policy);
        if let Some(policy) = policies.reduce(Policy::combined) {
            self.policy = policy;
        }
    }

    /// When it has to hear [`Event::DeadlinePassed`](super::Event::DeadlinePassed).
    pub fn deadline(&self) -> Option<Moment> {
        let login = match self.login {
            Login::Backoff { until } => Some(until),
            Login::Open | Login::AfterEnd | Login::Failed => None,
        };
        let connections = self.connections().filter_map(Connection::deadline);
        let forwards = self.tunnels.iter().filter_map(|tunnel| tunnel.forward.deadline());
        let demands =
            self.tunnels.iter().filter_map(|tunnel| tunnel.demand.deadline(tunnel.forward.policy.on_demand));
        connections.chain(forwards).chain(login).chain(self.spare.deadline()).chain(demands).min()
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
        self.tunnel(slot)?.listening()
    }

    /// Whether the tunnel is up without a connection, which is made when a client comes.
    pub fn is_asleep(&self, slot: Slot) -> bool {
        self.tunnel(slot).is_some_and(Tunnel::is_asleep)
    }

    /// The request by which the tunnel waits for its port.
    pub fn awaiting_port(&self, slot: Slot) -> Option<Request> {
        let forward = &self.tunnel(slot)?.forward;
        matches!(forward.state, forward::State::AwaitingPort { .. }).then(|| forward.request())?
    }

    /// The connection whose process stands for the tunnel: the one that serves it, is on its way, or is being ended.
    pub fn process(&self, slot: Slot) -> Option<ConnectionId> {
        let ending = || self.ending.iter().find(|connection| !connection.is_draining());
        self.present(slot).or_else(ending).map(|connection| connection.id)
    }

    /// Index of the destination of the connection that serves the tunnel, or is on its way.
    pub fn destination(&self, slot: Slot) -> usize {
        self.present(slot).map_or(self.destination, |connection| connection.destination)
    }

    /// The connection that the tunnel uses now, or else the active one.
    fn present(&self, slot: Slot) -> Option<&Connection> {
        let used = |connection: &&Connection| {
            self.tunnel(slot).is_some_and(|tunnel| tunnel.forward.uses(connection.id))
        };
        self.serving().find(used).or(self.active.as_ref())
    }

    /// Whether the connection serves the tunnel, or is on its way for it.
    pub fn is_for(&self, id: ConnectionId, slot: Slot) -> bool {
        let connection = self.tunnel(slot).and_then(|tunnel| self.connection_of(tunnel));
        connection.is_some_and(|connection| connection.id == id)
    }

    /// Index of the destination of this connection.
    pub fn destination_of(&self, id: ConnectionId) -> usize {
        let connection = self.connections().find(|connection| connection.id == id);
        connection.map_or(self.destination, |connection| connection.destination)
    }

    /// How long its connections may take until they are ready.
    pub fn ready_timeout(&self) -> Duration {
        self.policy.ready_timeout
    }

    /// What is known of the standby connection; `None`: none is asked for.
    pub fn standby(&self) -> Option<Standby> {
        self.policy.standby.then(|| self.spare.standby())
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

    pub(super) fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.serving().chain(self.spare.connection()).chain(&self.ending)
    }

    /// The connections that tunnels belong to.
    pub(super) fn serving(&self) -> impl Iterator<Item = &Connection> {
        self.active.iter().chain(&self.next).chain(&self.former)
    }

    /// The connection that the tunnel belongs to.
    pub(super) fn connection_of(&self, tunnel: &Tunnel) -> Option<&Connection> {
        self.serving().find(|connection| connection.id == tunnel.home).or(self.active.as_ref())
    }

    /// The indices of the tunnels that belong to the connection.
    pub(super) fn tunnels_of(&self, id: ConnectionId) -> Vec<usize> {
        let belongs = |tunnel: &Tunnel| self.connection_of(tunnel).is_some_and(|one| one.id == id);
        (0..self.tunnels.len()).filter(|index| belongs(&self.tunnels[*index])).collect()
    }

    /// Whether a forward is asked of the connection, or listens on it.
    pub(super) fn is_used(&self, id: ConnectionId) -> bool {
        self.tunnels.iter().any(|tunnel| tunnel.forward.uses(id))
    }

    pub(super) fn is_active(&self, id: ConnectionId) -> bool {
        self.active.as_ref().is_some_and(|connection| connection.id == id)
    }

    pub(super) fn is_next(&self, id: ConnectionId) -> bool {
        self.next.as_ref().is_some_and(|connection| connection.id == id)
    }

    /// The connection that the tunnel belongs to, if that can be asked to listen.
    pub(super) fn usable(&self, tunnel: &Tunnel) -> Option<ConnectionId> {
        let connection = self.connection_of(tunnel).filter(|connection| connection.is_usable())?;
        Some(connection.id)
    }

    pub(super) fn target(&self, tunnel: &Tunnel) -> Target {
        match (self.connection_of(tunnel), &self.active) {
            (None, _) => Target::Start,
            (Some(connection), _) if !connection.is_usable() => Target::Wait,
            // A person who logs in once more would fare no better.
            (Some(connection), _)
                if self.is_by_hand() || !tunnel.forward.needs_another_than(connection.id) =>
            {
                Target::Ready(connection.id)
            }
            (Some(connection), Some(active)) if active.id != connection.id => Target::Move(active.id),
            (Some(_), _) => Target::Renew,
        }
    }

    /// Whether the tunnel moves from one connection to another.
    fn is_moving(&self, tunnel: &Tunnel) -> bool {
        self.active.is_some() && self.is_next(tunnel.home)
    }

    pub(super) fn needs_connection(&self) -> bool {
        self.login != Login::Failed && self.tunnels.iter().any(Tunnel::needs_connection)
    }

    /// Whether nothing uses the active connection, and those that need one all belong to former ones.
    pub(super) fn is_active_idle(&self) -> bool {
        let belongs = |tunnel: &Tunnel| {
            let connection = self.connection_of(tunnel).map(|connection| connection.id);
            connection.is_none_or(|id| !self.former.iter().any(|former| former.id == id))
        };
        let mut needing = self.tunnels.iter().filter(|tunnel| tunnel.needs_connection());
        let is_used = self.active.as_ref().is_some_and(|active| self.is_used(active.id));
        !self.former.is_empty() && self.next.is_none() && !is_used && !needing.any(belongs)
    }

    /// Whether a spare is to be made: beside a connection that serves, and for a port that is held. What is about to listen comes
    /// first, for the start of a process would delay it.
    pub(super) fn needs_spare(&self) -> bool {
        let waits = |tunnel: &Tunnel| tunnel.wanted != Wanted::Up || !tunnel.forward.holders().is_empty();
        let is_done = |tunnel: &Tunnel| match &tunnel.forward.state {
            // The one that listened may just have been lost.
            forward::State::Listening { on, .. } => self.serving().any(|connection| connection.id == *on),
            forward::State::Idle
            | forward::State::AwaitingPort { .. }
            | forward::State::Confirmed
            | forward::State::Opening { .. }
            | forward::State::Withdrawing { .. }
            | forward::State::Closing { .. } => waits(tunnel) || tunnel.demand.is_asleep(),
            forward::State::Backoff { .. } | forward::State::Failed => true,
        };
        let is_due = match &self.active {
            Some(active) => {
                let is_in_use = active.is_usable() && self.next.is_none();
                is_in_use && self.tunnels.iter().all(is_done)
            }
            None => self.tunnels.iter().all(waits),
        };
        self.wants_spare() && self.login == Login::Open && self.spare == Spare::Absent && is_due
    }

    /// Whether a connection may stand by at all.
    pub(super) fn may_stand_by(&self) -> bool {
        self.policy.standby && self.policy.kind == Kind::Ssh && !self.is_by_hand()
    }

    pub(super) fn wants_spare(&self) -> bool {
        self.may_stand_by() && self.needs_connection()
    }

    /// Whether everything that is to has moved to the next connection, as far as it can.
    pub(super) fn has_moved(&self) -> bool {
        let (Some(_), Some(next)) = (&self.active, &self.next) else { return false };
        let has_moved = |tunnel: &Tunnel| match &tunnel.forward.state {
            forward::State::Listening { on, .. } => *on == next.id,
            // The old connection could not have the port back either.
            forward::State::AwaitingPort { holders, .. } => !holders.is_empty(),
            forward::State::Backoff { .. } | forward::State::Failed => true,
            forward::State::Idle | forward::State::Confirmed => {
                tunnel.wanted != Wanted::Up || tunnel.demand.is_asleep()
            }
            forward::State::Opening { .. }
            | forward::State::Withdrawing { .. }
            | forward::State::Closing { .. } => false,
        };
        let mut moving = self.tunnels.iter().filter(|tunnel| tunnel.home == next.id);
        next.is_ready() && moving.all(has_moved)
    }

    pub(super) fn state_name(&self, index: usize) -> StateName {
        let tunnel = &self.tunnels[index];
        let Tunnel { wanted, forward, demand, .. } = tunnel;
        let is_replacing = self.is_moving(tunnel);
        match wanted {
            Wanted::ByHand | Wanted::Down => {
                let ends =
                    self.active.is_none() && self.ending.iter().any(|connection| !connection.is_draining());
                let rests = matches!(forward.state, forward::State::Idle) && !ends;
                return match wanted {
                    _ if !rests => StateName::Stopping,
                    Wanted::ByHand => StateName::NeedsAuth,
                    Wanted::Down | Wanted::Up => StateName::Stopped,
                };
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
                match (self.usable(tunnel).is_some(), self.login) {
                    (true, _) if is_replacing => StateName::Replacing,
                    (true, _) => StateName::Forwarding,
                    (false, Login::Backoff { .. }) => StateName::Backoff,
                    (false, Login::Open | Login::AfterEnd | Login::Failed) => StateName::AwaitingPort,
                }
            }
            forward::State::AwaitingPort { .. } => StateName::AwaitingPort,
            // Clients are accepted, and the first one is what a connection is made for.
            forward::State::Confirmed
            | forward::State::Withdrawing { .. }
            | forward::State::Closing { .. }
                if demand.is_asleep() =>
            {
                StateName::Up
            }
            forward::State::Confirmed => StateName::Connecting,
            forward::State::Listening { .. } if is_replacing => StateName::Replacing,
            forward::State::Listening { .. } => StateName::Up,
            forward::State::Opening { .. }
            | forward::State::Withdrawing { .. }
            | forward::State::Closing { .. }
                if is_replacing =>
            {
                StateName::Replacing
            }
            forward::State::Opening { .. }
            | forward::State::Withdrawing { .. }
            | forward::State::Closing { .. } => StateName::Forwarding,
        }
    }
}
