//! The links, as the event loop keeps them: each with the processes of its connections.

use std::collections::{BTreeMap, HashMap};

use super::connections::Connections;
use crate::config::desired::{self, Ssh, Work};
use crate::core::{Link, LinkId};

/// A link and its processes.
#[derive(Debug)]
pub(super) struct LinkEntry {
    pub(super) link: Link,
    pub(super) connections: Connections,
}

/// What tunnels that share connections have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Common {
    ssh: Ssh,
    fallback_hosts: Vec<String>,
    interactive: bool,
}

impl Common {
    /// `None`: the tunnel shares nothing.
    pub(super) fn of(tunnel: &desired::Tunnel) -> Option<Self> {
        match &tunnel.work {
            Work::Ssh(ssh) if tunnel.share => {
                let (ssh, fallback_hosts) = (ssh.ssh.clone(), tunnel.fallback_hosts.clone());
                Some(Self { ssh, fallback_hosts, interactive: tunnel.interactive })
            }
            Work::Ssh(_) | Work::Command(_) => None,
        }
    }
}

/// All links.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Boxed, for a node of the map has room for eleven.
    entries: BTreeMap<LinkId, Box<LinkEntry>>,
    shared: HashMap<Common, LinkId>,
}

impl Links {
    pub(super) fn get(&self, id: LinkId) -> Option<&LinkEntry> {
        self.entries.get(&id).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, id: LinkId) -> Option<&mut LinkEntry> {
        self.entries.get_mut(&id).map(Box::as_mut)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (LinkId, &LinkEntry)> {
        self.entries.iter().map(|(id, entry)| (*id, entry.as_ref()))
    }

    /// The link of the tunnels that share this.
    pub(super) fn shared(&self, common: &Common) -> Option<LinkId> {
        self.shared.get(common).copied()
    }

    /// Adds a link, for tunnels that share this from now on.
    pub(super) fn add(&mut self, id: LinkId, entry: LinkEntry, common: Option<Common>) {
        self.entries.insert(id, Box::new(entry));
        if let Some(common) = common {
            self.shared.insert(common, id);
        }
    }

    /// Forgets a link that serves no tunnel any more.
    pub(super) fn remove(&mut self, id: LinkId) {
        self.entries.remove(&id);
        self.shared.retain(|_, shared| *shared != id);
    }

    /// The tunnels of the link share something else from now on.
    pub(super) fn redefine(&mut self, id: LinkId, common: Option<Common>) {
        self.shared.retain(|_, shared| *shared != id);
        if let Some(common) = common {
            self.shared.insert(common, id);
        }
    }
}
