//! The configuration: file -> raw -> desired.
//!
//! [`parse`] builds a tree that knows its places (`node`), reads the raw types from it (`raw`, `read`), and checks
//! them (`validate`, `entry`, `overlap`). Every step reports to the same list of problems, so that a person sees all
//! of them at once.

mod address;
mod autossh_tunnel;
pub mod desired;
mod diagnose;
pub mod edit;
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
mod owners;
mod paths;
mod raw;
mod read;
mod secrets;
mod shell;
mod slips;
mod ssh;
pub mod ssh_options;
pub mod store;
mod syntax;
mod validate;
mod values;
mod watch;
mod work;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

pub use autossh_tunnel::unread_variables;
use desired::Broken;
pub use desired::Desired;
pub use diagnose::{Diagnostic, Diagnostics, Place};
use entry::Sketch;
pub use file::ReadError;
pub use raw::schema;
use validate::Validated;
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
    match accept_for(source, path, home)? {
        Accepted { desired, problems: None, .. } => Ok(desired),
        Accepted { problems: Some(problems), .. } => Err(problems),
    }
}

/// What a daemon makes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// What is valid in it, and the entries that are not.
    pub desired: Desired,
    /// All that is wrong with those entries; `None`: nothing is.
    pub problems: Option<Diagnostics>,
    /// Whether the file is empty, or holds comments only.
    pub says_nothing: bool,
}

/// Why a file that says nothing is not put in force, nor edited, where there are tunnels: an editor or a full disk may have left it
/// like that.
#[derive(Debug, thiserror::Error)]
#[error("{} is empty: write `tunnels: []` if there are to be no tunnels any more", .0.display())]
pub struct Emptied(pub PathBuf);

/// Reads the same for a daemon, which runs what is valid. Refused is a file that is wrong as a whole (its syntax, `defaults`, `api`),
/// or in every entry.
pub fn accept(source: &str, path: &Path) -> Result<Accepted, Diagnostics> {
    accept_for(source, path, crate::paths::home().as_deref())
}

fn accept_for(source: &str, path: &Path, home: Option<&Path>) -> Result<Accepted, Diagnostics> {
    let problems = diagnose::Problems::default();
    let validated = validate::validated(source, path, home, &problems);
    let found = problems.into_sorted();
    let all = Diagnostics::new(path, source, found.clone());
    let Some(Validated { mut tunnels, entries, list, ssh_standard, api }) = validated else {
        return Err(all);
    };
    let (says_nothing, version) = (list.is_none(), identity::digest(source));
    if found.is_empty() {
        let tunnels = tunnels.into_iter().map(|(_, tunnel)| tunnel).collect();
        let desired = Desired { tunnels, broken: Vec::new(), ssh_standard, api, version };
        return Ok(Accepted { desired, problems: None, says_nothing });
    }
    // Those that were not kept may be of any entry.
    let is_whole = all.are_all();
    let Some(wrong) = list.filter(|_| is_whole).and_then(|list| owners::by_entry(&list, found)) else {
        return Err(all);
    };
    tunnels.retain(|(index, _)| !wrong.contains_key(index));
    if tunnels.is_empty() {
        return Err(all);
    }
    let tunnels: Vec<desired::Tunnel> = tunnels.into_iter().map(|(_, tunnel)| tunnel).collect();
    let broken = broken(&tunnels, entries, wrong, &all);
    Ok(Accepted {
        desired: Desired { tunnels, broken, ssh_standard, api, version },
        problems: Some(all),
        says_nothing,
    })
}

/// The entries that have problems, with names and hashes that nothing else has.
fn broken(
    tunnels: &[desired::Tunnel],
    entries: Vec<Sketch>,
    mut wrong: BTreeMap<usize, Vec<Diagnostic>>,
    all: &Diagnostics,
) -> Vec<Broken> {
    let mut names: HashSet<String> = tunnels.iter().map(|tunnel| tunnel.name.clone()).collect();
    let mut hashes: HashSet<String> = tunnels.iter().map(|tunnel| tunnel.hash.clone()).collect();
    let mut broken = Vec::new();
    for (index, Sketch { mut name, mut hash, log_id, written, interactive }) in
        entries.into_iter().enumerate()
    {
        let Some(problems) = wrong.remove(&index) else { continue };
        let line = problems.first().map_or(0, |problem| problem.place.line);
        if !names.insert(name.clone()) {
            name = format!("{name} (line {line})");
            names.insert(name.clone());
        }
        if !hashes.insert(hash.clone()) {
            hash = identity::another_hash(&hash, line);
        }
        let shown = all.only(problems).without_secrets();
        let hint = shown.problems.first().and_then(|first| first.hint.as_ref());
        let error = hint.map_or_else(|| shown.to_string(), |hint| format!("{shown}: {hint}"));
        broken.push(Broken { name, hash, log_id, written, interactive, error });
    }
    broken
}

#[cfg(test)]
mod tests;
