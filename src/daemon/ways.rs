//! What a change of the network has left to each ssh that is connected to its server, or is being connected.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use tokio::task::spawn_blocking;

use super::connections::SshProcess;
use crate::core::ConnectionEvent;
use crate::network::Ways;
use crate::port::{Ports, holder};

/// The TCP sockets that are connected, by inode: own address, and the server's.
type Connected = HashMap<u32, (SocketAddr, SocketAddr)>;

/// One look at a time, from its beginning to its reports: so the last report is of the last look.
static LOOKING: Mutex<()> = Mutex::new(());

/// Reports for each of `processes` whether this machine has a way to its server, or has lost the address of the connection while there
/// is a way from another one. What cannot be found out counts as a way: then the server has to answer.
pub(super) fn find(ports: Ports, processes: Vec<SshProcess>) {
    if processes.is_empty() {
        return;
    }
    spawn_blocking(move || {
        let _looking = LOOKING.lock().unwrap_or_else(PoisonError::into_inner);
        let found = ports.connections().map_err(io::Error::other).and_then(|connected| {
            let ways = Ways::open()?;
            Ok((connected, ways))
        });
        let mut found = found.inspect_err(|error| tracing::debug!(%error, "ways to the servers"));
        for process in processes {
            let event = match &mut found {
                Ok((connected, ways)) => match connection_of(&process, connected) {
                    Some((own, server)) => left_of(own.ip(), server, &ports, ways),
                    None => ConnectionEvent::Reachable,
                },
                Err(_) => ConnectionEvent::Reachable,
            };
            process.reporter.report(process.connection, event);
        }
    });
}

/// The connection to the server: of ssh itself, or of the one process among those that it has started which has one (ProxyJump,
/// ProxyCommand).
fn connection_of(process: &SshProcess, connected: &Connected) -> Option<(SocketAddr, SocketAddr)> {
    // Before it is ready it has no others.
    let own = process.at_login.get().cloned().or_else(|| holder::sockets(process.pid)).unwrap_or_default();
    if let Some(connection) = own.iter().find_map(|inode| connected.get(inode)) {
        return Some(*connection);
    }
    let others = process.tree.as_ref()?.survivors().ok()?;
    let others = others.iter().map(|other| other.pid).filter(|pid| *pid != process.pid);
    let sockets: BTreeSet<u32> = others.filter_map(holder::sockets).flatten().collect();
    let mut connections = sockets.iter().filter_map(|inode| connected.get(inode));
    // Of several it is unknown which leads to the server.
    connections.next().filter(|_| connections.next().is_none()).copied()
}

/// What is left of a connection from `own` to `server`.
fn left_of(own: IpAddr, server: SocketAddr, ports: &Ports, ways: &mut Ways) -> ConnectionEvent {
    let server = server.ip();
    if matches!(server, IpAddr::V6(server) if server.is_unicast_link_local()) {
        // The interface, which the kernel does not report here, is a part of that address.
        return ConnectionEvent::Reachable;
    }
    let is_ours = ports.is_available(own);
    let from_own = if is_ours { ways.exists(Some(own), server) } else { Ok(false) };
    match from_own.and_then(|from_own| Ok(from_own || ways.exists(None, server)?)) {
        Ok(false) => ConnectionEvent::Unreachable,
        // Nobody can answer to an address that is gone. As long as there is no way from another one, it may come back first.
        Ok(true) if !is_ours => ConnectionEvent::AddressRemoved(own),
        // If it is only from another address, the server stays silent.
        Ok(true) => ConnectionEvent::Reachable,
        Err(error) => {
            tracing::debug!(%error, %own, %server, "the way to a server");
            if is_ours { ConnectionEvent::Reachable } else { ConnectionEvent::AddressRemoved(own) }
        }
    }
}
