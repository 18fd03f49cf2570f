//! Destroy events: the kernel reports when a socket on a watched port is destroyed.
//!
//! One socket serves all subscriptions, and one task reads it. It is open only while there are
//! subscriptions, because it costs other processes time; its filter contains the watched ports. The cost of an event or of a
//! subscription does not depend on the number of subscriptions.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::libc;
use socket2::{SockFilter, SockRef};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::filter::{Filter, Watched};
use super::wire::{self, Message};
use super::{Endpoint, PortError, Protocol};
use crate::netlink;

/// The multicast groups of NETLINK_SOCK_DIAG, for IPv4 and for IPv6.
const fn groups(protocol: Protocol) -> [u32; 2] {
    match protocol {
        // SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET6_TCP_DESTROY
        Protocol::Tcp => [1, 3],
        // SKNLGRP_INET_UDP_DESTROY, SKNLGRP_INET6_UDP_DESTROY
        Protocol::Udp => [2, 4],
    }
}

/// The filter is made again once one in this many ports is no longer watched: the work grows with the number of ports.
const STALE_PART: usize = 8;

/// An event with all its attributes takes a few hundred bytes.
const BUFFER_SIZE: usize = 8 * 1024;

/// What the subscriptions share.
#[derive(Debug, Default)]
pub(super) struct Events {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Open while there are subscribers.
    open: Option<Open>,
    subscribers: HashMap<u64, Subscriber>,
    /// The subscribers to each port.
    by_port: HashMap<u16, BTreeSet<u64>>,
    /// How many subscribers there are to each protocol.
    by_protocol: HashMap<Protocol, usize>,
    last_id: u64,
    buffer: Vec<u8>,
    received: u64,
    overruns: u64,
}

/// The open socket.
#[derive(Debug)]
struct Open {
    socket: Arc<AsyncFd<Socket>>,
    /// What it has joined the groups of.
    joined: BTreeSet<Protocol>,
    /// What the kernel lets through.
    filter: Filter,
    /// How many ports have gone that the filter still lets through.
    stale: usize,
    /// The task that reads it.
    reader: AbortHandle,
}

impl Open {
    /// A socket that has joined nothing yet, and the task that reads it.
    fn new(events: &Arc<Events>) -> io::Result<Self> {
        let socket = Arc::new(netlink::open(NETLINK_SOCK_DIAG)?);
        let reader = tokio::spawn(read(Arc::downgrade(events), socket.clone())).abort_handle();
        Ok(Self { socket, joined: BTreeSet::new(), filter: Filter::default(), stale: 0, reader })
    }

