//! What a change of the network means for the next login.

use super::Kind;
use super::link::{Link, Login, Wanted};
use super::spare::Spare;

impl Link {
    /// The next login is due at once if the last one failed for want of a network, and so is that of the spare. Failures stay
    /// counted: if it fails again, the wait is the longer one.
    pub(super) fn end_backoff_of_network(&mut self) {
        let wanted = self.tunnels.iter().filter(|tunnel| tunnel.wanted == Wanted::Up);
        let mut failures = wanted.filter_map(|tunnel| tunnel.last_failure.as_ref());
        match (self.policy.kind, self.login) {
            (Kind::Ssh, Login::Backoff { .. }) if failures.any(|failure| failure.kind.is_unreachable()) => {
                self.login = Login::Open;
            }
            // What a command wants of the network, only it knows.
            (Kind::Command, Login::Backoff { .. })
            | (Kind::Ssh, Login::Backoff { .. })
            | (Kind::Ssh | Kind::Command, Login::Open | Login::AfterEnd | Login::Failed) => {}
        }
        match self.spare {
            Spare::Backoff { kind, .. } if kind.is_unreachable() => self.spare = Spare::Absent,
            Spare::Backoff { .. } | Spare::Absent | Spare::Alive(_) | Spare::Failed => {}
        }
    }
}
