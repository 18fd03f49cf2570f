//! How the parts of a tunnel tell the event loop and the log what they see.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::shares::{Burst, Heard, Shares};
use crate::config::desired;
use crate::core::{ConnectionId, Event, Slot};
use crate::observe::log::OUTPUT;
use crate::port::Listener;
use crate::process::{LONGEST_LINE, Remains};
use crate::ssh::ConnectionErrorKind;
use crate::text;

/// Bytes of a command line that are logged.
const COMMAND_LENGTH: usize = 1024;

/// What a tunnel's log lines are filed under. A rename changes it while the tunnel runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) hash: String,
    /// The port that the tunnel is about: the local one, or the server's for a remote forward.
    pub(super) port: u16,
}

impl Identity {
    pub(super) fn of(tunnel: &desired::Tunnel) -> Self {
        let port = match &tunnel.work {
            desired::Work::Ssh(desired::SshTunnel {
                forward: desired::Forward::Remote { port, .. }, ..
            }) => *port,
            desired::Work::Ssh(_) | desired::Work::Command(_) => {
                tunnel.work.endpoints().first().map_or(0, crate::port::Endpoint::port)
            }
        };
        Self { name: tunnel.name.clone(), hash: tunnel.hash.clone(), port }
    }
}

/// Logs a line about a tunnel: its [`Identity`], further fields, and the message. For example
/// `tell!(warn, identity, event = "held", "port {port} is held")`.
macro_rules! tell {
    ($level:ident, $identity:expr, $($fields_and_message:tt)+) => {{
        let $crate::daemon::tell::Identity { name, hash, port } = &$identity;
        tracing::$level!(tunnel = name, tunnel_hash = hash, port, $($fields_and_message)+);
    }};
}
pub(super) use tell;

/// Reports what happens to one tunnel.
#[derive(Debug, Clone)]
pub(super) struct Teller {
    slot: Slot,
    identity: Arc<Mutex<Identity>>,
    reports: mpsc::UnboundedSender<(Slot, Report)>,
    shares: Shares,
}

/// What the event loop is told about a tunnel.
#[derive(Debug)]
pub(super) enum Report {
    /// What the core decides about.
    Event(Event),
    /// What the connection's process listens on, as the kernel shows it now.
    Listening(ConnectionId, Vec<Listener>),
    /// What is left of a process after its end.
    Remains(Remains),
    /// A process was started, or another one stands for the tunnel now: the status has its pid.
    ProcessChanged,
    /// Clients were turned away.
    ConnectionsFailed(Failed),
}

/// Connections that have failed since the last report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failed {
    /// How many; at least one.
    pub(super) count: u64,
    /// When the last one did.
    pub(super) at: Instant,
    /// Why the last one did.
    pub(super) kind: ConnectionErrorKind,
    /// Why, and who must change what.
    pub(super) message: String,
}

impl Teller {
    pub(super) fn new(
        slot: Slot,
        identity: Identity,
        reports: mpsc::UnboundedSender<(Slot, Report)>,
        shares: Shares,
    ) -> Self {
        Self { slot, identity: Arc::new(Mutex::new(identity)), reports, shares }
    }

    /// What the log lines are filed under now.
    pub(super) fn identity(&self) -> Identity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on, files log lines under `identity`.
    pub(super) fn rename(&self, identity: Identity) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    /// Tells the event loop what the core decides about.
    pub(super) fn report(&self, event: Event) {
        self.tell(Report::Event(event));
    }

    /// Tells the event loop. After its end nobody needs to know.
    pub(super) fn tell(&self, report: Report) {
        let _ = self.reports.send((self.slot, report));
    }

    /// Logs a line that the tunnel's process said, if the tunnel's share of the log has room for it; says whether it had.
    pub(super) fn output(&self, line: &str) -> bool {
        let heard = self.shares.say(self.slot, Instant::now());
        match heard {
            Heard::Logged => {
                let line = text::excerpt(line, LONGEST_LINE);
                self.shares.spend(self.slot, line.len());
                tell!(info, self.identity(), event = OUTPUT, "{line}");
            }
            Heard::Dropped => {}
            Heard::FirstDropped => {
                let message =
                    "says more than its share of the log: lines are dropped from here on, and counted";
                tell!(warn, self.identity(), event = "output_limited", "{message}");
                let teller = self.clone();
                tokio::spawn(async move { teller.report_end_of_burst().await });
            }
        }
        heard == Heard::Logged
    }

    async fn report_end_of_burst(self) {
        while let Burst::Lasts(until) = self.shares.burst(self.slot, Instant::now()) {
            sleep_until(until).await;
        }
        self.output_ended();
    }

    /// The process says nothing more for now: logs how many lines of it were dropped, if any were.
    pub(super) fn output_ended(&self) {
        let dropped = self.shares.take_dropped(self.slot);
        if dropped > 0 {
            let lines = if dropped == 1 { "line" } else { "lines" };
            let message =
                format!("{dropped} {lines} of its output were dropped: more than its share of the log");
            tell!(warn, self.identity(), event = "output_dropped", dropped, "{message}");
        }
    }

    /// Logs the one line of a start.
    pub(super) fn starting(&self, what: &str) {
        let what = text::excerpt(what, COMMAND_LENGTH);
        tell!(info, self.identity(), event = "starting", "starting {what}");
    }

    /// Logs what a person should look at.
    pub(super) fn warn(&self, message: &str) {
        tell!(warn, self.identity(), event = "warning", "{message}");
    }
}
