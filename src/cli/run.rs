//! `portward run`.

use std::path::PathBuf;

use super::arguments::RunArguments;
use super::check;
use super::failure::Failed;
use crate::config::ConfigError;
use crate::daemon::End;
use crate::paths;
use crate::run::{self, Options, RunError};

/// Runs the daemon until it is told to end.
pub(super) async fn run(arguments: RunArguments, socket: Option<PathBuf>) -> Result<(), Failed> {
    let config = arguments.config.unwrap_or_else(paths::config);
    // Whoever asks the daemon for its path is elsewhere.
    let config = std::path::absolute(&config).unwrap_or(config);
    match run::run(Options { config, socket, log: arguments.log }).await {
        Ok(End::Stopped) => Ok(()),
        Ok(End::HandedOver) => std::process::exit(0),
        // What a service says is in the journal, which others than the readers of the file may read.
        Err(RunError::Config(ConfigError::Invalid(found))) => {
            Err(check::refused(&ConfigError::Invalid(found.without_secrets())))
        }
        Err(RunError::Config(error)) => Err(check::refused(&error)),
        Err(error) => Err(Failed::NotDone(error.to_string())),
    }
}
