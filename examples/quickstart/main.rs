//! portward in eleven steps on this machine alone: `cargo run --release --example quickstart`.
//!
//! The daemon is the real one, in a process of its own, and so is `ssh`. Only the far end is embedded here: an SSH server
//! ([`ssh_server`]) and a web page behind it ([`origin`]). Everything listens on loopback and lives in a temporary directory.
//!
//! - [`steps`]: what is shown, in order, and what must be true of each step.
//! - [`stage`]: the temporary directory with its keys and its configuration file.
//! - [`daemon`]: this executable run again as `portward run`, its API ([`http`]) and its events ([`events`]).
//! - [`load`]: fetches the page all the while and counts.
//! - [`descendants`]: makes sure that no process is left, as the kernel sees it.

mod daemon;
mod descendants;
mod events;
mod http;
mod load;
mod origin;
mod ports;
mod report;
mod ssh_server;
mod stage;
mod steps;

use std::env;
use std::error::Error;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::report::Report;

/// What a step can fail with: a sentence for a person.
type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// First argument with which this executable is the daemon instead of the show.
const DAEMON_MODE: &str = "daemon";

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == DAEMON_MODE) {
        return portward::cli::run_from(std::iter::once("portward".into()).chain(arguments));
    }
    let mut report = Report::begun("portward, started, restarted and disturbed on this machine alone\n");
    match play(&mut report) {
        Ok(()) => {
            report.all_well();
            ExitCode::SUCCESS
        }
        Err(error) => {
            report.failed(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

fn play(report: &mut Report) -> Result<()> {
    descendants::adopt_orphans()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let interrupted = interrupted()?;
        steps::play_until(interrupted, report).await
    })
}

/// Ends when somebody wants this program to end: Ctrl-C, SIGTERM, a closed terminal.
fn interrupted() -> Result<impl Future<Output = &'static str>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            _ = hangup.recv() => "SIGHUP",
        }
    })
}
