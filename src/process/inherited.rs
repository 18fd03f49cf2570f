//! Processes that an earlier run of portward started: looked after again, or ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::child::Child;
use super::lines::Pipe;
use super::pipes::open_again;
use super::registry::{self, MARK};
use super::stat::{self, Identity, Stat};
use super::tree::{Survivor, Tree, open, send, survivor, until_ended, watch_pidfd};
use crate::port::daemons::run_of;
use crate::port::holder;

/// How long processes that nobody needs may take to end after SIGTERM,
const TERMINATED_WITHIN: Duration = Duration::from_secs(5);
/// and after SIGKILL.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

/// A process that portward started, as a later run of portward recognises it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its pid.
    pub pid: u32,
    /// Clock ticks from the boot of the machine to its start.
    pub start: u64,
    /// The value of [`MARK`] in its environment, and in that of all that it starts.
    pub mark: String,
    /// The inodes of the pipes that its standard output and error were. 0: none.
    pub pipes: [u64; 2],
}

impl Origin {
    /// Of the process that stands for `tree`; `None` if there is none now. `pipes`: its standard output and error.
    pub fn of(tree: &Tree, pipes: [Option<&Pipe>; 2]) -> Option<Self> {
        let (stat, mark) = tree.main_process()?;
        let inode = |pipe: &Pipe| rustix::fs::fstat(pipe).map_or(0, |stat| stat.st_ino);
        let pipes = pipes.map(|pipe| pipe.map_or(0, inode));
        Some(Self { pid: stat.identity.pid, start: stat.identity.start(), mark, pipes })
    }

    fn identity(&self) -> Identity {
        Identity::new(self.pid, self.start)
    }

    /// The run of portward that started it.
    pub fn run(&self) -> &str {
        run_of(&self.mark)
    }
}

/// Looks after a process again, with what is left in its pipes and what it will say; `None` if it has ended. A pipe that it
/// does not have any more has ended.
pub fn inherit(origin: &Origin) -> io::Result<Option<(Child, Pipe, Pipe)>> {
    let Some(pidfd) = open(origin.identity())? else { return Ok(None) };
    let Some(leader) = Stat::of(origin.pid)?.filter(|stat| !stat.has_ended) else { return Ok(None) };
    // A process may write over its environment, but not into that of another run.
    if stat::variable(origin.pid, MARK)?.is_some_and(|mark| mark != origin.mark) {
        return Ok(None);
    }
    let pipe = |number: usize| match open_again(origin.pid, number + 1, origin.pipes[number]) {
        Some(pipe) => Ok(pipe),
        // Its writer is gone already.
        None => Pipe::from_owned_fd(io::pipe()?.0.into()),
    };
    let (stdout, stderr) = (pipe(0)?, pipe(1)?);
    let tree = Tree::new(registry::lock().inherit(&leader, &origin.mark));
    Ok(Some((Child::inherited(origin.pid, watch_pidfd(pidfd)?, tree), stdout, stderr)))
}

/// Ends what earlier runs of portward have left and nobody needs: `unwanted` and all that descend from them, and what carries a mark
/// of one of these `runs` (see [`Origin::run`]), except what is looked after. Returns whom it had to end.
pub async fn end_unwanted(unwanted: Vec<Origin>, runs: BTreeSet<String>) -> Vec<Survivor> {
    let mut ended: Vec<Survivor> = Vec::new();
    for (signal, grace) in [(Signal::SIGTERM, TERMINATED_WITHIN), (Signal::SIGKILL, KILLED_WITHIN)] {
        let all_gone = async {
            loop {
                let (unwanted, runs) = (unwanted.clone(), runs.clone());
                let found = spawn_blocking(move || find_unwanted(&unwanted, &runs)).await;
                // What cannot be found now, the ports that it holds will show.
                let Ok(Ok(found)) = found else { return };
                let Some(first) = found.first() else { return };
                for process in &found {
                    if !ended.iter().any(|known| known.pid == process.pid) {
                        ended.push(survivor(process.pid));
                    }
                    send(*process, signal);
                }
                // One after the other: while this one is waited for, others may end or be started.
                until_ended(*first).await;
            }
        };
        if timeout(grace, all_gone).await.is_ok() {
            break;
        }
    }
    ended
}

fn find_unwanted(unwanted: &[Origin], runs: &BTreeSet<String>) -> io::Result<Vec<Identity>> {
    let trees = registry::known();
    let mut found = BTreeMap::new();
    for origin in unwanted {
        if Stat::of(origin.pid)?.is_some_and(|stat| stat.identity == origin.identity()) {
            stat::descent(origin.pid, &mut found)?;
        }
    }
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let mark = stat::variable(pid, MARK)?;
        if mark.is_some_and(|mark| runs.contains(run_of(&mark))) {
            found.extend(Stat::of(pid)?.map(|stat| (pid, stat)));
        }
    }
    let mut processes = Vec::new();
    for (pid, stat) in found {
        // A tunnel may have started portward.
        let is_ancestor = || holder::is_descendant_of(std::process::id(), pid);
        if !stat.has_ended && trees.tree_of(pid)?.is_none() && !is_ancestor() {
            processes.push(stat.identity);
        }
    }
    Ok(processes)
}

/// Whether the run of portward that gives out such marks goes on.
pub fn is_running(run: &str) -> bool {
    let Some((pid, start)) = run.split_once('-') else { return false };
    let (Ok(pid), Ok(start)) = (pid.parse(), start.parse()) else { return false };
    Stat::of(pid).is_ok_and(|stat| stat.is_some_and(|stat| stat.identity == Identity::new(pid, start)))
}
