//! The wire format of rtnetlink, apart from any socket. Of most messages only the arrival counts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netlink_packet_core::{NetlinkBuffer, Parseable as _};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::route::{RouteFlags, RouteHeader};

use super::Change;

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

/// What tells a change from a repetition: each router advertisement makes the kernel announce the addresses that it prolongs.
#[derive(Debug, Default)]
pub(super) struct Announced {
    /// By interface and address.
    addresses: BTreeMap<(u32, IpAddr), u8>,
}

impl Announced {
    /// What the messages of one datagram report. What cannot be read is a change.
    pub(super) fn changes(&mut self, datagram: &[u8]) -> BTreeSet<Change> {
        let mut changes = BTreeSet::new();
        let mut rest = datagram;
        while !rest.is_empty() {
            let Ok(raw) = NetlinkBuffer::new_checked(rest) else {
                changes.insert(Change::NetworkChanged);
                break;
            };
            if self.is_change(raw.message_type(), raw.payload(), &mut changes) {
                changes.insert(Change::NetworkChanged);
            }
            // Messages begin at multiples of four. A length of less than the header was refused above.
            let length = (raw.length() as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
        changes
    }

    /// Messages were lost.
    pub(super) fn forget(&mut self) {
        self.addresses.clear();
    }

    /// Whether a message is of a change; adds an address that was removed to `changes`.
    fn is_change(&mut self, kind: u16, payload: &[u8], changes: &mut BTreeSet<Change>) -> bool {
        match kind {
            RTM_NEWADDR => {
                let Some((key, flags)) = address(payload) else { return true };
                self.addresses.insert(key, flags) != Some(flags)
            }
            RTM_DELADDR => {
                if let Some((key, _)) = address(payload) {
                    self.addresses.remove(&key);
                    changes.insert(Change::AddressRemoved(key.1));
                }
                true
            }
            // Kernels before 4.15 announce what they remember of single destinations, and each new connection would be a change.
            RTM_NEWROUTE | RTM_DELROUTE => {
                !RouteHeader::parse(payload).is_ok_and(|header| header.flags.contains(RouteFlags::Cloned))
            }
            _ => true,
        }
    }
}

/// The interface and the address that a message is about, and the address's flags; `None` if the message is malformed, or of a
/// family other than IPv4 and IPv6.
fn address(payload: &[u8]) -> Option<((u32, IpAddr), u8)> {
    let message = AddressMessage::parse(payload).ok()?;
    let own = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    };
    // Without a peer, IPv6 has no local address beside this one. With a peer, this one is the peer's.
    let only = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    };
    let attributes = &message.attributes;
    let address = attributes.iter().find_map(own).or_else(|| attributes.iter().find_map(only))?;
    Some(((message.header.index, address), message.header.flags.bits()))
}

#[cfg(test)]
mod tests;
