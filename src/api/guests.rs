//! Who is connected through a door, and who has to leave when all places are taken.
//!
//! A connection without a complete request that may be answered (a silent one, one without the token) is only a visit: when there
//! is no room for a new one, the oldest visit ends. On TCP it is one of the peer that has most of them. If there is none, the
//! oldest connection ends whose client does not read its answer. So whoever sends a request at once and reads the answer gets
//! through, however many others are there.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// The connections through one door.
#[derive(Debug, Clone)]
pub(super) struct Guests {
    places: usize,
    seated: Arc<Mutex<BTreeMap<u64, Guest>>>,
    /// The number of the next place; none is given twice.
    next: Arc<AtomicU64>,
    changed: Arc<Notify>,
}

#[derive(Debug)]
struct Guest {
    peer: Option<Peer>,
    visit: Visit,
    connection: Option<AbortHandle>,
}

/// Who shares the places of one peer: an IPv4 address, or a network of IPv6, whose owner has 2^64 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Peer(u128);

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(u32::from(address).into()),
            IpAddr::V6(address) => Self(u128::from(address) >> 64 << 64),
        }
    }
}

/// What a connection is doing.
#[derive(Debug, Clone)]
pub(super) struct Visit(Arc<Doing>);

#[derive(Debug)]
struct Doing {
    /// A request that may be answered is complete, and its answer is not.
    answering: AtomicBool,
    /// The client does not read what is written.
    stalled: AtomicBool,
    changed: Arc<Notify>,
}

/// A connection's place, until it ends.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    guests: Guests,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.guests.lock().remove(&self.number);
        self.guests.changed.notify_one();
    }
}

impl Guests {
    /// A door with so many places.
    pub(super) fn new(places: usize) -> Self {
        Self { places, seated: Arc::default(), next: Arc::default(), changed: Arc::default() }
    }

