//! One tunnel: accepts its clients, keeps those that wait in the order in which they came, and connects them.

use std::collections::BTreeMap;
use std::future::{pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use nix::libc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

use super::allowed::{Judgement, judge};
use super::bind::Sockets;
use super::carry::{End, carry, reset_on_close};
use super::figures::{self, Counted, Figures, News};
use super::order::{Order, Terms, Upstream};
use super::presence::{Presence, Present};
use super::room::{Place, Room};
use super::{upstream, waiting};
use crate::port::Ports;

/// Clients of one tunnel that wait at a time. Others are accepted when one of these is connected or has gone; until then they
/// wait in the kernel's queue.
pub const MOST_WAITING: usize = 1024;

/// Changes of the figures are told this far apart.
const BETWEEN_CHANGES: Duration = Duration::from_secs(1);

/// What goes on is told this far apart.
const BETWEEN_REMINDERS: Duration = Duration::from_secs(60);

/// After a want of descriptors or memory it is tried again after this time; earlier when a client has ended.
const STARVED_FOR: Duration = Duration::from_secs(1);

/// What the tasks of clients report.
#[derive(Debug)]
enum Event {
    /// A client that waited has gone.
    Left(u64),
    /// A client was not heard by ssh, and waits again.
    Unheard(Client),
    /// A client that was connected has ended.
    Ended,
    /// It is known whether a client may be one.
    Judged(Client, Judgement),
}

/// A client that was accepted.
#[derive(Debug)]
struct Client {
    /// Clients are served in the order of their numbers.
    number: u64,
    arrived: Instant,
    /// Which of the upstream's sockets it goes to: how far its port is behind the first one.
    offset: usize,
    stream: TcpStream,
    /// Freed at its end.
    place: Option<Place>,
    /// From when it is admitted; never for a health check.
    present: Option<Present>,
}

/// A client that waits.
#[derive(Debug)]
struct Waiting {
    arrived: Instant,
    /// As that of the client.
    offset: usize,
    /// Takes the connection to ssh. Dropped instead, it gives the client up.
    turn: oneshot::Sender<Way>,
    _counted: Counted,
}

/// A connection to ssh for a client, who is counted as connected from now on: before that is told.
#[derive(Debug)]
struct Way {
    ssh: UnixStream,
    counted: Counted,
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<UnixStream>> + Send>>;

/// The listener of one tunnel, with its clients.
pub(super) struct Desk {
    sockets: Sockets,
    orders: mpsc::UnboundedReceiver<Order>,
    room: Room,
    counter: Counter,
}

/// A desk at work.
struct Counter {
    terms: Terms,
    figures: Arc<Figures>,
    ports: Ports,
    news: Arc<dyn Fn(News) + Send + Sync>,
    upstream: Option<Upstream>,
    presence: Arc<Presence>,
    /// Where the next health check comes from.
    check: Option<SocketAddr>,
    waiting: BTreeMap<u64, Waiting>,
    next_number: u64,
    /// The connection for the next client with this offset, while ssh's queue is full.
    connecting: Option<(usize, Connecting)>,
    /// Until when nothing is tried for want of descriptors or memory.
    starved: Option<Instant>,
    /// When a change was told last, and when the next one is to be told.
    told: Option<Instant>,
    to_tell: Option<Instant>,
    given_up: u64,
    told_starved: Option<Instant>,
    told_crowded: Option<Instant>,
    told_full: Option<Instant>,
    told_denied: Option<Instant>,
    /// Clients that were denied since that was told.
    denied: u64,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Desk").field("sockets", &self.sockets).finish_non_exhaustive()
    }
}

impl Desk {
    pub(super) fn new(
        sockets: Sockets,
        terms: Terms,
        orders: mpsc::UnboundedReceiver<Order>,
        figures: Arc<Figures>,
        room: Room,
        ports: Ports,
        news: impl Fn(News) + Send + Sync + 'static,
    ) -> Self {
        let news: Arc<dyn Fn(News) + Send + Sync> = Arc::new(news);
        let presence = Presence::new(terms.tell_presence, news.clone());
        let counter = Counter {
            terms,
            figures,
            ports,
            news,
            upstream: None,
            presence,
            check: None,
            waiting: BTreeMap::new(),
            next_number: 0,
            connecting: None,
            starved: None,
            told: None,
            to_tell: None,
            given_up: 0,
            told_starved: None,
            told_crowded: None,
            told_full: None,
            told_denied: None,
            denied: 0,
        };
        Self { sockets, orders, room, counter }
    }

    /// Serves clients until the handle is dropped.
    pub(super) async fn run(self) {
        let Self { sockets, mut orders, room, mut counter } = self;
        let (events, mut reported) = mpsc::unbounded_channel();
        let mut listeners = Vec::new();
        let Sockets { listeners: bound, addresses } = sockets;
        for (listener, address) in bound.into_iter().zip(&addresses) {
            match TcpListener::from_std(listener) {
                Ok(listener) => listeners.push(listener),
                Err(error) => return (counter.news)(News::Broken(*address, error)),
            }
        }
        let mut first = 0;
        let (broken, error) = loop {
            counter.connect_waiting();
            let is_full = room.is_full();
            let may_accept = !is_full && counter.starved.is_none() && counter.waiting.len() < MOST_WAITING;
            let deadline = counter.deadline();
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(order) => counter.obey(order),
                    None => return,
                },
                Some(event) = reported.recv() => counter.hear(event, &events),
                (offset, connected) = connected(&mut counter.connecting) => counter.connected(offset, connected),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    counter.pass_deadline(Instant::now());
                }
                () = room.freed(), if is_full => {}
                (index, accepted) = accept(&listeners, first), if may_accept => {
                    // The other listener comes first the next time.
                    first = index + 1;
                    match accepted {
                        Ok(stream) => {
                            // A check is announced before it connects.
                            while let Ok(order) = orders.try_recv() {
                                counter.obey(order);
                            }
                            let place = room.take();
                            if room.is_full() {
                                counter.tell_full(room.size());
                            }
                            counter.accepted(stream, offset(&addresses, index), place, &events);
                        }
                        Err(error) if is_want(&error) => counter.starve(error),
                        Err(error) if is_of_listener(&error) => {
                            break (addresses[index], error);
                        }
                        // It was of the one client, which has gone.
                        Err(_) => {}
                    }
                }
            }
        };
        // Whoever hears of it may listen again at once.
        drop(listeners);
        (counter.news)(News::Broken(broken, error));
    }
}

