//! The configuration: file -> raw -> desired.
//!
//! [`parse`] builds a tree that knows its places (`node`), reads the raw types from it (`raw`, `read`), and checks
//! them (`validate`, `entry`, `overlap`). Every step reports to the same list of problems, so that a person sees all
//! of them at once.

mod address;
pub mod desired;
mod diagnose;
mod entry;
mod file;
mod identity;
mod located;
mod merge;
mod node;
mod overlap;
mod paths;
mod raw;
mod read;
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
pub use watch::{ConfigWatch, WatchError};

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

/// Reads and checks the file `path`.
pub fn load(path: &Path) -> Result<Desired, ConfigError> {
    Ok(parse(&file::read(path)?, path)?)
}

/// Checks `source`, the text of the file `path`: paths in it are relative to where that file lies.
pub fn parse(source: &str, path: &Path) -> Result<Desired, Diagnostics> {
    let problems = diagnose::Problems::default();
    let desired = validate::desired(source, path, &problems);
    match (desired, problems.into_sorted()) {
        (Some(desired), problems) if problems.is_empty() => Ok(desired),
        (_, problems) => Err(Diagnostics::new(path, source, problems)),
    }
}

#[cfg(test)]
mod tests;
