//! The process trees that portward has started: who belongs to which, and signals to all of them.
//!
//! portward is a child subreaper: a process whose parents have ended becomes its child, and not that of pid 1. So whatever a
//! leader has started stays a descendant of portward, whether it has left the group, the session or its parents. To which tree
//! an orphan belongs is told by its session and group, by a variable in its environment, and by what was found out before.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal, test_kill_process};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::child::watch_pidfd;
use super::reaper::reap_orphans;
use super::stat::{self, Identity, Stat};
use crate::port::holder;

/// In the environment of every process that portward starts, and so of all that these start: `PID-START-NUMBER`.
pub const MARK: &str = "PORTWARD_TREE";

/// Longer chains of parents than this are a loop, made by a pid that was used again while we climbed.
const MAX_ANCESTORS: usize = 1024;

/// How often a tree is looked at again for processes that were started while the others got their signal.
const SIGNAL_ROUNDS: usize = 16;

/// How long to wait before looking again when the kernel gives portward no descriptor to look with.
const NO_DESCRIPTOR_WAIT: Duration = Duration::from_secs(1);

/// The trees of this process. The kernel keeps one list of children for a process, and so there is one of these.
static TREES: Mutex<Trees> = Mutex::new(Trees { trees: Vec::new(), marks: 0, knows_all_children: false });

#[derive(Clone)]
pub(super) struct Trees {
    trees: Vec<Arc<Inner>>,
    marks: u64,
    /// Every child comes from a tree: portward had none when it became a subreaper, and is not pid 1 of a container, which
    /// inherits the orphans of strangers too.
    knows_all_children: bool,
}

#[derive(Debug)]
struct Inner {
    leader: u32,
    mark: String,
    state: Mutex<State>,
    main: watch::Sender<Main>,
}

#[derive(Debug, Default)]
struct State {
    /// From then on the leader's pid may be given to another process.
    is_leader_reaped: bool,
    /// Orphans that were found to be of this tree, by something that is not to be seen of them at all times.
    adopted: HashSet<Identity>,
    /// SIGKILL was ordered: whoever turns up later gets it as well.
    is_killed: bool,
}

/// The process that stands for a tree: its leader, or once that has gone into the background, the one that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Main {
    /// Its pid; `None` between the end of the leader and the first listener of a process in the background.
    pub pid: Option<u32>,
    /// It is stopped (SIGSTOP), and answers nobody.
    pub is_stopped: bool,
    /// How the one in the background ended.
    pub ended: Option<ExitStatus>,
}

/// A process tree: the leader, the group that it leads, and every process that descends from it.
#[derive(Debug, Clone)]
pub struct Tree {
    inner: Arc<Inner>,
}

/// A process that is left of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    /// Its id.
    pub pid: u32,
    /// Its command line, made harmless.
    pub command: Option<String>,
}

impl fmt::Display for Survivor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.command {
            Some(command) => write!(formatter, "pid {} ({command})", self.pid),
            None => write!(formatter, "pid {}", self.pid),
        }
    }
}

/// What is left when a tree is gone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remains {
    /// Processes of the tree that this user may not signal.
    pub forbidden: Vec<Survivor>,
    /// Processes that came from some tree, and show of none that they did.
    pub unknown: Vec<Survivor>,
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
fn known() -> Trees {
    lock().clone()
}

impl Trees {
    /// A value of [`MARK`] that no tree had before.
    pub(super) fn next_mark(&mut self) -> String {
        self.marks += 1;
        let ours = std::process::id();
        let start = stat::Stat::of(ours).ok().flatten().map_or(0, |stat| stat.identity.start());
        format!("{ours}-{start}-{}", self.marks)
    }

    /// From now on, until [`Tree::forget`], `leader` leads a tree.
    pub(super) fn add(&mut self, leader: u32, mark: String) -> Tree {
        let main = watch::Sender::new(Main { pid: Some(leader), is_stopped: false, ended: None });
        let inner = Arc::new(Inner { leader, mark, state: Mutex::default(), main });
        self.trees.push(inner.clone());
        Tree { inner }
    }

    /// Whether somebody else than the reaper waits for `pid`.
    pub(super) fn is_leader(&self, pid: u32) -> bool {
        self.trees.iter().any(|tree| tree.leader == pid && !tree.state().is_leader_reaped)
    }

