//! The process trees that portward supervises, and the assignment of processes to them.
//!
//! portward is a child subreaper: a process whose parents have ended becomes its child, and not that of pid 1. So all
//! processes that a leader has started remain descendants of portward, also after they have changed their group, session or parent. An
//! orphan is assigned to a tree by its session and group, by a variable in its environment, and by earlier observations.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::process::ExitStatus;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::sync::watch;

use super::stat::{self, Identity, Stat};

pub use crate::port::daemons::MARK;
use crate::port::daemons::run_of;

/// What this run of portward is known by: what its marks begin with.
pub fn run() -> &'static str {
    run_of(&MARK_OF_OURS)
}

/// What every mark of this process begins with. Once another run has taken its processes over, whoever has such a mark counts as one
/// of them: so it holds a secret, which the kernel shows to the same user alone (/proc/PID/environ).
static MARK_OF_OURS: LazyLock<String> = LazyLock::new(|| {
    let ours = std::process::id();
    let mut secret = [0; 16];
    // It waits until the kernel has random bytes, and fails for no other reason.
    let _ = getrandom(&mut secret[..], GetRandomFlags::empty());
    format!("{ours}-{}-{:032x}.", start_of(ours), u128::from_ne_bytes(secret))
});

/// Longer chains of parents than this are a loop, caused by a pid that was reused meanwhile.
const MAX_ANCESTORS: usize = 1024;

/// The trees of this process. The kernel keeps one list of children for a process, and so there is one of these.
static TREES: LazyLock<Mutex<Trees>> = LazyLock::new(Mutex::default);

#[derive(Clone, Default)]
pub(super) struct Trees {
    /// By their numbers, the latest last.
    all: BTreeMap<u64, Arc<Inner>>,
    /// The number of the tree of each leader that is not reaped.
    leaders: HashMap<u32, u64>,
    last_number: u64,
    /// Every child comes from a tree: portward had none when it became a subreaper, and is not pid 1 of a container, which
    /// inherits the orphans of strangers too.
    pub(super) knows_all_children: bool,
}

#[derive(Debug)]
pub(super) struct Inner {
    number: u64,
    pub(super) leader: u32,
    /// Clock ticks from the boot to its start; 0 if portward could not look.
    pub(super) start: u64,
    /// Of a tree that an earlier run of portward started. Boxed, for most have none.
    pub(super) inherited: Option<Box<Inherited>>,
    state: Mutex<State>,
    pub(super) main: watch::Sender<Main>,
}

/// What is known of a tree whose leader is not a child of ours.
#[derive(Debug)]
pub(super) struct Inherited {
    leader: Identity,
    /// The value of [`MARK`] that its processes have.
    mark: String,
    /// The process that its orphans are given to.
    reaper: u32,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// From then on the leader's pid may be given to another process.
    pub(super) is_leader_reaped: bool,
    /// Orphans that were found to be of this tree, by something that is not to be seen of them at all times.
    pub(super) adopted: HashSet<Identity>,
    /// Pids of processes that were seen in this tree, after which a session or a group of it may be named.
    pub(super) seen: HashSet<u32>,
    /// SIGTERM was ordered.
    pub(super) is_ending: bool,
    /// SIGKILL was ordered: processes that are found later get it, too.
    pub(super) is_killed: bool,
}

/// The process that stands for a tree: its leader, or once that has gone into the background, the one that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Main {
    /// Its pid; `None` between the end of the leader and the first listener of a process in the background.
    pub pid: Option<u32>,
    /// It is stopped (SIGSTOP).
    pub is_stopped: bool,
    /// How the one in the background ended.
    pub ended: Option<ExitStatus>,
}

/// Makes this process the subreaper of all that it will start, so that no orphan escapes it.
pub fn become_subreaper() -> io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)?;
    let ours = std::process::id();
    let has_children = stat::children(ours).map_or(true, |children| !children.is_empty());
    lock().knows_all_children = ours != 1 && !has_children;
    Ok(())
}

/// Whether `pid` is of a tree that portward looks after now. Reads /proc.
pub fn is_of_a_tree(pid: u32) -> bool {
    known().tree_of(pid).is_ok_and(|tree| tree.is_some())
}

