//! How many clients the limit of open files has room for.

use std::sync::Arc;

use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Descriptors that are left to the rest of portward: to processes that it starts, and to the clients of its API. Of a lower
/// limit than twice this, half.
const RESERVED: u64 = 256;

/// Descriptors of one client: its own connection, and the one to ssh.
const PER_CLIENT: u64 = 2;

/// Clients in all, where the limit allows more or there is none.
const MOST: u64 = 1 << 20;

/// Room for clients of all held listeners.
#[derive(Debug, Clone)]
pub(super) struct Room {
    free: Arc<Semaphore>,
    size: usize,
}

/// The room of one client; free again when dropped.
pub(super) type Place = OwnedSemaphorePermit;

impl Room {
    /// As much as the soft limit of open files has room for now.
    pub(super) fn of_limit() -> Self {
        Self::for_clients(clients(getrlimit(Resource::Nofile).current))
    }

    fn for_clients(size: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(size)), size }
    }

    /// How many clients have room in all.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Room for one client, if there is some.
    pub(super) fn take(&self) -> Option<Place> {
        self.free.clone().try_acquire_owned().ok()
    }

    /// Whether there is no room.
    pub(super) fn is_full(&self) -> bool {
        self.free.available_permits() == 0
    }

    /// Waits until there is room.
    pub(super) async fn freed(&self) {
        // It is never closed.
        let _ = self.free.acquire().await;
    }
}

fn clients(limit: Option<u64>) -> usize {
    let clients = limit.map_or(MOST, |limit| (limit - RESERVED.min(limit / 2)) / PER_CLIENT);
    usize::try_from(clients.clamp(1, MOST)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_files_is_shared_with_the_rest_of_portward() {
        assert_eq!([Some(64), Some(512), Some(1024)].map(clients), [16, 128, 384]);
        assert_eq!([Some(0), Some(u64::MAX), None].map(clients), [1, 1 << 20, 1 << 20]);
    }

    #[tokio::test]
    async fn room_is_freed_when_a_client_goes() {
        let room = Room::for_clients(1);
        let place = room.take().unwrap();
        assert!(room.take().is_none() && room.is_full());
        drop(place);
        room.freed().await;
        assert!(!room.is_full());
    }
}
