//! One process of a tunnel, from its start to its end: it carries out orders and reports events.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::config::desired::{Forward, RemoteListen, SshTunnel};
use crate::core::{ConnectionEvent, ConnectionId, Event, Failure, FailureKind, ForwardEvent, Request};
use crate::port::{Endpoint, Listener, PortError, Ports, Subscription, Verdict, holder};
use crate::process::{
    Child, LONGEST_LINE, Main, OUTPUT_GRACE, Pace, Pipe, Remains, Tree, limits, read_lines,
};
use crate::ssh::{
    self, ConnectionError, ControlSocket, End, Listens, Master, MasterError, NotOpened, SocketMade,
};
use crate::text;

use super::reporter::{Report, Reporter};
use super::tally::Tally;
use super::unix_listener::{self, UnixListener};

/// Lines of stderr that are kept to tell why a process ended,
const LINES_KEPT: usize = 20;
/// and their bytes in all.
const BYTES_KEPT: usize = 16 * 1024;

/// How long the output may be read when nothing is left that could hold it open: nobody else has it, unless its descriptor was
/// handed to a stranger.
const FLOOD_GRACE: Duration = Duration::from_secs(5);

/// How long to wait before subscribing to the kernel's events again when it refuses.
const NO_DESCRIPTOR_WAIT: Duration = Duration::from_secs(1);

/// How long a master may take to answer before it counts as one that lives and is stopped: 0.2 ms measured.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// What a connected ssh can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Listen.
    Open(Request),
    /// Stop listening.
    Close(Request),
    /// Report when no client's connection is carried any more.
    AwaitClients,
    /// Nobody answers on the unix socket that was opened for a held listener: report that, unless ssh has ended.
    Check(Request),
}

/// What every attempt needs.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) connection: ConnectionId,
    pub(super) reporter: Reporter,
    pub(super) ports: Ports,
    pub(super) pace: Pace,
    /// The endpoints to listen on: those asked for that this machine has.
    pub(super) endpoints: Vec<Endpoint>,
    /// What the process listens on, as the kernel showed it last.
    pub(super) listening: Mutex<Vec<Listener>>,
    /// The last lines of the process.
    pub(super) tail: OutputTail,
    /// Set once an ssh is ready.
    pub(super) at_login: SocketsAtLogin,
    /// The unix socket that ssh listens on, if it does.
    pub(super) unix: UnixListener,
}

/// The inodes of the sockets that an ssh had when it was ready. If it is connected to the server itself, that connection is the only
/// one over TCP among them; later there are others, of its clients and to their targets.
pub(super) type SocketsAtLogin = Arc<OnceLock<BTreeSet<u32>>>;

impl Attempt {
    /// Looks after an ssh until it has ended.
    pub(super) async fn run_ssh(
        self,
        tunnel: SshTunnel,
        process: (Child, Pipe, Pipe),
        control: (ControlSocket, SocketMade),
        orders: mpsc::UnboundedReceiver<Order>,
    ) {
        let (mut child, _stdout, stderr) = process;
        let (control, made) = control;
        let was_ready = Arc::new(AtomicBool::new(false));
        let mut output = tokio::spawn({
            let (tail, reporter, tunnel) = (self.tail.clone(), self.reporter.clone(), tunnel.clone());
            let (pace, was_ready) = (self.pace.clone(), was_ready.clone());
            async move {
                let tally = Tally::default();
                let reading = read_lines(stderr, &pace, |line| {
                    // Before that it would be a banner.
                    if was_ready.load(Ordering::Relaxed)
                        && let Some(error) = ConnectionError::of_line(&line)
                    {
                        return tally.add(error);
                    }
                    if ssh::is_of_closing(&line) {
                        return;
                    }
                    reporter.output(&line);
                    if !ssh::is_debug(&line) {
                        tail.push(line);
                    }
                });
                tokio::select! {
                    () = reading => {}
                    never = tally.run(&tunnel, &reporter) => match never {},
                }
                tally.report(&tunnel, &reporter);
            }
        });
        let (pid, tree) = (child.pid(), child.tree());
        let (ended, not_the_master) = tokio::select! {
            ended = child.ended() => (ended, None),
            error = self.serve(&tunnel, &control, made, pid, orders, &was_ready) => {
                // What answers in its place is of its tree, and useless.
                tree.kill();
                (child.ended().await, Some(error))
            }
            never = self.follow_main(&tree) => match never {},
        };
        let _ = timeout(OUTPUT_GRACE, &mut output).await;
        self.reporter.output_ended();
        drop(control);
        if let Some(socket) = tunnel.socket() {
            self.unix.remove(socket);
        }
        let tail = self.tail.lines();
        let failure = match (not_the_master, ended) {
            (Some(error), _) => ssh::not_the_master(&error, &tunnel),
            (None, Ok(status)) => {
                let was_ready = was_ready.load(Ordering::Relaxed);
                ssh::classify(&End { status, said: &tail, was_ready }, &tunnel)
            }
            (None, Err(error)) => {
                Failure::new(FailureKind::Exited, format!("cannot learn how ssh ended: {error}"))
            }
        };
        // Another connection can listen from now on, whatever is left of this one: to look for that takes milliseconds.
        self.report(ConnectionEvent::LeaderEnded(failure.clone()));
        // Boxed, so that no process that runs reserves memory for it.
        Box::pin(self.finish(&tree, failure, output)).await;
    }

