//! Carries out the core's actions. Starts the work and returns at once: results come back as events.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;
use rustix::process::Signal;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::Instant;

use super::attempt::{Attempt, OutputTail, SocketsAtLogin, port_failure};
use super::connections::{Connections, Planned, Running, RunningSsh, SshProcess, forward_name};
use super::held::{self, HeldListener, NotHeld, Races};
use super::hook;
use super::launch::Launch;
use super::listening::Listening;
use super::logins::Attended;
use super::probe::Probes;
use super::record::{self, EXTENSION, Record};
use super::record_file::RecordFile;
use super::reporter::{Reporter, TunnelReport, log};
use super::runs::{self, Runs};
use super::shares::Shares;
use super::ssh_start::SshStart;
use super::unix_listener::PathWait;
use super::{command_line, counts, elsewhere, ways};
use crate::config::desired::{self, CommandTunnel, Forward, LocalSocket, SshTunnel, Work};
use crate::core::{ConnectionEvent, ConnectionId, Failure, FailureKind, ForwardEvent, LinkId, Request, Slot};
use crate::port::{Endpoint, HeldBy, Holder, Listener, Occupant, PortError, Ports, Verdict, who};
use crate::process::{self, Child, Evictee, Origin, Pace, Pipe, Remains, Signalled, Tree};
use crate::ssh::{self, ControlDirectory, ControlError, ControlSocket, Listens, SocketMade};
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
    runs: Runs,
    verdicts: Histogram,
    ending: watch::Sender<bool>,
}

/// What one tunnel has: its waits for ports, and what listens for it.
#[derive(Debug)]
pub(super) struct TunnelResources {
    reporter: Reporter<Slot>,
    waits: HashMap<Request, Wait>,
    /// What a connection's process listens on for it, as the kernel showed it last.
    listeners: Option<(ConnectionId, Vec<Listener>)>,
    /// The listener that portward itself holds for it.
    held: Option<HeldListener>,
    races: Races,
}

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
    reporter: Reporter<Slot>,
    request: Request,
    endpoints: Vec<Endpoint>,
    /// The sockets that were told last, and who has them.
    told: Arc<Mutex<Vec<HeldBy>>>,
    occupants: Vec<Occupant>,
}

impl TunnelResources {
    pub(super) fn new(reporter: Reporter<Slot>) -> Self {
        Self { reporter, waits: HashMap::new(), listeners: None, held: None, races: Races::default() }
    }

    pub(super) fn slot(&self) -> Slot {
        self.reporter.slot()
    }

    pub(super) fn reporter(&self) -> &Reporter<Slot> {
        &self.reporter
    }

    /// The listener that portward itself holds for it.
    pub(super) fn held(&self) -> Option<&HeldListener> {
        self.held.as_ref()
    }

    /// Takes the held listener, whose clients wait from now on.
    pub(super) fn take_held(&mut self) -> Option<HeldListener> {
        let mut held = self.held.take()?;
        held.serve(None, |_| None);
        Some(held)
    }

    pub(super) fn set_held(&mut self, held: Option<HeldListener>) {
        self.held = held;
    }

    /// Closes the held listener, if there is one.
    pub(super) fn release(&mut self) {
        self.held = None;
    }

    /// Connects the clients of the held listener to what `listening` has opened, or lets them wait.
    pub(super) fn serve(
        &mut self,
        listening: Option<(ConnectionId, Request)>,
        paths: impl FnOnce(ConnectionId) -> Option<Vec<PathBuf>>,
    ) {
        if let Some(held) = &mut self.held {
            held.serve(listening, paths);
        }
    }

