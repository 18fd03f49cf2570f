//! Targets of the fuzzer: answers of sock_diag.

#![allow(clippy::missing_panics_doc, reason = "a panic is how a target reports a fault")]

use super::unix::rows::Dump;
use super::wire::{Message, messages};

/// Length of the header of a netlink message.
const HEADER: usize = 16;

/// A datagram about TCP and UDP sockets.
pub fn sock_diag(datagram: &[u8]) {
    let mut read = 0;
    for envelope in messages(datagram) {
        read += 1;
        if let Ok(Message::Row(row)) = envelope.map(|envelope| envelope.message) {
            assert_eq!(row.local.is_ipv4(), row.remote.is_ipv4(), "{row:?}");
        }
    }
    // What is malformed may be shorter than a header.
    assert!(read <= datagram.len() / HEADER + 1, "{read} messages in {} bytes", datagram.len());
}

/// A datagram about unix sockets. Its first four bytes are the number of the request.
pub fn unix_diag(bytes: &[u8]) {
    let Some((number, datagram)) = bytes.split_first_chunk() else { return };
    let mut dump = Dump::new(u32::from_ne_bytes(*number));
    // An error ends the dump; what was read before is bounded as well.
    let _ = dump.ends_with(datagram);
    assert!(dump.rows.len() <= datagram.len() / HEADER, "{dump:?}");
    for row in &dump.rows {
        let is_bound = row.file.is_some() || row.name.is_some() || row.abstract_name.is_some();
        assert!(is_bound, "{row:?}");
        assert!(!row.name.as_ref().is_some_and(|name| name.contains(&0)), "{row:?}");
    }
}
