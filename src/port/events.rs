//! Destroy events: the kernel tells when a socket on a watched port goes away.
//!
//! One socket serves all subscriptions. It is open, and so costs the machine something, only while there is a subscription;
//! its filter follows the ports that are watched. Nothing runs in the background: whoever waits reads for all.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::libc;
use socket2::{SockFilter, SockRef};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::wire::{self, Message};
use super::{Endpoint, PortError, Protocol, filter};

/// The multicast groups of NETLINK_SOCK_DIAG, for IPv4 and for IPv6.
const fn groups(protocol: Protocol) -> [u32; 2] {
    match protocol {
        // SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET6_TCP_DESTROY
        Protocol::Tcp => [1, 3],
        // SKNLGRP_INET_UDP_DESTROY, SKNLGRP_INET6_UDP_DESTROY
        Protocol::Udp => [2, 4],
    }
}

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
    socket: Option<Arc<AsyncFd<Socket>>>,
    /// What it has joined the groups of.
    joined: BTreeSet<Protocol>,
    subscribers: HashMap<u64, Subscriber>,
    last_id: u64,
    buffer: Vec<u8>,
    received: u64,
    overruns: u64,
}

#[derive(Debug)]
struct Subscriber {
    ports: BTreeSet<u16>,
    protocols: BTreeSet<Protocol>,
    /// Hears nothing for a while, and costs nobody anything.
    muted: bool,
    /// Its permit is what remembers a change until the subscriber asks.
    changed: Arc<Notify>,
}

/// A standing request to be told when sockets on some ports are destroyed; ends when dropped.
#[derive(Debug)]
pub struct Subscription {
    id: u64,
    changed: Arc<Notify>,
    socket: Arc<AsyncFd<Socket>>,
    events: Arc<Events>,
}

impl Events {
    /// Subscribes to the ports of `endpoints`. Panics outside a tokio runtime.
    pub(super) fn subscribe(self: &Arc<Self>, endpoints: &[Endpoint]) -> Result<Subscription, PortError> {
        let mut state = self.lock();
        state.last_id += 1;
        let id = state.last_id;
        let changed = Arc::new(Notify::new());
        let subscriber = Subscriber {
            ports: endpoints.iter().map(Endpoint::port).collect(),
            protocols: endpoints.iter().map(|endpoint| endpoint.protocol).collect(),
            muted: false,
            changed: changed.clone(),
        };
        state.subscribers.insert(id, subscriber);
        match state.listen() {
            Ok(socket) => Ok(Subscription { id, changed, socket, events: self.clone() }),
            Err(source) => {
                state.subscribers.remove(&id);
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
    /// Opens the socket if need be, and brings its filter and its groups up to date.
    fn listen(&mut self) -> io::Result<Arc<AsyncFd<Socket>>> {
        let socket = if let Some(socket) = &self.socket {
            socket.clone()
        } else {
            let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
            socket.set_non_blocking(true)?;
            socket.bind_auto()?;
            Arc::new(register(socket)?)
        };
        // Before joining, or foreign events would slip in between.
        attach_filter(socket.get_ref(), &self.ports());
        self.join(socket.get_ref())?;
        self.socket = Some(socket.clone());
        Ok(socket)
    }

    fn unsubscribe(&mut self, id: u64) {
        self.subscribers.remove(&id);
        if self.subscribers.is_empty() {
            self.socket = None;
            self.joined.clear();
        } else {
            self.update();
        }
    }

    fn mute(&mut self, id: u64, muted: bool) {
        if let Some(subscriber) = self.subscribers.get_mut(&id) {
            subscriber.muted = muted;
            self.update();
        }
    }

    /// Brings filter and groups up to date after a change of the subscribers.
    fn update(&mut self) {
        let Some(socket) = self.socket.clone() else { return };
        attach_filter(socket.get_ref(), &self.ports());
        if let Err(error) = self.join(socket.get_ref()) {
            tracing::debug!(%error, "the groups of destroy events are not those that are waited for");
        }
    }

    /// The subscribers that hear.
    fn listening(&self) -> impl Iterator<Item = &Subscriber> {
        self.subscribers.values().filter(|subscriber| !subscriber.muted)
    }

    /// Joins the groups that are waited for, and leaves the others: each costs whoever closes a socket of its protocol.
    fn join(&mut self, socket: &Socket) -> io::Result<()> {
        let wanted: BTreeSet<Protocol> =
            self.listening().flat_map(|subscriber| &subscriber.protocols).copied().collect();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for group in groups(protocol) {
                match (wanted.contains(&protocol), self.joined.contains(&protocol)) {
                    (true, false) => socket.add_membership(group)?,
                    (false, true) => socket.drop_membership(group)?,
                    (true, true) | (false, false) => {}
                }
            }
        }
        self.joined = wanted;
        Ok(())
    }

    fn ports(&self) -> BTreeSet<u16> {
        self.listening().flat_map(|subscriber| &subscriber.ports).copied().collect()
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
                self.wake(|_| true);
                return Ok(());
            }
        };
        if sender.port_number() != 0 {
            // Not the kernel: a process of root may send us messages.
            return Ok(());
        }
        if length > self.buffer.len() {
            self.wake(|_| true);
            return Ok(());
        }
        let mut ports = BTreeSet::new();
        for envelope in wire::messages(&self.buffer) {
            match envelope.map(|envelope| envelope.message) {
                Ok(Message::Row(row)) => {
                    self.received += 1;
                    ports.insert(row.local.port());
                }
                Ok(_) => {}
                Err(malformed) => tracing::debug!(error = %malformed, "destroy event"),
            }
        }
        self.wake(|subscriber| !subscriber.ports.is_disjoint(&ports));
        Ok(())
    }

