//! One process of a link, from its start to its end: it carries out orders and reports events.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::config::desired::{Forward, Ssh};
use crate::core::{ConnectionEvent, ConnectionId, Failure, FailureKind, LinkId, Request, Slot};
use crate::port::{PortError, Ports, holder};
use crate::process::{
    Child, LONGEST_LINE, Main, OUTPUT_GRACE, Pace, Pipe, Remains, Tree, limits, read_lines,
};
use crate::ssh::{self, AddressFamily, ConnectionError, ControlSocket, End, Master, MasterError, SocketMade};
use crate::text;

use super::forwards::Forwards;
use super::reporter::{LinkReport, Reporter};
use super::tally::Tally;

/// Lines of stderr that are kept to tell why a process ended,
const LINES_KEPT: usize = 20;
/// and their bytes in all.
const BYTES_KEPT: usize = 16 * 1024;

/// How long the output may be read when nothing is left that could hold it open: nobody else has it, unless its descriptor was
/// handed to a stranger.
const FLOOD_GRACE: Duration = Duration::from_secs(5);

/// What a connected ssh can be asked for.
#[derive(Debug)]
pub(super) enum Order {
    /// Listen for a tunnel.
    Open(Request, Box<Asked>),
    /// Stop listening for it.
    Close(Request, Slot),
    /// Report when no client's connection is carried any more.
    AwaitClients,
    /// Nobody answers on the unix socket that was opened for a held listener by this request: report that, unless ssh has ended.
    Check(Request),
}

/// What a tunnel asks an ssh for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) reporter: Reporter<Slot>,
    pub(super) forward: Forward,
}

/// What every attempt needs.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) connection: ConnectionId,
    pub(super) reporter: Reporter<LinkId>,
    pub(super) ports: Ports,
    pub(super) pace: Pace,
    /// The last lines of the process.
    pub(super) tail: OutputTail,
}

/// The inodes of the sockets that an ssh had when it was ready. If it is connected to the server itself, that connection is the only
/// one over TCP among them; later there are others, of its clients and to their targets.
pub(super) type SocketsAtLogin = Arc<OnceLock<BTreeSet<u32>>>;

/// An ssh, beyond what every attempt has.
#[derive(Debug)]
pub(super) struct SshAttempt {
    pub(super) ssh: Ssh,
    pub(super) family: AddressFamily,
    pub(super) control: ControlSocket,
    /// Set once it is ready.
    pub(super) at_login: SocketsAtLogin,
}

impl Attempt {
    /// Looks after an ssh until it has ended.
    pub(super) async fn run_ssh(
        self,
        of_ssh: SshAttempt,
        process: (Child, Pipe, Pipe),
        made: SocketMade,
        orders: mpsc::UnboundedReceiver<Order>,
    ) {
        let (mut child, _stdout, stderr) = process;
        let was_ready = Arc::new(AtomicBool::new(false));
        let mut output = tokio::spawn({
            let (tail, reporter) = (self.tail.clone(), self.reporter.clone());
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
                    never = tally.run(&reporter) => match never {},
                }
                tally.report(&reporter);
            }
        });
        let (pid, tree) = (child.pid(), child.tree());
        let (ended, not_the_master) = tokio::select! {
            ended = child.ended() => (ended, None),
            error = self.serve(&of_ssh, made, pid, orders, &was_ready) => {
                // What answers in its place is of its tree, and useless.
                tree.kill();
                (child.ended().await, Some(error))
            }
            never = self.follow_main(&tree) => match never {},
        };
        let _ = timeout(OUTPUT_GRACE, &mut output).await;
        self.reporter.output_ended();
        let SshAttempt { ssh, control, .. } = of_ssh;
        drop(control);
        let tail = self.tail.lines();
        let failure = match (not_the_master, ended) {
            (Some(error), _) => ssh::not_the_master(&error, &ssh),
            (None, Ok(status)) => {
                let was_ready = was_ready.load(Ordering::Relaxed);
                ssh::classify(&End { status, said: &tail, was_ready }, &ssh)
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
        self.reporter.send(LinkReport::Remains(remains));
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
                self.reporter.send(LinkReport::ProcessChanged);
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
        of_ssh: &SshAttempt,
        made: SocketMade,
        pid: u32,
        mut orders: mpsc::UnboundedReceiver<Order>,
        was_ready: &AtomicBool,
    ) -> MasterError {
        made.wait().await;
        match Master::connect(of_ssh.control.path(), pid).await {
            Ok(master) => {
                // A banner, say, tells nothing about the end of a connection that stood.
                self.tail.clear();
                was_ready.store(true, Ordering::Relaxed);
                if let Some(sockets) = holder::sockets(pid) {
                    let _ = of_ssh.at_login.set(sockets);
                }
                self.report(ConnectionEvent::Ready);
                let mut forwards = Forwards::new(self, of_ssh, pid, master);
                while let Some(order) = orders.recv().await {
                    forwards.carry_out(order).await;
                }
            }
            Err(error @ MasterError::Stranger { .. }) => return error,
            // The deadline of the attempt ends it.
            Err(error) => self.reporter.warn(&error.to_string()),
        }
        std::future::pending().await
    }

    pub(super) fn report(&self, event: ConnectionEvent) {
        self.reporter.report(self.connection, event);
    }
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
