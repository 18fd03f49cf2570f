//! The processes of a link: what its connections have running.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::{OnceCell, mpsc};
use tokio::task::spawn_blocking;

use super::attempt::{Order, OutputTail, SocketsAtLogin};
use super::launch::Launch;
use super::probe::Probes;
use super::reporter::Reporter;
use super::stale::StaleSessions;
use crate::config::desired::Ssh;
use crate::core::{ConnectionEvent, ConnectionId, Failure, FailureKind, LinkId, Slot};
use crate::process::{self, Remains, Tree};
use crate::ssh::{self, AddressFamily, Plan};

/// The processes of one link.
#[derive(Debug)]
pub(super) struct Connections {
    reporter: Reporter<LinkId>,
    running: HashMap<ConnectionId, Running>,
    /// For the next ssh, from when the first port that it is to listen on is asked about.
    planning: Option<Planning>,
    /// What was left of the latest process that has ended.
    left: Remains,
    /// What those that have ended may have left at their servers.
    stale: StaleSessions,
}

/// The process of one connection.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) launch: Launch,
    pub(super) tail: OutputTail,
    /// `None` for a command.
    pub(super) ssh: Option<RunningSsh>,
}

/// What an ssh has beyond that.
#[derive(Debug)]
pub(super) struct RunningSsh {
    pub(super) orders: mpsc::UnboundedSender<Order>,
    /// What it listens on, once that is known.
    pub(super) family: Arc<OnceLock<AddressFamily>>,
    pub(super) control: PathBuf,
    pub(super) at_login: SocketsAtLogin,
    pub(super) probes: Probes,
}

/// The plan for the next ssh, which is made once for all tunnels that ask for it.
#[derive(Debug)]
struct Planning {
    /// Index of the destination that it is for.
    destination: usize,
    /// A tunnel that asks again asks for a new one.
    asked_by: BTreeSet<Slot>,
    planned: Planned,
}

/// A plan that may not be made yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Planned {
    plan: Arc<OnceCell<Plan>>,
    is_stale: Arc<AtomicBool>,
}

impl Planned {
    /// The plan, which is made if nobody else has it made already.
    pub(super) async fn get(&self, ssh: &Ssh) -> &Plan {
        self.plan.get_or_init(|| Plan::make(ssh)).await
    }

    /// It is not to be used: too much may have changed since it was made.
    pub(super) fn outdate(&self) {
        self.is_stale.store(true, Ordering::Relaxed);
    }

    fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Relaxed)
    }

    /// The plan, if it is made and may be used.
    pub(super) fn take(self) -> Option<Plan> {
        self.plan.get().filter(|_| !self.is_stale()).cloned()
    }
}

/// An ssh that runs.
#[derive(Debug)]
pub(super) struct SshProcess {
    pub(super) reporter: Reporter<LinkId>,
    pub(super) connection: ConnectionId,
    pub(super) pid: u32,
    pub(super) at_login: SocketsAtLogin,
    /// All that it has started.
    pub(super) tree: Option<Tree>,
}

impl Connections {
    pub(super) fn new(reporter: Reporter<LinkId>) -> Self {
        Self {
            reporter,
            running: HashMap::new(),
            planning: None,
            left: Remains::default(),
            stale: StaleSessions::default(),
        }
    }

    pub(super) fn reporter(&self) -> &Reporter<LinkId> {
        &self.reporter
    }

    /// The pid of the connection's process.
    pub(super) fn pid(&self, connection: ConnectionId) -> Option<u32> {
        self.running.get(&connection)?.launch.pid()
    }

    /// Whether `pid` is of a process tree of this link. Reads /proc.
    pub(super) fn contains(&self, pid: u32) -> bool {
        self.trees().any(|tree| tree.contains(pid))
    }

    /// The process trees of this link.
    pub(super) fn trees(&self) -> impl Iterator<Item = Tree> {
        self.running.values().filter_map(|running| running.launch.tree())
    }

    pub(super) fn get(&self, connection: ConnectionId) -> Option<&Running> {
        self.running.get(&connection)
    }

    /// The ssh of this connection.
    pub(super) fn ssh(&self, connection: ConnectionId) -> Option<&RunningSsh> {
        self.running.get(&connection)?.ssh.as_ref()
    }

    /// The process of this connection is started, or about to be.
    pub(super) fn add(&mut self, connection: ConnectionId, running: Running) {
        self.running.insert(connection, running);
    }

    /// The process has ended.
    pub(super) fn forget(&mut self, connection: ConnectionId) {
        self.running.remove(&connection);
    }

    /// This is left of the latest process that has ended.
    pub(super) fn set_left(&mut self, left: Remains) {
        self.left = left;
    }

    /// What was left of the latest process that has ended.
    pub(super) fn left(&self) -> &Remains {
        &self.left
    }

    /// What its connections have left at their servers.
    pub(super) fn stale(&mut self) -> &mut StaleSessions {
        &mut self.stale
    }

