//! `portward check`.

use std::path::Path;

use super::arguments::CheckArguments;
use super::failure::Failed;
use super::output;
use crate::config::{self, ConfigError, Desired};
use crate::{doctor, paths, text};

/// Says whether a configuration is valid, and if not, why. What may be right by the time that a tunnel needs it is a warning.
///
/// A file that a service of the system reads is judged for that service: `~/` is its user's home directory then.
pub(super) async fn check(arguments: CheckArguments) -> Result<(), Failed> {
    let path = arguments.file.unwrap_or_else(paths::config);
    let ours = config::load(&path);
    let depends = depends_on_home(&path, &ours);
    let runner = if depends { doctor::runner_of(&path).await } else { None };
    let (judged, whose) = match runner {
        Some(runner) => (config::load_for(&path, runner.home.as_deref()), Some((runner.name, runner.home))),
        None => (ours, depends.then(|| ("the user of this command".to_owned(), paths::home()))),
    };
    match judged {
        Ok(desired) => {
            let count = match desired.tunnels.len() {
                1 => "1 tunnel".to_owned(),
                count => format!("{count} tunnels"),
            };
            let home = whose.map_or_else(String::new, |(name, home)| {
                let home = home.map_or_else(|| "unknown".to_owned(), |home| home.display().to_string());
                format!("; judged for {name}, whose `~/` is {home}")
            });
            let path = path.display().to_string();
            for line in doctor::unusable_identity_files(&desired) {
                output::complain(&format!("warning: {}; `portward doctor` shows the fix", text::line(&line)));
            }
            Ok(output::print(&text::line(&format!("{path} is valid: {count}{home}")))?)
        }
        Err(error) => Err(refused(&error)),
    }
}

/// Whether the file says something else for a user with another home directory.
fn depends_on_home(path: &Path, ours: &Result<Desired, ConfigError>) -> bool {
    match (ours, config::load_for(path, None)) {
        (Ok(ours), Ok(without)) => *ours != without,
        (Err(ConfigError::Invalid(ours)), Err(ConfigError::Invalid(without))) => {
            ours.render(false) != without.render(false)
        }
        (Err(ConfigError::Read(_)), _) | (_, Err(ConfigError::Read(_))) => false,
        (Ok(_), Err(ConfigError::Invalid(_))) | (Err(ConfigError::Invalid(_)), Ok(_)) => true,
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
