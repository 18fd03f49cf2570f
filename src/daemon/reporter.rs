//! Reports from the tasks of a tunnel to the event loop and to the log.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::shares::{Burst, Heard, Shares};
use super::stale::StaleSession;
use crate::config::desired;
use crate::core::{
    CheckError, CheckNumber, ConnectionEvent, ConnectionId, ForwardEvent, LinkId, Request, Slot,
};
use crate::observe::log::OUTPUT;
use crate::port::Listener;
use crate::process::{LONGEST_LINE, Remains};
use crate::relay::News;
use crate::ssh::ConnectionError;
use crate::ssh::server::BootId;
use crate::text;

/// Bytes of a command line that are logged.
const COMMAND_LENGTH: usize = 1024;

/// The fields that identify a tunnel in its log lines. A rename changes them while the tunnel runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) hash: String,
    /// The port that the tunnel is about: the local one, or the server's for a remote forward. Of a range, the first; 0 for a
    /// unix socket.
    pub(super) port: u16,
}

impl Identity {
    pub(super) fn of(tunnel: &desired::Tunnel) -> Self {
        let port = match &tunnel.work {
            desired::Work::Ssh(desired::SshTunnel {
                forward: desired::Forward::Remote { listen: desired::RemoteListen::Ports { ports, .. }, .. },
                ..
            }) => ports.first(),
            desired::Work::Ssh(_) | desired::Work::Command(_) => {
                tunnel.work.endpoints().first().map_or(0, crate::port::Endpoint::port)
            }
        };
        Self { name: tunnel.name.clone(), hash: tunnel.hash.clone(), port }
    }
}

/// Logs a line about a tunnel: its [`Identity`], further fields, and the message. For example
/// `log!(warn, identity, event = "held", "port {port} is held")`.
macro_rules! log {
    ($level:ident, $identity:expr, $($fields_and_message:tt)+) => {{
        let $crate::daemon::reporter::Identity { name, hash, port } = &$identity;
        tracing::$level!(tunnel = name, tunnel_hash = hash, port, $($fields_and_message)+);
    }};
}
pub(super) use log;

/// What reports are about.
pub(super) trait About: Copy {
    /// The tunnel whose share of the log it has.
    fn speaker(self) -> Slot;
}

impl About for Slot {
    fn speaker(self) -> Slot {
        self
    }
}

impl About for LinkId {
    fn speaker(self) -> Slot {
        self.0
    }
}

/// Sends reports about one tunnel, or about the connections of one link. Logs in the name of the tunnel, or of one that the link serves.
#[derive(Debug, Clone)]
pub(super) struct Reporter<A> {
    about: A,
    identity: Arc<Mutex<Identity>>,
    reports: mpsc::UnboundedSender<Report>,
    shares: Shares,
}

/// A report to the event loop.
#[derive(Debug)]
pub(super) enum Report {
    /// About a tunnel.
    Tunnel(Slot, TunnelReport),
    /// About the connections of a link.
    Link(LinkId, LinkReport),
    /// What earlier runs had left and nobody needs has ended.
    UnwantedEnded,
}

/// A report about a tunnel.
#[derive(Debug)]
pub(super) enum TunnelReport {
    /// A request of its forward was answered.
    Forward(Request, ForwardEvent),
    /// There is no client: the answer to a request.
    NoClients(Request),
    /// What the connection's process listens on for it, as the kernel shows it now.
    Listening(ConnectionId, Vec<Listener>),
    /// The server of a connection listens for it on these addresses.
    ServerListens(ConnectionId, Vec<SocketAddr>),
    /// A health check ended so.
    Checked(CheckNumber, Result<(), CheckError>),
    /// Nothing is left of a health check, neither a process nor a connection.
    CheckOver(CheckNumber),
    /// Nothing is left of the program that was told of a change.
    HookOver,
    /// What the relay reports of the held listener with this number.
    Relay(u64, News),
}

/// A report about the connections of a link.
#[derive(Debug)]
pub(super) enum LinkReport {
    /// Something became of one.
    Connection(ConnectionId, ConnectionEvent),
    /// What is left of a process after its end.
    Remains(Remains),
    /// A process was started, or another one is the main process now: its pid is in the status.
    ProcessChanged,
    /// The person who attended the login with this number is gone.
    PersonLeft(u64),
    /// Connections of clients failed.
    ConnectionsFailed(Failed),
    /// The ssh of a connection has ended, and its server may not know.
    SessionLeft(StaleSession),
    /// A server of this boot listens on these ports for a connection.
    ServerListens(BootId, BTreeSet<u16>),
}

