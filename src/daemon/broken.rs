//! Entries of the configuration that are not valid. They are in the status, so that nobody takes them for running.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::event_loop::EventLoop;
use super::handle::Outcome;
use crate::config::desired::Broken;
use crate::core::{Failure, FailureKind, StateName};
use crate::protocol::autossh_tunnel::Status;
use crate::protocol::{Change, Took, TunnelStatus, Verb};

impl EventLoop {
    /// Shows these entries, in place of those before. Where a tunnel of that name runs as it was before, it is shown there.
    pub(super) fn show_broken(&mut self, broken: Vec<Broken>) {
        let mut errors: HashMap<String, Broken> =
            broken.iter().map(|broken| (broken.name.clone(), broken.clone())).collect();
        for (slot, entry) in self.state.entries.iter_mut().filter(|(_, entry)| !entry.removed) {
            let error = errors.remove(&entry.desired.name).map(|broken| broken.error);
            if entry.config_error != error {
                entry.config_error = error;
                self.state.touched.insert(*slot);
            }
        }
        let before = std::mem::take(&mut self.state.broken);
        for status in &before {
            self.state.published.count(Some(status), None);
        }
        let others = broken.into_iter().filter(|broken| errors.contains_key(&broken.name));
        let now = self.clock.now();
        let since = self.clock.timestamp(now);
        let others = others.map(|broken| {
            let known = before.iter().find(|known| {
                known.hash == broken.hash && known.config_error.as_ref() == Some(&broken.error)
            });
            known.cloned().unwrap_or_else(|| Arc::new(status(broken, since)))
        });
        self.state.broken = others.collect();
        for status in &self.state.broken {
            self.state.published.count(None, Some(status));
        }
        // Nobody following is not an error.
        for gone in before.iter().filter(|gone| self.broken(&gone.hash).is_none()) {
            // As a valid entry it may have the same one.
            if !self.state.slots.contains_key(&gone.hash) {
                self.logs.rehash(&gone.hash, None);
            }
            let _ = self.changes.send(Change::Removed { hash: gone.hash.clone() });
        }
        for new in self.state.broken.iter().filter(|new| !before.contains(new)) {
            let _ = self.changes.send(Change::Tunnel(Arc::clone(new)));
        }
    }

    /// The entry with this hash.
    fn broken(&self, hash: &str) -> Option<&TunnelStatus> {
        self.state.broken.iter().map(Arc::as_ref).find(|broken| broken.hash == hash)
    }

    /// The answer to whoever asks for something of the entry with this hash: it does not run, and cannot.
    pub(super) fn outcome_of_broken(&self, hash: &str, verb: Verb) -> Option<Outcome> {
        let status = self.broken(hash)?.clone();
        Some(match (verb, status.last_error.clone()) {
            (Verb::Start | Verb::Restart, Some(failure)) => Outcome::NotDone { status, failure },
            (Verb::Stop, _) | (Verb::Start | Verb::Restart, None) => {
                Outcome::Done { status, took: Took::default() }
            }
        })
    }
}

fn status(broken: Broken, since: Timestamp) -> TunnelStatus {
    let Broken { name, hash, log_id, written, interactive, error } = broken;
    TunnelStatus {
        name,
        status: Status::of(StateName::Failed),
        local_port: written.local_port,
        remote_host: written.remote_host,
        remote_port: written.remote_port,
        hash,
        log_id,
        state: StateName::Failed,
        direction: written.direction,
        interactive,
        pid: None,
        shared_by: None,
        since,
        restarts: 0,
        last_error: Some(Failure::new(FailureKind::Config, error.clone())),
        config_error: Some(error),
        holder: None,
        held_by: Vec::new(),
        listeners: Vec::new(),
        note: None,
        connection_errors: None,
        standby: None,
        draining: 0,
        connection: None,
        destination: None,
        health: None,
        clients: None,
    }
}
