//! The directories that are watched, and which names in them matter.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::ModifyKind;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use super::trail;

/// How often the trail may change while it is being armed, before the next event is waited for.
const ARMINGS_AT_MOST: usize = 8;

/// Which directory stood under a path when it was armed: device and inode.
type Identity = (u64, u64);

/// Watches the directories through which a path leads.
#[derive(Debug)]
pub(super) struct Directories {
    watcher: RecommendedWatcher,
    armed: BTreeMap<PathBuf, Identity>,
    shared: Arc<Mutex<Shared>>,
}

/// What is shared with the watcher's thread.
#[derive(Debug, Default)]
struct Shared {
    /// Paths whose events matter.
    names: HashSet<PathBuf>,
    /// Directories that came or went since they were armed. Their identity does not tell: a new directory often gets the
    /// inode of the one that was removed just before.
    moved: HashSet<PathBuf>,
}

impl Directories {
    /// Watches nothing yet; tells `touched` of everything that matters later.
    pub(super) fn new(touched: Arc<Notify>) -> notify::Result<Self> {
        let shared = Arc::<Mutex<Shared>>::default();
        let told = Arc::clone(&shared);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let matters = match event {
                // Reading the file is an event, too: to heed it would make one reload the cause of the next.
                Ok(event) if event.kind.is_access() => false,
                // Events were lost: anything may have changed.
                Ok(event) if event.need_rescan() => true,
                Ok(event) => lock(&told).matters(&event),
                Err(_) => true,
            };
            if matters {
                touched.notify_one();
            }
        })?;
        Ok(Self { watcher, armed: BTreeMap::new(), shared })
    }

    /// Watches what `path` leads through now, and nothing else.
    pub(super) fn follow(&mut self, path: &Path) -> notify::Result<()> {
        // What changes between looking and arming is unheard of, so look again until nothing is new.
        for _ in 0..ARMINGS_AT_MOST {
            if !self.arm(path)? {
                break;
            }
        }
        Ok(())
    }

    /// Looks at the trail once. `true`: something had to be armed.
    fn arm(&mut self, path: &Path) -> notify::Result<bool> {
        let steps = trail::of(path);
        let wanted: BTreeMap<PathBuf, Identity> = steps
            .iter()
            .filter_map(|step| Some((step.directory.clone(), identity(&step.directory)?)))
            .collect();
        let moved = {
            let mut shared = lock(&self.shared);
            shared.names = steps.into_iter().flat_map(|step| [step.path(), step.directory]).collect();
            std::mem::take(&mut shared.moved)
        };
        let gone = |(directory, identity): &(&PathBuf, &Identity)| {
            wanted.get(*directory) != Some(*identity) || moved.contains(*directory)
        };
        let gone: Vec<PathBuf> =
            self.armed.iter().filter(gone).map(|(directory, _)| directory.clone()).collect();
        for directory in gone {
            // The watcher may have dropped it already, together with the directory.
            let _ = self.watcher.unwatch(&directory);
            self.armed.remove(&directory);
        }
        let mut any_new = false;
        for (directory, identity) in wanted {
            if self.armed.contains_key(&directory) {
                continue;
            }
            any_new = true;
            match self.watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.armed.insert(directory, identity);
                }
                // It went away this moment: the next look finds another trail.
                Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => {}
                Err(error) if is_denied(&error) => {
                    tracing::warn!(
                        directory = %directory.display(),
                        "this user may not watch the directory: use `portward reload` if it is replaced"
                    );
                    self.armed.insert(directory, identity);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(any_new)
    }
}

impl Shared {
    /// Whether `event` can make the path lead elsewhere, or change what it leads to.
    fn matters(&mut self, event: &Event) -> bool {
        let named: Vec<&PathBuf> = event.paths.iter().filter(|path| self.names.contains(*path)).collect();
        let moves = event.kind.is_create()
            || event.kind.is_remove()
            || matches!(event.kind, EventKind::Modify(ModifyKind::Name(_)));
        if moves {
            self.moved.extend(named.iter().copied().cloned());
        }
        !named.is_empty()
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // A panic of the other side leaves nothing half done that could be tripped over.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_denied(error: &notify::Error) -> bool {
    matches!(&error.kind, notify::ErrorKind::Io(error) if error.kind() == io::ErrorKind::PermissionDenied)
}

fn identity(directory: &Path) -> Option<Identity> {
    let metadata = directory.metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}
