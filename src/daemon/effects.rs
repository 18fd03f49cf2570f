//! Carries out the core's actions. Starts the work and returns at once: results come back as events.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, spawn_blocking};

use super::attempt::{Attempt, Order, OutputTail, SocketsAtLogin, port_failure};
use super::held::{self, HeldListener, NotHeld, Races};
use super::launch::Launch;
use super::probe::Probes;
use super::reporter::{Reporter, log};
use super::shares::Shares;
use super::ssh_start::SshStart;
use super::unix_listener::{PathWait, UnixListener};
use super::{command_line, elsewhere};
use crate::config::desired::{self, LocalSocket, SshTunnel, Work};
use crate::core::{ConnectionEvent, ConnectionId, Event, Failure, FailureKind, ForwardEvent, Request, Slot};
use crate::port::{Endpoint, HeldBy, Holder, Listener, Occupant, PortError, Ports, Verdict, holder, who};
use crate::process::{self, Evictee, Pace, Remains, Signalled, Tree};
use crate::ssh::{self, ControlDirectory, ControlError, Plan};
use crate::watch::Watcher;

/// What carries out the actions of all tunnels.
#[derive(Debug)]
pub(super) struct Effects {
    ports: Ports,
    control: ControlDirectory,
    watcher: Watcher,
    shares: Shares,
    pace: Pace,
    holder: held::Holder,
}

/// What one tunnel has running: its processes and its waits for ports.
#[derive(Debug)]
pub(super) struct TunnelResources {
    slot: Slot,
    reporter: Reporter,
    running: HashMap<ConnectionId, Running>,
    waits: HashMap<Request, Wait>,
    /// The plan for the next ssh, from when its port was found unbound, and the index of the destination that it is for.
    planned: Option<(usize, Planned)>,
    /// What was left of the latest process that has ended.
    left: Remains,
    /// The listener that portward itself holds for it.
    held: Option<HeldListener>,
    races: Races,
}

/// A plan that is still fresh, if there is one.
type Planned = Arc<Mutex<Option<Plan>>>;

/// A wait for the port.
#[derive(Debug)]
struct Wait {
    task: AbortHandle,
    /// The endpoints that are waited for, once ssh has reported where it would listen.
    endpoints: Arc<OnceLock<Vec<Endpoint>>>,
    /// Whom `on_conflict: kill` has told to leave. Locked while that is being done, on a thread that may block.
    evictees: Arc<Mutex<Vec<Evictee>>>,
    told: Told,
    /// Of a unix socket: asks for another look.
    look: Option<Arc<Notify>>,
}

/// The sockets that were told last.
type Told = Arc<Mutex<Vec<HeldBy>>>;

/// A tunnel that waits for its port.
#[derive(Debug)]
pub(super) struct Waiting {
    reporter: Reporter,
    request: Request,
    endpoints: Vec<Endpoint>,
    /// The sockets that were told last, and who has them.
    told: Arc<Mutex<Vec<HeldBy>>>,
    occupants: Vec<Occupant>,
}

#[derive(Debug)]
struct Running {
    launch: Launch,
    /// What it is to listen on, once that is known.
    endpoints: Arc<OnceLock<Vec<Endpoint>>>,
    /// An ssh takes orders, a command none.
    orders: Option<mpsc::UnboundedSender<Order>>,
    /// What it listens on, as the kernel showed it last.
    listeners: Vec<Listener>,
    tail: OutputTail,
    /// The unix sockets on which an ssh listens for a held listener, one for each port.
    forwards: Vec<PathBuf>,
    at_login: SocketsAtLogin,
    /// `None` for a command.
    probes: Option<Probes>,
}

/// An ssh that runs.
#[derive(Debug)]
pub(super) struct SshProcess {
    pub(super) reporter: Reporter,
    pub(super) connection: ConnectionId,
    pub(super) pid: u32,
    pub(super) at_login: SocketsAtLogin,
}

impl TunnelResources {
    pub(super) fn new(slot: Slot, reporter: Reporter) -> Self {
        Self {
            slot,
            reporter,
            running: HashMap::new(),
            waits: HashMap::new(),
            planned: None,
            left: Remains::default(),
            held: None,
            races: Races::default(),
        }
    }

