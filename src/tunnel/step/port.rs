//! What follows from what the kernel says about the port.

use super::Step;
use crate::port::Occupant;
use crate::tunnel::state::{Eviction, Stage, State};
use crate::tunnel::{Action, Failure, Generation, OnConflict};

impl Step<'_> {
    pub(super) fn port_unbound(&mut self, generation: Generation) {
        match self.tunnel.state {
            State::AwaitingPort { connected: false, .. } => {
                self.actions.push(Action::Disarm(generation));
                self.tunnel.state = State::Connecting { generation };
                self.start_process(generation);
            }
            State::AwaitingPort { connected: true, .. } => self.request_forward(generation, None),
            State::Forwarding { fallback, stage: Stage::Confirming, generation: confirming }
                if confirming == generation =>
            {
                self.request_forward(generation, fallback);
            }
            State::Forwarding { .. }
            | State::Stopped
            | State::NeedsAuth
            | State::Connecting { .. }
            | State::Up { .. }
            | State::Replacing { .. }
            | State::HandingOver { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed => {}
        }
    }

    pub(super) fn port_held(&mut self, generation: Generation, holders: Vec<Occupant>) {
        match &self.tunnel.state {
            State::AwaitingPort { connected, holders: known, eviction, .. } => {
                let eviction = if *known == holders { *eviction } else { Eviction::None };
                self.await_port(generation, *connected, holders, eviction);
            }
            State::Forwarding { fallback, stage: Stage::Confirming, generation: confirming }
                if *confirming == generation =>
            {
                // Somebody took the port between the old listener and the new one. The old connection cannot have it
                // back either.
                if let Some(old) = *fallback {
                    self.end(old);
                }
                self.await_port(generation, true, holders, Eviction::None);
            }
            State::Forwarding { .. }
            | State::Stopped
            | State::NeedsAuth
            | State::Connecting { .. }
            | State::Up { .. }
            | State::Replacing { .. }
            | State::HandingOver { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed => {}
        }
    }

    /// `on_conflict` counts for the holders of today: who has just written `kill` means them, and who has taken it back
    /// means them as well.
    pub(super) fn policy_changed(&mut self) {
        match &mut self.tunnel.state {
            State::AwaitingPort { generation, connected, holders, eviction: Eviction::None } => {
                let (generation, connected, holders) = (*generation, *connected, std::mem::take(holders));
                self.await_port(generation, connected, holders, Eviction::None);
            }
            State::AwaitingPort { generation, eviction, .. }
                if self.policy.on_conflict == OnConflict::Wait =>
            {
                *eviction = Eviction::None;
                self.tunnel.last_failure = None;
                self.actions.push(Action::Disarm(*generation));
            }
            State::AwaitingPort { .. }
            | State::Stopped
            | State::NeedsAuth
            | State::Connecting { .. }
            | State::Forwarding { .. }
            | State::Up { .. }
            | State::Replacing { .. }
            | State::HandingOver { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed => {}
        }
    }

    /// News of earlier holders is no news of those of today.
    pub(super) fn holders_spared(&mut self, generation: Generation, spared: &[Occupant], failure: Failure) {
        match &mut self.tunnel.state {
            State::AwaitingPort {
                holders,
                eviction: eviction @ (Eviction::Terminated | Eviction::Killed),
                ..
            } if holders == spared => {
                *eviction = Eviction::GivenUp;
                self.tunnel.last_failure = Some(failure);
                self.actions.push(Action::Disarm(generation));
            }
            State::AwaitingPort { .. }
            | State::Stopped
            | State::NeedsAuth
            | State::Connecting { .. }
            | State::Forwarding { .. }
            | State::Up { .. }
            | State::Replacing { .. }
            | State::HandingOver { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed => {}
        }
    }

    pub(super) fn port_unusable(&mut self, failure: Failure) {
        match self.tunnel.state {
            State::AwaitingPort { generation, connected, .. } => {
                self.actions.push(Action::Disarm(generation));
                if connected {
                    self.end(generation);
                }
                self.fail(failure);
            }
            State::Forwarding { generation, fallback, stage: Stage::Confirming } => {
                for ended in [Some(generation), fallback].into_iter().flatten() {
                    self.end(ended);
                }
                self.fail(failure);
            }
            State::Forwarding { stage: Stage::Requesting, .. }
            | State::Stopped
            | State::NeedsAuth
            | State::Connecting { .. }
            | State::Up { .. }
            | State::Replacing { .. }
            | State::HandingOver { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed => {}
        }
    }
}