/// Connections that have failed since the last report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failed {
    /// How many; at least one.
    pub(super) count: u64,
    /// When the last one failed.
    pub(super) at: Instant,
    /// Why the last one failed.
    pub(super) error: ConnectionError,
}

impl Reporter<Slot> {
    /// Sends a report to the event loop. After the end of the loop it is dropped.
    pub(super) fn send(&self, report: TunnelReport) {
        let _ = self.reports.send(Report::Tunnel(self.about, report));
    }

    /// Reports the answer to a request of the tunnel's forward.
    pub(super) fn answer(&self, request: Request, event: ForwardEvent) {
        self.send(TunnelReport::Forward(request, event));
    }

    /// The tunnel.
    pub(super) fn slot(&self) -> Slot {
        self.about
    }
}

impl Reporter<LinkId> {
    /// Sends a report to the event loop. After the end of the loop it is dropped.
    pub(super) fn send(&self, report: LinkReport) {
        let _ = self.reports.send(Report::Link(self.about, report));
    }

    /// The link.
    pub(super) fn link(&self) -> LinkId {
        self.about
    }

    /// Reports what has become of a connection.
    pub(super) fn report(&self, connection: ConnectionId, event: ConnectionEvent) {
        self.send(LinkReport::Connection(connection, event));
    }
}

impl Reporter<Slot> {
    /// For the connections of the link `id`, in the name of this tunnel.
    pub(super) fn of_link(&self, id: LinkId) -> Reporter<LinkId> {
        let Self { identity, reports, shares, .. } = self.clone();
        Reporter { about: id, identity, reports, shares }
    }
}

impl<A: About + Send + Sync + 'static> Reporter<A> {
    pub(super) fn new(
        about: A,
        identity: Identity,
        reports: mpsc::UnboundedSender<Report>,
        shares: Shares,
    ) -> Self {
        Self { about, identity: Arc::new(Mutex::new(identity)), reports, shares }
    }

    /// The present identity.
    pub(super) fn identity(&self) -> Identity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the identity of the log lines from now on.
    pub(super) fn rename(&self, identity: Identity) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    /// Logs a line of the output of the tunnel's process if the tunnel's share of the log has room for it; returns whether it had.
    pub(super) fn output(&self, line: &str) -> bool {
        let heard = self.shares.say(self.about.speaker(), Instant::now());
        match heard {
            Heard::Logged => {
                let line = text::excerpt(line, LONGEST_LINE);
                self.shares.spend(self.about.speaker(), line.len());
                log!(info, self.identity(), event = OUTPUT, "{line}");
            }
            Heard::Dropped => {}
            Heard::FirstDropped => {
                let message =
                    "says more than its share of the log: lines are dropped from here on, and counted";
                log!(warn, self.identity(), event = "output_limited", "{message}");
                let reporter = self.clone();
                tokio::spawn(async move { reporter.report_end_of_burst().await });
            }
        }
        heard == Heard::Logged
    }

    async fn report_end_of_burst(self) {
        while let Burst::Lasts(until) = self.shares.burst(self.about.speaker(), Instant::now()) {
            sleep_until(until).await;
        }
        self.output_ended();
    }

    /// The output has ended for now: logs how many lines of it were dropped, if any.
    pub(super) fn output_ended(&self) {
        let dropped = self.shares.take_dropped(self.about.speaker());
        if dropped > 0 {
            let lines = if dropped == 1 { "line" } else { "lines" };
            let message =
                format!("{dropped} {lines} of its output were dropped: more than its share of the log");
            log!(warn, self.identity(), event = "output_dropped", dropped, "{message}");
        }
    }

    /// Logs the one line of a start.
    pub(super) fn starting(&self, what: &str) {
        let what = text::excerpt(what, COMMAND_LENGTH);
        log!(info, self.identity(), event = "starting", "starting {what}");
    }

    /// Logs a warning.
    pub(super) fn warn(&self, message: &str) {
        log!(warn, self.identity(), event = "warning", "{message}");
    }
}
