//! Watches files for changes of all kinds, with one inotify instance for the whole process.
//!
//! A user of the machine has few instances (`fs.inotify.max_user_instances`, 128 by default), so [`Watcher`] opens one and
//! hands its events to all subscribers; if that failed, the next subscriber tries again. [`Followed`] watches
//! all directories and links on a path (`trail`), and `mounts` reports what is mounted over them. [`Window`] waits for the end of a
//! burst of changes. There are no timers: while nothing changes, nothing runs.

mod followed;
mod mounts;
mod trail;
mod window;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use notify::event::Flag;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

pub use followed::{Followed, Scope};
pub use window::Window;

/// Why something is not watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// This user has no inotify instance left, or this process no file descriptor.
    #[error(
        "inotify gives no instance ({0}): this user has used up fs.inotify.max_user_instances; `portward doctor` counts them"
    )]
    Instances(#[source] io::Error),
    /// There is an instance, and it takes no more watches.
    #[error(
        "inotify takes no more watches: this user has used up fs.inotify.max_user_watches; `portward doctor` counts them"
    )]
    Watches,
    /// Nothing is there.
    #[error("{} is not there", .0.display())]
    Missing(PathBuf),
    /// This user may not read it.
    #[error("this user may not read {}", .0.display())]
    Denied(PathBuf),
    /// Anything else.
    #[error("inotify: {0}")]
    Other(#[source] notify::Error),
}

impl WatchError {
    fn of(error: notify::Error, path: &Path) -> Self {
        match &error.kind {
            notify::ErrorKind::PathNotFound => Self::Missing(path.to_owned()),
            notify::ErrorKind::MaxFilesWatch => Self::Watches,
            notify::ErrorKind::Io(source) => match source.kind() {
                io::ErrorKind::PermissionDenied => Self::Denied(path.to_owned()),
                io::ErrorKind::NotFound => Self::Missing(path.to_owned()),
                _ => Self::Other(error),
            },
            notify::ErrorKind::Generic(_)
            | notify::ErrorKind::WatchNotFound
            | notify::ErrorKind::InvalidConfig(_) => Self::Other(error),
        }
    }
}

type Listener = Box<dyn Fn(&Event) + Send>;

/// The one inotify instance. Cheap to clone.
#[derive(Clone, Default)]
pub struct Watcher(Arc<Hub>);

#[derive(Default)]
struct Hub {
    instance: Mutex<Instance>,
    listeners: Arc<Mutex<Listeners>>,
}

#[derive(Default)]
struct Instance {
    /// `None` until the kernel gives one.
    watcher: Option<RecommendedWatcher>,
    /// Subscribers that watch a path.
    users: HashMap<PathBuf, usize>,
}

#[derive(Default)]
struct Listeners {
    next: u64,
    all: HashMap<u64, Listener>,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Watcher").finish_non_exhaustive()
    }
}

impl Watcher {
    /// Opens the instance, if it is not open. Earlier subscribers then get an event that anything may have changed.
    pub fn open(&self) -> Result<(), WatchError> {
        {
            let mut instance = lock(&self.0.instance);
            if instance.watcher.is_some() {
                return Ok(());
            }
            instance.watcher = Some(start(Arc::clone(&self.0.listeners))?);
        }
        lock(&self.0.listeners).notify(&look_again());
        Ok(())
    }

    /// Calls `listener` with every event of the paths that the subscription, or any other, watches. It is called on the
    /// watcher's thread, and must not wait.
    pub fn subscribe(&self, listener: impl Fn(&Event) + Send + 'static) -> Subscription {
        let mut listeners = lock(&self.0.listeners);
        let id = listeners.next;
        listeners.next += 1;
        listeners.all.insert(id, Box::new(listener));
        drop(listeners);
        Subscription { watcher: self.clone(), id, paths: BTreeSet::new() }
    }
}

impl Listeners {
    fn notify(&self, event: &Event) {
        for listener in self.all.values() {
            listener(event);
        }
    }
}

fn start(listeners: Arc<Mutex<Listeners>>) -> Result<RecommendedWatcher, WatchError> {
    let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // After an error anything may have changed.
        lock(&listeners).notify(&event.unwrap_or_else(|_| look_again()));
    });
    watcher.map_err(|error| match error.kind {
        notify::ErrorKind::Io(source) => WatchError::Instances(source),
        _ => WatchError::Other(error),
    })
}

/// The event of events that were lost: anything may have changed.
fn look_again() -> Event {
    Event::new(EventKind::Other).set_flag(Flag::Rescan)
}

/// What one subscriber watches. Dropping it ends that.
#[derive(Debug)]
pub struct Subscription {
    watcher: Watcher,
    id: u64,
    paths: BTreeSet<PathBuf>,
}

impl Subscription {
    /// Watches what is at `path` now: a file, or a directory and the names in it.
    pub fn watch(&mut self, path: &Path) -> Result<(), WatchError> {
        self.watcher.open()?;
        let mut instance = lock(&self.watcher.0.instance);
        let Some(watcher) = &mut instance.watcher else {
            return Err(WatchError::Instances(Errno::EMFILE.into()));
        };
        // Also if the path is watched already: it may be another file now.
        watcher.watch(path, RecursiveMode::NonRecursive).map_err(|error| WatchError::of(error, path))?;
        if self.paths.insert(path.to_owned()) {
            *instance.users.entry(path.to_owned()).or_default() += 1;
        }
        Ok(())
    }

    /// Whether it watches `path`.
    pub fn watches(&self, path: &Path) -> bool {
        self.paths.contains(path)
    }

    /// Watches `path` no more.
    pub fn unwatch(&mut self, path: &Path) {
        if !self.paths.remove(path) {
            return;
        }
        let mut instance = lock(&self.watcher.0.instance);
        let Some(users) = instance.users.get_mut(path) else { return };
        *users -= 1;
        if *users > 0 {
            return;
        }
        instance.users.remove(path);
        if let Some(watcher) = &mut instance.watcher {
            // The watcher may have dropped it already, together with the file.
            let _ = watcher.unwatch(path);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        lock(&self.watcher.0.listeners).all.remove(&self.id);
        for path in self.paths.clone() {
            self.unwatch(&path);
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while the lock was held leaves the list consistent.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn two_subscribers_share_a_directory_and_one_goes() {
        let directory = tempfile::tempdir().unwrap();
        let watcher = Watcher::default();
        let (first, heard_first) = mpsc::channel();
        let (second, heard_second) = mpsc::channel();
        let listener = |heard: mpsc::Sender<()>| {
            move |event: &Event| {
                if event.kind.is_create() {
                    let _ = heard.send(());
                }
            }
        };
        let mut one = watcher.subscribe(listener(first));
        let mut other = watcher.subscribe(listener(second));
        one.watch(directory.path()).unwrap();
        other.watch(directory.path()).unwrap();
        fs::write(directory.path().join("a"), "").unwrap();
        let patience = Duration::from_secs(20);
        heard_first.recv_timeout(patience).unwrap();
        heard_second.recv_timeout(patience).unwrap();
        drop(one);
        fs::write(directory.path().join("b"), "").unwrap();
        heard_second.recv_timeout(patience).unwrap();
        assert!(heard_first.try_recv().is_err());
    }
}
