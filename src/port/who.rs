//! Who holds these ports: the sockets on them, and the process behind each, as one answer for people and for programs.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::Timestamp;

use super::holder::{self, Owned};
use super::trial::Trial;
use super::wire::{Family, SocketRow, SocketState};
use super::{Endpoint, HeldBy, HoldKind, Holder, Occupant, OccupantKind, PortError, Ports, Protocol};

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// The ports, each bound included.
    pub ports: Vec<RangeInclusive<u16>>,
    /// TCP or UDP ports.
    pub protocol: Protocol,
    /// Whether connections are reported in addition to the holders. If nothing else keeps a port from being bound, they are
    /// reported anyway.
    pub connections: bool,
}

/// The holders in `held` with their processes, each once for a port. Reads /proc and blocks.
pub fn describe(held: &[HeldBy]) -> Vec<Occupant> {
    let mut occupants: Vec<Occupant> = Vec::new();
    for occupant in named(held.iter().map(from_holder).collect()) {
        let occupant = Occupant { time_wait_ms: None, ..occupant };
        let is_same = |known: &Occupant| {
            known.port == occupant.port && known.kind == occupant.kind && known.holder == occupant.holder
        };
        if occupant.holder.is_none() || !occupants.iter().any(is_same) {
            occupants.push(occupant);
        }
    }
    occupants
}

/// An occupant whose process is yet to be found.
type Found = (Occupant, Option<Owned>);

impl Ports {
    /// The sockets that hold the ports asked for, by port and kind. Reads /proc and blocks: call it on a blocking thread.
    pub fn occupants(&self, question: &Question) -> Result<Vec<Occupant>, PortError> {
        let Question { protocol, connections, .. } = *question;
        let asked: BTreeSet<u16> = question.ports.iter().cloned().flatten().collect();
        let mut rows = self.rows(protocol, &asked, connections)?;
        // A port without a listener that cannot be bound is held by something else.
        let mut unserved = asked;
        for row in &rows {
            unserved.remove(&row.local.port());
        }
        unserved.retain(|port| self.is_in_the_way(protocol, *port));
        if !connections && !unserved.is_empty() {
            rows.extend(self.rows(protocol, &unserved, true)?);
        }
        let mut found: Vec<Found> = rows.iter().filter_map(|row| from_row(protocol, row)).collect();
        for (occupant, _) in &found {
            unserved.remove(&occupant.port);
        }
        for port in unserved {
            // The kernel reports no holder and refuses nevertheless, or the holder has just come.
            for endpoint in wildcards(protocol, port) {
                let holders = self.holders(&[endpoint]).unwrap_or_default();
                found.extend(holders.iter().map(from_holder));
            }
        }
        found.sort_by_key(|(occupant, _)| (occupant.port, occupant.kind, occupant.address, occupant.peer));
        Ok(named(found))
    }

    /// The sockets on `ports`: those that listen or are bound, and with `connections` the others as well.
    fn rows(
        &self,
        protocol: Protocol,
        ports: &BTreeSet<u16>,
        connections: bool,
    ) -> Result<Vec<SocketRow>, PortError> {
        // The kernel can look for one port; beyond that, one dump is cheaper than many.
        let only = ports.first().copied().filter(|_| ports.len() == 1);
        let mut rows = Vec::new();
        for family in [Family::V4, Family::V6] {
            rows.extend(match (protocol, connections) {
                (Protocol::Tcp, false) => self.serving(family, only)?,
                (Protocol::Tcp, true) | (Protocol::Udp, _) => self.everything(protocol, family, only)?,
            });
        }
        let serves = |row: &SocketRow| matches!(row.state, SocketState::Listening | SocketState::Bound);
        rows.retain(|row| ports.contains(&row.local.port()) && (connections || serves(row)));
        Ok(rows)
    }