    fn leaders(&self) -> HashSet<u32> {
        let unreaped = self.trees.iter().filter(|tree| !tree.state().is_leader_reaped);
        unreaped.map(|tree| tree.leader).collect()
    }

    /// The kernel says that a child was stopped or goes on.
    pub(super) fn note_stop(&self, pid: u32, is_stopped: bool) {
        for tree in self.trees.iter().filter(|tree| tree.main.borrow().pid == Some(pid)) {
            tree.main.send_modify(|main| main.is_stopped = is_stopped);
        }
    }

    /// An orphan was reaped.
    pub(super) fn note_end(&self, pid: u32, status: ExitStatus) {
        for tree in &self.trees {
            let is_main = tree.main.borrow().pid == Some(pid) && tree.state().is_leader_reaped;
            if is_main {
                tree.main
                    .send_modify(|main| *main = Main { pid: None, is_stopped: false, ended: Some(status) });
            }
        }
    }

    /// The tree that `pid` descends from; never one for a process that is no descendant of ours.
    fn tree_of(&self, pid: u32) -> io::Result<Option<Arc<Inner>>> {
        let ours = std::process::id();
        let mut current = pid;
        let mut found = None;
        for _ in 0..MAX_ANCESTORS {
            let Some(stat) = Stat::of(current)? else { return Ok(None) };
            if found.is_none() {
                found = self.tree_with(&stat)?;
            }
            if stat.parent == ours {
                return Ok(found);
            }
            current = stat.parent;
        }
        Ok(None)
    }

    /// The tree that this descendant of ours shows to be of.
    fn tree_with(&self, stat: &Stat) -> io::Result<Option<Arc<Inner>>> {
        // The latest first: a leader's pid may have been that of an earlier leader.
        let trees = || self.trees.iter().rev();
        if let Some(tree) = trees().find(|tree| tree.shows(stat)) {
            return Ok(Some(tree.clone()));
        }
        let Some(mark) = stat::variable(stat.identity.pid, MARK)? else { return Ok(None) };
        Ok(trees().find(|tree| tree.mark == mark).cloned())
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No number of a session or a group is given out as a pid while somebody is in it.
    fn shows(&self, stat: &Stat) -> bool {
        let state = self.state();
        (stat.identity.pid == self.leader && !state.is_leader_reaped)
            || stat.session == self.leader
            || stat.group == self.leader
            || state.adopted.contains(&stat.identity)
    }
}

impl Tree {
    /// Pid of the process that stands for the tree.
    pub fn pid(&self) -> Option<u32> {
        self.inner.main.borrow().pid
    }

    /// Follows the process that stands for the tree.
    pub fn main(&self) -> watch::Receiver<Main> {
        self.inner.main.subscribe()
    }

    /// SIGTERM to every process of the tree, and SIGCONT, for a stopped process takes no other signal.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// SIGKILL to every process of the tree, and to those that turn up later.
    pub fn kill(&self) {
        self.inner.state().is_killed = true;
        self.signal(Signal::SIGKILL);
    }

    /// The group gets it at once, the others as soon as they are found.
    fn signal(&self, signal: Signal) {
        self.signal_group(signal);
        let tree = self.clone();
        spawn_blocking(move || tree.signal_members(signal));
    }

    /// The kernel keeps the group's number from being given to anybody else until the leader is reaped, and after that this
    /// sends nothing.
    pub(super) fn signal_group(&self, signal: Signal) {
        let state = self.inner.state();
        if state.is_leader_reaped {
            return;
        }
        let Ok(group) = i32::try_from(self.inner.leader).map(Pid::from_raw) else { return };
        // ESRCH and EPERM mean that there is nothing left of ours to signal.
        let _ = killpg(group, signal);
        if signal == Signal::SIGTERM {
            let _ = killpg(group, Signal::SIGCONT);
        }
    }

    fn signal_members(&self, signal: Signal) {
        let mut signalled = HashSet::new();
        for _ in 0..SIGNAL_ROUNDS {
            let Ok(members) = self.members() else { return };
            let mut is_new = false;
            for member in members {
                let in_group = member.group == self.inner.leader && !self.inner.state().is_leader_reaped;
                if signalled.insert(member.identity) && !in_group {
                    is_new = true;
                    send(member.identity, signal);
                }
            }
            if !is_new {
                return;
            }
        }
    }