impl Counter {
    fn obey(&mut self, order: Order) {
        match order {
            Order::Serve(upstream) => self.serve(upstream),
            Order::Treat(terms) => {
                self.presence.tell(terms.tell_presence);
                self.terms = terms;
            }
            Order::AskForClients(number) => {
                if self.presence.is_nobody() {
                    (self.news)(News::Nobody(number));
                }
            }
            Order::Disregard(address) => self.check = Some(address),
        }
    }

    fn serve(&mut self, upstream: Option<Upstream>) {
        self.upstream = upstream;
        self.connecting = None;
    }

    fn hear(&mut self, event: Event, events: &mpsc::UnboundedSender<Event>) {
        match event {
            Event::Left(number) => drop(self.waiting.remove(&number)),
            Event::Unheard(client) => self.wait(client, events),
            Event::Ended => self.starved = None,
            Event::Judged(client, judgement) => self.judged(client, judgement, events),
        }
        self.changed();
    }

    /// A client was accepted.
    fn accepted(
        &mut self,
        stream: TcpStream,
        offset: usize,
        place: Option<Place>,
        events: &mpsc::UnboundedSender<Event>,
    ) {
        // As ssh does for its own. If it fails, small messages are late.
        let _ = stream.set_nodelay(true);
        figures::add(&self.figures.total, 1);
        self.next_number += 1;
        let client = Client {
            number: self.next_number,
            arrived: Instant::now(),
            offset,
            stream,
            place,
            present: None,
        };
        match self.terms.allowed.clone() {
            None => self.admit(client, events),
            Some(allowed) => {
                let (ports, events) = (self.ports.clone(), events.clone());
                tokio::spawn(async move {
                    let judgement = judge(&client.stream, allowed, &ports).await;
                    // Nobody receives it after the end of the desk.
                    let _ = events.send(Event::Judged(client, judgement));
                });
            }
        }
        self.changed();
    }