    /// The process has ended: waits for what is left of its tree.
    pub(super) async fn finish(&self, tree: &Tree, failure: Failure, output: JoinHandle<()>) {
        let remains = tree.gone().await;
        if !output.is_finished() {
            // What is left may hold the output open for ever. Otherwise it ends as soon as it is read, and what a flood has left
            // of it takes a while.
            let grace = if remains == Remains::default() { FLOOD_GRACE } else { OUTPUT_GRACE };
            let _ = timeout(grace, output).await;
        }
        // It may have ended since that was told last, and said more before.
        self.reporter.output_ended();
        self.reporter.send(Report::Remains(remains));
        self.report(ConnectionEvent::Ended(failure));
    }

    /// Reports when the process is stopped by a signal, when it goes on, and when another one takes its place.
    pub(super) async fn follow_main(&self, tree: &Tree) -> Infallible {
        let mut main = tree.main();
        main.mark_changed();
        let (mut was_stopped, mut last) = (false, tree.pid());
        while main.changed().await.is_ok() {
            let Main { pid, is_stopped, .. } = *main.borrow_and_update();
            // An end is told with its reason.
            if pid.is_some() && pid != last {
                self.reporter.send(Report::ProcessChanged);
            }
            last = pid;
            match pid {
                Some(pid) if is_stopped && !was_stopped => {
                    self.report(ConnectionEvent::Stopped(pid));
                }
                Some(_) if was_stopped && !is_stopped => {
                    self.report(ConnectionEvent::Continued);
                }
                Some(_) | None => {}
            }
            was_stopped = is_stopped;
        }
        std::future::pending().await
    }

    /// Serves the orders once the master is ready; returns only if another process is in the master's place.
    async fn serve(
        &self,
        tunnel: &SshTunnel,
        control: &ControlSocket,
        made: SocketMade,
        pid: u32,
        mut orders: mpsc::UnboundedReceiver<Order>,
        was_ready: &AtomicBool,
    ) -> MasterError {
        made.wait().await;
        match Master::connect(control.path(), pid).await {
            Ok(mut master) => {
                // A banner, say, tells nothing about the end of a connection that stood.
                self.tail.clear();
                was_ready.store(true, Ordering::Relaxed);
                if let Some(sockets) = holder::sockets(pid) {
                    let _ = self.at_login.set(sockets);
                }
                self.report(ConnectionEvent::Ready);
                let (mut listening, mut watch) = (None, None);
                loop {
                    tokio::select! {
                        biased;
                        order = orders.recv() => {
                            let Some(order) = order else { break };
                            if matches!(order, Order::Close(_)) {
                                // Its news would delay the listener that is to follow.
                                watch = None;
                            }
                            listening = self.carry_out(order, &mut master, tunnel, (pid, control)).await;
                        }
                        () = self.listener_lost(tunnel, &mut watch), if listening.is_some() => {
                            // ssh closes its listeners when it ends, too, and its end is reported with its reason.
                            let request = listening.take();
                            if let Some(request) = request && lives(control, pid).await {
                                self.answer(request, ForwardEvent::ListenerLost);
                            }
                        }
                    }
                }
            }
            Err(error @ MasterError::Stranger { .. }) => return error,
            // The deadline of the attempt ends it.
            Err(error) => self.reporter.warn(&error.to_string()),
        }
        std::future::pending().await
    }

