//! The relay of a [`World`](super::world::World): clients of one tunnel, who come and go. What it is told and what it tells is on
//! its way for a while.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::core::{ConnectionId, Event, Request, Slot};

/// What the relay is told.
#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    /// Connect clients to this.
    Serve(Option<ConnectionId>),
    /// Tell of the first and the last client.
    Tell(bool),
    Ask(Request),
}

/// The held listener of one tunnel.
#[derive(Debug, Default)]
pub(super) struct Relay {
    serving: Option<ConnectionId>,
    tells: bool,
    waiting: usize,
    connected: BTreeMap<ConnectionId, usize>,
    /// Those that have ended, also if an order to serve them is still on its way: no client gets to them.
    lost: BTreeSet<ConnectionId>,
    /// What was ordered last, also if it is still on its way.
    pub(super) ordered: Option<ConnectionId>,
    pub(super) ordered_to_tell: bool,
    pub(super) orders: VecDeque<Order>,
    pub(super) told: VecDeque<Event>,
}

impl Relay {
    pub(super) fn clients(&self) -> usize {
        self.waiting + self.connected()
    }

    pub(super) fn connected(&self) -> usize {
        self.connected.values().sum()
    }

    /// Nothing is on its way.
    pub(super) fn is_quiet(&self) -> bool {
        self.orders.is_empty() && self.told.is_empty()
    }

    pub(super) fn come(&mut self, slot: Slot) {
        if self.clients() == 0 && self.tells {
            self.told.push_back(Event::ClientsCame(slot));
        }
        self.waiting += 1;
        self.connect();
    }

    pub(super) fn leave(&mut self, slot: Slot) {
        let before = self.clients();
        if self.waiting > 0 {
            self.waiting -= 1;
        } else if let Some(mut one) = self.connected.first_entry() {
            *one.get_mut() -= 1;
            if *one.get() == 0 {
                one.remove();
            }
        }
        self.count(slot, before);
    }

    /// What carried some of the clients has ended, and they with it.
    pub(super) fn lose(&mut self, slot: Slot, connection: ConnectionId) {
        let before = self.clients();
        self.connected.remove(&connection);
        self.lost.insert(connection);
        // Nobody listens on its socket any more.
        self.serving.take_if(|serving| *serving == connection);
        self.count(slot, before);
    }

    /// Obeys the oldest order.
    pub(super) fn obey(&mut self, slot: Slot) {
        match self.orders.pop_front() {
            Some(Order::Serve(serving)) => {
                self.serving = serving.filter(|connection| !self.lost.contains(connection));
                self.connect();
            }
            Some(Order::Tell(tells)) => {
                if tells && !self.tells {
                    let is_anybody = self.clients() > 0;
                    self.told.push_back(if is_anybody {
                        Event::ClientsCame(slot)
                    } else {
                        Event::ClientsLeft(slot)
                    });
                }
                self.tells = tells;
            }
            Some(Order::Ask(request)) if self.clients() == 0 => {
                self.told.push_back(Event::NoClients(slot, request));
            }
            Some(Order::Ask(_)) | None => {}
        }
    }

    fn connect(&mut self) {
        if let Some(serving) = self.serving
            && self.waiting > 0
        {
            *self.connected.entry(serving).or_default() += std::mem::take(&mut self.waiting);
        }
    }

    fn count(&mut self, slot: Slot, before: usize) {
        if before > 0 && self.clients() == 0 && self.tells {
            self.told.push_back(Event::ClientsLeft(slot));
        }
    }
}
