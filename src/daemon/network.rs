//! What the event loop does when the network of this machine has changed, or the machine was resumed.

use std::collections::BTreeSet;

use super::event_loop::{EventLoop, State};
use super::narrate;
use crate::core::{Event, Slot, StateName};
use crate::network::Change;

impl EventLoop {
    /// Lets all tunnels hear of it, and finds out which connections have a way to their server.
    pub(super) fn hear_of_network(&mut self, changes: &BTreeSet<Change>) {
        tracing::debug!(event = "network", ?changes, "the network changed, or the machine was resumed");
        for id in self.state.links.iter().map(|(id, _)| id).collect::<Vec<_>>() {
            let waits = |state: &State, slot: Slot| {
                state.view(slot).is_some_and(|tunnel| tunnel.state().0 == StateName::Backoff)
            };
            let mut waiting = self.state.slots_of(id);
            waiting.retain(|slot| waits(&self.state, *slot));
            self.hear_of_link(id, Event::NetworkChanged);
            waiting.retain(|slot| !waits(&self.state, *slot) && !self.state.is_asleep(*slot));
            for tunnel in waiting.into_iter().filter_map(|slot| self.state.view(slot)) {
                narrate::retried_early(tunnel);
            }
        }
        // They are probed first: what is reported of a connection is about that probe.
        let links = self.state.links.iter();
        self.effects.find_ways(links.flat_map(|(_, link)| link.connections.ssh_processes()).collect());
    }
}