    /// Whether anything keeps others from binding `port`, on which nothing listens or is merely bound.
    fn is_in_the_way(&self, protocol: Protocol, port: u16) -> bool {
        wildcards(protocol, port).iter().any(|endpoint| match self.try_bind(endpoint) {
            // A port under 1024 and no privilege to try: what can be seen is not kept secret.
            Ok(Trial::InUse) | Err(PortError::PermissionDenied(_)) => true,
            // The machine may have no IPv6.
            Ok(Trial::Worked) | Err(_) => false,
        })
    }
}

/// The endpoints that stand for a port on every address of this machine.
pub fn wildcards(protocol: Protocol, port: u16) -> [Endpoint; 2] {
    [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)]
        .map(|address| Endpoint::new(address, port).over(protocol))
}

fn from_row(protocol: Protocol, row: &SocketRow) -> Option<Found> {
    let (kind, left) = match row.state {
        SocketState::Listening => (OccupantKind::Listener, None),
        SocketState::Bound => (OccupantKind::Bound, None),
        SocketState::Connected => (OccupantKind::Connection, None),
        SocketState::TimeWait(left) => (OccupantKind::TimeWait, Some(left)),
        // Only its listener has the port.
        SocketState::Handshake => return None,
    };
    let serves = matches!(kind, OccupantKind::Listener | OccupantKind::Bound);
    let is_wildcard = row.local.is_ipv6() && row.local.ip().is_unspecified();
    let occupant = Occupant {
        port: row.local.port(),
        protocol,
        kind,
        address: row.local,
        path: None,
        dual_stack: serves && is_wildcard && !row.v6only,
        peer: (!serves).then_some(row.remote),
        time_wait_ms: left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        until: left.and_then(end),
        holder: None,
    };
    Some((occupant, left.is_none().then(|| row.into())))
}

fn from_holder(held: &HeldBy) -> Found {
    let (kind, left) = match held.kind {
        HoldKind::Listener => (OccupantKind::Listener, None),
        HoldKind::Bound => (OccupantKind::Bound, None),
        HoldKind::Connection => (OccupantKind::Connection, None),
        HoldKind::TimeWait(left) => (OccupantKind::TimeWait, Some(left)),
        HoldKind::Unexplained => (OccupantKind::Unexplained, None),
        HoldKind::NoAddress => (OccupantKind::NoAddress, None),
    };
    let occupant = Occupant {
        port: held.bound.port(),
        protocol: held.endpoint.protocol,
        kind,
        address: held.bound,
        path: None,
        dual_stack: false,
        peer: None,
        time_wait_ms: left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        until: left.and_then(end),
        holder: None,
    };
    let has_owner = matches!(kind, OccupantKind::Listener | OccupantKind::Bound | OccupantKind::Connection);
    (occupant, has_owner.then(|| held.into()))
}

/// Whether `occupants`, which told of `then`, still tell who `now` is: the same sockets, each still open in the processes that
/// were named. Reads a part of /proc and blocks.
pub fn still_tells(occupants: &[Occupant], then: &[HeldBy], now: &[HeldBy]) -> bool {
    let pids = occupants.iter().flat_map(|occupant| &occupant.holder).flat_map(Holder::pids);
    let holds = |pid| now.iter().any(|held| holder::pid_owns(pid, held.inode));
    let identities = |held: &[HeldBy]| held.iter().map(HeldBy::identity).collect::<Vec<_>>();
    identities(then) == identities(now) && pids.into_iter().all(holds)
}

/// The moment that is so far off.
fn end(left: Duration) -> Option<Timestamp> {
    Timestamp::now().checked_add(left).ok()
}

/// Finds the processes of all at once: that reads all of /proc.
fn named(found: Vec<Found>) -> Vec<Occupant> {
    let owned: Vec<Owned> = found.iter().filter_map(|(_, owned)| *owned).collect();
    if owned.is_empty() {
        return found.into_iter().map(|(occupant, _)| occupant).collect();
    }
    let mut holders = holder::describe_all(&owned).into_iter();
    let name = |(occupant, owned): Found| match owned {
        Some(_) => Occupant { holder: holders.next(), ..occupant },
        None => occupant,
    };
    found.into_iter().map(name).collect()
}
