//! Target of the fuzzer: messages of rtnetlink.

#![allow(clippy::missing_panics_doc, reason = "a panic is how a target reports a fault")]

use super::Change;
use super::message::Announced;

/// Datagrams of the kernel's; the first byte of each is its length, in units of four bytes.
pub fn rtnetlink(bytes: &[u8]) {
    let mut announced = Announced::default();
    let mut rest = bytes;
    while let Some((length, more)) = rest.split_first() {
        let (datagram, more) = more.split_at(more.len().min(usize::from(*length) * 4));
        rest = more;
        let changes = announced.changes(datagram);
        let is_of_network = changes.contains(&Change::NetworkChanged);
        assert!(changes.is_empty() || is_of_network, "an address goes only with the network: {changes:?}");
        assert!(changes.len() <= datagram.len() / 16 + 1, "{changes:?}");
    }
}
