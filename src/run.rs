//! The composition of `portward run`: configuration, log, ports and listeners are made here, and the daemon and the API are each
//! handed what they need. Neither knows how the other is served.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::signal::SigSet;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::api::{self, ApiError, Examine, Listeners};
use crate::claim::{Claim, ClaimError};
use crate::config::{self, ConfigError, ConfigWatch};
use crate::daemon::{Daemon, End, Resources};
use crate::doctor::{self, By, Order};
use crate::network::Network;
use crate::observe::log::{self, LogError, LogMode};
use crate::observe::recent::RecentLogs;
use crate::paths;
use crate::port::{PortError, Ports};
use crate::process;
use crate::ssh::{ControlDirectory, ControlError};
use crate::watch::Watcher;

/// What `portward run` is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
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
    /// Another daemon runs with the configuration.
    #[error(transparent)]
    Claimed(#[from] ClaimError),
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

/// Runs the daemon until SIGTERM or SIGINT; then stops every tunnel and leaves nothing behind, unless systemd restarts the service.
pub async fn run(options: Options) -> Result<End, RunError> {
    let logs = Arc::new(RecentLogs::default());
    // Without inotify the daemon runs all the same: the event loop reports what goes unnoticed.
    let watcher = Watcher::default();
    let mut config = ConfigWatch::new(&watcher, &options.config);
    let text = config.read_now().map_err(ConfigError::from)?;
    let wanted = config::accept(&text, &options.config).map_err(ConfigError::from)?;
    let _flush_at_end = log::start(options.log, logs.clone())?;
    // Before anything is made that the other daemon might have made.
    let _claim = claim(&options.config)?;

    for (name, instead) in config::unread_variables(&wanted.desired, &options.config) {
        tracing::warn!(event = "warning", "{name} is set, and portward does not read it: {instead}");
    }

    let socket = options.socket.or_else(|| wanted.desired.api.socket.clone()).unwrap_or_else(paths::socket);
    // Stays what it is when the working directory changes, and events name whole paths.
    let socket = std::path::absolute(&socket).unwrap_or(socket);
    make_directory(&socket)?;
    let listeners = Listeners::bind(&socket, wanted.desired.api.tcp.as_ref())?;
    let ports = Ports::new()?;
    let control_directory = paths::control_directory(&socket);
    let control = ControlDirectory::open(&watcher, &control_directory)?;

    // Whoever has started portward may have blocked signals, and none of them stops it then.
    SigSet::all().thread_unblock().map_err(|errno| RunError::Signals(errno.into()))?;
    process::limits::raise_open_files();
    process::become_subreaper().map_err(RunError::Subreaper)?;
    let children = signal(SignalKind::child()).map_err(RunError::Signals)?;
    tokio::spawn(process::look_after_children(children));

    let examine = {
        let (config, socket) = (options.config.clone(), socket.clone());
        Examine::new(move |query| {
            let (config, socket) = (config.clone(), socket.clone());
            doctor::examine(Order { config, socket, reader: query.uid, by: By::Daemon })
        })
    };
    let (daemon, handle) = Daemon::new(Resources {
        config_path: options.config,
        config,
        ports,
        control,
        control_directory,
        socket: listeners.socket(),
        logs,
        watcher,
        network: Network::watch(),
    });
    let (end_api, api_ends) = oneshot::channel::<()>();
    let serving = tokio::spawn(api::serve(listeners, handle, examine, async {
        // A dropped sender is the end as well.
        let _ = api_ends.await;
    }));
    let result = daemon.run(wanted).await;
    if matches!(result, Ok(End::HandedOver)) {
        return Ok(End::HandedOver);
    }
    drop(end_api);
    // A panic of the API's task was reported by the panic hook.
    let _ = serving.await;
    result.map_err(RunError::Signals)
}

/// Claims the configuration. Where the kernel does not say who else has it, the daemon runs all the same: it takes no port that is
/// held.
fn claim(config: &Path) -> Result<Option<Claim>, ClaimError> {
    match Claim::on(config) {
        Ok(claim) => Ok(Some(claim)),
        Err(error @ ClaimError::AlreadyRunning { .. }) => Err(error),
        Err(error @ ClaimError::Unknown { .. }) => {
            tracing::warn!(event = "warning", "{error}");
            Ok(None)
        }
    }
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