    pub(super) fn slot(&self) -> Slot {
        self.slot
    }

    pub(super) fn reporter(&self) -> &Reporter {
        &self.reporter
    }

    /// The pid of the connection's process.
    pub(super) fn pid(&self, connection: ConnectionId) -> Option<u32> {
        self.running.get(&connection)?.launch.pid()
    }

    /// Whether `pid` is of a process tree of this tunnel. Reads /proc.
    pub(super) fn contains(&self, pid: u32) -> bool {
        self.trees().any(|tree| tree.contains(pid))
    }

    /// The process trees of this tunnel.
    fn trees(&self) -> impl Iterator<Item = Tree> {
        self.running.values().filter_map(|running| running.launch.tree())
    }

    /// The listener that portward itself holds for it.
    pub(super) fn held(&self) -> Option<&HeldListener> {
        self.held.as_ref()
    }

    /// Closes the held listener, if there is one.
    pub(super) fn release(&mut self) {
        self.held = None;
    }

    /// Connects the clients of the held listener to what `listening` has opened, or lets them wait.
    pub(super) fn serve(&mut self, listening: Option<(ConnectionId, Request)>) {
        let running = listening.and_then(|(connection, _)| self.running.get(&connection));
        let paths = running.map(|running| &running.forwards[..]);
        if let Some(held) = &mut self.held {
            held.serve(listening, paths);
        }
    }

    /// What is known of the wait for the port.
    pub(super) fn waiting(&self, request: Request, occupants: &[Occupant]) -> Option<Waiting> {
        let wait = self.waits.get(&request)?;
        if let Some(look) = &wait.look {
            // The wait itself looks.
            look.notify_one();
            return None;
        }
        Some(Waiting {
            reporter: self.reporter.clone(),
            request,
            endpoints: wait.endpoints.get()?.clone(),
            told: wait.told.clone(),
            occupants: occupants.to_vec(),
        })
    }

    /// What the connection's process listens on, as the kernel showed it last.
    pub(super) fn listeners(&self, connection: ConnectionId) -> &[Listener] {
        self.running.get(&connection).map_or(&[], |running| &running.listeners)
    }

    /// The connection's process listens on these now.
    pub(super) fn set_listeners(&mut self, connection: ConnectionId, listeners: Vec<Listener>) {
        if let Some(running) = self.running.get_mut(&connection) {
            running.listeners = listeners;
        }
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

    pub(super) fn order(&self, connection: ConnectionId, order: Order) {
        if let Some(orders) = self.running.get(&connection).and_then(|running| running.orders.as_ref()) {
            // If the process has just ended, the news of it is on its way.
            let _ = orders.send(order);
        }
    }

    /// Reports `Answered` once the server of the ssh has answered.
    pub(super) fn probe(&mut self, connection: ConnectionId) {
        if let Some(running) = self.running.get_mut(&connection)
            && let (Some(probes), Some(pid)) = (&mut running.probes, running.launch.pid())
        {
            probes.begin(connection, pid, &self.reporter);
        }
    }

    /// The ssh of this tunnel that run, the oldest first.
    pub(super) fn ssh_processes(&self) -> Vec<SshProcess> {
        let process = |(connection, running): (&ConnectionId, &Running)| {
            running.orders.as_ref()?;
            let (pid, at_login) = (running.launch.pid()?, running.at_login.clone());
            Some(SshProcess { reporter: self.reporter.clone(), connection: *connection, pid, at_login })
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
            reporter.report(Event::Connection(connection, ConnectionEvent::Survived(failure)));
        });
    }

    pub(super) fn abandon_port(&mut self, request: Request) {
        if let Some(wait) = self.waits.remove(&request) {
            wait.task.abort();
        }
    }
}

impl Effects {
    pub(super) fn new(ports: Ports, control: ControlDirectory, watcher: Watcher) -> Self {
        let (shares, pace, holder) = (Shares::default(), Pace::default(), held::Holder::default());
        Self { ports, control, watcher, shares, pace, holder }
    }