    /// Every living process of the tree. Reads /proc: blocks for some ten microseconds for each.
    fn members(&self) -> io::Result<Vec<Stat>> {
        let is_leader_here = !self.inner.state().is_leader_reaped;
        let mut roots: Vec<u32> = is_leader_here.then_some(self.inner.leader).into_iter().collect();
        let children = stat::children(std::process::id())?;
        let trees = known();
        let leaders = trees.leaders();
        for orphan in children.into_iter().filter(|child| !leaders.contains(child)) {
            if self.owns_orphan(&trees, orphan)? {
                roots.push(orphan);
            }
        }
        let mut found = BTreeMap::new();
        for root in roots {
            stat::descent(root, &mut found)?;
        }
        Ok(found.into_values().filter(|stat| !stat.has_ended).collect())
    }

    fn owns_orphan(&self, trees: &Trees, pid: u32) -> io::Result<bool> {
        let Some(stat) = Stat::of(pid)?.filter(|stat| !stat.has_ended) else { return Ok(false) };
        if let Some(tree) = trees.tree_with(&stat)? {
            return Ok(Arc::ptr_eq(&tree, &self.inner));
        }
        // It shows nothing, but there is nobody else that it could come from.
        let is_only_one = trees.knows_all_children && trees.trees.len() == 1;
        let is_ours = is_only_one && Some(stat.session) != own_session();
        if is_ours {
            self.inner.state().adopted.insert(stat.identity);
        }
        Ok(is_ours)
    }

    /// Whether `pid`, which listens on an endpoint of this tunnel, is of this tree. Reads /proc.
    ///
    /// The endpoint was unbound when the tree was started. A descendant of portward that listens on it now and shows no other
    /// tree is one that has gone into the background and written over its environment, as servers do that set their title.
    pub fn claims_listener(&self, pid: u32) -> bool {
        let trees = known();
        let is_ours = match trees.tree_of(pid) {
            Ok(Some(tree)) => Arc::ptr_eq(&tree, &self.inner),
            Ok(None) => {
                let may_adopt = trees.knows_all_children || self.inner.state().is_leader_reaped;
                may_adopt && adoptable(pid).is_some_and(|root| self.inner.state().adopted.insert(root))
            }
            Err(_) => false,
        };
        if is_ours && self.inner.state().is_leader_reaped && self.pid().is_none() {
            // The uppermost process is the one whose end portward is told of.
            if let Some(root) = root_of(pid) {
                self.inner.main.send_modify(|main| {
                    *main = Main { pid: Some(root.identity.pid), is_stopped: false, ended: None };
                });
            }
        }
        is_ours
    }

    /// Whether `pid` is of this tree. Reads /proc.
    pub fn contains(&self, pid: u32) -> bool {
        let tree = known().tree_of(pid);
        tree.is_ok_and(|tree| tree.is_some_and(|tree| Arc::ptr_eq(&tree, &self.inner)))
    }

    /// The living processes of the tree. Reads /proc.
    pub fn survivors(&self) -> io::Result<Vec<Survivor>> {
        let members = self.members()?.into_iter();
        Ok(members.map(|stat| survivor(stat.identity.pid)).collect())
    }

    /// Waits until no process is left that this user may signal, and tells of the others.
    pub async fn gone(&self) -> Remains {
        loop {
            let tree = self.clone();
            let members =
                spawn_blocking(move || tree.members()).await.unwrap_or_else(|error| Err(error.into()));
            let Ok(members) = members else {
                sleep(NO_DESCRIPTOR_WAIT).await;
                continue;
            };
            let (ours, foreign): (Vec<Stat>, Vec<Stat>) = members.into_iter().partition(is_signalable);
            if self.inner.state().is_killed {
                for member in &ours {
                    send(member.identity, Signal::SIGKILL);
                }
            }
            let Some(first) = ours.first() else {
                let forbidden = foreign.iter().map(|stat| survivor(stat.identity.pid)).collect();
                let unknown = spawn_blocking(unknown).await.ok().and_then(Result::ok).unwrap_or_default();
                return Remains { forbidden, unknown };
            };
            // One after the other: while this one is waited for, others may end or be started.
            match open(first.identity).map(|pidfd| pidfd.map(watch_pidfd).transpose()) {
                Ok(Ok(Some(pidfd))) => drop(pidfd.readable().await),
                Ok(Ok(None)) => {}
                Ok(Err(_)) | Err(_) => sleep(NO_DESCRIPTOR_WAIT).await,
            }
        }
    }

