//! The process behind a socket. Everything here reads /proc and blocks: call it on a blocking thread.
//!
//! What /proc does not show, because the process has ended or belongs to another user, is left out. That is not an error.

pub(crate) mod cgroup;
mod processes;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use nix::unistd::{Uid, User};

use self::cgroup::Cgroups;
pub(crate) use self::processes::value_in;
use self::processes::{Owners, Processes};
use super::daemons::{self, Daemons, MARK};
use super::wire::SocketRow;
use super::{HeldBy, Holder, Kinship, Supervisor};
use crate::text;

/// Bytes of a command line that are shown.
const COMMAND_LENGTH: usize = 256;

/// The end of the path of a service manager's own cgroup.
const MANAGERS_CGROUP: &str = "/init.scope";

/// What the kernel reports about a socket's owner without /proc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owned {
    /// Inode; 0 when no process has it open any more.
    pub inode: u32,
    /// The uid that made it.
    pub uid: u32,
    /// Id of the cgroup in which it was made.
    pub cgroup: Option<u64>,
}

impl From<&HeldBy> for Owned {
    fn from(held: &HeldBy) -> Self {
        Self { inode: held.inode, uid: held.uid, cgroup: held.cgroup }
    }
}

impl From<&SocketRow> for Owned {
    fn from(row: &SocketRow) -> Self {
        Self { inode: row.inode, uid: row.uid, cgroup: row.cgroup }
    }
}

/// The processes that have the sockets `inodes` open, by inode; of several, the one with the lowest pid. Reads all of /proc
/// (7 to 10 ms for 280 processes).
pub fn owners(inodes: &BTreeSet<u32>) -> HashMap<u32, u32> {
    let owners = Processes::system().owners(inodes).pids;
    owners.into_iter().map(|(inode, pids)| (inode, pids[0])).collect()
}

/// Whether the process `pid` has the socket `inode` open (28 microseconds).
pub fn pid_owns(pid: u32, inode: u32) -> bool {
    Processes::system().any_socket(pid, |socket| socket == inode) == Some(true)
}

/// All processes that /proc shows, in ascending order.
pub fn pids() -> Vec<u32> {
    Processes::system().pids()
}

/// The inodes of the sockets that the process `pid` has open; `None` if this user may not see them.
pub fn sockets(pid: u32) -> Option<BTreeSet<u32>> {
    Processes::system().sockets(pid)
}

/// The command line of `pid` as it may be shown, or its name in brackets if it has erased it.
pub fn command(pid: u32) -> Option<String> {
    Processes::system().command(pid).map(|command| harmless(&command))
}

/// Who holds the endpoint. Of a process that this user may not see, the uid, the user's name and, if the cgroup shows them,
/// the unit and the container are known nevertheless.
///
/// Do not call this for TIME_WAIT, which no process holds, or for a holder that the kernel does not report.
pub fn describe(held: &HeldBy) -> Holder {
    describe_all(&[held.into()]).swap_remove(0)
}

/// Who has each of `sockets`. Reads /proc and the tree of cgroups once for all of them.
pub fn describe_all(sockets: &[Owned]) -> Vec<Holder> {
    // Where the kernel cannot list unix sockets, no other portward is known.
    let daemons = Daemons::now().unwrap_or_default();
    describe_by(&Processes::system(), &Cgroups::system(), &daemons, sockets)
}

/// `all`, who hold the endpoint, each process as a holder of its own; if none is to be seen, one holder without a pid. Reads /proc if there
/// are several.
pub fn each(held: &HeldBy, all: &Holder) -> Vec<Holder> {
    if all.others.is_empty() {
        return vec![all.clone()];
    }
    let (processes, daemons) = (Processes::system(), Daemons::now().unwrap_or_default());
    let claims = daemons.claims().iter().map(|claim| claim.inode);
    let keepers = Keepers::among(&processes, &daemons, &processes.owners(&claims.collect()));
    let alone = |pid| {
        let owners = Owners { pids: BTreeMap::from([(held.inode, vec![pid])]), is_complete: false };
        let holder = describe_one(&processes, &held.into(), &owners, None, all.user.clone());
        keepers.add_to(holder, &[pid])
    };
    all.pids().map(alone).collect()
}

/// The effective uid of the process `pid`.
pub fn uid_of(pid: u32) -> Option<u32> {
    Processes::system().uid(pid)
}

/// Whether `pid` is `ancestor` or a descendant of it.
pub fn is_descendant_of(pid: u32, ancestor: u32) -> bool {
    Processes::system().is_descendant_of(pid, ancestor)
}

/// Whether `pid` runs, and has executed a program since it was started: until then it has what its parent had open.
pub fn has_executed(pid: u32) -> bool {
    Processes::system().has_executed(pid) == Some(true)
}

fn describe_by(
    processes: &Processes,
    cgroups: &Cgroups,
    daemons: &Daemons,
    sockets: &[Owned],
) -> Vec<Holder> {
    // Without an inode no process has the socket open any more.
    let inodes = sockets.iter().map(|socket| socket.inode).filter(|inode| *inode != 0);
    // One look at /proc for all of them.
    let claims = daemons.claims().iter().map(|claim| claim.inode);
    let owners = processes.owners(&inodes.chain(claims).collect());
    let keepers = Keepers::among(processes, daemons, &owners);
    let pids = |socket: &Owned| owners.pids.get(&socket.inode).map(Vec::as_slice).unwrap_or_default();
    // The cgroup of a known process is in its own /proc file, so that the tree need not be read; but a service manager holds sockets
    // for others.
    let by_socket = sockets.iter().filter(|socket| {
        let pids = pids(socket);
        pids.is_empty() || pids.iter().any(|pid| is_service_manager(processes, *pid))
    });
    let paths = cgroups.paths(&by_socket.filter_map(|socket| socket.cgroup).collect());
    let mut users: HashMap<u32, Option<String>> = HashMap::new();
    let describe = |socket: &Owned| {
        let path = socket.cgroup.and_then(|id| paths.get(&id).cloned());
        let user = users.entry(socket.uid).or_insert_with(|| user(socket.uid)).clone();
        keepers.add_to(describe_one(processes, socket, &owners, path, user), pids(socket))
    };
    sockets.iter().map(describe).collect()
}