    /// Reports `AddressRemoved` for those of `processes` that are connected to their server from one of the addresses
    /// `removed`, if this machine does not have it any more. Where another process makes the connection (ProxyJump, ProxyCommand),
    /// that is not found out.
    pub(super) fn find_stranded(&self, processes: Vec<SshProcess>, removed: BTreeSet<IpAddr>) {
        let ports = self.ports.clone();
        spawn_blocking(move || {
            let gone: BTreeSet<_> =
                removed.into_iter().filter(|address| !ports.is_available(*address)).collect();
            let connected = match ports.connected_from(&gone) {
                Ok(connected) => connected,
                // They are probed as well.
                Err(error) => return tracing::debug!(%error, "connections from an address that was removed"),
            };
            for SshProcess { reporter, connection, pid, at_login } in processes {
                // Before it is ready it has no others.
                let sockets = at_login.get().cloned().or_else(|| holder::sockets(pid)).unwrap_or_default();
                if let Some(address) = sockets.iter().find_map(|inode| connected.get(inode)) {
                    let event = ConnectionEvent::AddressRemoved(*address);
                    reporter.report(Event::Connection(connection, event));
                }
            }
        });
    }

    /// The tunnels' shares of the log.
    pub(super) fn shares(&self) -> Shares {
        self.shares.clone()
    }

    /// Makes the directory of the control sockets again where it is missing; `is_locked`: no other daemon uses it.
    pub(super) fn restore_control(&mut self, is_locked: bool) -> Result<(), ControlError> {
        self.control.restore(is_locked)
    }

    /// The listeners on `endpoints` now.
    pub(super) fn listeners(&self, endpoints: &[Endpoint]) -> Result<Vec<Listener>, crate::port::PortError> {
        self.ports.listeners(endpoints)
    }

    /// Reports `PortUnbound` as soon as the kernel confirms it. Where `connection` is to listen, it is known what on.
    pub(super) fn confirm_port(
        &self,
        resources: &mut TunnelResources,
        request: Request,
        connection: Option<ConnectionId>,
        destination: usize,
        work: &Work,
    ) {
        // It belonged to an earlier wait, perhaps of other work.
        resources.planned = None;
        if let Some(socket) = work.socket() {
            return self.confirm_socket(resources, request, socket);
        }
        if resources.held.is_some() {
            return resources.reporter.report(Event::Forward(request, ForwardEvent::PortUnbound));
        }
        let running = connection.and_then(|connection| resources.running.get(&connection));
        let known = match (work, running) {
            (work, _) if work.is_held() => self.ports.usable(work.endpoints()),
            (_, Some(running)) => running.endpoints.get().cloned().unwrap_or_default(),
            // Where the next ssh would listen, it says itself.
            (Work::Ssh(tunnel), None) if !work.endpoints().is_empty() => {
                return self.plan_and_confirm(resources, request, destination, tunnel, work.endpoints());
            }
            (Work::Ssh(_) | Work::Command(_), None) => self.ports.usable(work.endpoints()),
        };
        let reporter = resources.reporter.clone();
        // In most cases the port is free, and the answer takes microseconds.
        match self.ports.verdict(&known) {
            Ok(Verdict::Unbound) => {
                return reporter.report(Event::Forward(request, ForwardEvent::PortUnbound));
            }
            // An address may yet come.
            Ok(Verdict::Held(_)) | Err(PortError::AddressNotAvailable(_)) => {}
            Err(error) => return reporter.report(unusable(request, port_failure(&error))),
        }
        let (ports, endpoints) = (self.ports.clone(), Arc::new(OnceLock::from(known.clone())));
        let told = Told::default();
        let last = told.clone();
        let own: Vec<Tree> = resources.trees().collect();
        let task =
            tokio::spawn(async move { wait_for_port(&ports, &reporter, request, &known, &last, &own).await });
        let wait = Wait { task: task.abort_handle(), endpoints, evictees: Arc::default(), told, look: None };
        resources.waits.insert(request, wait);
    }

