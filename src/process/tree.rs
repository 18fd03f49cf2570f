//! One process tree: signals to all of it, and its end.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal, test_kill_process};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::orphans::{list as list_orphans, orphans};
use super::reaper::{reap_orphans, reap_orphans_soon};
use super::registry::{
    Inner, Main, Trees, adoptable, known, knows_all_children, lock, own_session, root_of, unknown,
};
use super::stat::{self, Identity, Stat};
use super::vfork;
use crate::port::holder;

/// How often a tree is looked at again for processes that were started while the others got their signal.
const SIGNAL_ROUNDS: usize = 16;

/// How often a tree is looked at again because an orphan has come meanwhile.
const LOOK_ROUNDS: usize = 16;

/// How many threads read /proc at a time.
const READERS: usize = 4;

/// How long to wait before looking again when the kernel gives portward no descriptor to look with.
const NO_DESCRIPTOR_WAIT: Duration = Duration::from_secs(1);

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
    /// Somebody has the output of the tree open, and nobody of it is known to be left.
    pub holds_output: bool,
}

/// What was found of a tree.
struct Look {
    /// Its living processes.
    members: Vec<Stat>,
    /// The orphans that they were looked for among.
    orphans: Arc<[Stat]>,
}

impl Tree {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// Whether an earlier run of portward started it.
    pub(super) fn is_inherited(&self) -> bool {
        self.inner.inherited.is_some()
    }

    /// Clock ticks from the boot to the start of its leader.
    pub(super) fn start(&self) -> u64 {
        self.inner.start
    }

