//! One process of a link, from its start to its end: it carries out orders and reports events.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::config::desired::{Forward, RemotePortRecovery, Ssh};
use crate::core::{ConnectionEvent, ConnectionId, Failure, FailureKind, LinkId, Request, Slot};
use crate::port::{PortError, Ports};
use crate::process::{LONGEST_LINE, Main, OUTPUT_GRACE, Pace, Remains, Tree, limits};
use crate::ssh::server::ServerProcess;
use crate::ssh::{AddressFamily, ControlSocket, Forwarding, Master};
use crate::text;
use crate::watch::Watcher;

use super::handle::Update;
use super::record::Carried;
use super::record_file::RecordFile;
use super::reporter::{LinkReport, Reporter};

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
    /// It listens for a tunnel already, because an earlier run of portward has asked it to: look after that.
    Inherit(Request, Box<Asked>),
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
    /// Where the server listens: whether it may be asked about that, and freed of `stale`.
    pub(super) recovery: RemotePortRecovery,
    /// What earlier connections have left at their servers, and may hold a port that this forward needs.
    pub(super) stale: Vec<ServerProcess>,
}

/// What every attempt needs.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) connection: ConnectionId,
    pub(super) reporter: Reporter<LinkId>,
    pub(super) ports: Ports,
    pub(super) pace: Pace,
    pub(super) watcher: Watcher,
    /// The last lines of the process.
    pub(super) tail: OutputTail,
    /// By which a later run of portward takes the process over.
    pub(super) file: RecordFile,
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
    pub(super) attendance: Attendance,
    /// What an earlier run of portward has left of it; the default: it is new.
    pub(super) inherited: Inherited,
}

/// Whether a person takes part in the login.
#[derive(Debug, Clone)]
pub(super) enum Attendance {
    /// ssh logs in alone.
    NotNeeded,
    /// A person does, and is told what ssh says until it is ready; `None`: nobody is there any more.
    Needed(Option<mpsc::Sender<Update>>),
}

impl Attendance {
    pub(super) fn is_needed(&self) -> bool {
        match self {
            Self::NotNeeded => false,
            Self::Needed(_) => true,
        }
    }

    /// Tells the person who logs in, if there is one. Whoever reads too slowly misses lines.
    pub(super) fn tell(&self, line: &str) {
        if let Self::Needed(Some(updates)) = self {
            let _ = updates.try_send(Update::Said(text::excerpt(line, LONGEST_LINE).into_owned()));
        }
    }
}

/// What an ssh has that an earlier run of portward has started.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    /// A connection to its control socket, if it has answered.
    pub(super) master: Option<Master>,
    /// What it forwards, and no tunnel needs.
    pub(super) unneeded: Vec<Forwarding>,
    /// Whose connections it may carry.
    pub(super) carried: Carried,
    /// Its process at the server, as far as that is known.
    pub(super) server: Option<ServerProcess>,
}

/// What helps to tell what a line of an ssh means.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Its control socket has answered: what it says from then on is of the connection.
    pub(super) was_ready: AtomicBool,
    /// A session of ours is asked for: the line that reports its refusal is of no client.
    pub(super) awaits_refusal: AtomicBool,
}

impl Attempt {
    /// The process has ended: waits for what is left of its tree.
    pub(super) async fn finish(&self, tree: &Tree, failure: Failure, output: JoinHandle<()>) {
        let mut remains = tree.gone().await;
        // What is written after the end would be left behind.
        drop(self.file.lock().await);
        if !output.is_finished() {
            // What is left may hold the output open for ever. Otherwise it ends as soon as it is read, and what a flood has left
            // of it takes a while.
            let seems_gone = remains == Remains::default();
            let grace = if seems_gone { FLOOD_GRACE } else { OUTPUT_GRACE };
            remains.holds_output = timeout(grace, output).await.is_err() && seems_gone;
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
