//! The six keys of a tunnel that the clients of autossh-tunnel know.

use super::super::desired::{Tunnel, Work, Written};
use super::super::identity;
use super::change::is_same_port;
use super::{Change, EditError};

/// What a client wants a tunnel to be; `None`: it does not say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fields {
    /// The hash of the tunnel that is meant, as the client was told it.
    pub hash: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// Its destination.
    pub remote_host: Option<String>,
    /// As in the file.
    pub remote_port: Option<String>,
    /// As in the file.
    pub local_port: Option<String>,
    /// As in the file.
    pub direction: Option<String>,
    /// Whether a person must authenticate.
    pub interactive: Option<bool>,
}

/// What autossh-tunnel calls tunnels without a name.
const UNNAMED: &str = "unnamed";

/// Whether the clients of autossh-tunnel can say all that there is to say of where the tunnel leads: they leave out others when they
/// save all tunnels.
pub(super) fn is_known_to_clients(tunnel: &Tunnel) -> bool {
    match &tunnel.work {
        Work::Ssh(_) => !tunnel.written.remote_port.is_empty(),
        Work::Command(_) => false,
    }
}

/// Whether a text that is wanted is the same as the one that is written.
type Same<'s> = &'s dyn Fn(&str, &str) -> bool;

impl Fields {
    /// The keys of a new tunnel.
    pub(super) fn complete(&self, place: &str) -> Result<Vec<Change>, EditError> {
        let required = [
            ("name", &self.name),
            ("remote_host", &self.remote_host),
            ("remote_port", &self.remote_port),
            ("local_port", &self.local_port),
        ];
        let mut changes = Vec::new();
        for (key, value) in required {
            match value.as_deref() {
                None | Some("") => return Err(EditError::Missing(place.to_owned())),
                Some(UNNAMED) if key == "name" => {}
                Some(value) => changes.push(Change::new(key, value)?),
            }
        }
        changes.extend(self.direction.as_deref().map(|word| Change::new("direction", word)).transpose()?);
        let interactive = self.interactive.map(|flag| Change::new("interactive", &flag.to_string()));
        changes.extend(interactive.transpose()?);
        Ok(changes)
    }

    /// The keys of `tunnel` that are to change. A name that was derived is not written: it would change the hash.
    pub(super) fn differences(
        &self,
        tunnel: &Tunnel,
        is_named: bool,
        place: &str,
    ) -> Result<Vec<Change>, EditError> {
        let Written { remote_host, remote_port, local_port, direction } = &tunnel.written;
        let is_same_text = |one: &str, other: &str| one == other;
        let is_same_name = |one: &str, other: &str| one == other || (!is_named && one == UNNAMED);
        let texts: [(&str, &Option<String>, &str, Same<'_>); 5] = [
            ("name", &self.name, &tunnel.name, &is_same_name),
            ("remote_host", &self.remote_host, remote_host, &is_same_text),
            ("remote_port", &self.remote_port, remote_port, &is_same_port),
            ("local_port", &self.local_port, local_port, &is_same_port),
            ("direction", &self.direction, direction, &is_same_text),
        ];
        let mut changes = Vec::new();
        for (key, wanted, written, is_same) in texts {
            match wanted.as_deref() {
                Some(wanted) if !is_same(wanted, written) => {
                    if wanted.is_empty() {
                        return Err(EditError::Missing(place.to_owned()));
                    }
                    changes.push(Change::new(key, wanted)?);
                }
                Some(_) | None => {}
            }
        }
        if let Some(interactive) = self.interactive.filter(|wanted| *wanted != tunnel.interactive) {
            changes.push(Change::new("interactive", &interactive.to_string())?);
        }
        Ok(changes)
    }

    /// Whether this is `tunnel` by its hash: as told, or as it is computed from all fields.
    pub(super) fn has_hash_of(&self, tunnel: &Tunnel) -> bool {
        let is_told = self.hash.as_ref() == Some(&tunnel.hash);
        is_told || self.hashes().is_some_and(|hashes| hashes.contains(&tunnel.hash))
    }

    /// Whether it has the name of `tunnel`.
    pub(super) fn has_name_of(&self, tunnel: &Tunnel) -> bool {
        self.name.as_ref() == Some(&tunnel.name)
    }

    /// Whether it forwards what `tunnel` does, under another name.
    pub(super) fn forwards_as(&self, tunnel: &Tunnel) -> bool {
        self.written().is_some_and(|written| identity::log_id(&written) == tunnel.log_id)
    }

    fn written(&self) -> Option<Written> {
        Some(Written {
            remote_host: self.remote_host.clone()?,
            remote_port: self.remote_port.clone()?,
            local_port: self.local_port.clone()?,
            direction: self.direction.clone().unwrap_or_else(|| "remote_to_local".to_owned()),
        })
    }

    fn hashes(&self) -> Option<[String; 2]> {
        let (written, interactive) = (self.written()?, self.interactive.unwrap_or(false));
        Some([self.name.as_deref(), None].map(|name| identity::hash(name, &written, interactive)))
    }
}
