//! Waiting for a change of a socket's file, and for the end of a process that has the socket.

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::watch::{Subscription, WatchError, Watcher};

/// Changes of the file at a path: made, removed, replaced. From its creation on none is missed.
#[derive(Debug)]
pub struct Changes {
    changed: Arc<Notify>,
    _subscription: Subscription,
}

impl Changes {
    /// Watches `path`, whose directory is there.
    pub fn of(watcher: &Watcher, path: &Path) -> Result<Self, WatchError> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let changed = Arc::<Notify>::default();
        let listener = {
            let (changed, path, directory) = (changed.clone(), path.to_owned(), directory.to_owned());
            move |event: &notify::Event| {
                // The directory itself may be removed or renamed.
                if event.need_rescan()
                    || event.paths.iter().any(|named| *named == path || *named == directory)
                {
                    changed.notify_one();
                }
            }
        };
        let mut subscription = watcher.subscribe(listener);
        subscription.watch(directory)?;
        Ok(Self { changed, _subscription: subscription })
    }

    /// Resolves once something has changed since this was called last.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// The ends of processes. What a process does before it ends is not seen: one that closes a listening socket and lives on causes no
/// event of the kernel.
#[derive(Debug)]
pub struct Ends {
    processes: Vec<AsyncFd<OwnedFd>>,
    has_ended: bool,
}

impl Ends {
    /// Watches `pids`. Panics outside a tokio runtime.
    pub fn of(pids: impl IntoIterator<Item = u32>) -> Self {
        let mut ends = Self { processes: Vec::new(), has_ended: false };
        for pid in pids {
            let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
            let opened = number.map(|number| pidfd_open(number, PidfdFlags::NONBLOCK));
            match opened {
                Some(Ok(process)) => ends.processes.extend(watched(process)),
                Some(Err(rustix::io::Errno::SRCH)) => ends.has_ended = true,
                // A limit on descriptors: the file is watched nevertheless.
                Some(Err(_)) | None => {}
            }
        }
        ends
    }

    /// Resolves once one of them has ended.
    pub async fn any(&self) {
        poll_fn(|context| {
            let is_over = |process: &AsyncFd<OwnedFd>| process.poll_read_ready(context).is_ready();
            if self.has_ended || self.processes.iter().any(is_over) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// `None`: a limit of epoll is reached.
fn watched(process: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is open and owned, and nothing closes or replaces it while the `AsyncFd` owns it.
    unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) }.ok()
}
