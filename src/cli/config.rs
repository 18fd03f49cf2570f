//! `portward config`: the file is read and changed here, whether a daemon runs or not. One that runs notices.

use std::fmt::Write as _;
use std::path::Path;

use super::arguments::{Assignment, ConfigAction, ConfigArguments};
use super::check;
use super::failure::Failed;
use super::output;
use crate::config::desired::{Desired, Tunnel};
use crate::config::edit::{Change, Document, Edit, EditError, Edited};
use crate::config::store::{self, StoreError};
use crate::config::{self, ConfigError};
use crate::protocol::autossh_tunnel::{Configuration, Configured};
use crate::protocol::{LookupError, find, position};
use crate::{paths, shell, text};

/// Shows the configuration, or changes it.
pub(super) fn config(arguments: ConfigArguments) -> Result<(), Failed> {
    let path = arguments.config.unwrap_or_else(paths::config);
    let path = path.as_path();
    let said = match arguments.action {
        ConfigAction::Get { tunnel, json } => get(path, tunnel.as_deref(), json)?,
        ConfigAction::Set { tunnel, values } => {
            let changes = changes(&values)?;
            edit(path, |document| {
                let index = position(document.tunnels(), &tunnel)?;
                let edited = document.apply(&[Edit::Set(index, changes)])?;
                let name = edited.desired.tunnels[index].name.clone();
                Ok((edited, format!("{name} is changed")))
            })?
        }
        ConfigAction::Add { values } => {
            let changes = changes(&values)?;
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
    let Configured { name, remote_host, remote_port, local_port, direction, interactive, hash: _ } =
        tunnel.into();
    let mut lines = format!("name={}", shell::word(&name));
    let texts = [("remote_host", remote_host), ("remote_port", remote_port), ("local_port", local_port)];
    for (key, value) in texts.into_iter().filter(|(_, value)| !value.is_empty()) {
        // Writing to a string cannot fail.
        let _ = write!(lines, "\n{key}={}", shell::word(&value));
    }
    let enabled = tunnel.enabled;
    let _ = write!(lines, "\ndirection={direction}\ninteractive={interactive}\nenabled={enabled}");
    lines
}

fn changes(values: &[Assignment]) -> Result<Vec<Change>, Failed> {
    let change = |value: &Assignment| Change::new(&value.key, &value.value);
    values.iter().map(change).collect::<Result<_, _>>().map_err(|error| Failed::NotDone(error.to_string()))
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
    let text = store::read_copy(path, copy)?;
    let written = store::update(
        path,
        |_| true,
        |_| {
            let Desired { tunnels, .. } = config::parse(&text, path)?;
            Ok::<_, Unchanged>((text, tunnels.len()))
        },
    )?;
    let count = match written.result {
        1 => "1 tunnel".to_owned(),
        count => format!("{count} tunnels"),
    };
    Ok(format!("{}: {copy} is restored, {count}", path.display()))
}
