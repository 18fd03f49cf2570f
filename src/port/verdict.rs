//! Which sockets keep an endpoint from being bound: the kernel's own rules of conflict, applied to its rows. Pure.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6};

use super::endpoint::{Coverage, Endpoint, Listener, Protocol};
use super::held::{HeldBy, HoldKind};
use super::wire::{Family, SocketRow, SocketState};

/// `LOOPBACK4_IPV6`: the IPv4 address that an IPv6 connection has in the kernel's eyes, unless its socket is v6only.
const V4_OF_V6_CONNECTIONS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);

/// A socket that may be in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Obstacle {
    /// What is reported about it.
    pub(super) held: HeldBy,
    /// What it is bound to, to be tried.
    place: Endpoint,
}

/// A trial bind that fails because of `obstacles`, and because of nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Probe<'o> {
    /// What to try.
    pub(super) endpoint: Endpoint,
    /// Sockets at one address: either all of them let our bind pass, or they do not. One without SO_REUSEADDR could not have
    /// joined those that have it, nor they it.
    pub(super) obstacles: Vec<&'o Obstacle>,
}

/// Whether `row`, which is of the endpoint's protocol, may have its port at one of its addresses.
pub(super) fn overlaps(endpoint: &Endpoint, row: &SocketRow) -> bool {
    endpoint.overlaps(&place(endpoint, row)) && same_interface(endpoint, row)
}

/// Two sockets that are bound to different interfaces do not meet. An endpoint has one if it is link-local.
fn same_interface(endpoint: &Endpoint, row: &SocketRow) -> bool {
    match endpoint.address {
        SocketAddr::V6(address) if address.scope_id() != 0 && row.interface != 0 => {
            address.scope_id() == row.interface
        }
        _ => true,
    }
}

/// The families of sockets that can be in the way of `endpoint`.
pub(super) fn families(endpoint: &Endpoint) -> &'static [Family] {
    let coverage = endpoint.coverage();
    // A dual-stack IPv6 socket may take an IPv4 address, but not the other way round.
    if coverage.v4.is_some() { &[Family::V4, Family::V6] } else { &[Family::V6] }
}

/// The addresses to look up the listener of `endpoint` at. A dual-stack IPv6 socket is found under an IPv4 address as well.
pub(super) fn lookups(endpoint: &Endpoint) -> impl Iterator<Item = SocketAddr> {
    let Coverage { v4, v6 } = endpoint.coverage();
    let port = endpoint.port();
    let v4 = v4.map(|address| SocketAddr::new(address.into(), port));
    let v6 = v6.map(|address| match endpoint.address {
        SocketAddr::V6(own) => SocketAddrV6::new(address, port, 0, own.scope_id()).into(),
        SocketAddr::V4(_) => SocketAddr::new(address.into(), port),
    });
    v4.into_iter().chain(v6)
}

/// The listeners among `rows` that hold `endpoint`. A listener always does: it neither shares with, nor yields to, a socket
/// that has SO_REUSEADDR alone.
pub(super) fn listeners_on(endpoint: &Endpoint, rows: &[SocketRow]) -> Vec<Obstacle> {
    let listening = rows.iter().filter(|row| row.state == SocketState::Listening);
    listening.filter(|row| overlaps(endpoint, row)).filter_map(|row| obstacle(endpoint, row)).collect()
}

/// The sockets among `rows` that may explain why a trial bind of `endpoint` failed. Where one listens, the connections that
/// it has accepted are no explanation.
pub(super) fn obstacles(endpoint: &Endpoint, rows: &[SocketRow]) -> Vec<Obstacle> {
    let listening = listeners_on(endpoint, rows);
    if !listening.is_empty() {
        return listening;
    }
    rows.iter().filter(|row| overlaps(endpoint, row)).filter_map(|row| obstacle(endpoint, row)).collect()
}