/// The daemons of portward.
struct Keepers<'p> {
    processes: &'p Processes,
    daemons: &'p Daemons,
    /// Those that are not this one.
    others: BTreeSet<u32>,
    /// The daemon that looks after what an earlier run has started, by the name of that run.
    runs: BTreeMap<String, u32>,
}

impl<'p> Keepers<'p> {
    /// Those whose claim is among `owners`.
    fn among(processes: &'p Processes, daemons: &'p Daemons, owners: &Owners) -> Self {
        let ours = std::process::id();
        let (mut others, mut runs) = (BTreeSet::new(), BTreeMap::new());
        for claim in daemons.claims() {
            let having = owners.pids.get(&claim.inode).map(Vec::as_slice).unwrap_or_default();
            // A child has what its parent has open until it executes its program.
            let is_child = |pid: u32| {
                having.iter().any(|other| *other != pid && processes.is_descendant_of(pid, *other))
            };
            let having: Vec<_> = having.iter().copied().filter(|pid| !is_child(*pid)).collect();
            if let (Some(run), [pid, ..]) = (claim.run(), &having[..]) {
                runs.insert(run, *pid);
            }
            others.extend(having);
        }
        others.retain(|pid| !processes.is_descendant_of(*pid, ours));
        Self { processes, daemons, others, runs }
    }

    /// The daemon that one of `pids` is, or descends from, or that looks after it since the one that started it has ended.
    fn keeper(&self, pids: &[u32]) -> Option<u32> {
        let by_run = |pid: &u32| {
            let mark = self.processes.variable(*pid, MARK)?;
            self.runs.get(daemons::run_of(&mark)).copied()
        };
        let descends = |pid: &u32| self.processes.nearest(*pid, &self.others);
        pids.iter()
            .find_map(descends)
            .or_else(|| if self.runs.is_empty() { None } else { pids.iter().find_map(by_run) })
    }

    /// Says of the holder, which is `pids`, which daemon looks after it.
    fn add_to(&self, holder: Holder, pids: &[u32]) -> Holder {
        match self.keeper(pids) {
            None => holder,
            Some(pid) if pid == std::process::id() => Holder { kinship: Kinship::Child, ..holder },
            Some(pid) => Holder { supervisor: Some(self.supervisor(pid)), ..holder },
        }
    }

    fn supervisor(&self, pid: u32) -> Supervisor {
        let api = self.processes.sockets(pid).and_then(|sockets| self.daemons.api(&sockets));
        Supervisor {
            pid,
            command: self.processes.command(pid).map(|command| harmless(&command)),
            socket: api.map(|path| harmless(&path)),
        }
    }
}

/// The service manager of the machine, and that of a user, have a cgroup to themselves.
fn is_service_manager(processes: &Processes, pid: u32) -> bool {
    processes.cgroup(pid).is_some_and(|path| path.ends_with(MANAGERS_CGROUP))
}

/// `made_in` is the path of the cgroup that the socket was made in, where it was looked for.
fn describe_one(
    processes: &Processes,
    socket: &Owned,
    owners: &Owners,
    made_in: Option<String>,
    user: Option<String>,
) -> Holder {
    let pids = owners.pids.get(&socket.inode).map(Vec::as_slice).unwrap_or_default();
    let pid = pids.first().copied();
    let socket_unit = made_in.as_deref().and_then(cgroup::place_in).map(|place| place.unit);
    let socket_unit = socket_unit.filter(|unit| unit.ends_with(".socket")).map(harmless);
    let cgroup = pid.and_then(|pid| processes.cgroup(pid)).or(made_in);
    let told = |part: fn(&str) -> Option<&str>| cgroup.as_deref().and_then(part).map(harmless);
    let is_orphaned = socket.inode == 0;
    Holder {
        pid,
        others: pids.iter().skip(1).copied().collect(),
        command: pid.and_then(|pid| processes.command(pid)).map(|command| harmless(&command)),
        uid: socket.uid,
        user,
        started: pid.and_then(|pid| processes.started(pid)),
        unit: told(cgroup::unit_in),
        socket_unit,
        container: told(cgroup::container_in),
        cgroup: cgroup.as_deref().map(harmless),
        orphaned: is_orphaned,
        unowned: pids.is_empty() && !is_orphaned && owners.is_complete,
        kinship: kinship(processes, pids),
        tunnel: None,
        supervisor: None,
    }
}

/// What the processes `pids` are to this one.
fn kinship(processes: &Processes, pids: &[u32]) -> Kinship {
    let ours = std::process::id();
    if pids.contains(&ours) {
        Kinship::Itself
    } else if pids.iter().any(|pid| processes.is_descendant_of(ours, *pid)) {
        Kinship::Ancestor
    } else if pids.iter().any(|pid| processes.is_descendant_of(*pid, ours)) {
        Kinship::Child
    } else if pids.iter().any(|pid| processes.is_of_portward(*pid)) {
        Kinship::Portward
    } else {
        Kinship::Stranger
    }
}

/// The command line as it may be shown on a terminal and put in a log line.
fn harmless(text: &str) -> String {
    text::excerpt(text, COMMAND_LENGTH).into_owned()
}

/// Name of the user `uid`.
pub(crate) fn user(uid: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
}

#[cfg(test)]
mod tests;