    fn wake(&self, concerned: impl Fn(&Subscriber) -> bool) {
        for subscriber in self.subscribers.values().filter(|subscriber| concerned(subscriber)) {
            subscriber.changed.notify_one();
        }
    }
}

impl Subscription {
    /// Waits until something happened on the ports since the last call. It is a hint: ask again what is so.
    /// Cancel-safe: what happened meanwhile is reported by the next call.
    pub async fn changed(&mut self) {
        loop {
            tokio::select! {
                biased;
                () = self.changed.notified() => return,
                ready = self.socket.readable() => {
                    let Ok(mut ready) = ready else {
                        // The runtime is shutting down: nobody will be woken any more.
                        return std::future::pending().await;
                    };
                    while ready.try_io(|socket| self.events.lock().receive(socket.get_ref())).is_ok() {}
                }
            }
        }
    }
}

impl Subscription {
    /// Hears nothing until the guard is dropped, and so costs neither this process nor those that close sockets anything. What
    /// happens meanwhile is never told: ask again afterwards.
    pub(super) fn mute(&mut self) -> Muted<'_> {
        self.events.lock().mute(self.id, true);
        Muted(self)
    }
}

/// A subscription that hears nothing.
#[derive(Debug)]
pub(super) struct Muted<'s>(&'s Subscription);

impl Drop for Muted<'_> {
    fn drop(&mut self) {
        self.0.events.lock().mute(self.0.id, false);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.events.lock().unsubscribe(self.id);
    }
}

/// Hands the socket to tokio.
pub(super) fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the socket owns its open descriptor, and nobody closes or replaces it while the `AsyncFd` owns the socket.
    let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    Ok(registered?)
}

/// Lets through the events of `ports` only. Without a filter all events arrive, which costs time but loses nothing: so it is
/// when there are too many ports, or when the kernel allows less memory for filters (`net.core.optmem_max`).
fn attach_filter(socket: &Socket, ports: &BTreeSet<u16>) {
    let socket = SockRef::from(socket);
    let attached = filter::program(ports).is_some_and(|program| {
        let program: Vec<SockFilter> = program
            .iter()
            .map(|step| SockFilter::new(step.code, step.if_true, step.if_false, step.operand))
            .collect();
        socket.attach_filter(&program).is_ok()
    });
    if !attached {
        // An older filter would hide the ports that are new. There may be none: that is no error.
        let _ = socket.detach_filter();
        tracing::debug!(ports = ports.len(), "destroy events are not filtered by the kernel");
    }
}