    /// Reports `NoClients`, if the held listener has none.
    pub(super) fn ask_for_clients(&mut self, request: Request) {
        match &mut self.held {
            Some(held) => held.ask_for_clients(request),
            None => self.reporter.send(TunnelReport::NoClients(request)),
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

    /// What the connection's process listens on for it, as the kernel showed it last.
    pub(super) fn listeners(&self, connection: ConnectionId) -> &[Listener] {
        self.listeners.as_ref().filter(|(on, _)| *on == connection).map_or(&[], |(_, listeners)| listeners)
    }

    /// The connection's process listens on these for it now.
    pub(super) fn set_listeners(&mut self, connection: ConnectionId, listeners: Vec<Listener>) {
        self.listeners = Some((connection, listeners));
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
        let (runs, verdicts) = (Runs::default(), counts::verdicts());
        let ending = watch::Sender::default();
        Self { ports, control, watcher, shares, pace, holder, runs, verdicts, ending }
    }

    /// How long the verdicts on ports have taken.
    pub(super) fn verdicts(&self) -> &Histogram {
        &self.verdicts
    }

    /// Reports what the network has left to the connections of `processes`.
    pub(super) fn find_ways(&self, processes: Vec<SshProcess>) {
        ways::find(self.ports.clone(), processes);
    }

    /// The tunnels' shares of the log.
    pub(super) fn shares(&self) -> Shares {
        self.shares.clone()
    }

    /// Makes the directory of the control sockets again where it is missing; `is_locked`: no other daemon uses it.
    pub(super) fn restore_control(&mut self, is_locked: bool) -> Result<(), ControlError> {
        let restored = self.control.restore(is_locked);
        self.runs.note(self.control.directory());
        restored
    }

    /// Where the control sockets and the records are.
    pub(super) fn directory(&self) -> &Path {
        self.control.directory()
    }

    /// The directory is that of this run of portward from now on, which has taken over processes of `others` and ends what else there
    /// is of `ending`: files other than `kept` are removed.
    pub(super) fn begin_run(
        &mut self,
        kept: &HashSet<OsString>,
        others: BTreeSet<String>,
        ending: BTreeSet<String>,
    ) {
        // Known before the records of those that are being ended are gone.
        self.runs.take_over(others, ending);
        self.runs.note(self.control.directory());
        let is_left =
            |file: &Path| file.file_name().is_none_or(|name| name != runs::FILE && !kept.contains(name));
        if let Err(error) = self.control.clear(is_left) {
            tracing::warn!("{error}");
        }
    }

    /// Whether something that earlier runs have left is being ended.
    pub(super) fn ends_unwanted(&self) -> bool {
        self.runs.are_ending()
    }

    /// What earlier runs had left and nobody needs has ended.
    pub(super) fn unwanted_ended(&mut self) {
        self.runs.ended(self.control.directory());
    }

    /// Nothing is left that a later run could find.
    pub(super) fn end_run(&self) {
        runs::end(self.directory());
    }

    /// The control socket of an ssh that an earlier run of portward has started.
    pub(super) fn inherit_control(&mut self, path: PathBuf) -> (ControlSocket, SocketMade) {
        self.control.inherit(path)
    }

    /// Takes over the sockets on which an earlier run of portward listened for tunnels with these endpoints.
    pub(super) fn inherit_sockets(&mut self, sockets: Vec<OwnedFd>, wanted: &[Endpoint]) {
        let wanted = self.ports.usable(wanted).into_iter().map(|endpoint| endpoint.address).collect();
        self.holder.inherit(sockets, &wanted);
    }

    /// Those of `endpoints` that this machine has.
    pub(super) fn usable(&self, endpoints: &[Endpoint]) -> Vec<Endpoint> {
        self.ports.usable(endpoints)
    }

    /// The listeners on `endpoints` now.
    pub(super) fn listeners(&self, endpoints: &[Endpoint]) -> Result<Vec<Listener>, crate::port::PortError> {
        self.ports.listeners(endpoints)
    }

    /// Reports `PortUnbound` as soon as the kernel confirms it. Where `connection` is to listen, it is known what on.
    pub(super) fn confirm_port(
        &mut self,
        (resources, connections): (&mut TunnelResources, &mut Connections),
        request: Request,
        connection: Option<ConnectionId>,
        destination: usize,
        work: &Work,
    ) {
        if let Some(socket) = work.socket() {
            return self.confirm_socket(resources, request, socket);
        }
        let is_kept = |holder: &mut held::Holder| holder.has_inherited(&self.ports.usable(work.endpoints()));
        if resources.held.is_some() || (work.is_held() && is_kept(&mut self.holder)) {
            return resources.reporter.answer(request, ForwardEvent::PortUnbound);
        }
        let family = connection.and_then(|connection| connections.ssh(connection)?.family.get().copied());
        let known = match (work, family) {
            (Work::Ssh(tunnel), Some(family)) if !work.is_held() => {
                // Where it listens on none of them, it refuses the forward with that reason.
                let listens = family.endpoints(tunnel.forward.listens(), &tunnel.ssh.destination);
                self.ports.usable(&listens.unwrap_or_default())
            }
            // Where the next ssh would listen, it says itself.
            (Work::Ssh(tunnel), None) if !tunnel.forward.listens().is_empty() => {
                let planned = connections.plan(resources.slot(), destination);
                let own = connections.trees().collect();
                return self.plan_and_confirm(resources, request, planned, tunnel, own);
            }
            (Work::Ssh(_) | Work::Command(_), _) => self.ports.usable(work.endpoints()),
        };
        let reporter = resources.reporter.clone();
        // In most cases the port is free, and the answer takes microseconds.
        match timed(&self.verdicts, || self.ports.verdict(&known)) {
            Ok(Verdict::Unbound) => {
                return reporter.answer(request, ForwardEvent::PortUnbound);
            }
            // An address may yet come.
            Ok(Verdict::Held(_)) | Err(PortError::AddressNotAvailable(_)) => {}
            Err(error) => return reporter.answer(request, unusable(port_failure(&error))),
        }
        let (ports, endpoints) = (self.ports.clone(), Arc::new(OnceLock::from(known.clone())));
        let told = Told::default();
        let last = told.clone();
        let own: Vec<Tree> = connections.trees().collect();
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
            let held = self.holder.hold(&endpoints, races, desired, &resources.reporter)?;
            resources.held = Some(held);
        }
        Ok(())
    }

    /// As [`Effects::confirm_port`], for what the next ssh will listen on.
    fn plan_and_confirm(
        &self,
        resources: &mut TunnelResources,
        request: Request,
        planned: Planned,
        tunnel: &SshTunnel,
        own: Vec<Tree>,
    ) {
        let (ports, verdicts) = (self.ports.clone(), self.verdicts.clone());
        let (reporter, tunnel) = (resources.reporter.clone(), tunnel.clone());
        let endpoints = Arc::<OnceLock<_>>::default();
        let waited_for = endpoints.clone();
        let told = Told::default();
        let last = told.clone();
        let task = tokio::spawn(async move {
            let plan = planned.get(&tunnel.ssh).await;
            let allowed = plan.address_family().endpoints(tunnel.forward.listens(), &tunnel.ssh.destination);
            let usable = match allowed {
                Ok(endpoints) => waited_for.get_or_init(|| ports.usable(&endpoints)),
                Err(failure) => return reporter.answer(request, unusable(failure)),
            };
            let verdict = timed(&verdicts, || ports.verdict(usable));
            if !matches!(verdict, Ok(Verdict::Unbound)) && !plan.may_wait() {
                planned.outdate();
            }
            match verdict {
                Ok(Verdict::Unbound) => reporter.answer(request, ForwardEvent::PortUnbound),
                // An address may yet come.
                Ok(Verdict::Held(_)) | Err(PortError::AddressNotAvailable(_)) => {
                    // It may take long, and the plan is some kilobytes.
                    drop(planned);
                    wait_for_port(&ports, &reporter, request, usable, &last, &own).await;
                }
                Err(error) => reporter.answer(request, unusable(port_failure(&error))),
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
                    reporter.answer(request, ForwardEvent::PortUnbound);
                } else if !who::still_tells(&occupants, &held, &now) {
                    reporter.answer(request, ForwardEvent::PortHeld(who::describe(&now)));
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

    /// What the programs of `on_change` are run with.
    pub(super) fn hook_means(&self) -> hook::Means {
        hook::Means { pace: self.pace(), ending: self.ending.subscribe() }
    }

    /// portward ends from now on.
    pub(super) fn note_end(&self) {
        self.ending.send_replace(true);
    }

    /// Starts the process of a connection, for a tunnel of the link. `timeout` is that of [`desired::Tunnel`]. `forwards`: what
    /// an ssh may be asked for. `attended`: the login that a person attends.
    pub(super) fn start(
        &mut self,
        (resources, connections): (&TunnelResources, &mut Connections),
        connection: ConnectionId,
        (work, is_shared): (&Work, bool),
        (destination, timeout): (usize, Duration),
        forwards: &[(Slot, &Forward)],
        attended: Option<&Attended>,
    ) {
        connections.set_left(Remains::default());
        let plan = connections.take_plan(destination);
        let reporter = connections.reporter();
        let (name, settings) = (name(reporter, connection), record::settings(work, is_shared));
        let file = RecordFile::new(self.directory().join(format!("{name}.{EXTENSION}")));
        let attempt = self.attempt(connection, reporter, file);
        let tail = attempt.tail.clone();
        let running = match work {
            Work::Ssh(tunnel) => {
                let control = self.control.socket(&name);
                let launch = Launch::pending();
                let (orders, received) = mpsc::unbounded_channel();
                let (family, at_login) = (Arc::default(), SocketsAtLogin::default());
                let path = control.0.path().to_owned();
                let probes = Probes::new(&path);
                let forwardings = |(slot, forward): &(Slot, &Forward)| {
                    let sockets =
                        ssh::forward_paths(&path, &forward_name(*slot, connection), forward.held_ports());
                    let endpoints = self.ports.usable(forward.listens());
                    ssh::forwardings(forward, Listens { endpoints: &endpoints, sockets: &sockets })
                };
                let start = SshStart {
                    ssh: tunnel.ssh.clone(),
                    launch: launch.clone(),
                    family: Arc::clone(&family),
                    at_login: at_login.clone(),
                    connect_timeout: timeout,
                    plan,
                    settings,
                    planned: forwards.iter().flat_map(forwardings).collect(),
                    attended: attended.cloned(),
                };
                tokio::spawn(start.run(attempt, control, received));
                let ssh = RunningSsh { orders, family, control: path, at_login, probes };
                Running { launch, tail, ssh: Some(ssh) }
            }
            Work::Command(tunnel) => {
                reporter.starting(&tunnel.argv.join(" "));
                let process = match process::spawn(command_line::command(tunnel)) {
                    Ok(process) => process,
                    Err(error) => {
                        return reporter.report(connection, ConnectionEvent::Ended(error.failure()));
                    }
                };
                let launch = Launch::started(process.0.tree());
                let origin = Origin::of(&process.0.tree(), [Some(&process.1), Some(&process.2)]);
                let (tunnel_hash, number) = (reporter.identity().hash.clone(), connection.number());
                let record = origin.map(|origin| Record {
                    origin,
                    settings,
                    tunnel: tunnel_hash,
                    connection: number,
                    ssh: None,
                });
                self.run_command((attempt, resources), tunnel, process, record, false);
                Running { launch, tail, ssh: None }
            }
        };
        connections.add(connection, running);
    }

    pub(super) fn attempt(
        &self,
        connection: ConnectionId,
        reporter: &Reporter<LinkId>,
        file: RecordFile,
    ) -> Attempt {
        Attempt {
            connection,
            reporter: reporter.clone(),
            ports: self.ports.clone(),
            pace: self.pace.clone(),
            tail: OutputTail::default(),
            watcher: self.watcher.clone(),
            file,
        }
    }

    pub(super) fn run_command(
        &self,
        (attempt, resources): (Attempt, &TunnelResources),
        tunnel: &CommandTunnel,
        process: (Child, Pipe, Pipe),
        record: Option<Record>,
        is_ready: bool,
    ) {
        let endpoints = self.ports.usable(&tunnel.listen);
        let reporter = resources.reporter.clone();
        let listening = Listening::new(attempt.connection, reporter, self.ports.clone(), endpoints);
        tokio::spawn(attempt.run_command(tunnel.argv[0].clone(), listening, process, record, is_ready));
    }

    /// Reports `NotReady`, with what the process does instead.
    pub(super) fn explain_delay(
        &self,
        connections: &Connections,
        connection: ConnectionId,
        work: &Work,
        waited: Duration,
    ) {
        let reporter = connections.reporter().clone();
        let started = connections.get(connection).and_then(|running| Some((running, running.launch.tree()?)));
        let Some((running, tree)) = started else {
            return reporter.report(connection, ConnectionEvent::NotReady(None));
        };
        let (ports, tail, work) = (self.ports.clone(), running.tail.clone(), work.clone());
        spawn_blocking(move || {
            let why = match &work {
                Work::Ssh(tunnel) => {
                    tree.pid().map(|pid| ssh::not_ready(&tunnel.ssh, pid, &tail.lines(), waited))
                }
                Work::Command(command) => {
                    let endpoints = ports.usable(&command.listen);
                    let why = elsewhere::explain(&ports, |pid| tree.contains(pid), &endpoints);
                    why.map(|why| Failure::new(FailureKind::Timeout, why))
                }
            };
            reporter.report(connection, ConnectionEvent::NotReady(why));
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
            reporter.answer(request, ForwardEvent::HoldersSpared(holders, failure));
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
    reporter: &Reporter<Slot>,
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
        reporter.answer(request, ForwardEvent::PortHeld(occupants));
    };
    let unbound = ports.unbound(endpoints, on_held).await;
    reporter.answer(
        request,
        match unbound {
            Ok(()) => ForwardEvent::PortUnbound,
            Err(error) => unusable(port_failure(&error)),
        },
    );
}

fn unusable(failure: Failure) -> ForwardEvent {
    ForwardEvent::PortUnusable(failure)
}

fn log_signalled(reporter: &Reporter<Slot>, sent: &str, signalled: Vec<Signalled<'_>>) {
    for Signalled { holder, result } in signalled {
        let done = match result {
            Ok(()) => format!("sent {sent} to {holder}, which holds the port"),
            Err(error) => format!("could not send {sent} to {holder}, which holds the port: {error}"),
        };
        let holder_pid = holder.pid;
        log!(warn, reporter.identity(), event = "evict", holder_pid, "on_conflict: kill: {done}");
    }
}

/// The name of a connection's files, which no other one has: the numbers of links go on from run to run.
fn name(reporter: &Reporter<LinkId>, connection: ConnectionId) -> String {
    format!("{}-{connection}", reporter.link().0.0)
}

/// The verdict, and how long it took.
fn timed<V>(seconds: &Histogram, verdict: impl FnOnce() -> V) -> V {
    let begun = Instant::now();
    let verdict = verdict();
    seconds.observe(begun.elapsed().as_secs_f64());
    verdict
}