    /// The plan for the next ssh to this destination, as the tunnel `slot` asks for it.
    pub(super) fn plan(&mut self, slot: Slot, destination: usize) -> Planned {
        let fits = |planning: &mut Planning| {
            planning.destination == destination
                && !planning.planned.is_stale()
                && planning.asked_by.insert(slot)
        };
        if !self.planning.as_mut().is_some_and(fits) {
            let (asked_by, planned) = (BTreeSet::from([slot]), Planned::default());
            self.planning = Some(Planning { destination, asked_by, planned });
        }
        self.planning.as_ref().map(|planning| planning.planned.clone()).unwrap_or_default()
    }

    /// A plan that was made before now is too old for the next ssh.
    pub(super) fn forget_plan(&mut self) {
        self.planning = None;
    }

    /// Takes the plan for an ssh to this destination, if there is a fresh one.
    pub(super) fn take_plan(&mut self, destination: usize) -> Option<Plan> {
        let planning = self.planning.take().filter(|planning| planning.destination == destination)?;
        planning.planned.take()
    }

    pub(super) fn order(&self, connection: ConnectionId, order: Order) {
        if let Some(ssh) = self.ssh(connection) {
            // If the process has just ended, the news of it is on its way.
            let _ = ssh.orders.send(order);
        }
    }

    /// Reports `Answered` once the server of the ssh has answered.
    pub(super) fn probe(&mut self, connection: ConnectionId) {
        if let Some(running) = self.running.get_mut(&connection)
            && let (Some(ssh), Some(pid)) = (&mut running.ssh, running.launch.pid())
        {
            ssh.probes.begin(connection, pid, &self.reporter);
        }
    }

    /// The ssh of this link that run, the oldest first.
    pub(super) fn ssh_processes(&self) -> Vec<SshProcess> {
        let process = |(connection, running): (&ConnectionId, &Running)| {
            let (pid, at_login) = (running.launch.pid()?, running.ssh.as_ref()?.at_login.clone());
            let (reporter, tree) = (self.reporter.clone(), running.launch.tree());
            Some(SshProcess { reporter, connection: *connection, pid, at_login, tree })
        };
        let mut processes: Vec<_> = self.running.iter().filter_map(process).collect();
        processes.sort_by_key(|process| process.connection);
        processes
    }

    pub(super) fn terminate(&self, connection: ConnectionId) {
        if let Some(running) = self.running.get(&connection) {
            running.launch.terminate();
        }
    }

    pub(super) fn kill(&self, connection: ConnectionId) {
        if let Some(running) = self.running.get(&connection) {
            running.launch.kill();
        }
    }

    /// Names the processes that are left, on a thread that may block.
    pub(super) fn find_survivors(&self, connection: ConnectionId) {
        let Some(tree) = self.running.get(&connection).and_then(|running| running.launch.tree()) else {
            return;
        };
        let reporter = self.reporter.clone();
        spawn_blocking(move || {
            let who = match tree.survivors() {
                // The news of its end is on its way.
                Ok(survivors) if survivors.is_empty() => return,
                Ok(survivors) => process::named(&survivors),
                Err(error) => format!("what is left of the process ({error})"),
            };
            let message = format!(
                "{who} did not die of SIGKILL within 5 s: stuck in the kernel (state D in ps), most often on a network file \
                 system; portward waits for its end"
            );
            let failure = Failure::new(FailureKind::Killed, message);
            reporter.report(connection, ConnectionEvent::Survived(failure));
        });
    }
}

impl RunningSsh {
    /// The unix sockets on which it listens for the held listener of a tunnel, one for each port.
    pub(super) fn forward_paths(&self, slot: Slot, connection: ConnectionId, ports: usize) -> Vec<PathBuf> {
        ssh::forward_paths(&self.control, &forward_name(slot, connection), ports)
    }
}

/// The unique name of the unix sockets on which an ssh listens for the held listener of a tunnel.
pub(super) fn forward_name(slot: Slot, connection: ConnectionId) -> String {
    format!("{}-{connection}", slot.0)
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::super::reporter::Identity;
    use super::super::shares::Shares;
    use super::*;

    #[test]
    fn tunnels_that_start_together_ask_for_one_plan_and_one_that_starts_later_for_a_new_one() {
        let identity = Identity { name: "t".to_owned(), hash: String::new(), port: 1 };
        let reporter =
            Reporter::new(LinkId(Slot(1)), identity, mpsc::unbounded_channel().0, Shares::default());
        let mut connections = Connections::new(reporter);
        let is_same = |one: &Planned, other: &Planned| Arc::ptr_eq(&one.plan, &other.plan);
        let first = connections.plan(Slot(1), 0);
        let together = connections.plan(Slot(2), 0);
        assert!(is_same(&first, &together));
        assert!(!is_same(&first, &connections.plan(Slot(3), 1)), "another destination");

        let first = connections.plan(Slot(1), 0);
        assert!(!is_same(&first, &connections.plan(Slot(1), 0)), "it asks once more");

        let first = connections.plan(Slot(1), 0);
        first.outdate();
        assert!(!is_same(&first, &connections.plan(Slot(2), 0)), "its port was held for long");

        let first = connections.plan(Slot(1), 0);
        connections.forget_plan();
        assert!(!is_same(&first, &connections.plan(Slot(2), 0)), "a connection has become ready since");

        let first = connections.plan(Slot(1), 0);
        assert!(connections.take_plan(0).is_none(), "it is not made yet");
        assert!(!is_same(&first, &connections.plan(Slot(2), 0)), "an ssh has been started since");
    }
}
