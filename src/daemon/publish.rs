//! What everybody else sees of the event loop's state.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use super::event_loop::EventLoop;
use super::handle::Change;
use super::snapshot::Snapshot;
use crate::observe::systemd;
use crate::tunnel::StateName;

impl EventLoop {
    /// Publishes a snapshot, and the tunnels that changed since the last one.
    pub(super) fn publish(&mut self) {
        let next = self.picture();
        let last = self.snapshot.borrow().clone();
        if *last == next {
            return;
        }
        for status in &next.tunnels {
            if !last.tunnels.contains(status) {
                let _ = self.changes.send(Change::Tunnel(Arc::new(status.clone())));
            }
        }
        if counts(&last) != counts(&next) {
            systemd::status(&counts(&next));
        }
        self.snapshot.send_replace(Arc::new(next));
    }

    fn picture(&self) -> Snapshot {
        let listed = self.state.order.iter().filter_map(|slot| self.state.entries.get(slot));
        Snapshot {
            tunnels: listed
                .filter(|entry| !entry.removed || self.state.stopping)
                .map(|entry| entry.status(&self.clock))
                .collect(),
            config_path: self.config_path.display().to_string(),
            config_error: self.state.config_error.clone(),
            warnings: self.state.warnings.list(),
        }
    }
}

/// For `STATUS=`: how many tunnels are up, and what the others do.
fn counts(snapshot: &Snapshot) -> String {
    let mut others: BTreeMap<&str, usize> = BTreeMap::new();
    let mut up = 0;
    for tunnel in &snapshot.tunnels {
        match tunnel.state {
            StateName::Up | StateName::Replacing => up += 1,
            other => *others.entry(other.as_str()).or_default() += 1,
        }
    }
    let mut text = format!("{up} of {} tunnels up", snapshot.tunnels.len());
    for (state, count) in others {
        // Writing to a string cannot fail.
        let _ = write!(text, ", {count} {state}");
    }
    if snapshot.config_error.is_some() {
        text.push_str("; the configuration file has errors");
    }
    for warning in &snapshot.warnings {
        let _ = write!(text, "; {warning}");
    }
    text
}