    /// Carries out an order; returns the request that made it listen, if its listeners can be watched.
    async fn carry_out(
        &self,
        order: Order,
        master: &mut Master,
        tunnel: &SshTunnel,
        (pid, control): (u32, &ControlSocket),
    ) -> Option<Request> {
        let listens = Listens { endpoints: &self.endpoints, sockets: control.forward_paths() };
        match order {
            Order::Open(request) => match self.open_forward(master, tunnel, pid, listens).await {
                Ok(()) => {
                    self.answer(request, ForwardEvent::Opened);
                    (!self.endpoints.is_empty() || tunnel.socket().is_some()).then_some(request)
                }
                Err(failure) => {
                    self.answer(request, ForwardEvent::Refused(failure));
                    None
                }
            },
            Order::Close(request) => {
                match master.close(&tunnel.forward, listens).await {
                    Ok(()) => {
                        if let Some(socket) = tunnel.socket() {
                            self.unix.remove(socket);
                        }
                        self.answer(request, ForwardEvent::Closed);
                    }
                    // No answer means that it hangs: the deadline kills it.
                    Err(error) => self.reporter.warn(&error.to_string()),
                }
                None
            }
            Order::AwaitClients => {
                // The clients of a remote forward are at the server, and those of a held listener reach ssh over its unix socket:
                // nobody looks there, and the time passes.
                if !self.endpoints.is_empty() {
                    match self.ports.drained(pid, &self.endpoints).await {
                        Ok(()) => self.report(ConnectionEvent::Drained),
                        Err(error) => self.reporter.warn(&error.to_string()),
                    }
                }
                None
            }
            Order::Check(request) => {
                // The end of ssh is reported with its reason.
                if lives(control, pid).await {
                    self.answer(request, ForwardEvent::ListenerLost);
                }
                None
            }
        }
    }

    /// Resolves once one of the listeners is gone.
    async fn listener_lost(&self, tunnel: &SshTunnel, watch: &mut Option<Subscription>) {
        if let Some(socket) = tunnel.socket() {
            return self.unix.lost(socket, &self.reporter).await;
        }
        let subscription = match watch {
            Some(subscription) => subscription,
            None => watch.insert(self.watch_listeners().await),
        };
        while self.still_listens() {
            subscription.changed().await;
        }
    }

    fn still_listens(&self) -> bool {
        let has_all =
            |present: &[Listener]| self.listening().iter().all(|listener| present.contains(listener));
        match self.listeners(has_all) {
            Ok(present) => has_all(&present),
            // What cannot be asked about is not lost.
            Err(error) => {
                self.reporter.warn(&error.to_string());
                true
            }
        }
    }

    /// Subscribes to the ends of listeners on the port.
    pub(super) async fn watch_listeners(&self) -> Subscription {
        let mut told = String::new();
        loop {
            let error = match self.ports.watch_listeners(&self.endpoints) {
                Ok(subscription) => return subscription,
                Err(error) => port_failure(&error).message,
            };
            // It is a limit that is reached, and that is not reached for ever.
            if error != told {
                self.reporter.warn(&error);
                told = error;
            }
            Box::pin(sleep(NO_DESCRIPTOR_WAIT)).await;
        }
    }

    async fn open_forward(
        &self,
        master: &mut Master,
        tunnel: &SshTunnel,
        pid: u32,
        listens: Listens<'_>,
    ) -> Result<(), Failure> {
        if tunnel.is_held() {
            // ssh does not listen where a file is. Those of an earlier request lead nowhere any more.
            for socket in listens.sockets {
                let _ = fs::remove_file(socket);
            }
        }
        if let Err(refused) = master.open(&tunnel.forward, listens).await {
            return Err(self.why_refused(&refused, tunnel));
        }
        if let Some(socket) = tunnel.socket()
            && let Err(failure) = self.unix.opened(pid, socket)
        {
            let _ = master.close(&tunnel.forward, listens).await;
            self.unix.remove(socket);
            return Err(failure);
        }
        if self.endpoints.is_empty() {
            return Ok(());
        }
        // Read once: of a range there are many listeners.
        let sockets = holder::sockets(pid).unwrap_or_default();
        let is_ours = |listener: &Listener| {
            let is_wanted = self.endpoints.iter().any(|endpoint| endpoint.address == listener.address);
            is_wanted && sockets.contains(&listener.inode)
        };
        let has_all = |found: &[Listener]| {
            let ours = found.iter().filter(|listener| is_ours(listener));
            ours.count() == self.endpoints.len()
        };
        let mut listeners = self.listeners(has_all).map_err(|error| port_failure(&error))?;
        listeners.retain(is_ours);
        for endpoint in &self.endpoints {
            if !listeners.iter().any(|listener| listener.address == endpoint.address) {
                // It would say the same when asked again.
                let _ = master.close(&tunnel.forward, listens).await;
                return Err(Failure::new(
                    FailureKind::Exited,
                    format!(
                        "ssh says that it listens on {endpoint}, and the kernel shows no such listener of it"
                    ),
                ));
            }
        }
        self.listens_on(listeners);
        Ok(())
    }

