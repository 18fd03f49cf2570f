//! The configuration: file -> raw -> desired.
//!
//! [`parse`] builds a tree that knows its places (`node`), reads the raw types from it (`raw`, `read`), and checks
//! them (`validate`, `entry`, `overlap`). Every step reports to the same list of problems, so that a person sees all
//! of them at once.

mod address;
pub mod desired;
mod diagnose;
mod entry;
pub mod environment;
mod file;
mod form;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod health;
mod hint;
pub(crate) mod identity;
mod located;
mod meant;
mod merge;
mod node;
mod overlap;
mod paths;
mod raw;
mod read;
mod secrets;
mod shell;
mod slips;
mod ssh;
pub mod ssh_options;
mod syntax;
mod validate;
mod values;
mod watch;
mod work;

use std::path::Path;

pub use desired::Desired;
pub use diagnose::{Diagnostic, Diagnostics, Place};
pub use file::ReadError;
pub use raw::schema;
pub use watch::ConfigWatch;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What it says is wrong.
    #[error(transparent)]
    Invalid(#[from] Diagnostics),
}

/// Reads and checks the file `path`, for a daemon that this process would be.
pub fn load(path: &Path) -> Result<Desired, ConfigError> {
    load_for(path, crate::paths::home().as_deref())
}

/// The same for a daemon of whose user the home directory is `home`.
pub fn load_for(path: &Path, home: Option<&Path>) -> Result<Desired, ConfigError> {
    Ok(parse_for(&file::read(path)?, path, home)?)
}

/// Checks `source`, the text of the file `path`: paths in it are relative to where that file lies, and `~/` is this user's
/// home directory.
pub fn parse(source: &str, path: &Path) -> Result<Desired, Diagnostics> {
    parse_for(source, path, crate::paths::home().as_deref())
}

fn parse_for(source: &str, path: &Path, home: Option<&Path>) -> Result<Desired, Diagnostics> {
    let problems = diagnose::Problems::default();
    let desired = validate::desired(source, path, home, &problems);
    match (desired, problems.into_sorted()) {
        (Some(desired), problems) if problems.is_empty() => Ok(desired),
        (_, problems) => Err(Diagnostics::new(path, source, problems)),
    }
}

#[cfg(test)]
mod tests;