    /// As [`Effects::confirm_port`], for a unix socket.
    fn confirm_socket(&self, resources: &mut TunnelResources, request: Request, socket: &LocalSocket) {
        let look = Arc::<Notify>::default();
        let wait = PathWait {
            watcher: self.watcher.clone(),
            reporter: resources.reporter.clone(),
            request,
            path: socket.path.clone(),
            look: look.clone(),
        };
        let task = tokio::spawn(wait.run()).abort_handle();
        let (endpoints, evictees, told) = Default::default();
        resources.waits.insert(request, Wait { task, endpoints, evictees, told, look: Some(look) });
    }

    /// Holds the port of a tunnel for which portward itself listens, as soon as the kernel has confirmed it for `request`.
    pub(super) fn hold(
        &mut self,
        resources: &mut TunnelResources,
        request: Request,
        desired: &desired::Tunnel,
    ) -> Result<(), NotHeld> {
        if resources.held.is_none() {
            let endpoints = self.ports.usable(desired.work.endpoints());
            let races = (request, &mut resources.races);
            let held = self.holder.hold(&endpoints, races, &desired.clients, &resources.reporter)?;
            resources.held = Some(held);
        }
        Ok(())
    }

    /// As [`Effects::confirm_port`], for those of `wanted` that ssh will listen on.
    fn plan_and_confirm(
        &self,
        resources: &mut TunnelResources,
        request: Request,
        destination: usize,
        tunnel: &SshTunnel,
        wanted: &[Endpoint],
    ) {
        let (ports, reporter, tunnel) = (self.ports.clone(), resources.reporter.clone(), tunnel.clone());
        let (wanted, planned, endpoints) =
            (wanted.to_vec(), Planned::default(), Arc::<OnceLock<_>>::default());
        resources.planned = Some((destination, planned.clone()));
        let waited_for = endpoints.clone();
        let told = Told::default();
        let last = told.clone();
        let own: Vec<Tree> = resources.trees().collect();
        let task = tokio::spawn(async move {
            let plan = Plan::make(&tunnel).await;
            let usable = match plan.endpoints(&wanted, &tunnel.destination) {
                Ok(endpoints) => waited_for.get_or_init(|| ports.usable(&endpoints)),
                Err(failure) => return reporter.report(unusable(request, failure)),
            };
            let verdict = ports.verdict(usable);
            if matches!(verdict, Ok(Verdict::Unbound)) || plan.may_wait() {
                *planned.lock().unwrap_or_else(PoisonError::into_inner) = Some(plan);
            }
            match verdict {
                Ok(Verdict::Unbound) => reporter.report(Event::Forward(request, ForwardEvent::PortUnbound)),
                // An address may yet come.
                Ok(Verdict::Held(_)) | Err(PortError::AddressNotAvailable(_)) => {
                    wait_for_port(&ports, &reporter, request, usable, &last, &own).await;
                }
                Err(error) => reporter.report(unusable(request, port_failure(&error))),
            }
        });
        let wait = Wait { task: task.abort_handle(), endpoints, evictees: Arc::default(), told, look: None };
        resources.waits.insert(request, wait);
    }

    /// Asks once more about the ports that tunnels wait for, and reports what has changed: the kernel does not tell of every
    /// change of a holder. Then calls `done`.
    pub(super) fn ask_again(&self, waiting: Vec<Waiting>, done: impl FnOnce() + Send + 'static) {
        let ports = self.ports.clone();
        spawn_blocking(move || {
            for Waiting { reporter, request, mut endpoints, told, occupants } in waiting {
                // Not locked while the kernel is asked, for the wait tells as well.
                let held = told.lock().unwrap_or_else(PoisonError::into_inner).clone();
                // As the wait does: what is known to be held is asked about first.
                endpoints.sort_by_key(|endpoint| !held.iter().any(|held| held.endpoint == *endpoint));
                // Where the kernel cannot be asked, the wait itself says so.
                let Ok(now) = ports.waited_for(&endpoints) else { continue };
                if now.is_empty() {
                    reporter.report(Event::Forward(request, ForwardEvent::PortUnbound));
                } else if !who::still_tells(&occupants, &held, &now) {
                    reporter.report(Event::Forward(request, ForwardEvent::PortHeld(who::describe(&now))));
                    *told.lock().unwrap_or_else(PoisonError::into_inner) = now;
                }
            }
            done();
        });
    }

