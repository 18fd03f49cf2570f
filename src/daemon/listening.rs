//! The listeners of one tunnel, as one process is to have them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use super::attempt::port_failure;
use super::reporter::{Reporter, TunnelReport};
use crate::core::{ConnectionId, Slot};
use crate::port::{Endpoint, Listener, PortError, Ports, Subscription};

/// How long to wait before subscribing to the kernel's events again when it refuses.
const NO_DESCRIPTOR_WAIT: Duration = Duration::from_secs(1);

/// What a process is to listen on for a tunnel, and what it does listen on.
#[derive(Debug)]
pub(super) struct Listening {
    connection: ConnectionId,
    reporter: Reporter<Slot>,
    ports: Ports,
    /// The endpoints to listen on: those asked for that this machine has.
    endpoints: Vec<Endpoint>,
    /// As the kernel showed it last.
    present: Mutex<Vec<Listener>>,
}

impl Listening {
    /// On `endpoints`, by the process of `connection`; it does not listen yet.
    pub(super) fn new(
        connection: ConnectionId,
        reporter: Reporter<Slot>,
        ports: Ports,
        endpoints: Vec<Endpoint>,
    ) -> Self {
        Self { connection, reporter, ports, endpoints, present: Mutex::default() }
    }

    pub(super) fn reporter(&self) -> &Reporter<Slot> {
        &self.reporter
    }

    pub(super) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// What the process listens on, as far as is known.
    pub(super) fn present(&self) -> MutexGuard<'_, Vec<Listener>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers and reports what the process listens on.
    pub(super) fn set(&self, listeners: Vec<Listener>) {
        self.reporter.send(TunnelReport::Listening(self.connection, listeners.clone()));
        *self.present() = listeners;
    }

    /// The listeners on the endpoints: all of them, or as many as a look-up finds if those are `enough`. A dump visits every
    /// listener of the machine; a look-up takes microseconds, and finds one of several sockets that share an address.
    pub(super) fn listeners(&self, enough: impl Fn(&[Listener]) -> bool) -> Result<Vec<Listener>, PortError> {
        match self.ports.look_up(&self.endpoints)? {
            Some(found) if enough(&found) => Ok(found),
            Some(_) | None => self.ports.listeners(&self.endpoints),
        }
    }

    /// Subscribes to the ends of listeners on the endpoints.
    pub(super) async fn watch(&self) -> Subscription {
        let mut told = String::new();
        loop {
            let error = match self.ports.watch_listeners(&self.endpoints) {
                Ok(subscription) => return subscription,
                Err(error) => port_failure(&error).message,
            };
            // It is a limit that is reached, and that is not reached for ever.
            if error != told {
                self.reporter.warn(&error);
                told = error;
            }
            Box::pin(sleep(NO_DESCRIPTOR_WAIT)).await;
        }
    }

    /// Resolves once one of the listeners is gone.
    pub(super) async fn lost(&self) {
        let mut subscription = self.watch().await;
        while self.has_all() {
            subscription.changed().await;
        }
    }

    fn has_all(&self) -> bool {
        let has_all = |found: &[Listener]| self.present().iter().all(|listener| found.contains(listener));
        match self.listeners(has_all) {
            Ok(found) => has_all(&found),
            // What cannot be asked about is not lost.
            Err(error) => {
                self.reporter.warn(&error.to_string());
                true
            }
        }
    }
}