    /// The process that stands for the tree, and the value of [`MARK`](super::MARK) that it has.
    pub(super) fn main_process(&self) -> Option<(Stat, String)> {
        Some((Stat::of(self.pid()?).ok().flatten()?, self.inner.mark()))
    }

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
        self.begin_ending();
        self.signal(Signal::SIGTERM);
    }

    /// SIGKILL to every process of the tree, and to those that are found later.
    pub fn kill(&self) {
        self.inner.state().is_killed = true;
        self.begin_ending();
        self.signal(Signal::SIGKILL);
    }

    fn begin_ending(&self) {
        self.inner.state().is_ending = true;
        // Wakes who waits for its end, though nothing of it is different.
        self.inner.main.send_modify(|_| {});
    }

    /// The group gets it at once, the others as soon as they are found.
    fn signal(&self, signal: Signal) {
        self.signal_group(signal);
        let tree = self.clone();
        tokio::spawn(async move { tree.signal_members(signal).await });
    }

    /// The kernel does not reuse the group's number until the leader is reaped, and after that this sends nothing. Who reaps the
    /// leader of an inherited tree does not tell portward: its processes get the signal one by one.
    pub(super) fn signal_group(&self, signal: Signal) {
        let state = self.inner.state();
        if state.is_leader_reaped || self.inner.inherited.is_some() {
            return;
        }
        let Ok(group) = i32::try_from(self.inner.leader).map(Pid::from_raw) else { return };
        // ESRCH and EPERM mean that there is nothing left of ours to signal.
        let _ = killpg(group, signal);
        if signal == Signal::SIGTERM {
            let _ = killpg(group, Signal::SIGCONT);
        }
    }

    async fn signal_members(self, signal: Signal) {
        let mut signalled = HashSet::new();
        for _ in 0..SIGNAL_ROUNDS {
            let Ok(look) = self.look().await else { return };
            let mut is_new = false;
            for member in look.members {
                let has_got_it = self.inner.inherited.is_none() && !self.is_leader_reaped();
                let in_group = has_got_it && member.group == self.inner.leader;
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

    /// Looks for every living process of the tree.
    async fn look(&self) -> io::Result<Look> {
        let is_leader_reaped = self.is_leader_reaped();
        let mut look = Look { members: Vec::new(), orphans: orphans().await? };
        for _ in 0..LOOK_ROUNDS {
            if is_leader_reaped && look.orphans.is_empty() {
                break;
            }
            let (tree, among) = (self.clone(), look.orphans.clone());
            look.members = read_proc(move || tree.members_among(&among)).await?;
            // While its parents were looked at, an orphan may have moved from them to portward.
            let now = orphans().await?;
            let is_new = |orphan: &Stat| look.orphans.iter().all(|known| known.identity != orphan.identity);
            if !now.iter().any(is_new) {
                break;
            }
            look.orphans = now;
        }
        Ok(look)
    }

    /// Every living process of the tree, if these are all orphans. Reads /proc: blocks for some ten microseconds for each.
    fn members_among(&self, orphans: &[Stat]) -> io::Result<Vec<Stat>> {
        let mut roots: Vec<u32> = self.inner.living_leader()?.into_iter().collect();
        if !orphans.is_empty() {
            let trees = known();
            for orphan in orphans {
                if self.owns_orphan(&trees, orphan)? {
                    roots.push(orphan.identity.pid);
                }
            }
        }
        let mut found = BTreeMap::new();
        for root in roots {
            stat::descent(root, &mut found)?;
        }
        let mut state = self.inner.state();
        state.seen.extend(found.keys());
        // The leader is known by what it is; its number may mean another process one day.
        let members = found.values().filter(|stat| stat.identity.pid != self.inner.leader);
        state.adopted.extend(members.map(|stat| stat.identity));
        drop(state);
        Ok(found.into_values().filter(|stat| !stat.has_ended).collect())
    }

    fn owns_orphan(&self, trees: &Trees, stat: &Stat) -> io::Result<bool> {
        if let Some(tree) = trees.tree_with(stat)? {
            return Ok(Arc::ptr_eq(&tree, &self.inner));
        }
        // It shows nothing, but there is no other tree that it could come from.
        let is_only_one = trees.knows_all_children && trees.is_only_one();
        Ok(is_only_one && Some(stat.session) != own_session())
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
            // portward, its parent, gets SIGCHLD for the uppermost process only. Of an inherited tree nobody tells it anything.
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
        let members = self.members_among(&list_orphans()?)?.into_iter();
        Ok(members.map(|stat| survivor(stat.identity.pid)).collect())
    }

    /// Waits until no process is left that this user may signal, and returns the others.
    pub async fn gone(&self) -> Remains {
        loop {
            let Ok(look) = self.look().await else {
                sleep(NO_DESCRIPTOR_WAIT).await;
                continue;
            };
            let (ours, foreign): (Vec<Stat>, Vec<Stat>) = look.members.into_iter().partition(is_signalable);
            if self.inner.state().is_killed {
                for member in &ours {
                    send(member.identity, Signal::SIGKILL);
                }
            }
            let Some(first) = ours.first() else {
                let forbidden = foreign.iter().map(|stat| survivor(stat.identity.pid)).collect();
                let unknown =
                    if knows_all_children() { unknown_among(look.orphans).await } else { Vec::new() };
                let unknown = unknown.into_iter().map(|orphan| survivor(orphan.pid)).collect();
                return Remains { forbidden, unknown, holds_output: false };
            };
            // One after the other: while this one is waited for, others may end or be started.
            until_ended(first.identity).await;
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
        // A pidfd may have reported its end before SIGCHLD.
        reap_orphans();
        self.inner.main.borrow().ended
    }

    /// Whether a process of the tree is left; in doubt it is.
    pub async fn has_members(&self) -> bool {
        !self.look().await.is_ok_and(|look| look.members.is_empty())
    }

    /// Whether the leader may have left its work to a process in the background.
    pub async fn may_be_in_background(&self) -> bool {
        self.has_members().await || self.candidate().await.is_some()
    }

    /// Waits until no process of the tree is left, nor one that may belong to it, unless the tree is being ended.
    pub async fn background_ended(&self) {
        let mut main = self.main();
        loop {
            self.gone().await;
            let Some(candidate) = self.candidate().await else { return };
            tokio::select! {
                () = until_ended(candidate) => {}
                // It was told to end, or the candidate has turned out to be of it.
                changed = main.changed() => if changed.is_err() { return },
            }
        }
    }

    /// An orphan that may have come from this tree, though it shows nothing of it.
    async fn candidate(&self) -> Option<Identity> {
        if self.inner.state().is_ending {
            return None;
        }
        let unknown = unknown_among(orphans().await.ok()?).await;
        unknown.into_iter().find(|orphan| orphan.start() >= self.inner.start)
    }

    /// Reaps the leader, which has ended or was killed.
    pub(super) fn reap_leader(&self) -> io::Result<ExitStatus> {
        self.leader_lost();
        // It is a leader until then: an orphan would be reaped by the reaper, and its status lost.
        let status = vfork::wait(self.inner.leader);
        lock().leader_reaped(&self.inner);
        reap_orphans_soon();
        status
    }

    /// The leader's pid means nothing from here on: it is about to be reaped, or was by somebody else.
    pub(super) fn leader_lost(&self) {
        self.inner.state().is_leader_reaped = true;
        self.inner.main.send_modify(|main| main.pid = None);
    }

    pub(super) fn is_leader_reaped(&self) -> bool {
        self.inner.state().is_leader_reaped
    }

    /// The tree is not supervised any more.
    pub(super) fn forget(&self) {
        lock().remove(&self.inner);
    }
}

/// Those of `orphans` that show of no tree that they come from it.
async fn unknown_among(orphans: Arc<[Stat]>) -> Vec<Identity> {
    if orphans.is_empty() {
        return Vec::new();
    }
    read_proc(move || unknown(&orphans)).await.unwrap_or_default()
}

/// Runs what reads /proc where it may block, and a few at a time: thousands of trees may be looked at together.
async fn read_proc<T: Send + 'static>(
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    static PERMITS: Semaphore = Semaphore::const_new(READERS);
    // It is never closed.
    let _permit = PERMITS.acquire().await.map_err(io::Error::other)?;
    spawn_blocking(read).await?
}

/// Waits for the end of a process.
pub(super) async fn until_ended(process: Identity) {
    match open(process).map(|pidfd| pidfd.map(watch_pidfd).transpose()) {
        Ok(Ok(Some(pidfd))) => drop(pidfd.readable().await),
        Ok(Ok(None)) => {}
        Ok(Err(_)) | Err(_) => sleep(NO_DESCRIPTOR_WAIT).await,
    }
}

/// The processes as one text.
pub fn named(survivors: &[Survivor]) -> String {
    survivors.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

pub(super) fn survivor(pid: u32) -> Survivor {
    Survivor { pid, command: holder::command(pid) }
}

/// Only asks.
fn is_signalable(stat: &Stat) -> bool {
    let pid = i32::try_from(stat.identity.pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::PERM))
}

/// A descriptor of that very process; `None` if it has ended.
pub(super) fn open(process: Identity) -> io::Result<Option<OwnedFd>> {
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

pub(super) fn send(process: Identity, signal: Signal) {
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

/// A pidfd becomes readable when its process ends.
pub(super) fn watch_pidfd(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is open and owned, and nothing closes or replaces it while the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?)
}
