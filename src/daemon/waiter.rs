//! Requests that wait for a tunnel to get where they want it.

use tokio::sync::oneshot;

use super::entry::View;
use super::handle::Outcome;
use crate::clock::{Clock, Moment};
use crate::core::{ConnectionId, Failure, FailureKind, StateName};
use crate::protocol::Verb;
use crate::shell;

/// One request that is not answered yet.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) verb: Verb,
    /// A restart is done when this connection, or a later one, listens.
    pub(super) awaited: ConnectionId,
    pub(super) asked: Moment,
    pub(super) deadline: Moment,
    pub(super) reply: oneshot::Sender<Option<Outcome>>,
}

impl Waiter {
    /// The answer, if it is due.
    pub(super) fn outcome(&self, tunnel: View<'_>, clock: &Clock, now: Moment) -> Option<Outcome> {
        let status = || tunnel.status(clock);
        let done = || Outcome::Done { status: status(), took: tunnel.entry.phases.took(self.asked, now) };
        let not_done = |failure| Outcome::NotDone { status: status(), failure };
        let desired = &tunnel.entry.desired;
        let by_hand = |what: &str| {
            let name = shell::word(&desired.name);
            superseded(&format!("{what}: log in with `portward auth {name}`"))
        };
        if self.verb == Verb::Restart && desired.interactive {
            return Some(not_done(by_hand("only a person can make a new connection; stop the tunnel, then")));
        }
        let reached = match (self.verb, tunnel.state().0) {
            (Verb::Stop, StateName::Stopped | StateName::NeedsAuth) => tunnel.rests().then(done),
            (Verb::Start, StateName::Up | StateName::Replacing) => Some(done()),
            (Verb::Restart, StateName::Up)
                if tunnel.is_asleep() || tunnel.listening().is_some_and(|(on, _)| on >= self.awaited) =>
            {
                Some(done())
            }
            // It is logged in, and refused; that portward asks again keeps nobody waiting.
            (Verb::Start, StateName::Backoff) if desired.interactive => {
                tunnel.last_failure().cloned().map(not_done)
            }
            (Verb::Start | Verb::Restart, StateName::Failed) => Some(not_done(
                tunnel.last_failure().cloned().unwrap_or_else(|| superseded("the tunnel failed")),
            )),
            (Verb::Start | Verb::Restart, StateName::Stopped) => {
                Some(not_done(superseded("the tunnel was stopped meanwhile")))
            }
            (Verb::Start | Verb::Restart, StateName::NeedsAuth) => {
                Some(not_done(by_hand("the tunnel needs a person")))
            }
            (
                Verb::Start,
                StateName::AwaitingPort
                | StateName::Connecting
                | StateName::Forwarding
                | StateName::Stopping
                | StateName::Backoff,
            )
            | (
                Verb::Restart,
                StateName::AwaitingPort
                | StateName::Connecting
                | StateName::Forwarding
                | StateName::Up
                | StateName::Replacing
                | StateName::Stopping
                | StateName::Backoff,
            )
            | (
                Verb::Stop,
                StateName::AwaitingPort
                | StateName::Connecting
                | StateName::Forwarding
                | StateName::Up
                | StateName::Replacing
                | StateName::Stopping
                | StateName::Backoff
                | StateName::Failed,
            ) => None,
        };
        reached.or_else(|| (now >= self.deadline).then(|| Outcome::Unfinished { status: status() }))
    }
}

fn superseded(message: &str) -> Failure {
    Failure::new(FailureKind::Config, message)
}
