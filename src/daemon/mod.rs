//! The daemon: one event loop owns all state, carries out the core's actions and publishes snapshots.

mod actions;
mod attempt;
mod attend;
mod broken;
mod checks;
mod command_attempt;
mod command_line;
mod connections;
mod counts;
mod effects;
mod elsewhere;
mod entry;
mod event_loop;
mod forwards;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod handle;
mod health;
mod held;
mod holding;
mod hook;
mod hooks;
mod inherit;
mod launch;
mod leave;
mod links;
mod listening;
mod logins;
mod metrics;
mod narrate;
mod network;
mod predecessor;
mod probe;
mod publish;
mod published;
mod record;
mod record_file;
mod reload;
mod remote_port;
mod reporter;
mod runs;
mod runtime;
mod server_side;
mod shares;
mod ssh_attempt;
mod ssh_start;
mod stale;
mod tally;
mod timers;
mod unix_listener;
mod upkeep;
mod waiter;
mod warnings;
mod ways;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{broadcast, mpsc};

use crate::clock::Clock;
use crate::config::{Accepted, ConfigWatch};
use crate::network::Network;
use crate::observe::recent::RecentLogs;
use crate::port::Ports;
use crate::socket::Socket;
use crate::ssh::ControlDirectory;
use crate::watch::Watcher;
use counts::Metrics;
use effects::Effects;
use event_loop::{EventLoop, State};
use handle::Handle;
pub use leave::End;
use runtime::Runtime;

/// Changes that a slow follower of `/events` may fall behind before it is sent a new snapshot instead.
const CHANGES_KEPT: usize = 1024;

/// Requests that may wait for the event loop.
const COMMANDS_QUEUED: usize = 64;

/// What the daemon is handed.
#[derive(Debug)]
pub struct Resources {
    /// Path of the configuration file.
    pub config_path: PathBuf,
    /// The configuration file, as it is edited.
    pub config: ConfigWatch,
    /// The kernel's knowledge of ports.
    pub ports: Ports,
    /// Where ssh's control sockets are.
    pub control: ControlDirectory,
    /// The path of that directory.
    pub control_directory: PathBuf,
    /// The socket that clients use, to make it again when its file is gone.
    pub socket: Arc<Socket>,
    /// The recent log lines of each tunnel.
    pub logs: Arc<RecentLogs>,
    /// Reports changes in the runtime directory.
    pub watcher: Watcher,
    /// The kernel's reports about the network and the clock.
    pub network: Network,
}

/// The daemon, before its event loop runs.
#[derive(Debug)]
pub struct Daemon(EventLoop);

impl Daemon {
    /// A daemon, and the handle by which it is asked.
    pub fn new(resources: Resources) -> (Self, Handle) {
        let Resources {
            config_path,
            config,
            ports,
            control,
            control_directory,
            socket,
            logs,
            watcher,
            network,
        } = resources;
        let (report, events) = mpsc::unbounded_channel();
        let (commands_in, commands) = mpsc::channel(COMMANDS_QUEUED);
        let changes = broadcast::Sender::new(CHANGES_KEPT);
        let handle = Handle::new(commands_in, changes.clone(), logs.clone());
        let event_loop = EventLoop {
            clock: Clock::start(),
            effects: Effects::new(ports, control, watcher.clone()),
            events,
            report,
            commands,
            changes,
            logs,
            config_path,
            config,
            runtime: Runtime::new(&watcher, socket, &control_directory),
            network,
            metrics: Metrics::default(),
            state: State::default(),
        };
        (Self(event_loop), handle)
    }

    /// Keeps the tunnels of `wanted` up until SIGTERM or SIGINT, then stops them, or leaves them to the next run; fails if signals cannot
    /// be received.
    pub async fn run(self, wanted: Accepted) -> io::Result<End> {
        self.0.run(wanted).await
    }
}
