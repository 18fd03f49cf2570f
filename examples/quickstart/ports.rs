//! Local ports for the tunnels.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

use crate::Result;

/// Two ports that are free on both loopback addresses.
///
/// They lie below the ephemeral range: there, no outgoing connection can take one by chance, and a client that retries a
/// tunnel that is down cannot connect to itself.
pub(crate) fn two_free() -> Result<[u16; 2]> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let lowest_ephemeral: u16 =
        range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(32768);
    // Two ports for each process id, so that two shows at the same time do not meet.
    let first = 10_000 + u16::try_from(std::process::id() % 5_000 * 2)?;
    let candidates = (first..lowest_ephemeral).chain(1024..lowest_ephemeral);
    let mut candidates = candidates.filter(|port| is_free(*port));
    match (candidates.next(), candidates.next()) {
        (Some(first), Some(second)) => Ok([first, second]),
        _ => {
            Err(format!("no two free ports below {lowest_ephemeral}, where the ephemeral ports begin").into())
        }
    }
}

fn is_free(port: u16) -> bool {
    // A machine without IPv6 has no ::1 to ask about.
    let six = TcpListener::bind((Ipv6Addr::LOCALHOST, port));
    let six_is_free = six.map_or_else(|error| error.kind() == std::io::ErrorKind::AddrNotAvailable, |_| true);
    six_is_free && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
