//! The daemon as its API sees it: read the snapshot, follow changes, ask for things.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};

use crate::observe::recent::RecentLogs;
use crate::protocol::{
    Change, Failure, QuestionKind, ReloadReport, Secret, Snapshot, Took, TunnelStatus, Verb,
};
use crate::shell;

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

/// A login that a person attends. It is over when this goes: what is not ready then is ended.
#[derive(Debug)]
pub struct Login {
    /// What the person is to be told and asked.
    pub updates: mpsc::Receiver<Update>,
    /// What has become of it; `None`: there is no such tunnel any more.
    pub outcome: oneshot::Receiver<Option<Outcome>>,
}

/// What a person who logs in is told or asked.
#[derive(Debug)]
pub enum Update {
    /// ssh said this, on one line and made safe for a terminal.
    Said(String),
    /// ssh asks.
    Asked(Question),
}

/// A question of ssh.
#[derive(Debug)]
pub struct Question {
    /// What kind of a question it is.
    pub kind: QuestionKind,
    /// What it asks, as it came.
    pub text: String,
    /// Where the answer goes. It is closed if nobody waits for that any more.
    pub reply: oneshot::Sender<Secret>,
}

/// Why nobody can log in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoLogin {
    /// There is no such tunnel.
    #[error("there is no such tunnel any more")]
    Unknown,
    /// It logs in by itself.
    #[error(
        "{name} is not interactive, so portward logs in by itself: `portward start {}`",
        shell::word(name)
    )]
    NotInteractive {
        /// The tunnel.
        name: String,
    },
    /// Somebody else does, for the same connection.
    #[error("Session already active for this tunnel")]
    Attended,
    /// As many do already as may at a time.
    #[error("Too many connections")]
    TooMany,
    /// The kernel gave no random bytes.
    #[error("cannot make the token of the login: {0}")]
    NoToken(String),
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
    /// A person is there to log in for the tunnel with this hash.
    LogIn {
        /// Full hash of the tunnel.
        hash: String,
        /// The login.
        reply: oneshot::Sender<Result<Login, NoLogin>>,
    },
    /// ssh asks something in the login with this token.
    Ask {
        /// The token.
        token: String,
        /// Where questions go; `None`: there is no such login any more.
        reply: oneshot::Sender<Option<mpsc::Sender<Update>>>,
    },
    /// Ask the kernel once more about the ports that are waited for, and answer when that is done and reported.
    AskAgain {
        /// Done.
        reply: oneshot::Sender<()>,
    },
    /// Answer with all figures, in OpenMetrics text.
    Metrics {
        /// The text.
        reply: oneshot::Sender<String>,
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

    /// All figures, in OpenMetrics text.
    pub async fn metrics(&self) -> Result<String, ShuttingDown> {
        self.ask(|reply| Command::Metrics { reply }).await
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

    /// Begins a login that a person attends.
    pub async fn log_in(&self, hash: &str) -> Result<Result<Login, NoLogin>, ShuttingDown> {
        self.ask(|reply| Command::LogIn { hash: hash.to_owned(), reply }).await
    }

    /// Where the questions of the login with this token go; `Ok(None)` when there is no such login any more.
    pub async fn asked(&self, token: String) -> Result<Option<mpsc::Sender<Update>>, ShuttingDown> {
        self.ask(|reply| Command::Ask { token, reply }).await
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
