//! Orders that a link gives.

use super::{ConnectionId, Failure, Request, Slot};

/// Something to do; its result comes back as an [`Event`](super::Event).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask the kernel whether the endpoints of this tunnel are unbound and wait until they are: `PortHeld` as often as the
    /// holders change, then `PortUnbound`; or `PortUnusable`. With a connection, it is the one that will listen.
    ConfirmPort(Slot, Request, Option<ConnectionId>),
    /// Stop waiting for the port.
    AbandonPort(Slot, Request),
    /// SIGTERM to exactly the processes that hold the port; `HoldersSpared` if one of them may not be ended.
    TerminateHolders(Slot, Request),
    /// SIGKILL to those that got SIGTERM and still hold the port.
    KillHolders(Slot, Request),
    /// Ask the connection to listen: `Opened` or `Refused`. Later, `ListenerLost` with the same request.
    OpenForward(Slot, Request, ConnectionId),
    /// Ask the connection to stop listening: `Closed`. No answer means that it hangs.
    CloseForward(Slot, Request, ConnectionId),
    /// Find out whether the tunnel, whose clients wait from now on, has no client: `NoClients`, or it has had news of one.
    AskForClients(Slot, Request),
    /// Start the process, to the destination with this index: `Ready`, and in any case `Ended` in the end.
    StartConnection(ConnectionId, usize),
    /// Find out why the connection is not ready in time: `NotReady`. It may become ready or end before that.
    ExplainDelay(ConnectionId),
    /// Wait until the connection, which does not listen any more, carries no client's connection: `Drained`.
    AwaitClients(ConnectionId),
    /// Ask the server for a sign of life: `Answered`, if there is one.
    Probe(ConnectionId),
    /// SIGTERM to every process of the tree.
    Terminate(ConnectionId),
    /// SIGKILL to every process of the tree.
    Kill(ConnectionId),
    /// Find out which processes did not die of SIGKILL: `Survived`.
    FindSurvivors(ConnectionId),
    /// The tunnel could not move to a new connection, and stays on its old one: tell those who asked for it.
    ReportReplacementFailed(Slot, Failure),
    /// The standby connection serves from now on.
    ReportTakeover(ConnectionId),
    /// The standby connection failed; another one is made later, or after an edit.
    ReportStandbyFailed(Failure),
}
