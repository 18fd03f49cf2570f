//! The thread on which all held listeners live, and the handles by which it is told what to do.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::mpsc;

use super::bind::Sockets;
use super::desk::Desk;
use super::figures::{Figures, News};
use super::order::{Order, Terms, Upstream};
use super::room::Room;
use crate::port::Ports;

/// Threads that look up users and wait for an ssh whose queue is full, at a time.
const MOST_BLOCKED: usize = 64;

/// The thread. It ends when this and all [`Held`] are dropped.
#[derive(Debug)]
pub struct Relay {
    desks: mpsc::UnboundedSender<Desk>,
    room: Room,
    ports: Ports,
}

/// A listener that the relay holds. Dropping it closes the listener and resets the clients that wait; those that are
/// connected go on for as long as ssh does.
#[derive(Debug)]
pub struct Held {
    orders: mpsc::UnboundedSender<Order>,
    figures: Arc<Figures>,
    addresses: Vec<SocketAddr>,
}

/// Announces health checks to a held listener, as long as that lives.
#[derive(Debug, Clone)]
pub struct Announcer(mpsc::WeakUnboundedSender<Order>);

impl Announcer {
    /// The next client that connects from `address` is a health check, which is no client.
    pub fn announce(&self, address: SocketAddr) {
        if let Some(orders) = self.0.upgrade() {
            let _ = orders.send(Order::Disregard(address));
        }
    }
}

impl Relay {
    /// Starts the thread. `ports` answers questions about clients; it should not be the one that the event loop uses.
    ///
    /// # Errors
    /// A limit on threads or descriptors is reached.
    pub fn start(ports: Ports) -> io::Result<Self> {
        let (desks, mut received) = mpsc::unbounded_channel::<Desk>();
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(MOST_BLOCKED)
            .build()?;
        let run = move || {
            runtime.block_on(async move {
                while let Some(desk) = received.recv().await {
                    tokio::spawn(desk.run());
                }
            });
            // A thread that still connects has nobody to connect any more.
            runtime.shutdown_background();
        };
        thread::Builder::new().name("relay".to_owned()).spawn(run)?;
        Ok(Self { desks, room: Room::of_limit(), ports })
    }

    /// Accepts clients on `sockets` from now on. They wait until there is an upstream.
    ///
    /// # Errors
    /// The thread has ended, which it does only by a panic.
    pub fn hold(
        &self,
        sockets: Sockets,
        terms: Terms,
        news: impl Fn(News) + Send + Sync + 'static,
    ) -> io::Result<Held> {
        let (orders, received) = mpsc::unbounded_channel();
        let figures = Arc::<Figures>::default();
        let addresses = sockets.addresses().to_vec();
        let desk =
            Desk::new(sockets, terms, received, figures.clone(), self.room.clone(), self.ports.clone(), news);
        self.desks.send(desk).map_err(|_| io::Error::other("the thread of the relay has ended"))?;
        Ok(Held { orders, figures, addresses })
    }
}

impl Held {
    /// The addresses that are listened on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What is counted of its clients.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// From now on clients are connected to `upstream`; without one they wait.
    pub fn serve(&self, upstream: Option<Upstream>) {
        self.order(Order::Serve(upstream));
    }

    /// Changes how clients are treated, those that wait included.
    pub fn set_terms(&self, terms: Terms) {
        self.order(Order::Treat(terms));
    }

    /// Asks whether there is no client: [`News::Nobody`] with this number, unless there is one.
    pub fn ask_for_clients(&self, number: u64) {
        self.order(Order::AskForClients(number));
    }

    /// By which health checks are announced.
    pub fn announcer(&self) -> Announcer {
        Announcer(self.orders.downgrade())
    }

    fn order(&self, order: Order) {
        // A desk ends only when this is dropped.
        let _ = self.orders.send(order);
    }
}