    fn why_refused(&self, NotOpened { offset, error }: &NotOpened, tunnel: &SshTunnel) -> Failure {
        let destination = &tunnel.destination;
        if !matches!(error, MasterError::Refused(_)) {
            return Failure::new(FailureKind::Exited, format!("ssh to {destination}: {error}"));
        }
        if let Forward::Remote { listen: RemoteListen::Socket(path), .. } = &tunnel.forward {
            let path = path.display();
            return Failure::new(
                FailureKind::RemotePortHeld,
                format!(
                    "{destination} does not listen on {path} ({error}): a file is there already, left by an earlier connection \
                     unless its sshd_config says `StreamLocalBindUnlink yes` (remove it there: `rm {path}`, if nobody listens on \
                     it), the user there may not write to the directory, or its sshd forbids it (AllowStreamLocalForwarding no or \
                     local and DisableForwarding in sshd_config, `restrict` in authorized_keys)"
                ),
            );
        }
        if let Forward::Remote { listen: RemoteListen::Ports { ports, .. }, .. } = &tunnel.forward {
            let port = ports.at(*offset);
            let below_1024 =
                if port < 1024 { ", or the user there is not root, as ports below 1024 need" } else { "" };
            return Failure::new(
                FailureKind::RemotePortHeld,
                format!(
                    "{destination} does not listen on its port {port} ({error}): it is taken there (`ss -ltnp 'sport = \
                     :{port}'` shows by whom), its sshd forbids it (AllowTcpForwarding no or local, PermitListen and \
                     DisableForwarding in sshd_config; `permitlisten` and `restrict` in authorized_keys){below_1024}"
                ),
            );
        }
        let otherwise = || {
            let last =
                self.tail.lines().pop().map(|line| format!("; its last line was: {}", ssh::quote(&line)));
            let last = last.unwrap_or_default();
            Failure::new(FailureKind::Exited, format!("ssh to {destination} does not listen: {error}{last}"))
        };
        if let Some(socket) = tunnel.socket() {
            return unix_listener::why_refused(socket, otherwise);
        }
        match self.ports.verdict(&self.endpoints) {
            Err(error) => port_failure(&error),
            Ok(Verdict::Held(held)) => Failure::new(
                FailureKind::LocalPortHeld,
                format!(
                    "{} was taken before ssh could listen on it; portward waits for it",
                    held[0].endpoint
                ),
            ),
            Ok(Verdict::Unbound) => otherwise(),
        }
    }

    /// The listeners on our endpoints: all of them, or as many as a look-up finds if those are `enough`. A dump visits every
    /// listener of the machine; a look-up takes microseconds, and finds one of several sockets that share an address.
    pub(super) fn listeners(&self, enough: impl Fn(&[Listener]) -> bool) -> Result<Vec<Listener>, PortError> {
        match self.ports.look_up(&self.endpoints)? {
            Some(found) if enough(&found) => Ok(found),
            Some(_) | None => self.ports.listeners(&self.endpoints),
        }
    }

    /// What the process listens on, as far as is known.
    pub(super) fn listening(&self) -> MutexGuard<'_, Vec<Listener>> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers and reports what the process listens on.
    pub(super) fn listens_on(&self, listeners: Vec<Listener>) {
        self.reporter.send(Report::Listening(self.connection, listeners.clone()));
        *self.listening() = listeners;
    }

    pub(super) fn report(&self, event: ConnectionEvent) {
        self.reporter.report(Event::Connection(self.connection, event));
    }

    fn answer(&self, request: Request, event: ForwardEvent) {
        self.reporter.report(Event::Forward(request, event));
    }
}

/// Whether the master still serves its control socket. One that hangs lives.
async fn lives(control: &ControlSocket, pid: u32) -> bool {
    !matches!(timeout(ANSWER_TIMEOUT, Master::connect(control.path(), pid)).await, Ok(Err(_)))
}

/// The failure of a port that cannot even be asked about.
pub(super) fn port_failure(error: &PortError) -> Failure {
    let kind = match error {
        PortError::TrialBind { source, .. } | PortError::Netlink { source, .. } => {
            if let Some(limit) = limits::explain(source) {
                return Failure::new(FailureKind::Exited, limit);
            }
            FailureKind::Network
        }
        // A sysctl or the policy of a security module cures it as well, and nothing tells of that.
        PortError::PermissionDenied(_) => {
            return Failure::new(FailureKind::Config, error.to_string()).retried_slowly();
        }
        PortError::NotTold(_)
        | PortError::Refused(_)
        | PortError::Unsteady { .. }
        | PortError::AddressNotAvailable(_) => FailureKind::Network,
    };
    Failure::new(kind, error.to_string())
}

/// The last lines of the output of a process.
#[derive(Debug, Clone, Default)]
pub(super) struct OutputTail(Arc<Mutex<VecDeque<String>>>);

impl OutputTail {
    pub(super) fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push_back(line);
        while lines.len() > LINES_KEPT || lines.iter().map(String::len).sum::<usize>() > BYTES_KEPT {
            lines.pop_front();
        }
    }

    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| text::excerpt(line, LONGEST_LINE).into_owned()).collect()
    }
}