/// The trial binds that show which of `obstacles` are in the way, in rounds; when one proves something, the next is not
/// needed. None if there is nothing to distinguish.
///
/// Wildcards come first, for they are in the way of every definite address as well.
pub(super) fn probes(obstacles: &[Obstacle]) -> Vec<Vec<Probe<'_>>> {
    let certain = |obstacle: &Obstacle| {
        obstacle.held.kind == HoldKind::Listener || obstacle.held.endpoint.protocol == Protocol::Udp
    };
    let mut places: BTreeMap<(Coverage, u32), Vec<&Obstacle>> = BTreeMap::new();
    for obstacle in obstacles {
        let coverage = obstacle.place.coverage();
        places.entry((coverage, scope(obstacle.place.address))).or_default().push(obstacle);
    }
    if places.len() < 2 || obstacles.iter().any(certain) {
        return Vec::new();
    }
    let (mut wildcards, mut definite) = (Vec::new(), Vec::new());
    for ((coverage, _), obstacles) in places {
        let place = obstacles[0].place;
        match coverage.nobodys() {
            Some(address) => {
                let endpoint = Endpoint::new(address, place.port());
                wildcards.push(Probe { endpoint, obstacles });
            }
            None => definite.push(Probe { endpoint: place, obstacles }),
        }
    }
    vec![wildcards, definite]
}

/// What is reported if a trial bind fails and no row explains it.
pub(super) fn unexplained(endpoint: &Endpoint) -> Obstacle {
    without_row(endpoint, HoldKind::Unexplained)
}

/// What is reported if this machine does not have the address.
pub(super) fn no_address(endpoint: &Endpoint) -> Obstacle {
    without_row(endpoint, HoldKind::NoAddress)
}

fn without_row(endpoint: &Endpoint, kind: HoldKind) -> Obstacle {
    let held = HeldBy {
        endpoint: *endpoint,
        bound: endpoint.address,
        kind,
        inode: 0,
        uid: 0,
        cookie: 0,
        cgroup: None,
    };
    Obstacle { held, place: *endpoint }
}

/// `row` as a socket that serves its port.
pub(super) fn listener(row: &SocketRow, protocol: Protocol) -> Listener {
    Listener { address: row.local, v6only: row.v6only, protocol, inode: row.inode, uid: row.uid }
}

/// `None` for a handshake: only its listener has the port.
fn obstacle(endpoint: &Endpoint, row: &SocketRow) -> Option<Obstacle> {
    let kind = match row.state {
        SocketState::Listening => HoldKind::Listener,
        SocketState::Bound => HoldKind::Bound,
        SocketState::Connected => HoldKind::Connection,
        SocketState::TimeWait(left) => HoldKind::TimeWait(left),
        SocketState::Handshake => return None,
    };
    let held = HeldBy {
        endpoint: *endpoint,
        bound: row.local,
        kind,
        inode: row.inode,
        uid: row.uid,
        cookie: row.cookie,
        cgroup: row.cgroup,
    };
    Some(Obstacle { held, place: place(endpoint, row) })
}

/// Where `row` may meet `endpoint`.
fn place(endpoint: &Endpoint, row: &SocketRow) -> Endpoint {
    // The kernel does not report whether a connection's socket is v6only.
    let is_connection = matches!(row.state, SocketState::Connected | SocketState::TimeWait(_));
    let wanted = endpoint.coverage();
    let own = Coverage::of(row.local.ip(), row.v6only);
    let address = match row.local {
        local if is_connection && wanted.v6.is_none() && own.v6.is_some() => {
            SocketAddr::new(V4_OF_V6_CONNECTIONS.into(), local.port())
        }
        SocketAddr::V6(local) if local.ip().is_unicast_link_local() => {
            SocketAddrV6::new(*local.ip(), local.port(), 0, row.interface).into()
        }
        local => local,
    };
    Endpoint { address, v6only: row.v6only, protocol: endpoint.protocol }
}

/// Index of the interface that the address belongs to; 0 for none.
fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V6(address) => address.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

#[cfg(test)]
mod tests;
