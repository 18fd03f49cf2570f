//! Whether a tunnel needs a connection: one with `on_demand` does while there are clients, and for that time after the last one.
//!
//! Who comes while a connection is being given up must not be connected to it. So before it is given up, clients are let wait,
//! and the relay is asked whether anybody is connected; only then the tunnel sleeps.

use std::time::Duration;

use super::forward::Context;
use super::{Action, Request, Slot};
use crate::clock::Moment;

/// What is known of the clients of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    /// The connection is kept whether there are clients or not.
    Permanent,
    /// A client is connected, or waits.
    Clients,
    /// There has been no client since this moment.
    Lingering { since: Moment },
    /// The time is over: clients that come now wait, and the relay is asked whether nobody came before that.
    Asking { request: Request },
    /// No connection is needed until a client comes.
    Asleep,
}

/// What it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// The tunnel is wanted from now on, or not any more: it has no clients.
    Reset,
    /// The first client came.
    Came,
    /// The last client has left.
    Left,
    /// Nobody is there: the answer to a request.
    Nobody(Request),
    /// There is no connection.
    Disconnected,
    PolicyChanged,
    DeadlinePassed,
}

impl Demand {
    /// Total: no input in any state fails. `on_demand` is how long a connection is kept without clients; `None`: for ever.
    pub(super) fn step(
        &mut self,
        input: Input,
        slot: Slot,
        on_demand: Option<Duration>,
        context: &mut Context<'_>,
    ) {
        *self = match (input, *self) {
            (Input::Reset, _) if on_demand.is_some() => Self::Asleep,
            (Input::PolicyChanged, Self::Permanent) if on_demand.is_some() => {
                Self::Lingering { since: context.now }
            }
            (Input::Reset, _) => Self::Permanent,
            (Input::PolicyChanged, _) if on_demand.is_none() => Self::Permanent,
            (Input::Came, Self::Clients | Self::Lingering { .. } | Self::Asking { .. } | Self::Asleep) => {
                Self::Clients
            }
            // While that is asked, it is news only if the listener is another one by now, which has had none.
            (Input::Left, Self::Clients | Self::Asking { .. }) => Self::Lingering { since: context.now },
            (Input::Nobody(answered), Self::Asking { request }) if answered == request => Self::Asleep,
            // For nobody no connection is made.
            (Input::Disconnected, Self::Lingering { .. } | Self::Asking { .. }) => Self::Asleep,
            (Input::DeadlinePassed, Self::Lingering { .. }) => {
                let request = context.requests.take_next();
                context.actions.push(Action::AskForClients(slot, request));
                Self::Asking { request }
            }
            (
                Input::Came
                | Input::Left
                | Input::Nobody(_)
                | Input::Disconnected
                | Input::PolicyChanged
                | Input::DeadlinePassed,
                unchanged @ (Self::Permanent
                | Self::Clients
                | Self::Lingering { .. }
                | Self::Asking { .. }
                | Self::Asleep),
            ) => unchanged,
        };
    }

    /// When the link has to tell it that its deadline has passed.
    pub(super) fn deadline(self, on_demand: Option<Duration>) -> Option<Moment> {
        match self {
            Self::Lingering { since } => Some(since.after(on_demand?)),
            Self::Permanent | Self::Clients | Self::Asking { .. } | Self::Asleep => None,
        }
    }

    pub(super) fn is_asleep(self) -> bool {
        match self {
            Self::Asleep => true,
            Self::Permanent | Self::Clients | Self::Lingering { .. } | Self::Asking { .. } => false,
        }
    }

    /// Whether a connection that there is may be used.
    pub(super) fn serves(self) -> bool {
        match self {
            Self::Permanent | Self::Clients | Self::Lingering { .. } => true,
            Self::Asking { .. } | Self::Asleep => false,
        }
    }

    /// Whether a connection that there is is kept for clients that may come.
    pub(super) fn lingers(self) -> bool {
        match self {
            Self::Lingering { .. } | Self::Asking { .. } => true,
            Self::Permanent | Self::Clients | Self::Asleep => false,
        }
    }
}