    /// The pace at which the output of all processes is read.
    pub(super) fn pace(&self) -> Pace {
        self.pace.clone()
    }

    /// Starts the process of the tunnel.
    pub(super) fn start(
        &mut self,
        resources: &mut TunnelResources,
        connection: ConnectionId,
        destination: usize,
        desired: &desired::Tunnel,
    ) {
        resources.left = Remains::default();
        let planned = resources.planned.take().filter(|(planned_for, _)| *planned_for == destination);
        let endpoints = Arc::<OnceLock<_>>::default();
        let (tail, at_login) = (OutputTail::default(), SocketsAtLogin::default());
        let mut attempt = Attempt {
            connection,
            reporter: resources.reporter.clone(),
            ports: self.ports.clone(),
            pace: self.pace.clone(),
            endpoints: Vec::new(),
            listening: Mutex::default(),
            tail: tail.clone(),
            at_login: at_login.clone(),
            unix: UnixListener::new(self.watcher.clone()),
        };
        let mut forwards = Vec::new();
        let started = match &*desired.work_at(destination) {
            Work::Ssh(tunnel) => {
                let name = format!("{}-{connection}", resources.slot.0);
                let control = self.control.socket(&name, tunnel.held_ports());
                forwards = control.0.forward_paths().to_vec();
                let (launch, probes) = (Launch::pending(), Probes::new(control.0.path()));
                let (orders, received) = mpsc::unbounded_channel();
                let start = SshStart {
                    launch: launch.clone(),
                    endpoints: endpoints.clone(),
                    connect_timeout: desired.timeout,
                    plan: planned
                        .and_then(|(_, plan)| plan.lock().unwrap_or_else(PoisonError::into_inner).take()),
                };
                tokio::spawn(start.run(attempt, tunnel.clone(), control, received));
                Ok((launch, Some((orders, probes))))
            }
            Work::Command(tunnel) => {
                attempt.endpoints = self.ports.usable(&tunnel.listen);
                // What is set once, and here first, is not set yet.
                let _ = endpoints.set(attempt.endpoints.clone());
                resources.reporter.starting(&tunnel.argv.join(" "));
                process::spawn(command_line::command(tunnel)).map(|process| {
                    let launch = Launch::started(process.0.tree());
                    tokio::spawn(attempt.run_command(tunnel.clone(), process));
                    (launch, None)
                })
            }
        };
        match started {
            Ok((launch, ssh)) => {
                let (orders, probes) = ssh.unzip();
                let running = Running {
                    launch,
                    endpoints,
                    orders,
                    listeners: Vec::new(),
                    tail,
                    forwards,
                    at_login,
                    probes,
                };
                resources.running.insert(connection, running);
            }
            Err(error) => {
                let failure = error.failure();
                resources.reporter.report(Event::Connection(connection, ConnectionEvent::Ended(failure)));
            }
        }
    }

    /// Reports `NotReady`, with what the process does instead.
    pub(super) fn explain_delay(
        &self,
        resources: &TunnelResources,
        connection: ConnectionId,
        work: &Work,
        waited: Duration,
    ) {
        let reporter = resources.reporter.clone();
        let started =
            resources.running.get(&connection).and_then(|running| Some((running, running.launch.tree()?)));
        let Some((running, tree)) = started else {
            return reporter.report(Event::Connection(connection, ConnectionEvent::NotReady(None)));
        };
        let (ports, tail, work) = (self.ports.clone(), running.tail.clone(), work.clone());
        let endpoints = running.endpoints.get().cloned().unwrap_or_default();
        spawn_blocking(move || {
            let why = match &work {
                Work::Ssh(tunnel) => tree.pid().map(|pid| ssh::not_ready(tunnel, pid, &tail.lines(), waited)),
                Work::Command(_) => elsewhere::explain(&ports, |pid| tree.contains(pid), &endpoints)
                    .map(|why| Failure::new(FailureKind::Timeout, why)),
            };
            reporter.report(Event::Connection(connection, ConnectionEvent::NotReady(why)));
        });
    }