    /// Waits for the end of the process that stands for the tree after its leader.
    pub async fn main_ended(&self) -> ExitStatus {
        let mut main = self.main();
        match main.wait_for(|main| main.ended.is_some()).await.map(|main| main.ended) {
            Ok(Some(status)) => status,
            // The sender lives as long as this tree.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// How the process ended that stood for the tree after its leader; `None` if there was none.
    pub fn how_main_ended(&self) -> Option<ExitStatus> {
        // A pidfd may have told of its end before SIGCHLD did.
        reap_orphans();
        self.inner.main.borrow().ended
    }

    /// Whether a process of the tree is left; in doubt it is.
    pub async fn has_members(&self) -> bool {
        let tree = self.clone();
        let members = spawn_blocking(move || tree.members()).await;
        !members.is_ok_and(|members| members.is_ok_and(|members| members.is_empty()))
    }

    /// The leader is being reaped: its pid means nothing from here on.
    pub(super) fn leader_reaped(&self) {
        self.inner.state().is_leader_reaped = true;
        self.inner.main.send_modify(|main| main.pid = None);
    }

    pub(super) fn is_leader_reaped(&self) -> bool {
        self.inner.state().is_leader_reaped
    }

    /// Nobody looks after the tree any more.
    pub(super) fn forget(&self) {
        lock().trees.retain(|tree| !Arc::ptr_eq(tree, &self.inner));
    }
}

/// Orphans of the trees of which it cannot be told from which one they came.
fn unknown() -> io::Result<Vec<Survivor>> {
    let children = stat::children(std::process::id())?;
    let trees = known();
    let leaders = trees.leaders();
    let mut unknown = Vec::new();
    if !trees.knows_all_children {
        return Ok(unknown);
    }
    for orphan in children.into_iter().filter(|child| !leaders.contains(child)) {
        if let Some(stat) = Stat::of(orphan)?
            && !stat.has_ended
            && Some(stat.session) != own_session()
            && trees.tree_with(&stat)?.is_none()
        {
            unknown.push(survivor(orphan));
        }
    }
    Ok(unknown)
}

fn own_session() -> Option<u32> {
    nix::unistd::getsid(None).ok().and_then(|session| u32::try_from(session.as_raw()).ok())
}

/// The child of ours that `pid` descends from.
fn root_of(pid: u32) -> Option<Stat> {
    let ours = std::process::id();
    let climb = std::iter::successors(Stat::of(pid).ok()?, |stat| Stat::of(stat.parent).ok()?);
    climb.take(MAX_ANCESTORS).find(|stat| stat.parent == ours)
}

/// The uppermost ancestor of a descendant of ours, unless it is one that portward runs beside its tunnels.
fn adoptable(pid: u32) -> Option<Identity> {
    let root = root_of(pid)?;
    (Some(root.session) != own_session()).then_some(root.identity)
}

fn survivor(pid: u32) -> Survivor {
    Survivor { pid, command: holder::command(pid) }
}

/// Only asks.
fn is_signalable(stat: &Stat) -> bool {
    let pid = i32::try_from(stat.identity.pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::PERM))
}

/// A descriptor of that very process; `None` if it has ended.
fn open(process: Identity) -> io::Result<Option<std::os::fd::OwnedFd>> {
    let pid = i32::try_from(process.pid).ok().and_then(rustix::process::Pid::from_raw);
    let Some(pid) = pid else { return Ok(None) };
    let pidfd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // Only now, for from here on the pidfd cannot come to mean another process.
    let is_same = Stat::of(process.pid)?.is_some_and(|stat| stat.identity == process);
    Ok(is_same.then_some(pidfd))
}

fn send(process: Identity, signal: Signal) {
    let Ok(Some(pidfd)) = open(process) else { return };
    let (first, second) = match signal {
        Signal::SIGTERM => (rustix::process::Signal::TERM, Some(rustix::process::Signal::CONT)),
        _ => (rustix::process::Signal::KILL, None),
    };
    for signal in [Some(first), second].into_iter().flatten() {
        // ESRCH: it has just ended. EPERM: it is named as a survivor.
        let _ = pidfd_send_signal(&pidfd, signal);
    }
}