    /// A client may be one, or not.
    fn judged(&mut self, client: Client, judgement: Judgement, events: &mpsc::UnboundedSender<Event>) {
        match judgement {
            Judgement::Allowed => self.admit(client, events),
            Judgement::Gone => {}
            Judgement::Denied(stranger, inode) => {
                figures::add(&self.figures.refused, 1);
                if is_due(&mut self.told_denied, BETWEEN_CHANGES) {
                    let (news, others) = (self.news.clone(), std::mem::take(&mut self.denied));
                    // Its process is to be found while it still has the socket.
                    spawn_blocking(move || {
                        let stranger = stranger.with_process(inode);
                        reset_on_close(&client.stream);
                        drop(client);
                        news(News::Denied(stranger, others));
                    });
                } else {
                    self.denied += 1;
                    reset_on_close(&client.stream);
                }
            }
        }
    }

    /// Connects a client, or lets it wait.
    fn admit(&mut self, mut client: Client, events: &mpsc::UnboundedSender<Event>) {
        let from = self.check.and_then(|_| client.stream.peer_addr().ok());
        if self.check.take_if(|check| Some(*check) == from).is_none() {
            client.present = Some(self.presence.add());
        }
        let upstream =
            self.upstream.as_ref().filter(|_| self.waiting.is_empty() && self.connecting.is_none());
        match upstream.map(|upstream| connect(upstream, client.offset)) {
            Some(Ok(ssh)) => {
                let way = Way { ssh, counted: Counted::connected(&self.figures) };
                tokio::spawn(relay(client, way, self.figures.clone(), events.clone()));
            }
            Some(Err(error)) => {
                let offset = client.offset;
                self.wait(client, events);
                self.not_connected(offset, error);
            }
            None => self.wait(client, events),
        }
        self.changed();
    }

    /// Keeps a client until it is its turn.
    fn wait(&mut self, client: Client, events: &mpsc::UnboundedSender<Event>) {
        let (turn, its_turn) = oneshot::channel();
        let Client { arrived, offset, .. } = client;
        let waiting = Waiting { arrived, offset, turn, _counted: Counted::waiting(&self.figures) };
        self.waiting.insert(client.number, waiting);
        if self.waiting.len() >= MOST_WAITING && is_due(&mut self.told_crowded, BETWEEN_REMINDERS) {
            (self.news)(News::Crowded);
        }
        let (figures, ports, events) = (self.figures.clone(), self.ports.clone(), events.clone());
        tokio::spawn(async move {
            let way = tokio::select! {
                biased;
                way = its_turn => way,
                () = waiting::gone(&client.stream, &ports) => {
                    let _ = events.send(Event::Left(client.number));
                    return;
                }
            };
            let Ok(way) = way else { return reset_on_close(&client.stream) };
            let Client { number, arrived, offset, stream, place, present } = client;
            let Ok(stream) = waiting::anew(stream) else { return };
            relay(Client { number, arrived, offset, stream, place, present }, way, figures, events).await;
        });
    }

    /// Connects those that wait, for as long as ssh takes them.
    fn connect_waiting(&mut self) {
        while let Some(upstream) = &self.upstream
            && self.connecting.is_none()
            && self.starved.is_none()
            && let Some(offset) = self.waiting.values().next().map(|first| first.offset)
        {
            let connected = connect(upstream, offset);
            self.connected(offset, connected);
        }
    }

    /// Gives the connection to the first that waits for one to there.
    fn connected(&mut self, offset: usize, result: io::Result<UnixStream>) {
        self.connecting = None;
        match result {
            Ok(ssh) => {
                let mut way = Way { ssh, counted: Counted::connected(&self.figures) };
                while let Some(number) =
                    self.waiting.iter().find(|(_, first)| first.offset == offset).map(|(number, _)| *number)
                    && let Some(waiting) = self.waiting.remove(&number)
                {
                    match waiting.turn.send(way) {
                        Ok(()) => break,
                        // That client has just gone.
                        Err(back) => way = back,
                    }
                }
                self.changed();
            }
            Err(error) => self.not_connected(offset, error),
        }
    }

    fn not_connected(&mut self, offset: usize, error: io::Error) {
        let Some(upstream) = &self.upstream else { return };
        if error.kind() == io::ErrorKind::WouldBlock {
            let path = upstream.paths.get(offset).cloned().unwrap_or_default();
            let connecting = Box::pin(async move { upstream::connect_when_possible(&path).await });
            self.connecting = Some((offset, connecting));
        } else if is_want(&error) {
            self.starve(error);
        } else {
            let number = upstream.number;
            self.upstream = None;
            (self.news)(News::UpstreamLost(number));
        }
    }

