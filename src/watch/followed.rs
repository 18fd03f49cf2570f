//! Watches the directories and links on some paths, and the names in them that matter.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind};
use tokio::sync::Notify;

use super::mounts::Mounts;
use super::{Subscription, WatchError, Watcher, lock, trail};

/// How often the trail may change while it is being armed, before the next event is waited for.
const ARMINGS_AT_MOST: usize = 8;

/// What stood under a path when it was armed: device and inode.
type Identity = (u64, u64);

/// What about a path matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Whether it is there, and what it is.
    Presence,
    /// Also what is in the file. The file itself is watched besides its directories, because a write through another hard link
    /// or another mount raises no event in this one.
    Content,
}

/// Watches what paths lead through.
#[derive(Debug)]
pub struct Followed {
    paths: Vec<PathBuf>,
    scope: Scope,
    subscription: Subscription,
    mounts: Mounts,
    armed: BTreeMap<PathBuf, Identity>,
    shared: Arc<Mutex<Shared>>,
    touched: Arc<Notify>,
    trouble: Option<WatchError>,
}

/// What is shared with the watcher's thread.
#[derive(Debug)]
struct Shared {
    scope: Scope,
    /// Paths whose events matter.
    names: HashSet<PathBuf>,
    /// Paths that came or went since they were armed. Their identity does not show it: a new file often gets the inode of
    /// the one that was removed just before.
    moved: HashSet<PathBuf>,
}

impl Followed {
    /// Follows absolute `paths` from now on. Must be called within a tokio runtime.
    pub fn new(watcher: &Watcher, paths: Vec<PathBuf>, scope: Scope) -> Self {
        let shared = Shared { scope, names: HashSet::new(), moved: HashSet::new() };
        let shared = Arc::new(Mutex::new(shared));
        let touched = Arc::new(Notify::new());
        let subscription = watcher.subscribe({
            let (shared, touched) = (Arc::clone(&shared), Arc::clone(&touched));
            move |event| {
                if event.need_rescan() || lock(&shared).matters(event) {
                    touched.notify_one();
                }
            }
        });
        let (mounts, armed) = (Mounts::new(), BTreeMap::new());
        let mut followed = Self { paths, scope, subscription, mounts, armed, shared, touched, trouble: None };
        followed.follow();
        followed
    }

    /// Resolves when something about the paths may have changed. Cancel-safe.
    pub async fn touched(&self) {
        tokio::select! {
            () = self.touched.notified() => {}
            () = self.mounts.changed() => {}
        }
    }

    /// Watches what the paths lead through now, and nothing else. Call it before looking at what the paths lead to.
    pub fn follow(&mut self) {
        // A change between resolving and watching goes unnoticed, so repeat until nothing is new.
        for _ in 0..ARMINGS_AT_MOST {
            if !self.arm() {
                break;
            }
        }
    }

    /// Why changes may be missed; `None` if all are noticed that inotify reports.
    pub fn trouble(&self) -> Option<&WatchError> {
        self.trouble.as_ref()
    }

    /// Looks at the trails once. `true`: something had to be armed.
    fn arm(&mut self) -> bool {
        let steps: Vec<trail::Step> = self.paths.iter().flat_map(|path| trail::of(path)).collect();
        let files = steps.iter().map(trail::Step::path).filter(|path| self.is_content(path));
        let directories = steps.iter().map(|step| step.directory.clone());
        let wanted: BTreeMap<PathBuf, Identity> =
            files.chain(directories).filter_map(|path| Some((path.clone(), identity(&path)?))).collect();
        let moved = {
            let mut shared = lock(&self.shared);
            shared.names = steps.into_iter().flat_map(|step| [step.path(), step.directory]).collect();
            std::mem::take(&mut shared.moved)
        };
        let is_gone = |path: &PathBuf, identity: &Identity| {
            wanted.get(path) != Some(identity) || moved.contains(path) || !self.subscription.watches(path)
        };
        let gone: Vec<PathBuf> = self
            .armed
            .iter()
            .filter(|(path, identity)| is_gone(path, identity))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            self.subscription.unwatch(&path);
            self.armed.remove(&path);
        }
        self.trouble = None;
        let mut any_new = false;
        for (path, identity) in wanted {
            if self.armed.contains_key(&path) {
                continue;
            }
            match self.subscription.watch(&path) {
                Ok(()) => {
                    any_new = true;
                    self.armed.insert(path, identity);
                }
                // It went away this moment: the next look finds another trail.
                Err(WatchError::Missing(_)) => any_new = true,
                // Reading the file will report that; the directory reports when its mode changes.
                Err(WatchError::Denied(path)) if self.is_content(&path) => {}
                Err(error) => self.trouble = Some(error),
            }
        }
        any_new
    }

    fn is_content(&self, path: &Path) -> bool {
        self.scope == Scope::Content && path.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
    }
}

impl Shared {
    /// Whether `event` can make a path lead elsewhere, or change what it leads to.
    fn matters(&mut self, event: &Event) -> bool {
        let moves = event.kind.is_create()
            || event.kind.is_remove()
            || matches!(event.kind, EventKind::Modify(ModifyKind::Name(_)));
        let writes = match event.kind {
            // A writer that maps the file raises only the event of its close. Opening and reading raise events, too: if they
            // counted, each reading would cause the next.
            EventKind::Modify(_) | EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
            EventKind::Access(_)
            | EventKind::Any
            | EventKind::Create(_)
            | EventKind::Remove(_)
            | EventKind::Other => false,
        };
        let counts = moves || writes && self.scope == Scope::Content;
        if !counts {
            return false;
        }
        let named: Vec<&PathBuf> = event.paths.iter().filter(|path| self.names.contains(*path)).collect();
        if moves {
            self.moved.extend(named.iter().copied().cloned());
        }
        !named.is_empty()
    }
}

fn identity(path: &Path) -> Option<Identity> {
    let metadata = path.symlink_metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}