/// Never held while /proc is read: a process that is stuck in the kernel makes its readers wait.
pub(super) fn lock() -> MutexGuard<'static, Trees> {
    TREES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The trees of now. Children are listed before this is called, so that the leader of a tree that is just being started is
/// never taken for an orphan.
pub(super) fn known() -> Trees {
    lock().clone()
}

impl Trees {
    /// A value of [`MARK`] that no tree had before.
    pub(super) fn next_mark(&mut self) -> String {
        self.last_number += 1;
        format!("{}{}", *MARK_OF_OURS, self.last_number)
    }

    /// From now on, until [`Trees::remove`], `leader` leads the tree that has the last mark.
    pub(super) fn add(&mut self, leader: u32) -> Arc<Inner> {
        self.leaders.insert(leader, self.last_number);
        self.insert(leader, start_of(leader), None)
    }

    /// From now on, until [`Trees::remove`], `leader` leads a tree whose processes have this mark. It is not a child of ours.
    pub(super) fn inherit(&mut self, leader: &Stat, mark: &str) -> Arc<Inner> {
        self.last_number += 1;
        let (identity, mark) = (leader.identity, mark.to_owned());
        let inherited = Inherited { leader: identity, mark, reaper: leader.parent };
        self.insert(identity.pid, identity.start(), Some(Box::new(inherited)))
    }

    fn insert(&mut self, leader: u32, start: u64, inherited: Option<Box<Inherited>>) -> Arc<Inner> {
        let main = watch::Sender::new(Main { pid: Some(leader), is_stopped: false, ended: None });
        let (number, state) = (self.last_number, Mutex::default());
        let inner = Arc::new(Inner { number, leader, start, inherited, state, main });
        self.all.insert(number, inner.clone());
        inner
    }

    /// Those that the orphans of inherited trees are given to.
    pub(super) fn reapers(&self) -> BTreeSet<u32> {
        self.all.values().filter_map(|tree| Some(tree.inherited.as_ref()?.reaper)).collect()
    }

    /// Whether another part than the reaper waits for `pid`.
    pub(super) fn is_leader(&self, pid: u32) -> bool {
        self.leaders.contains_key(&pid)
    }

    pub(super) fn is_only_one(&self) -> bool {
        self.all.len() == 1
    }

    /// The leader was reaped: its pid may be another process's by now, which may lead a tree as well.
    pub(super) fn leader_reaped(&mut self, inner: &Inner) {
        if self.leaders.get(&inner.leader) == Some(&inner.number) {
            self.leaders.remove(&inner.leader);
        }
    }

    /// The tree is not supervised any more.
    pub(super) fn remove(&mut self, inner: &Inner) {
        self.leader_reaped(inner);
        self.all.remove(&inner.number);
    }

    /// The kernel reports that a child was stopped or continued.
    pub(super) fn note_stop(&self, pid: u32, is_stopped: bool) {
        for tree in self.all.values().filter(|tree| tree.main.borrow().pid == Some(pid)) {
            tree.main.send_modify(|main| main.is_stopped = is_stopped);
        }
    }

    /// An orphan was reaped.
    pub(super) fn note_end(&self, pid: u32, status: ExitStatus) {
        for tree in self.all.values() {
            let is_main = tree.main.borrow().pid == Some(pid) && tree.state().is_leader_reaped;
            if is_main {
                tree.main
                    .send_modify(|main| *main = Main { pid: None, is_stopped: false, ended: Some(status) });
            }
        }
    }

    /// The tree that `pid` descends from. Of ours it is one for our descendants only.
    pub(super) fn tree_of(&self, pid: u32) -> io::Result<Option<Arc<Inner>>> {
        let ours = std::process::id();
        let mut current = pid;
        let mut found = None;
        for _ in 0..MAX_ANCESTORS {
            let Some(stat) = Stat::of(current)? else { return Ok(None) };
            if found.is_none() {
                found = self.tree_with(&stat)?;
            }
            if stat.parent == ours || found.as_ref().is_some_and(|tree| tree.inherited.is_some()) {
                return Ok(found);
            }
            current = stat.parent;
        }
        Ok(None)
    }

