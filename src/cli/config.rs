//! `portward config`: the file is read and changed here, whether a daemon runs or not. One that runs notices.

use std::path::Path;

use super::arguments::{Assignment, ConfigAction, ConfigArguments};
use super::check;
use super::failure::Failed;
use super::output;
use crate::config::desired::{Desired, Tunnel, Work};
use crate::config::edit::{Change, Document, Edit, EditError, Edited};
use crate::config::store::{self, StoreError};
use crate::config::{self, ConfigError, identity};
use crate::protocol::autossh_tunnel::{Configuration, Configured};
use crate::protocol::{LookupError, find, position};
use crate::{paths, shell, text};

/// Shows the configuration, or changes it.
pub(super) fn config(arguments: ConfigArguments) -> Result<(), Failed> {
    let path = arguments.config.unwrap_or_else(paths::config);
    let path = path.as_path();
    let said = match arguments.action {
        ConfigAction::Get { tunnel, json } => get(path, tunnel.as_deref(), json)?,
        ConfigAction::Set { tunnel, values } => edit(path, |document| {
            let index = position(document.tunnels(), &tunnel)?;
            let changes = changes(values.iter().filter(|value| !says(&document.tunnels()[index], value)))?;
            let edited = document.apply(&[Edit::Set(index, changes)])?;
            let name = edited.desired.tunnels[index].name.clone();
            Ok((edited, format!("{name} is changed")))
        })?,
        ConfigAction::Add { values } => {
            let changes = changes(&values).map_err(|error| Failed::NotDone(error.to_string()))?;
            edit(path, |document| {
                let edited = document.apply(&[Edit::Add(changes)])?;
                let name =
                    edited.desired.tunnels.last().map_or_else(String::new, |tunnel| tunnel.name.clone());
                Ok((edited, format!("{name} is added")))
            })?
        }
        ConfigAction::Remove { tunnel } => edit(path, |document| {
            let index = position(document.tunnels(), &tunnel)?;
            let name = document.tunnels()[index].name.clone();
            Ok((document.apply(&[Edit::Remove(index)])?, format!("{name} is removed")))
        })?,
        ConfigAction::Restore { copy: None } => copies(path)?,
        ConfigAction::Restore { copy: Some(copy) } => restore(path, &copy)?,
    };
    Ok(output::print(&text::lines(&said))?)
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
enum Unchanged {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Edit(#[from] EditError),
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error(transparent)]
    Copy(#[from] config::Diagnostics),
}

impl From<Unchanged> for Failed {
    fn from(error: Unchanged) -> Self {
        match error {
            // With every error and its line.
            Unchanged::Copy(problems) => check::refused(&ConfigError::Invalid(problems)),
            Unchanged::Store(_) | Unchanged::Edit(_) | Unchanged::Lookup(_) => {
                Self::NotDone(error.to_string())
            }
        }
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::NotDone(error.to_string())
    }
}

fn get(path: &Path, tunnel: Option<&str>, json: bool) -> Result<String, Failed> {
    let desired = config::load(path).map_err(|error| check::refused(&error))?;
    let tunnels: Vec<&Tunnel> = match tunnel {
        Some(id) => vec![find(&desired.tunnels, id)?],
        None => desired.tunnels.iter().collect(),
    };
    if json {
        let tunnels = tunnels.into_iter().map(Configured::from).collect();
        let shown = serde_json::to_string(&Configuration { tunnels });
        return shown.map(|json| text::json(&json)).map_err(|error| Failed::NotDone(error.to_string()));
    }
    Ok(tunnels.into_iter().map(assignments).collect::<Vec<_>>().join("\n\n"))
}

/// As `portward config set` takes it.
fn assignments(tunnel: &Tunnel) -> String {
    let lines = values(tunnel).into_iter().map(|(key, value)| format!("{key}={}", shell::word(&value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether the tunnel is like that already: a default is not written down then.
fn says(tunnel: &Tunnel, Assignment { key, value }: &Assignment) -> bool {
    values(tunnel).iter().any(|(known, is)| known == key && is == value)
}

/// What a tunnel says, and what holds for it by default. A name that was derived is not among that: written down, it would make
/// another tunnel of it.
fn values(tunnel: &Tunnel) -> Vec<(&'static str, String)> {
    let Configured { name, remote_host, remote_port, local_port, direction, interactive, hash: _ } =
        tunnel.into();
    let of_ssh = |value: String| matches!(tunnel.work, Work::Ssh(_)).then_some(value);
    let values = [
        ("name", identity::is_named(tunnel).then_some(name)),
        ("remote_host", of_ssh(remote_host)),
        ("remote_port", of_ssh(remote_port)),
        ("local_port", Some(local_port)),
        ("direction", of_ssh(direction)),
        ("interactive", of_ssh(interactive.to_string())),
        ("enabled", Some(tunnel.enabled.to_string())),
    ];
    values
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.filter(|value| !value.is_empty())?)))
        .collect()
}

fn changes<'v>(values: impl IntoIterator<Item = &'v Assignment>) -> Result<Vec<Change>, EditError> {
    values.into_iter().map(|value| Change::new(&value.key, &value.value)).collect()
}

fn edit(
    path: &Path,
    make: impl FnOnce(&Document<'_>) -> Result<(Edited, String), Unchanged>,
) -> Result<String, Failed> {
    let written = store::update(
        path,
        |_| true,
        |old| {
            let (edited, said) = make(&Document::open(old, path)?)?;
            let said = if edited.text == old { "nothing differs".to_owned() } else { said };
            Ok::<_, Unchanged>((edited.text, said))
        },
    )?;
    Ok(format!("{}: {}", path.display(), written.result))
}

fn copies(path: &Path) -> Result<String, Failed> {
    let copies = store::copies(path)?;
    if copies.is_empty() {
        return Err(Failed::NotDone(format!(
            "there is no copy of {}: one is kept of each that `portward config` and the API replace",
            path.display()
        )));
    }
    Ok(copies.join("\n"))
}

fn restore(path: &Path, copy: &str) -> Result<String, Failed> {
    // Its errors are at their places in the copy.
    let of_copy = store::path_of_copy(path, copy)?;
    let count = store::restore(path, copy, |text| match config::parse(text, path) {
        Ok(Desired { tunnels, .. }) => Ok(tunnels.len()),
        Err(mut problems) => {
            problems.path = of_copy;
            Err(Unchanged::Copy(problems))
        }
    })?;
    let count = match count {
        1 => "1 tunnel".to_owned(),
        count => format!("{count} tunnels"),
    };
    Ok(format!("{}: {copy} is restored, {count}", path.display()))
}
