//! What everybody else sees of the event loop's state: changes as they come, and snapshots on request.

use std::fmt::Write;
use std::sync::Arc;

use super::entry::Entry;
use super::event_loop::EventLoop;
use super::held::HeldListener;
use crate::core::{Slot, StateName};
use crate::observe::systemd;
use crate::protocol::{Change, Snapshot, TunnelStatus};

impl EventLoop {
    /// Answers the requests that are due, and publishes the tunnels whose status has changed. The work grows with the
    /// number of tunnels that something has happened to, not with the number of tunnels.
    pub(super) fn publish(&mut self) {
        let now = self.clock.now();
        for slot in std::mem::take(&mut self.state.touched) {
            let Some(tunnel) = self.state.view(slot) else { continue };
            if !tunnel.entry.removed || self.state.stopping {
                let status = tunnel.status(&self.clock);
                let Some(entry) = self.state.entries.get_mut(&slot) else { continue };
                if entry.published.as_deref() != Some(&status) {
                    let status = Arc::new(status);
                    let before = entry.published.replace(Arc::clone(&status));
                    self.state.published.count(before.as_deref(), Some(&status));
                    // A check that has passed again is in the snapshot, and no news.
                    if !before.is_some_and(|before| before.is_same_but_for_checks(&status)) {
                        // Nobody following is not an error.
                        let _ = self.changes.send(Change::Tunnel(status));
                    }
                }
            }
            for request in self.state.waiters_of(slot, |_| true) {
                let due = self.state.view(slot).zip(self.state.waiters.get(&(slot, request)));
                if let Some(outcome) =
                    due.and_then(|(tunnel, waiter)| waiter.outcome(tunnel, &self.clock, now))
                {
                    self.state.answer(slot, request, Some(outcome));
                }
            }
        }
        let summary = self.summary();
        if summary != self.state.published.summary {
            systemd::status(&summary);
            self.state.published.summary = summary;
        }
    }

    /// The tunnel is in the status no more.
    pub(super) fn unpublish(&mut self, slot: Slot) {
        let entry = self.state.entries.get_mut(&slot);
        if let Some(status) = entry.and_then(|entry| entry.published.take()) {
            self.state.published.count(Some(&status), None);
        }
    }

    /// All tunnels as they were published last, in the order of the file.
    pub(super) fn snapshot(&self) -> Snapshot {
        let listed = self.state.order.iter().filter_map(|slot| self.state.entries.get(slot));
        // What goes through a tunnel is not published as it goes, and yet here it is as it is now.
        let status = |entry: &Entry| {
            let published = entry.published.as_deref()?.clone();
            let clients = entry.resources.held().map(HeldListener::clients);
            Some(TunnelStatus { clients: clients.or(published.clients), ..published })
        };
        let broken = self.state.broken.iter().map(|broken| TunnelStatus::clone(broken));
        Snapshot {
            tunnels: listed.map(Box::as_ref).filter_map(status).chain(broken).collect(),
            config_path: self.config_path.display().to_string(),
            config_version: self.state.config_version.clone(),
            config_error: self.state.config_error.clone(),
            warnings: self.state.warnings.list(),
        }
    }

    /// For `STATUS=`: how many tunnels are up, and what the others do.
    fn summary(&self) -> String {
        let (mut up, mut all) = (0, 0);
        let mut others = String::new();
        for (state, count) in &self.state.published.counts {
            all += count;
            match state {
                StateName::Up | StateName::Replacing => up += count,
                _ if *count == 0 => {}
                // Writing to a string cannot fail.
                other => drop(write!(others, ", {count} {other}")),
            }
        }
        match self.state.published.failing {
            0 => {}
            1 => others.push_str(", 1 fails its health check"),
            failing => drop(write!(others, ", {failing} fail their health checks")),
        }
        let error =
            if self.state.config_error.is_some() { "; the configuration file has errors" } else { "" };
        let mut summary = format!("{up} of {all} tunnels up{others}{error}");
        for warning in self.state.warnings.list() {
            let _ = write!(summary, "; {warning}");
        }
        summary
    }
}