    /// The tree that this descendant of ours shows to be of, or that this process of anybody's shows to be of if it is inherited.
    pub(super) fn tree_with(&self, stat: &Stat) -> io::Result<Option<Arc<Inner>>> {
        // The latest first: a leader's pid may have been that of an earlier leader.
        let trees = || self.all.values().rev();
        if let Some(tree) = trees().find(|tree| tree.shows(stat)) {
            return Ok(Some(tree.clone()));
        }
        let tree = match stat::variable(stat.identity.pid, MARK)? {
            Some(mark) => match mark.strip_prefix(&*MARK_OF_OURS) {
                Some(number) => number.parse().ok().and_then(|number| self.all.get(&number)),
                None => trees().find(|tree| tree.inherited.as_ref().is_some_and(|of| of.mark == mark)),
            },
            None => trees().find(|tree| tree.has_seen(stat)),
        };
        Ok(tree.cloned())
    }
}

impl Inner {
    /// The value of [`MARK`] that its processes have.
    pub(super) fn mark(&self) -> String {
        match &self.inherited {
            Some(inherited) => inherited.mark.clone(),
            None => format!("{}{}", *MARK_OF_OURS, self.number),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No number of a session or a group is given out as a pid while somebody is in it.
    fn shows(&self, stat: &Stat) -> bool {
        if let Some(inherited) = &self.inherited {
            return self.inherited_shows(inherited, stat);
        }
        let state = self.state();
        (stat.identity.pid == self.leader && !state.is_leader_reaped)
            || stat.session == self.leader
            || stat.group == self.leader
            || state.adopted.contains(&stat.identity)
    }

    /// As [`Inner::shows`], for any process of the machine. Once the leader has ended, nothing keeps the numbers of its session and
    /// of its group from others.
    fn inherited_shows(&self, inherited: &Inherited, stat: &Stat) -> bool {
        if stat.identity == inherited.leader || self.state().adopted.contains(&stat.identity) {
            return true;
        }
        let is_near = stat.session == self.leader || stat.group == self.leader;
        is_near && self.living_leader().is_ok_and(|leader| leader.is_some())
    }

    /// The leader, unless its pid means nothing any more.
    pub(super) fn living_leader(&self) -> io::Result<Option<u32>> {
        let is_it = match &self.inherited {
            // Somebody else reaps it.
            Some(inherited) => Stat::of(self.leader)?.is_some_and(|stat| stat.identity == inherited.leader),
            None => !self.state().is_leader_reaped,
        };
        Ok(is_it.then_some(self.leader))
    }

    /// Only for who shows nothing better: the pid may have been another process's since.
    fn has_seen(&self, stat: &Stat) -> bool {
        let state = self.state();
        self.inherited.is_none() && (state.seen.contains(&stat.session) || state.seen.contains(&stat.group))
    }
}

/// Whether every orphan comes from a tree.
pub(super) fn knows_all_children() -> bool {
    lock().knows_all_children
}

/// Those of `orphans` that show of no tree that they come from it. Reads /proc.
pub(super) fn unknown(orphans: &[Stat]) -> io::Result<Vec<Identity>> {
    let trees = known();
    let mut unknown = Vec::new();
    for orphan in orphans.iter().filter(|orphan| Some(orphan.session) != own_session()) {
        if trees.tree_with(orphan)?.is_none() {
            unknown.push(orphan.identity);
        }
    }
    Ok(unknown)
}

/// Clock ticks from the boot to the start of a process; 0 if portward could not look.
fn start_of(pid: u32) -> u64 {
    Stat::of(pid).ok().flatten().map_or(0, |stat| stat.identity.start())
}

/// The child of ours that `pid` descends from.
pub(super) fn root_of(pid: u32) -> Option<Stat> {
    let ours = std::process::id();
    let climb = std::iter::successors(Stat::of(pid).ok()?, |stat| Stat::of(stat.parent).ok()?);
    climb.take(MAX_ANCESTORS).find(|stat| stat.parent == ours)
}

/// The uppermost ancestor of a descendant of ours, unless it is one that portward runs beside its tunnels.
pub(super) fn adoptable(pid: u32) -> Option<Identity> {
    let root = root_of(pid)?;
    (Some(root.session) != own_session()).then_some(root.identity)
}

pub(super) fn own_session() -> Option<u32> {
    nix::unistd::getsid(None).ok().and_then(|session| u32::try_from(session.as_raw()).ok())
}
