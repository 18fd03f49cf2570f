//! The daemon as its API sees it: read the snapshot, follow changes, ask for things.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::snapshot::{Snapshot, TunnelStatus};
use crate::core::Failure;
use crate::observe::recent::RecentLogs;

/// What may be asked of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Bring it up.
    Start,
    /// Bring it down, and leave nothing behind.
    Stop,
    /// Replace its connection, make before break; start it if it is not up.
    Restart,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The tunnel is as asked for.
    Done {
        /// The tunnel now.
        status: TunnelStatus,
        /// What it took.
        took: Took,
    },
    /// The time was over first; portward goes on trying.
    Unfinished {
        /// The tunnel now; `state`, `holder` and `last_error` say what it waits for.
        status: TunnelStatus,
    },
    /// It could not be done. After a failed restart the old connection is up as before.
    NotDone {
        /// The tunnel now.
        status: TunnelStatus,
        /// Why.
        failure: Failure,
    },
}

/// How long each phase of a start or restart took, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Took {
    /// From the start of the process until it was ready.
    pub connect_ms: f64,
    /// From letting go of the old listener until the kernel confirmed the port unbound.
    pub release_ms: f64,
    /// From asking for the forward until it listened.
    pub forward_ms: f64,
    /// From the request to its end.
    pub total_ms: f64,
}

/// What a reload did, or would do; names of tunnels.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReloadReport {
    /// New tunnels.
    pub added: Vec<String>,
    /// Tunnels that are gone.
    pub removed: Vec<String>,
    /// Tunnels that are restarted with what is new.
    pub changed: Vec<String>,
    /// Tunnels that go on as they are, renamed ones included.
    pub unchanged: Vec<String>,
}

/// A change, for those who follow `/events`.
#[derive(Debug, Clone)]
pub enum Change {
    /// A tunnel's status changed.
    Tunnel(Arc<TunnelStatus>),
    /// A tunnel is gone from the configuration.
    Removed {
        /// Its hash.
        hash: String,
    },
    /// The configuration was read again; `None`: it is in force.
    Config {
        /// Why it is not in force.
        error: Option<String>,
    },
    /// What portward itself cannot do for now; empty when all is well again.
    Warnings(Vec<String>),
}

/// An order to the event loop.
#[derive(Debug)]
pub enum Command {
    /// Act on the tunnel with this hash; answered within `timeout`.
    Act {
        /// What to do.
        verb: Verb,
        /// Full hash of the tunnel.
        hash: String,
        /// When to answer at the latest.
        timeout: Duration,
        /// `None`: no such tunnel any more.
        reply: oneshot::Sender<Option<Outcome>>,
    },
    /// Ask the kernel once more about the ports that are waited for, and answer when that is done and reported.
    AskAgain {
        /// Done.
        reply: oneshot::Sender<()>,
    },
    /// Answer with a snapshot.
    Snapshot {
        /// Look at the kernel's listeners first, and hear all that has been reported.
        refresh: bool,
        /// The snapshot.
        reply: oneshot::Sender<Snapshot>,
    },
    /// Read the configuration now.
    Reload {
        /// Only say what would be done.
        dry_run: bool,
        /// The difference, or the errors as a text for a person.
        reply: oneshot::Sender<Result<ReloadReport, String>>,
    },
}

/// The daemon is shutting down and answers no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the daemon is shutting down")]
pub struct ShuttingDown;

/// A cheap, cloneable handle on the event loop.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    changes: broadcast::Sender<Change>,
    logs: Arc<RecentLogs>,
}

impl Handle {
    /// Builds a handle from the client halves of the event loop's channels.
    pub fn new(
        commands: mpsc::Sender<Command>,
        changes: broadcast::Sender<Change>,
        logs: Arc<RecentLogs>,
    ) -> Self {
        Self { commands, changes, logs }
    }

    /// All tunnels as the event loop knows them.
    pub async fn snapshot(&self) -> Result<Snapshot, ShuttingDown> {
        self.ask(|reply| Command::Snapshot { refresh: false, reply }).await
    }

    /// A snapshot for which the kernel was asked, after this call, about the listeners and the ports that are waited for.
    pub async fn refreshed(&self) -> Result<Snapshot, ShuttingDown> {
        self.ask(|reply| Command::AskAgain { reply }).await?;
        self.ask(|reply| Command::Snapshot { refresh: true, reply }).await
    }

    /// Acts on a tunnel; `Ok(None)` when there is no tunnel with this hash.
    pub async fn act(
        &self,
        verb: Verb,
        hash: &str,
        timeout: Duration,
    ) -> Result<Option<Outcome>, ShuttingDown> {
        self.ask(|reply| Command::Act { verb, hash: hash.to_owned(), timeout, reply }).await
    }

    /// Reads the configuration again; the inner error is a text for a person.
    pub async fn reload(&self, dry_run: bool) -> Result<Result<ReloadReport, String>, ShuttingDown> {
        self.ask(|reply| Command::Reload { dry_run, reply }).await
    }

    /// Changes from now on. Who falls behind gets `Lagged` and should read the snapshot again.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// The recent log lines of each tunnel.
    pub fn logs(&self) -> &Arc<RecentLogs> {
        &self.logs
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, ShuttingDown> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| ShuttingDown)?;
        answer.await.map_err(|_| ShuttingDown)
    }
}