    /// Hands the filter to the kernel. Without one all events arrive, which costs time but loses nothing: so it is when the
    /// kernel allows less memory for filters (`net.core.optmem_max`).
    fn attach_filter(&self) {
        let socket = SockRef::from(self.socket.get_ref());
        let program: Vec<SockFilter> = self
            .filter
            .program()
            .iter()
            .map(|step| SockFilter::new(step.code, step.if_true, step.if_false, step.operand))
            .collect();
        if let Err(error) = socket.attach_filter(&program) {
            // An older filter would hide the ports that are new. There may be none: that is no error.
            let _ = socket.detach_filter();
            tracing::debug!(%error, "destroy events are not filtered by the kernel");
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[derive(Debug)]
struct Subscriber {
    watched: Watched,
    ports: BTreeSet<u16>,
    protocols: BTreeSet<Protocol>,
    /// Whether it receives nothing for a while, and causes no cost.
    is_muted: bool,
    /// Its permit is what remembers a change until the subscriber asks.
    changed: Arc<Notify>,
}

/// A subscription to the destruction of sockets on some ports; ends when dropped.
#[derive(Debug)]
pub struct Subscription {
    id: u64,
    changed: Arc<Notify>,
    events: Arc<Events>,
}

impl Events {
    /// Subscribes to the ports of `endpoints`. Panics outside a tokio runtime.
    pub(super) fn subscribe(
        self: &Arc<Self>,
        endpoints: &[Endpoint],
        watched: Watched,
    ) -> Result<Subscription, PortError> {
        let changed = Arc::new(Notify::new());
        let subscriber = Subscriber {
            watched,
            ports: endpoints.iter().map(Endpoint::port).collect(),
            protocols: endpoints.iter().map(|endpoint| endpoint.protocol).collect(),
            is_muted: false,
            changed: changed.clone(),
        };
        let mut state = self.lock();
        let ports = subscriber.ports.clone();
        let id = state.add(subscriber);
        match state.listen(self, &ports, watched) {
            Ok(()) => Ok(Subscription { id, changed, events: self.clone() }),
            Err(source) => {
                state.remove(id);
                Err(PortError::Netlink { operation: "join the destroy events", source })
            }
        }
    }

    /// Events received so far, and how often the buffer overran.
    pub(super) fn counts(&self) -> (u64, u64) {
        let state = self.lock();
        (state.received, state.overruns)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics halfway through a change of the state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, subscriber: Subscriber) -> u64 {
        self.last_id += 1;
        let id = self.last_id;
        self.link(id, &subscriber);
        self.subscribers.insert(id, subscriber);
        id
    }

    fn remove(&mut self, id: u64) {
        let Some(subscriber) = self.subscribers.remove(&id) else { return };
        self.unlink(id, &subscriber);
        if self.subscribers.is_empty() {
            self.open = None;
        } else if let Err(error) = self.join() {
            tracing::debug!(%error, "destroy events without subscribers are still received");
        }
    }

    /// From now on, `subscriber` receives the events of its ports.
    fn link(&mut self, id: u64, subscriber: &Subscriber) {
        for port in &subscriber.ports {
            self.by_port.entry(*port).or_default().insert(id);
        }
        for protocol in &subscriber.protocols {
            *self.by_protocol.entry(*protocol).or_default() += 1;
        }
    }

    /// From now on, `subscriber` receives nothing.
    fn unlink(&mut self, id: u64, subscriber: &Subscriber) {
        for port in &subscriber.ports {
            let Some(ids) = self.by_port.get_mut(port) else { continue };
            // Unless it is muted.
            if ids.remove(&id) {
                if ids.is_empty() {
                    self.by_port.remove(port);
                }
                self.open.iter_mut().for_each(|open| open.stale += 1);
            }
        }
        if !subscriber.is_muted {
            for protocol in &subscriber.protocols {
                self.by_protocol.entry(*protocol).and_modify(|count| *count -= 1);
            }
        }
    }

    /// Lets a subscriber hear of nothing. At once, for its ports are busy.
    fn mute(&mut self, id: u64) {
        let Some(mut subscriber) = self.subscribers.remove(&id) else { return };
        self.unlink(id, &subscriber);
        subscriber.is_muted = true;
        self.subscribers.insert(id, subscriber);
        self.narrow();
        if let Err(error) = self.join() {
            tracing::debug!(%error, "destroy events without subscribers are still received");
        }
    }

    fn unmute(&mut self, id: u64, events: &Arc<Events>) {
        let Some(mut subscriber) = self.subscribers.remove(&id) else { return };
        subscriber.is_muted = false;
        self.link(id, &subscriber);
        let (ports, watched) = (subscriber.ports.clone(), subscriber.watched);
        self.subscribers.insert(id, subscriber);
        if let Err(error) = self.listen(events, &ports, watched) {
            tracing::warn!(%error, "destroy events that are waited for may not be received");
        }
    }

    /// Removes ports without subscribers from the filter.
    fn narrow(&mut self) {
        if let Some(open) = &mut self.open
            && open.stale > 0
        {
            open.filter = Filter::default();
            for (port, ids) in &self.by_port {
                let watched = ids.iter().filter_map(|id| Some(self.subscribers.get(id)?.watched));
                if let Some(watched) = watched.max() {
                    open.filter.add(*port, watched);
                }
            }
            open.stale = 0;
            open.attach_filter();
        }
    }

    /// Opens the socket if need be, lets `ports` through its filter, and joins the groups.
    fn listen(&mut self, events: &Arc<Events>, ports: &BTreeSet<u16>, watched: Watched) -> io::Result<()> {
        let open = match &mut self.open {
            Some(open) => open,
            closed @ None => closed.insert(Open::new(events)?),
        };
        // Before joining, or foreign events would slip in between.
        if ports.iter().any(|port| !open.filter.lets_through(*port, watched)) {
            for port in ports {
                open.filter.add(*port, watched);
            }
            open.attach_filter();
        }
        self.join()
    }

    /// Joins the groups that are needed and leaves the others: each adds to the cost of every close of a socket of its protocol.
    fn join(&mut self) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let wanted = self.by_protocol.get(&protocol).is_some_and(|count| *count > 0);
            if wanted == open.joined.contains(&protocol) {
                continue;
            }
            for group in groups(protocol) {
                let socket = open.socket.get_ref();
                if wanted { socket.add_membership(group)? } else { socket.drop_membership(group)? }
            }
            if wanted {
                open.joined.insert(protocol)
            } else {
                open.joined.remove(&protocol)
            };
        }
        Ok(())
    }

    /// Reads one datagram and wakes whom it concerns.
    fn receive(&mut self, socket: &Socket) -> io::Result<()> {
        self.buffer.clear();
        self.buffer.reserve(BUFFER_SIZE);
        let (length, sender) = match socket.recv_from(&mut self.buffer, libc::MSG_TRUNC) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            // ENOBUFS: events were lost. Reading the error clears it, and the socket works on.
            Err(_) => {
                self.overruns += 1;
                self.wake_all();
                return Ok(());
            }
        };
        if sender.port_number() != 0 {
            // Not from the kernel: processes of root can send messages, too.
            return Ok(());
        }
        if length > self.buffer.len() {
            self.wake_all();
            return Ok(());
        }
        let mut destroyed = BTreeSet::new();
        for envelope in wire::messages(&self.buffer) {
            match envelope.map(|envelope| envelope.message) {
                Ok(Message::Row(row)) => {
                    self.received += 1;
                    destroyed.insert((row.local.port(), row.remote.port() != 0));
                }
                Ok(_) => {}
                Err(malformed) => tracing::debug!(error = %malformed, "destroy event"),
            }
        }
        for (port, is_connected) in destroyed {
            self.wake(port, is_connected);
        }
        Ok(())
    }

