//! `portward run`.

use std::path::PathBuf;

use super::arguments::RunArguments;
use super::check;
use super::failure::Failed;
use crate::paths;
use crate::run::{self, Options, RunError};

/// Runs the daemon until it is told to end.
pub(super) async fn run(arguments: RunArguments, socket: Option<PathBuf>) -> Result<(), Failed> {
    let config = arguments.config.unwrap_or_else(paths::config);
    run::run(Options { config, socket, log: arguments.log }).await.map_err(|error| match error {
        RunError::Config(error) => check::refused(&error),
        error => Failed::NotDone(error.to_string()),
    })
}
