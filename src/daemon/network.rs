//! What the event loop does when the network of this machine has changed, or the machine was resumed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::event_loop::EventLoop;
use super::narrate;
use crate::core::{Event, StateName};
use crate::network::Change;

impl EventLoop {
    /// Lets all tunnels hear of it, and finds the connections whose address has gone.
    pub(super) fn hear_of_network(&mut self, changes: &BTreeSet<Change>) {
        tracing::debug!(event = "network", ?changes, "the network changed, or the machine was resumed");
        let removed = |change: &Change| match change {
            Change::AddressRemoved(address) => Some(*address),
            Change::NetworkChanged | Change::Resumed => None,
        };
        let removed: BTreeSet<IpAddr> = changes.iter().filter_map(removed).collect();
        if !removed.is_empty() {
            let entries = self.state.entries.values();
            let processes: Vec<_> = entries.flat_map(|entry| entry.resources.ssh_processes()).collect();
            self.effects.find_stranded(processes, removed);
        }
        for slot in self.state.entries.keys().copied().collect::<Vec<_>>() {
            let state = |event_loop: &Self| Some(event_loop.state.entries.get(&slot)?.state().0);
            let waited = state(self) == Some(StateName::Backoff);
            self.hear(slot, Event::NetworkChanged);
            if waited
                && state(self) != Some(StateName::Backoff)
                && let Some(entry) = self.state.entries.get(&slot)
                && !entry.link.is_asleep(slot)
            {
                narrate::retried_early(entry);
            }
        }
    }
}
