//! Which sockets keep an endpoint from being bound: the kernel's own rules of conflict, applied to its rows. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::wire::{Family, SocketRow, SocketState};
use super::{Endpoint, HeldBy, HoldKind};

/// The addresses at which a socket takes its port, in each family; an unspecified one stands for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Coverage {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl Coverage {
    fn of(address: IpAddr, v6only: bool) -> Self {
        match address {
            IpAddr::V4(v4) => Self { v4: Some(v4), v6: None },
            IpAddr::V6(v6) if v6.is_unspecified() => {
                Self { v4: (!v6only).then_some(Ipv4Addr::UNSPECIFIED), v6: Some(v6) }
            }
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => Self { v4: Some(v4), v6: None },
                None => Self { v4: None, v6: Some(v6) },
            },
        }
    }

    fn overlaps(self, other: Self) -> bool {
        let v4 = self.v4.zip(other.v4);
        let v6 = self.v6.zip(other.v6);
        v4.is_some_and(|(one, two)| one == two || one.is_unspecified() || two.is_unspecified())
            || v6.is_some_and(|(one, two)| one == two || one.is_unspecified() || two.is_unspecified())
    }
}

/// Whether two endpoints have a port at an address in common.
pub(super) fn endpoints_overlap(one: &Endpoint, two: &Endpoint) -> bool {
    one.port() == two.port()
        && Coverage::of(one.address.ip(), one.v6only).overlaps(Coverage::of(two.address.ip(), two.v6only))
}

/// Whether `row` has the port of `endpoint` at one of its addresses.
pub(super) fn overlaps(endpoint: &Endpoint, row: &SocketRow) -> bool {
    endpoints_overlap(endpoint, &Endpoint { address: row.local, v6only: row.v6only })
        && same_interface(endpoint, row)
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
    let coverage = Coverage::of(endpoint.address.ip(), endpoint.v6only);
    // A dual-stack IPv6 socket may take an IPv4 address, but not the other way round.
    if coverage.v4.is_some() { &[Family::V4, Family::V6] } else { &[Family::V6] }
}

/// The listeners among `rows` that hold `endpoint`. A listener always does: it neither shares with, nor yields to, a socket
/// that has SO_REUSEADDR alone.
pub(super) fn listeners_on(endpoint: &Endpoint, rows: &[SocketRow]) -> Vec<HeldBy> {
    let listening = rows.iter().filter(|row| row.state == SocketState::Listening);
    listening.filter(|row| overlaps(endpoint, row)).filter_map(|row| held_by(endpoint, row)).collect()
}

/// The sockets among `rows` that explain why a trial bind of `endpoint` failed.
///
/// Rows do not tell whether a socket has SO_REUSEADDR, so that a single row may or may not be in the way. But sockets at
/// one address either let our bind pass, all of them, or do not: one without SO_REUSEADDR could not have joined those that
/// have it, nor they it. A failed trial therefore makes every overlapping row a holder.
pub(super) fn explain(endpoint: &Endpoint, rows: &[SocketRow]) -> Vec<HeldBy> {
    rows.iter().filter(|row| overlaps(endpoint, row)).filter_map(|row| held_by(endpoint, row)).collect()
}

/// What is said when a trial bind fails and there is no row to show for it.
pub(super) fn unexplained(endpoint: &Endpoint) -> HeldBy {
    HeldBy { endpoint: *endpoint, bound: endpoint.address, kind: HoldKind::Unexplained, inode: 0, uid: 0 }
}

/// `None` for a handshake: only its listener has the port.
fn held_by(endpoint: &Endpoint, row: &SocketRow) -> Option<HeldBy> {
    let kind = match row.state {
        SocketState::Listening => HoldKind::Listener,
        SocketState::Bound => HoldKind::Bound,
        SocketState::Connected => HoldKind::Connection,
        SocketState::TimeWait(left) => HoldKind::TimeWait(left),
        SocketState::Handshake => return None,
    };
    Some(HeldBy { endpoint: *endpoint, bound: row.local, kind, inode: row.inode, uid: row.uid })
}

#[cfg(test)]
mod tests;
