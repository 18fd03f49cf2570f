//! `GET /events`: a snapshot, then changes, as server-sent events.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::status::{Snapshot, TunnelStatus};

/// One event.
#[derive(Debug, Clone)]
pub enum Change {
    /// `snapshot`: everything, at first and for a client that fell behind.
    Snapshot(Snapshot),
    /// `tunnel`: the status of a tunnel changed.
    Tunnel(Arc<TunnelStatus>),
    /// `removed`: a tunnel is gone from the configuration.
    Removed {
        /// Its hash.
        hash: String,
    },
    /// `config`: the configuration was read again; `None`: it is in force.
    Config {
        /// Why it is not in force.
        error: Option<String>,
    },
    /// `warnings`: what portward itself cannot do for now; empty when there is nothing left.
    Warnings(Vec<String>),
}

/// Data of `removed`.
#[derive(Serialize, Deserialize)]
struct Removed<H> {
    hash: H,
}

/// Data of `config`.
#[derive(Serialize, Deserialize)]
struct ConfigRead<E> {
    error: Option<E>,
}

impl Change {
    /// Name of the event.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Snapshot(_) => "snapshot",
            Self::Tunnel(_) => "tunnel",
            Self::Removed { .. } => "removed",
            Self::Config { .. } => "config",
            Self::Warnings(_) => "warnings",
        }
    }

    /// Data of the event, as JSON.
    pub fn data(&self) -> serde_json::Result<String> {
        match self {
            Self::Snapshot(snapshot) => serde_json::to_string(snapshot),
            Self::Tunnel(status) => serde_json::to_string(&**status),
            Self::Removed { hash } => serde_json::to_string(&Removed { hash }),
            Self::Config { error } => serde_json::to_string(&ConfigRead { error: error.as_ref() }),
            Self::Warnings(warnings) => serde_json::to_string(warnings),
        }
    }

    /// Reads an event; `None`: this version does not know its name.
    pub fn parse(name: &str, data: &str) -> serde_json::Result<Option<Self>> {
        Ok(Some(match name {
            "snapshot" => Self::Snapshot(serde_json::from_str(data)?),
            "tunnel" => Self::Tunnel(Arc::new(serde_json::from_str(data)?)),
            "removed" => {
                let Removed { hash } = serde_json::from_str(data)?;
                Self::Removed { hash }
            }
            "config" => {
                let ConfigRead { error } = serde_json::from_str(data)?;
                Self::Config { error }
            }
            "warnings" => Self::Warnings(serde_json::from_str(data)?),
            _ => return Ok(None),
        }))
    }

    /// Brings `snapshot` up to date.
    pub fn apply(self, snapshot: &mut Snapshot) {
        match self {
            Self::Snapshot(new) => *snapshot = new,
            Self::Tunnel(status) => {
                let status = Arc::unwrap_or_clone(status);
                match snapshot.tunnels.iter_mut().find(|tunnel| tunnel.hash == status.hash) {
                    Some(tunnel) => *tunnel = status,
                    None => snapshot.tunnels.push(status),
                }
            }
            Self::Removed { hash } => snapshot.tunnels.retain(|tunnel| tunnel.hash != hash),
            Self::Config { error } => snapshot.config_error = error,
            Self::Warnings(warnings) => snapshot.warnings = warnings,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::tunnel;
    use super::*;
    use crate::core::StateName;

    #[test]
    fn an_event_is_read_as_it_was_written() {
        let snapshot = Snapshot { tunnels: vec![tunnel("web")], ..Snapshot::default() };
        let changes = [
            Change::Snapshot(snapshot),
            Change::Tunnel(Arc::new(tunnel("web"))),
            Change::Removed { hash: "a".to_owned() },
            Change::Config { error: None },
            Change::Config { error: Some("line 3".to_owned()) },
            Change::Warnings(vec!["no inotify".to_owned()]),
        ];
        for change in changes {
            let data = change.data().unwrap();
            let read = Change::parse(change.name(), &data).unwrap().unwrap();
            assert_eq!((read.name(), read.data().unwrap()), (change.name(), data));
        }
        assert!(Change::parse("weather", "fine").unwrap().is_none(), "an event of a later version");
        assert!(Change::parse("tunnel", "{}").is_err());
    }

    #[test]
    fn changes_add_up_to_a_snapshot() {
        let mut snapshot = Snapshot::default();
        let web = TunnelStatus { hash: "other".to_owned(), ..tunnel("web") };
        let down = TunnelStatus { state: StateName::Stopped, ..tunnel("database") };
        let first = Snapshot { tunnels: vec![tunnel("database")], ..Snapshot::default() };
        Change::Snapshot(first).apply(&mut snapshot);
        Change::Tunnel(Arc::new(web.clone())).apply(&mut snapshot);
        Change::Tunnel(Arc::new(down.clone())).apply(&mut snapshot);
        Change::Config { error: Some("bad".to_owned()) }.apply(&mut snapshot);
        Change::Warnings(vec!["no inotify".to_owned()]).apply(&mut snapshot);
        assert_eq!(snapshot.tunnels, [down, web.clone()]);
        assert_eq!((snapshot.config_error.as_deref(), snapshot.warnings.len()), (Some("bad"), 1));
        Change::Removed { hash: tunnel("database").hash }.apply(&mut snapshot);
        Change::Config { error: None }.apply(&mut snapshot);
        assert_eq!((snapshot.tunnels, snapshot.config_error), (vec![web], None));
    }
}
