//! Orders that a tunnel gives.

use super::{Failure, Generation};
use crate::clock::Moment;

/// Something to do; its result comes back as an [`Event`](super::Event).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask the kernel whether the endpoints are unbound and wait until they are: `PortHeld` as often as the holders
    /// change, then `PortUnbound`; or `PortUnusable`.
    ConfirmPort(Generation),
    /// Nobody waits for that port any more.
    AbandonPort(Generation),
    /// Start the process: `ProcessReady`, and in any case `ProcessEnded` in the end.
    StartProcess(Generation),
    /// Find out why the process is not ready in time: `NotReady`. It may become ready or end before that.
    ExplainDelay(Generation),
    /// Ask the connection for its forward: `ForwardListening` or `ForwardRefused`.
    RequestForward(Generation),
    /// Tell the connection to close its listener: `ForwardClosed`. No answer means that it hangs.
    CloseForward(Generation),
    /// SIGTERM to every process of the tree.
    Terminate(Generation),
    /// SIGKILL to every process of the tree.
    Kill(Generation),
    /// Find out which processes did not die of SIGKILL: `ProcessSurvived`.
    FindSurvivors(Generation),
    /// SIGTERM to exactly the processes that hold the port; `HoldersSpared` if one of them may not be ended.
    TerminateHolders(Generation),
    /// SIGKILL to those that got SIGTERM and hold the port still.
    KillHolders(Generation),
    /// Report `DeadlinePassed` at this moment. A generation has at most one deadline: a later one replaces it.
    Arm(Generation, Moment),
    /// Forget the deadline.
    Disarm(Generation),
    /// Tell those who asked for a restart that it failed; the old connection stays.
    ReportRestartFailed(Failure),
}
