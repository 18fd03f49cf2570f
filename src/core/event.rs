//! Facts that a link hears of, in the past tense.

use std::net::IpAddr;

use super::{ConnectionId, Failure, Policy, Request, Slot};
use crate::port::Occupant;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The tunnel is wanted.
    StartRequested(Slot),
    /// A person is there to log in for the tunnel, if that needs one: it is wanted, and one connection may be made for it.
    PersonCame(Slot),
    /// The person is gone, or portward does not wait for them any more. What is ready goes on.
    PersonLeft,
    /// The tunnel is not wanted any more.
    StopRequested(Slot),
    /// A new connection is wanted in place of the present one.
    RestartRequested(Slot),
    /// The tunnel is to be supervised by another policy from now on. This restarts nothing.
    PolicyChanged(Slot, Policy),
    /// The tunnel, which is stopped, is not served any more.
    Removed(Slot),
    /// The first client of a tunnel with `on_demand` came; it may have to wait.
    ClientsCame(Slot),
    /// The last client of a tunnel with `on_demand` has left.
    ClientsLeft(Slot),
    /// A tunnel with `on_demand` has no client: the answer to [`AskForClients`](super::Action::AskForClients).
    NoClients(Slot, Request),
    /// The listener that portward itself held for the tunnel was closed, and its port is held by somebody else.
    PortLost(Slot),
    /// A forward's request was answered.
    Forward(Request, ForwardEvent),
    /// Something became of a connection.
    Connection(ConnectionId, ConnectionEvent),
    /// A link, an address or a route of this machine changed, or the machine was resumed.
    NetworkChanged,
    /// The time has come that [`Link::deadline`](super::Link::deadline) told.
    DeadlinePassed,
}

/// What a forward hears of: answers to its latest request. Others are dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForwardEvent {
    /// The kernel confirmed every endpoint unbound.
    PortUnbound,
    /// The port is held; the wait goes on.
    PortHeld(Vec<Occupant>),
    /// `on_conflict: kill` ended no process, because one of these holders may not be ended; the wait continues.
    HoldersSpared(Vec<Occupant>, Failure),
    /// Whether the port is unbound cannot be found out, and waiting would not help.
    PortUnusable(Failure),
    /// Every listener asked for is in LISTEN and owned by the connection's process (for a remote forward: accepted).
    Opened,
    /// The forward was refused.
    Refused(Failure),
    /// The listeners were closed.
    Closed,
    /// The connection lives, and a listener that it had opened is gone.
    ListenerLost,
}

/// What a connection hears of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionEvent {
    /// An ssh master answers on its control socket; a command listens.
    Ready,
    /// It was not ready in time: the answer to [`ExplainDelay`](super::Action::ExplainDelay), with what it does instead
    /// and the next step, if that is known.
    NotReady(Option<Failure>),
    /// Its process has ended; others that it started may not have.
    LeaderEnded(Failure),
    /// Its process has ended, and nothing is left of its tree that portward may signal.
    Ended(Failure),
    /// SIGKILL did not end all of the tree.
    Survived(Failure),
    /// The process with this pid was stopped by a signal: it answers nobody.
    Stopped(u32),
    /// The process was stopped, and goes on.
    Continued,
    /// A command lives and does not listen any more.
    ListenerLost,
    /// The connection does not listen any more, and the last client's connection that it carried has ended.
    Drained,
    /// Its server has answered a [`Probe`](super::Action::Probe).
    Answered,
    /// This machine has no way to its server: no route, or one over a link that carries nothing.
    Unreachable,
    /// This machine has a way to its server, or whether it has is unknown.
    Reachable,
    /// This machine does not have the address any more from which its process is, or was being, connected to the server.
    AddressRemoved(IpAddr),
}
