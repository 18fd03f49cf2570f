//! What follows from the answers about forwards.

use super::Step;
use crate::tunnel::state::{Stage, State};
use crate::tunnel::{Action, Failure, FailureKind, Generation};

impl Step<'_> {
    pub(super) fn forward_listening(&mut self, generation: Generation) {
        match self.tunnel.state {
            State::Forwarding { generation: current, fallback, stage: Stage::Requesting }
                if current == generation =>
            {
                self.actions.push(Action::Disarm(generation));
                if let Some(old) = fallback {
                    self.end(old);
                }
                self.up(generation);
            }
            State::Forwarding { .. }
            | State::Stopped
            | State::NeedsAuth
            | State::AwaitingPort { .. }
            | State::Connecting { .. }
            | State::Up { .. }
            | State::Replacing { .. }
            | State::HandingOver { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed => {}
        }
    }

    pub(super) fn forward_refused(&mut self, generation: Generation, failure: Failure) {
        match self.tunnel.state {
            State::Forwarding { generation: current, fallback, stage: Stage::Requesting }
                if current == generation =>
            {
                self.actions.push(Action::Disarm(generation));
                match failure.kind {
                    // The connection is good, only the port was taken. The old connection would fare no better.
                    FailureKind::LocalPortHeld | FailureKind::RemotePortHeld => {
                        if let Some(old) = fallback {
                            self.end(old);
                        }
                        self.back_off(failure, Some(generation));
                    }
                    FailureKind::Auth
                    | FailureKind::HostKey
                    | FailureKind::Dns
                    | FailureKind::Refused
                    | FailureKind::Timeout
                    | FailureKind::Network
                    | FailureKind::Config
                    | FailureKind::Killed
                    | FailureKind::Exited => {
                        self.end(generation);
                        self.fall_back_or_fail(fallback, failure);
                    }
                }
            }
            State::Forwarding { .. }
            | State::Stopped
            | State::NeedsAuth
            | State::AwaitingPort { .. }
            | State::Connecting { .. }
            | State::Up { .. }
            | State::Replacing { .. }
            | State::HandingOver { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed => {}
        }
    }

    pub(super) fn forward_closed(&mut self, generation: Generation) {
        match self.tunnel.state {
            State::HandingOver { old, new } if old == generation => {
                self.actions.push(Action::Disarm(old));
                self.confirm_port(new, Some(old));
            }
            State::HandingOver { .. }
            | State::Stopped
            | State::NeedsAuth
            | State::AwaitingPort { .. }
            | State::Connecting { .. }
            | State::Forwarding { .. }
            | State::Up { .. }
            | State::Replacing { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed => {}
        }
    }
}
