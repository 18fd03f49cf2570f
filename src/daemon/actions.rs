//! What the event loop does for its links: starts the work of their actions, and tells what has become of their clients.

use super::attempt::{Asked, Order};
use super::effects::Effects;
use super::event_loop::{EventLoop, State};
use super::handle::Outcome;
use super::links::LinkEntry;
use super::narrate;
use super::reporter::Failed;
use crate::config::desired::Work;
use crate::core::{Action, Failure, LinkId, Slot};
use crate::protocol::Verb;

impl EventLoop {
    /// Starts the work of an action, and returns at once.
    pub(super) fn carry_out(&mut self, id: LinkId, action: Action) {
        let now = self.clock.now();
        let State { entries, links, logins, .. } = &mut self.state;
        let Some(LinkEntry { link, connections }) = links.get_mut(id) else { return };
        match action {
            Action::ConfirmPort(slot, request, connection) => {
                let Some(entry) = entries.get_mut(&slot) else { return };
                let destination = link.destination(slot);
                let work = entry.desired.work_at(destination);
                let resources = (&mut entry.resources, connections);
                self.effects.confirm_port(resources, request, connection, destination, &work);
            }
            Action::AbandonPort(slot, request) => {
                if let Some(entry) = entries.get_mut(&slot) {
                    entry.resources.abandon_port(request);
                }
            }
            Action::TerminateHolders(slot, request) => {
                if let Some(entry) = entries.get(&slot) {
                    let holders = link.holders(slot).to_vec();
                    self.effects.terminate_holders(&entry.resources, request, holders);
                }
            }
            Action::KillHolders(slot, request) => {
                if let Some(entry) = entries.get(&slot) {
                    Effects::kill_holders(&entry.resources, request);
                }
            }
            Action::OpenForward(slot, request, connection) => {
                let Some(entry) = entries.get_mut(&slot) else { return };
                if entry.phases.note_open(connection, request, now) {
                    entry.note_start(link.last_failure(slot));
                }
                if let Work::Ssh(tunnel) = &entry.desired.work {
                    let asked = Asked {
                        reporter: entry.resources.reporter().clone(),
                        forward: tunnel.forward.clone(),
                        recovery: entry.desired.remote_port_recovery,
                        stale: connections.stale().that_may_hold(&tunnel.forward),
                    };
                    connections.order(connection, Order::Open(request, Box::new(asked)));
                }
            }
            Action::CloseForward(slot, request, connection) => {
                connections.order(connection, Order::Close(request, slot));
            }
            Action::AskForClients(slot, request) => {
                if let Some(entry) = entries.get_mut(&slot) {
                    entry.resources.ask_for_clients(request);
                }
            }
            Action::StartConnection(connection, destination) => {
                for slot in link.slots().filter(|slot| link.is_for(connection, *slot)) {
                    if let Some(entry) = entries.get_mut(&slot) {
                        entry.phases.note_start(connection, now);
                        entry.note_start(link.last_failure(slot));
                    }
                }
                let all = || link.slots().filter_map(|slot| entries.get(&slot));
                let timeout = all().map(|entry| entry.desired.timeout).max();
                // All ask for the same.
                if let (Some(entry), Some(timeout)) = (all().next(), timeout) {
                    let resources = (&entry.resources, connections);
                    let work = entry.desired.work_at(destination);
                    let work = (&*work, entry.desired.share);
                    let forward = |slot| match &entries.get(&slot)?.desired.work {
                        Work::Ssh(tunnel) => Some((slot, &tunnel.forward)),
                        Work::Command(_) => None,
                    };
                    let forwards: Vec<_> = link.slots().filter_map(forward).collect();
                    let attended = logins.of(id);
                    self.effects.start(
                        resources,
                        connection,
                        work,
                        (destination, timeout),
                        &forwards,
                        attended,
                    );
                }
            }
            Action::ExplainDelay(connection) => {
                let Some(entry) = link.slots().next().and_then(|slot| entries.get(&slot)) else { return };
                let waited = link.ready_timeout();
                let work = entry.desired.work_at(link.destination_of(connection));
                self.effects.explain_delay(connections, connection, &work, waited);
            }
            Action::AwaitClients(connection) => connections.order(connection, Order::AwaitClients),
            Action::Probe(connection) => connections.probe(connection),
            Action::Terminate(connection) => connections.terminate(connection),
            Action::Kill(connection) => connections.kill(connection),
            Action::FindSurvivors(connection) => connections.find_survivors(connection),
            Action::ReportTakeover(connection) => {
                let concerned = link.slots().filter(|slot| link.is_for(connection, *slot));
                for slot in concerned {
                    entries.get(&slot).map(Box::as_ref).inspect(|entry| narrate::takeover(entry));
                }
            }
            Action::ReportStandbyFailed(failure) => {
                if let Some(entry) = link.slots().next().and_then(|slot| entries.get(&slot)) {
                    narrate::standby_failed(entry, &failure);
                }
            }
            Action::ReportReplacementFailed(slot, failure) => self.replacement_failed(slot, &failure),
        }
    }

    /// A tunnel stays on its old connection.
    fn replacement_failed(&mut self, slot: Slot, failure: &Failure) {
        let Some(tunnel) = self.state.view(slot) else { return };
        narrate::restart_failed(tunnel.entry, failure);
        let status = tunnel.status(&self.clock);
        for request in self.state.waiters_of(slot, |waiter| waiter.verb == Verb::Restart) {
            let outcome = Outcome::NotDone { status: status.clone(), failure: failure.clone() };
            self.state.answer(slot, request, Some(outcome));
        }
    }

    /// Connections of clients failed. Of tunnels that share a connection, ssh does not say whose clients they were.
    pub(super) fn connections_failed(&mut self, id: LinkId, failed: &Failed) {
        let slots = self.state.slots_of(id);
        let Some(entry) = slots.first().and_then(|slot| self.state.entries.get_mut(slot)) else { return };
        let Work::Ssh(tunnel) = &entry.desired.work else { return };
        match slots.len() {
            1 => {
                let message = failed.error.message(&tunnel.ssh.destination, &tunnel.forward);
                narrate::connections_failed(entry, failed, &message);
                entry.note_failed_connections(failed, message, &self.clock);
            }
            tunnels => {
                let message = failed.error.message_of_one_of(tunnels, &tunnel.ssh.destination);
                narrate::connections_failed(entry, failed, &message);
            }
        }
    }
}