    fn starve(&mut self, error: io::Error) {
        self.starved = Some(Instant::now() + STARVED_FOR);
        if is_due(&mut self.told_starved, BETWEEN_REMINDERS) {
            (self.news)(News::Starved(error));
        }
    }

    fn tell_full(&mut self, size: usize) {
        if is_due(&mut self.told_full, BETWEEN_REMINDERS) {
            (self.news)(News::Full(size));
        }
    }

    /// When [`Self::pass_deadline`] is to be called next.
    fn deadline(&self) -> Option<Instant> {
        let given_up = self.waiting.values().next().map(|first| first.arrived + self.terms.connect_wait);
        [given_up, self.starved, self.to_tell].into_iter().flatten().min()
    }

    fn pass_deadline(&mut self, now: Instant) {
        if self.starved.is_some_and(|until| until <= now) {
            self.starved = None;
        }
        while let Some(first) = self.waiting.first_entry()
            && first.get().arrived + self.terms.connect_wait <= now
        {
            // Its task resets the client.
            drop(first.remove());
            figures::add(&self.figures.refused, 1);
            self.given_up += 1;
            self.changed();
        }
        if self.to_tell.is_some_and(|due| due <= now) {
            self.tell(now);
        }
    }

    /// The figures have changed.
    fn changed(&mut self) {
        let now = Instant::now();
        match self.told.map(|told| told + BETWEEN_CHANGES) {
            Some(due) if now < due => self.to_tell = Some(due),
            Some(_) | None => self.to_tell = Some(now),
        }
    }

    fn tell(&mut self, now: Instant) {
        (self.told, self.to_tell) = (Some(now), None);
        (self.news)(News::Changed { given_up: std::mem::take(&mut self.given_up) });
    }
}

/// Relays a client that is connected.
async fn relay(
    mut client: Client,
    Way { ssh, counted }: Way,
    figures: Arc<Figures>,
    events: mpsc::UnboundedSender<Event>,
) {
    // It fails for want of memory only; then the client reads an end.
    let end = match tokio::net::UnixStream::from_std(ssh) {
        Ok(mut ssh) => carry(&mut client.stream, &mut ssh, &figures).await,
        Err(_) => End::Over,
    };
    drop(counted);
    // Nobody receives it after the end of the desk.
    let _ = events.send(match end {
        End::Over => {
            drop(client);
            Event::Ended
        }
        End::Unheard => Event::Unheard(client),
    });
}

/// The next client of one of `listeners`, of which that with the index `first` is asked first.
async fn accept(listeners: &[TcpListener], first: usize) -> (usize, io::Result<TcpStream>) {
    poll_fn(|context| {
        for offset in 0..listeners.len() {
            let index = (first + offset) % listeners.len();
            if let Poll::Ready(accepted) = listeners[index].poll_accept(context) {
                return Poll::Ready((index, accepted.map(|(stream, _)| stream)));
            }
        }
        Poll::Pending
    })
    .await
}

async fn connected(connecting: &mut Option<(usize, Connecting)>) -> (usize, io::Result<UnixStream>) {
    match connecting {
        Some((offset, connecting)) => (*offset, connecting.await),
        None => pending().await,
    }
}

/// Connects to the socket of `upstream` for this offset.
fn connect(upstream: &Upstream, offset: usize) -> io::Result<UnixStream> {
    let path = upstream.paths.get(offset).ok_or(io::ErrorKind::NotFound)?;
    upstream::connect(path)
}

/// How far the port of the listener with this index is behind the first one.
fn offset(addresses: &[SocketAddr], index: usize) -> usize {
    let port = |address: &SocketAddr| usize::from(address.port());
    let first = addresses.iter().map(port).min().unwrap_or_default();
    addresses.get(index).map(port).unwrap_or_default() - first
}

/// Whether there is a want of descriptors or memory.
fn is_want(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Whether accept failed because of the listener: any other error is of a client.
fn is_of_listener(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EBADF | libc::ENOTSOCK | libc::EOPNOTSUPP | libc::EFAULT)
    )
}

/// Whether a reminder is due, which is then given.
fn is_due(told: &mut Option<Instant>, between: Duration) -> bool {
    let now = Instant::now();
    let is_due = told.is_none_or(|told| told + between <= now);
    if is_due {
        *told = Some(now);
    }
    is_due
}

#[cfg(test)]
mod tests;
