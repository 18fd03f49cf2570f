//! `portward check`.

use std::path::PathBuf;

use super::arguments::CheckArguments;
use super::failure::Failed;
use super::output;
use crate::config::{self, ConfigError};
use crate::daemon::paths;
use crate::doctor;
use crate::text;

/// Says whether a configuration is valid, and if not, why. What may be right by the time that a tunnel needs it is a warning.
pub(super) async fn check(arguments: CheckArguments, socket: Option<PathBuf>) -> Result<(), Failed> {
    let path = arguments.file.unwrap_or_else(paths::default_config);
    match config::load(&path) {
        Ok(desired) => {
            let count = match desired.tunnels.len() {
                1 => "1 tunnel".to_owned(),
                count => format!("{count} tunnels"),
            };
            let path = path.display().to_string();
            for line in doctor::unusable_identity_files(&desired, socket).await {
                output::complain(&format!("warning: {}; `portward doctor` shows the fix", text::line(&line)));
            }
            Ok(output::print(&format!("{} is valid: {count}", text::line(&path)))?)
        }
        Err(error) => Err(refused(&error)),
    }
}

/// Shows what is wrong with a configuration, every error with its line.
pub(super) fn refused(error: &ConfigError) -> Failed {
    match error {
        ConfigError::Read(error) => Failed::NotDone(error.to_string()),
        ConfigError::Invalid(diagnostics) => {
            output::complain(&diagnostics.render(true));
            Failed::Said
        }
    }
}
