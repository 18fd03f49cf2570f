//! Facts that a tunnel hears of, in the past tense.

use super::{Failure, Generation};
use crate::port::Occupant;

/// Something that happened. Whatever concerns one attempt carries its [`Generation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The tunnel is wanted.
    StartRequested,
    /// The tunnel is not wanted any more.
    StopRequested,
    /// A new connection is wanted in place of the present one.
    RestartRequested,
    /// The tunnel is to be run by another [`Policy`](super::Policy) from now on.
    PolicyChanged,
    /// The kernel confirmed every endpoint unbound.
    PortUnbound(Generation),
    /// The kernel says that the port is held; the wait goes on.
    PortHeld(Generation, Vec<Occupant>),
    /// `on_conflict: kill` has ended nobody, because one of these holders may not be ended; the wait goes on.
    HoldersSpared(Generation, Vec<Occupant>, Failure),
    /// Whether the port is unbound cannot be found out, and waiting for it would not help.
    PortUnusable(Generation, Failure),
    /// The process is ready: an ssh master answers on its control socket, a command listens.
    ProcessReady(Generation),
    /// The process was not ready in time: the answer to [`ExplainDelay`](super::Action::ExplainDelay), with what it does
    /// instead and the next step, if that is known.
    NotReady(Generation, Option<Failure>),
    /// The process has ended, and others that it has started have not.
    LeaderEnded(Generation, Failure),
    /// The process has ended, and nothing is left of its tree that portward may signal.
    ProcessEnded(Generation, Failure),
    /// SIGKILL did not end all of the tree.
    ProcessSurvived(Generation, Failure),
    /// The process with this pid was stopped by a signal: it answers nobody.
    ProcessStopped(Generation, u32),
    /// The process was stopped, and goes on.
    ProcessContinued(Generation),
    /// Another process of the tree stands for the tunnel now: the first one has gone into the background. It decides nothing,
    /// and is seen in the status.
    ProcessMoved(Generation),
    /// Every listener asked for is in LISTEN and owned by this generation's process (for a remote forward: accepted).
    ForwardListening(Generation),
    /// The forward was refused.
    ForwardRefused(Generation, Failure),
    /// The listener was closed.
    ForwardClosed(Generation),
    /// The process lives, and the kernel shows no listener of it any more.
    ListenerLost(Generation),
    /// The deadline armed for this generation has passed.
    DeadlinePassed(Generation),
}

impl Event {
    /// The attempt that the event is about; `None` for what is asked of the tunnel as a whole.
    pub(super) const fn generation(&self) -> Option<Generation> {
        match self {
            Self::StartRequested | Self::StopRequested | Self::RestartRequested | Self::PolicyChanged => None,
            Self::PortUnbound(generation)
            | Self::PortHeld(generation, _)
            | Self::HoldersSpared(generation, ..)
            | Self::PortUnusable(generation, _)
            | Self::ProcessReady(generation)
            | Self::NotReady(generation, _)
            | Self::LeaderEnded(generation, _)
            | Self::ProcessEnded(generation, _)
            | Self::ProcessSurvived(generation, _)
            | Self::ProcessStopped(generation, _)
            | Self::ProcessContinued(generation)
            | Self::ProcessMoved(generation)
            | Self::ForwardListening(generation)
            | Self::ForwardRefused(generation, _)
            | Self::ForwardClosed(generation)
            | Self::ListenerLost(generation)
            | Self::DeadlinePassed(generation) => Some(*generation),
        }
    }
}
