//! The orphans that portward was given as their subreaper.
//!
//! The kernel has no shorter way to find them than the list of all children, and whenever a process ends, its tree must be
//! looked for among them. When thousands end together they share a look: one that began after each of them has asked. Looks
//! keep a distance, so that they take a small part of the time, however many children there are.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

use super::registry;
use super::stat::{self, Stat};

/// How often the children are listed again because an orphan has come meanwhile.
const ROUNDS: usize = 16;

/// The look that began last.
static LAST_BEGUN: AtomicU64 = AtomicU64::new(0);
/// The last look. Whoever waits for it asked before it ended, but not always before it began.
static LAST: Mutex<Option<Look>> = Mutex::const_new(None);

/// After a look, rest so many times as long as it took: 0.1 ms with ten children, 2 ms with 4,000.
const REST: u32 = 8;

struct Look {
    number: u64,
    found: Arc<[Stat]>,
    /// When the next one may begin.
    rested: Instant,
}

/// The living children of portward that lead no tree, and the orphans of inherited trees. Those that are given to portward
/// while this looks may be missing, unless their parents were orphans themselves.
pub(super) async fn orphans() -> io::Result<Arc<[Stat]>> {
    let asked = LAST_BEGUN.load(Ordering::Relaxed);
    let mut last = LAST.lock().await;
    if let Some(look) = &*last {
        if look.number > asked {
            return Ok(look.found.clone());
        }
        sleep_until(look.rested).await;
    }
    let number = LAST_BEGUN.fetch_add(1, Ordering::Relaxed) + 1;
    let begun = Instant::now();
    let found = spawn_blocking(list).await??;
    let rested = Instant::now() + begun.elapsed() * REST;
    *last = Some(Look { number, found: found.clone(), rested });
    Ok(found)
}

/// The same, now. Reads /proc.
pub(super) fn list() -> io::Result<Arc<[Stat]>> {
    let (mut last, mut living) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut children = stat::children(std::process::id())?;
        let trees = registry::lock();
        // One that was reaped since leads no tree any more, and has ended.
        children.retain(|child| !trees.is_leader(*child));
        drop(trees);
        living.clear();
        let mut found = Vec::with_capacity(children.len());
        for child in children {
            let stat = Stat::of(child)?.filter(|stat| !stat.has_ended);
            found.push((child, stat.is_some()));
            living.extend(stat);
        }
        // The children of one that ended meanwhile are portward's by now, and may not have been listed.
        if found == last {
            break;
        }
        last = found;
    }
    living.extend(of_inherited()?);
    Ok(living.into())
}

/// The orphans of trees that an earlier run of portward started: they are children of another process, with many others.
fn of_inherited() -> io::Result<Vec<Stat>> {
    let trees = registry::known();
    let mut found = Vec::new();
    for reaper in trees.reapers() {
        for child in stat::children(reaper)? {
            let Some(stat) = Stat::of(child)?.filter(|stat| !stat.has_ended) else { continue };
            let tree = trees.tree_with(&stat)?;
            found.extend(tree.filter(|tree| tree.inherited.is_some() && tree.leader != child).map(|_| stat));
        }
    }
    Ok(found)
}