    /// SIGTERM to exactly the processes that hold the port, or `HoldersSpared`.
    pub(super) fn terminate_holders(
        &self,
        resources: &TunnelResources,
        request: Request,
        holders: Vec<Occupant>,
    ) {
        let Some(wait) = resources.waits.get(&request) else { return };
        let Some(endpoints) = wait.endpoints.get().cloned() else { return };
        let (ports, reporter) = (self.ports.clone(), resources.reporter.clone());
        let evictees = wait.evictees.clone();
        spawn_blocking(move || {
            let mut evictees = evictees.lock().unwrap_or_else(PoisonError::into_inner);
            evictees.clear();
            let reason = match ports.holders(&endpoints).map(|held| process::evictees(&held)) {
                Ok(Ok(found)) => {
                    *evictees = found;
                    return log_signalled(&reporter, "SIGTERM", process::signal(&evictees, Signal::TERM));
                }
                Ok(Err(spared)) => {
                    let spared: Vec<_> = spared.iter().map(ToString::to_string).collect();
                    format!("the port would stay held by {}", spared.join("; and by "))
                }
                Err(error) => format!("the holders cannot be identified: {error}"),
            };
            let message = format!("on_conflict: kill has ended no process, because {reason}");
            let failure = Failure::new(FailureKind::LocalPortHeld, message);
            reporter.report(Event::Forward(request, ForwardEvent::HoldersSpared(holders, failure)));
        });
    }

    /// SIGKILL to those who were told to leave the port and still hold it. Who has taken it since has had no SIGTERM yet.
    pub(super) fn kill_holders(resources: &TunnelResources, request: Request) {
        let Some(wait) = resources.waits.get(&request) else { return };
        let (evictees, reporter) = (wait.evictees.clone(), resources.reporter.clone());
        spawn_blocking(move || {
            let evictees = evictees.lock().unwrap_or_else(PoisonError::into_inner);
            log_signalled(&reporter, "SIGKILL", process::signal(&evictees, Signal::KILL));
        });
    }
}

/// Waits until the port is unbound. What is left of the tunnel's `own` processes is being ended, and no stranger.
async fn wait_for_port(
    ports: &Ports,
    reporter: &Reporter,
    request: Request,
    endpoints: &[Endpoint],
    told: &Told,
    own: &[Tree],
) {
    let is_own = |occupant: &Occupant| {
        let mut pids = occupant.holder.iter().flat_map(Holder::pids).peekable();
        pids.peek().is_some() && pids.all(|pid| own.iter().any(|tree| tree.contains(pid)))
    };
    let on_held = |held: &[HeldBy], mut occupants: Vec<Occupant>| {
        occupants.retain(|occupant| !is_own(occupant));
        held.clone_into(&mut told.lock().unwrap_or_else(PoisonError::into_inner));
        reporter.report(Event::Forward(request, ForwardEvent::PortHeld(occupants)));
    };
    let unbound = ports.unbound(endpoints, on_held).await;
    reporter.report(match unbound {
        Ok(()) => Event::Forward(request, ForwardEvent::PortUnbound),
        Err(error) => unusable(request, port_failure(&error)),
    });
}

fn unusable(request: Request, failure: Failure) -> Event {
    Event::Forward(request, ForwardEvent::PortUnusable(failure))
}

fn log_signalled(reporter: &Reporter, sent: &str, signalled: Vec<Signalled<'_>>) {
    for Signalled { holder, result } in signalled {
        let done = match result {
            Ok(()) => format!("sent {sent} to {holder}, which holds the port"),
            Err(error) => format!("could not send {sent} to {holder}, which holds the port: {error}"),
        };
        let holder_pid = holder.pid;
        log!(warn, reporter.identity(), event = "evict", holder_pid, "on_conflict: kill: {done}");
    }
}
