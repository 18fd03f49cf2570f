//! What the event loop does for tunnels with `listener: portward`.

use std::net::SocketAddr;

use super::attempt::Order;
use super::connections::Connections;
use super::entry::Entry;
use super::event_loop::{EventLoop, State};
use super::held::NotHeld;
use super::links::LinkEntry;
use super::narrate;
use crate::config::desired::Work;
use crate::core::{Event, ForwardEvent, Slot, TunnelState};
use crate::relay::News;

impl EventLoop {
    /// Holds the port of such a tunnel when `event` says that it is unbound. Whether the event is to be heard; it may be another
    /// one then. If the port has been taken meanwhile, it is waited for again.
    pub(super) fn hold(&mut self, slot: Slot, event: &mut Event) -> bool {
        let Event::Forward(request, ForwardEvent::PortUnbound) = *event else { return true };
        let State { entries, links, .. } = &mut self.state;
        let Some(entry) = entries.get_mut(&slot) else { return true };
        let Some(LinkEntry { link, connections }) = links.get_mut(entry.link) else { return true };
        let Entry { desired, resources, .. } = &mut **entry;
        // The link ignores an answer to an earlier request.
        if !desired.work.is_held() || link.awaiting_port(slot) != Some(request) {
            return true;
        }
        match self.effects.hold(resources, request, desired) {
            Ok(()) => true,
            Err(NotHeld::Taken) => {
                resources.abandon_port(request);
                let (resources, destination) = ((resources, connections), link.destination(slot));
                self.effects.confirm_port(resources, request, None, destination, &desired.work);
                false
            }
            Err(NotHeld::Failed(failure)) => {
                *event = Event::Forward(request, ForwardEvent::PortUnusable(failure));
                true
            }
        }
    }

    /// Takes a report of the relay about the held listener with this number.
    pub(super) fn hear_relay(&mut self, slot: Slot, number: u64, news: News) {
        let State { entries, links, .. } = &mut self.state;
        let Some(entry) = entries.get_mut(&slot) else { return };
        let Some(LinkEntry { link, connections }) = links.get(entry.link) else { return };
        let Some(held) = entry.resources.held().filter(|held| held.number() == number) else { return };
        match news {
            // The status that is published next has the figures.
            News::Changed { given_up: 0 } => {}
            News::FirstCame => self.hear(slot, Event::ClientsCame(slot)),
            News::LastLeft => self.hear(slot, Event::ClientsLeft(slot)),
            News::Nobody(number) => {
                if let Some(request) = held.answered(number) {
                    self.hear(slot, Event::NoClients(slot, request));
                }
            }
            News::Changed { given_up } => {
                if let Some(tunnel) = self.state.view(slot) {
                    narrate::given_up(tunnel, given_up);
                }
            }
            News::Denied(stranger, others) => narrate::denied(entry, &stranger, others),
            News::UpstreamLost(upstream) => {
                if let Some((connection, request)) = held.serving(upstream) {
                    connections.order(connection, Order::Check(request));
                }
            }
            News::Full(clients) => narrate::full(entry, clients),
            News::Starved(error) => narrate::starved(entry, &error),
            News::Crowded => narrate::crowded(entry),
            News::Broken(address, error) => {
                entry.resources.release();
                let listening = link.listening(slot).map(|(_, request)| request);
                let request = listening.unwrap_or_default();
                // As a rule the port is unbound. If it is not, it is waited for, as soon as the link confirms it again.
                let held = self.effects.hold(&mut entry.resources, request, &entry.desired);
                narrate::broken(entry, address, &error);
                match (held, listening) {
                    // What the event that follows is heard for connects them again.
                    (Ok(()), _) => {}
                    (Err(_), Some(request)) => {
                        self.hear(slot, Event::Forward(request, ForwardEvent::ListenerLost));
                    }
                    (Err(_), None) => self.hear(slot, Event::PortLost(slot)),
                }
                // Those that waited were reset, and those that are connected are known to the old listener alone.
                self.hear(slot, Event::ClientsLeft(slot));
            }
        }
    }

    /// The name of the tunnel for which portward itself listens on `address`.
    pub(super) fn tunnel_that_holds(&self, address: SocketAddr) -> Option<String> {
        let holds =
            |entry: &&Entry| entry.resources.held().is_some_and(|held| held.addresses().contains(&address));
        self.state.entries.values().map(Box::as_ref).find(holds).map(|entry| entry.desired.name.clone())
    }
}

impl Entry {
    /// Has the clients of the held listener connected to the connection that listens now, or lets them wait. Closes the
    /// listener of a tunnel that is not wanted any more.
    pub(super) fn direct_clients(&mut self, tunnel: &TunnelState<'_>, connections: &Connections) {
        if tunnel.is_wanted {
            let ports = match &self.desired.work {
                Work::Ssh(tunnel) => tunnel.forward.held_ports(),
                Work::Command(_) => 0,
            };
            let paths =
                |connection| Some(connections.ssh(connection)?.forward_paths(tunnel.slot, connection, ports));
            self.resources.serve(tunnel.serving, paths);
        } else {
            self.resources.release();
        }
    }
}