    /// Wakes those who watch such sockets on the port.
    fn wake(&mut self, port: u16, is_connected: bool) {
        let ids = self.by_port.get(&port).into_iter().flatten();
        let concerned = ids
            .filter_map(|id| self.subscribers.get(id))
            .filter(|subscriber| !is_connected || subscriber.watched == Watched::Everything);
        let mut is_watched = false;
        for subscriber in concerned {
            subscriber.changed.notify_one();
            is_watched = true;
        }
        let stale = self.open.as_ref().map_or(0, |open| open.stale);
        if !is_watched && stale * STALE_PART >= self.by_port.len() {
            self.narrow();
        }
    }

    fn wake_all(&self) {
        self.subscribers.values().for_each(|subscriber| subscriber.changed.notify_one());
    }
}

/// Reads the socket for all subscribers, until it is aborted with the last one.
async fn read(events: Weak<Events>, socket: Arc<AsyncFd<Socket>>) {
    // An error means that the runtime is shutting down.
    while let Ok(mut ready) = socket.readable().await {
        let Some(events) = events.upgrade() else { return };
        while ready.try_io(|socket| events.lock().receive(socket.get_ref())).is_ok() {}
    }
}

impl Subscription {
    /// Waits until something happened on the ports since the last call. It is a hint: query again.
    /// Cancel-safe: what happened meanwhile is reported by the next call.
    pub async fn changed(&mut self) {
        self.changed.notified().await;
    }

    /// Receives nothing until the guard is dropped, and causes no cost for this process or for those that close sockets. Events that
    /// are missed meanwhile are not reported later: query again afterwards.
    pub(super) fn mute(&mut self) -> Muted<'_> {
        self.events.lock().mute(self.id);
        Muted(self)
    }
}

/// A subscription that receives nothing.
#[derive(Debug)]
pub(super) struct Muted<'s>(&'s Subscription);

impl Drop for Muted<'_> {
    fn drop(&mut self) {
        let Subscription { id, events, .. } = self.0;
        events.lock().unmute(*id, events);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.events.lock().remove(self.id);
    }
}