    /// Waits until there is a place, or somebody who can be asked to leave. Cancel-safe.
    pub(super) async fn room(&self) {
        if self.lock().len() >= self.places {
            // A request that came with its connection is read before that counts as a visit: once round to see that it came,
            // once to read it.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
        while !self.has_room() {
            self.changed.notified().await;
        }
    }

    fn has_room(&self) -> bool {
        let seated = self.lock();
        seated.len() < self.places || leaving(&seated).is_some()
    }

    /// Gives a new connection a place, for which another one may have to leave.
    pub(super) fn seat(&self, peer: Option<IpAddr>) -> (Place, Visit) {
        if self.lock().len() >= self.places {
            self.make_room();
        }
        let doing = Doing {
            answering: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            changed: Arc::clone(&self.changed),
        };
        let visit = Visit(Arc::new(doing));
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let guest = Guest { peer: peer.map(Peer::from), visit: visit.clone(), connection: None };
        self.lock().insert(number, guest);
        (Place { number, guests: self.clone() }, visit)
    }

    /// Tells how the connection at the place `number` is ended.
    pub(super) fn seated(&self, number: u64, connection: AbortHandle) {
        if let Some(guest) = self.lock().get_mut(&number) {
            guest.connection = Some(connection);
        }
    }

    /// Ends the connection that has to leave first; says whether there was one.
    pub(super) fn make_room(&self) -> bool {
        let mut seated = self.lock();
        let leaving = leaving(&seated).and_then(|number| seated.remove(&number));
        if let Some(connection) = leaving.as_ref().and_then(|guest| guest.connection.as_ref()) {
            connection.abort();
        }
        leaving.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Guest>> {
        // Nothing in here panics half-way through a change.
        self.seated.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Its number, in the order in which connections came.
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl Visit {
    /// Whether the client reads what is written.
    pub(super) fn set_stalled(&self, stalled: bool) {
        self.0.stalled.store(stalled, Ordering::Relaxed);
        if stalled {
            self.0.changed.notify_one();
        }
    }

    fn is_answering(&self) -> bool {
        self.0.answering.load(Ordering::Relaxed)
    }

    fn is_stalled(&self) -> bool {
        self.0.stalled.load(Ordering::Relaxed)
    }
}

/// Who has to leave first.
fn leaving(seated: &BTreeMap<u64, Guest>) -> Option<u64> {
    let visits = || seated.iter().filter(|(_, guest)| !guest.visit.is_answering());
    let mut counts: HashMap<Option<Peer>, usize> = HashMap::new();
    for (_, guest) in visits() {
        *counts.entry(guest.peer).or_default() += 1;
    }
    let most = counts.values().max().copied();
    let oldest = visits().find(|(_, guest)| counts.get(&guest.peer).copied() == most);
    let stalled = || seated.iter().find(|(_, guest)| guest.visit.is_stalled());
    oldest.or_else(stalled).map(|(number, _)| *number)
}

/// Marks a visit as answering, as long as it lives.
struct Answering(Visit);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.0.answering.store(false, Ordering::Relaxed);
        self.0.0.changed.notify_one();
    }
}

/// Middleware: a request that has come this far is complete and may be answered. Its connection stays until it is.
pub(super) async fn answer(request: Request, next: Next) -> Response {
    let Some(visit) = request.extensions().get::<Visit>().cloned() else { return next.run(request).await };
    visit.0.answering.store(true, Ordering::Relaxed);
    let answering = Answering(visit);
    next.run(request).await.map(|body| Body::new(Answer { body, _answering: answering }))
}

/// The body of an answer, and the mark that goes with it.
struct Answer {
    body: Body,
    _answering: Answering,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seats somebody from this address; the task stands for the connection.
    fn seat(guests: &Guests, peer: Option<&str>) -> (Place, Visit, tokio::task::JoinHandle<()>) {
        let task = tokio::spawn(std::future::pending());
        let (place, visit) = guests.seat(peer.map(|peer| peer.parse().unwrap()));
        guests.seated(place.number(), task.abort_handle());
        (place, visit, task)
    }

    async fn is_ended(task: &mut tokio::task::JoinHandle<()>) -> bool {
        tokio::time::timeout(std::time::Duration::from_millis(20), task).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_silent_one_leaves_and_whoever_is_answered_stays() {
        let guests = Guests::new(3);
        let mut answered = seat(&guests, None);
        answered.1.0.answering.store(true, Ordering::Relaxed);
        let mut oldest = seat(&guests, None);
        let mut younger = seat(&guests, None);
        let _new = seat(&guests, None);
        assert!(is_ended(&mut oldest.2).await);
        assert!(!is_ended(&mut answered.2).await && !is_ended(&mut younger.2).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_peer_with_most_visits_makes_room() {
        let guests = Guests::new(4);
        let mut alone = seat(&guests, Some("192.0.2.1"));
        let mut crowd = seat(&guests, Some("2001:db8::1"));
        let _same_network = seat(&guests, Some("2001:db8::2"));
        let _mapped = seat(&guests, Some("::ffff:192.0.2.9"));
        let _new = seat(&guests, Some("192.0.2.2"));
        assert!(is_ended(&mut crowd.2).await);
        assert!(!is_ended(&mut alone.2).await);
    }

    #[tokio::test(start_paused = true)]
    async fn without_visits_who_does_not_read_leaves_and_else_the_new_one_waits() {
        let guests = Guests::new(2);
        let mut seats = Vec::new();
        for _ in 0..2 {
            let seated = seat(&guests, None);
            seated.1.0.answering.store(true, Ordering::Relaxed);
            seats.push(seated);
        }
        let waits = tokio::time::timeout(std::time::Duration::from_secs(1), guests.room()).await;
        assert!(waits.is_err());
        seats[1].1.set_stalled(true);
        guests.room().await;
        let _new = seat(&guests, None);
        assert!(is_ended(&mut seats[1].2).await);
        assert!(!is_ended(&mut seats[0].2).await);
        drop(seats);
        guests.room().await;
    }
}
