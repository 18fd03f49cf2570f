//! The daemon: one event loop owns all state, carries out the core's actions and publishes snapshots.

mod attempt;
mod command_attempt;
mod command_line;
mod effects;
mod elsewhere;
mod entry;
mod event_loop;
pub mod handle;
mod launch;
mod narrate;
pub mod paths;
mod publish;
mod reload;
mod runtime;
mod shares;
pub mod snapshot;
mod ssh_start;
mod tally;
mod tell;
mod timers;
mod waiter;
mod warnings;

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::api::{self, ApiError, Listeners};
use crate::clock::Clock;
use crate::config::{self, ConfigError, ConfigWatch};
use crate::doctor;
use crate::observe::log::{self, LogError, LogMode};
use crate::observe::recent::RecentLogs;
use crate::port::{PortError, Ports};
use crate::process;
use crate::ssh::{ControlDirectory, ControlError};
use crate::watch::Watcher;
use effects::Effects;
use event_loop::{EventLoop, State};
use handle::Handle;
use runtime::Runtime;

/// Changes that a slow follower of `/events` may fall behind before it is sent a new snapshot instead.
const CHANGES_KEPT: usize = 1024;

/// Requests that may wait for the event loop.
const COMMANDS_QUEUED: usize = 64;

/// What `portward run` is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOptions {
    /// The configuration file.
    pub config: PathBuf,
    /// The API's socket, before the configuration's `api.socket` and the default.
    pub socket: Option<PathBuf>,
    /// Where log lines go.
    pub log: LogMode,
}

/// Why the daemon could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Log lines have nowhere to go.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The API cannot listen.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The kernel cannot be asked about ports.
    #[error(transparent)]
    Port(#[from] PortError),
    /// ssh's control sockets have no safe place.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The directory of the API's socket cannot be made.
    #[error(
        "cannot make the directory {path:?} for the API's socket: {source}; name another one with --socket"
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Orphans of a tunnel would escape.
    #[error("cannot become the parent of the orphans of tunnels (PR_SET_CHILD_SUBREAPER): {0}")]
    Subreaper(#[source] io::Error),
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(#[source] io::Error),
}

/// Runs the daemon until SIGTERM or SIGINT; then stops every tunnel and leaves nothing behind.
pub async fn run(options: RunOptions) -> Result<(), RunError> {
    let logs = Arc::new(RecentLogs::default());
    // Without inotify the daemon runs all the same: the event loop tells what goes unnoticed.
    let watcher = Watcher::default();
    let mut config = ConfigWatch::new(&watcher, &options.config);
    let text = config.read_now().map_err(ConfigError::from)?;
    let wanted = config::parse(&text, &options.config).map_err(ConfigError::from)?;
    let _flush_at_end = log::start(options.log, logs.clone())?;

    let socket = options.socket.or_else(|| wanted.api.socket.clone()).unwrap_or_else(paths::default_socket);
    // Stays what it is when the working directory changes, and events name whole paths.
    let socket = std::path::absolute(&socket).unwrap_or(socket);
    make_directory(&socket)?;
    let listeners = Listeners::bind(&socket, wanted.api.tcp.as_ref())?;
    let ports = Ports::new()?;
    // Beside the socket, whose lock keeps a second daemon away from it.
    let control_directory = socket.with_extension("ssh");
    let control = ControlDirectory::open(&watcher, &control_directory)?;
    let runtime = Runtime::new(&watcher, listeners.socket(), &control_directory);

    process::limits::raise_open_files();
    process::become_subreaper().map_err(RunError::Subreaper)?;
    let children = signal(SignalKind::child()).map_err(RunError::Signals)?;
    tokio::spawn(process::look_after_children(children));

    let clock = Clock::start();
    let (report, events) = mpsc::unbounded_channel();
    let (commands_in, commands) = mpsc::channel(COMMANDS_QUEUED);
    let changes = broadcast::Sender::new(CHANGES_KEPT);
    let handle = Handle::new(commands_in, changes.clone(), logs.clone());
    let (end_api, api_ends) = oneshot::channel::<()>();
    let examine = {
        let (config, socket) = (options.config.clone(), socket.clone());
        api::Examine::new(move |query| {
            let (config, socket) = (config.clone(), socket.clone());
            doctor::examine(doctor::Order { config, socket, reader: query.uid, by: doctor::By::Daemon })
        })
    };
    let serving = tokio::spawn(api::serve(listeners, handle, examine, async {
        // A dropped sender is the end as well.
        let _ = api_ends.await;
    }));

    let result = EventLoop {
        clock,
        effects: Effects::new(ports, control),
        events,
        report,
        commands,
        changes,
        logs,
        config_path: options.config,
        config,
        runtime,
        state: State::default(),
    }
    .run(wanted)
    .await;
    drop(end_api);
    // A panic of the API's task was reported by the panic hook.
    let _ = serving.await;
    result.map_err(RunError::Signals)
}

/// Makes the socket's directory, for us alone, if it is not there.
fn make_directory(socket: &Path) -> Result<(), RunError> {
    let Some(path) = socket.parent().filter(|path| !path.as_os_str().is_empty() && !path.exists()) else {
        return Ok(());
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| RunError::Directory { path: path.to_owned(), source })
}
