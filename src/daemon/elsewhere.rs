//! Where a command listens that does not listen on its port: what the kernel shows of the sockets of its processes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::port::{Endpoint, HoldKind, Listener, Ports, Protocol, holder};
use crate::text;

/// More sockets than this are counted, not named.
const NAMED_AT_MOST: usize = 4;

/// Why the command whose processes are those for which `is_ours` holds does not listen on `endpoints`, in a sentence with the next step. `None`: nothing
/// that the kernel shows tells why. Reads /proc and blocks for some milliseconds.
pub(super) fn explain(
    ports: &Ports,
    is_ours: impl Fn(u32) -> bool,
    endpoints: &[Endpoint],
) -> Option<String> {
    let wanted = endpoints.first()?;
    let processes = Processes::those(is_ours);
    if let Some(sentence) = listens_elsewhere(&processes.listeners(ports), endpoints) {
        return Some(sentence);
    }
    let (port, not_there) = (expected(endpoints), not_there(endpoints));
    if let Some(pid) = processes.elsewhere {
        return Some(format!(
            "process {pid} of the command is in a network namespace of its own, so it cannot listen on {port} of this \
             machine: run it without that namespace, or forward the port into it by another command"
        ));
    }
    let paths = processes.unix_listeners();
    if !paths.is_empty() {
        return Some(format!(
            "the command listens on the unix socket {} and {not_there}: have it listen on the port",
            shortened(&paths)
        ));
    }
    if let Some(stranger) = stranger(ports, endpoints) {
        return Some(format!(
            "{stranger}, which is no process of the command: the command must listen itself and stay in the foreground, for \
             portward watches the processes that it has started"
        ));
    }
    if let Some(pid) = processes.hidden {
        return Some(format!(
            "portward may not see what process {pid} of the command listens on, because it runs as another user: let it run \
             as portward's user, or run portward as root; {} is what counts",
            described(wanted.protocol, &port)
        ));
    }
    None
}

/// The sentence about listeners of the command that are not the ones wanted.
fn listens_elsewhere(found: &[Listener], endpoints: &[Endpoint]) -> Option<String> {
    let wanted = endpoints.first()?;
    let (same, other): (Vec<&Listener>, Vec<&Listener>) =
        found.iter().partition(|listener| listener.protocol == wanted.protocol);
    let not_there = not_there(endpoints);
    // The port says what is meant, the protocol that it is not.
    let slip = other.iter().find(|listener| listener.address.port() == wanted.port());
    if let Some(listener) = slip {
        let next = match listener.protocol {
            Protocol::Udp => "write `protocol: udp` if UDP is meant",
            Protocol::Tcp => "remove `protocol: udp` if TCP is meant",
        };
        return Some(format!(
            "the command {} and {not_there}: {next}, or correct the command",
            does(&[listener])
        ));
    }
    match same.as_slice() {
        // The next best: what it does listen on, whatever that is.
        [] if other.is_empty() => None,
        [] => Some(format!(
            "the command {} and {not_there}: correct `local_port` and `protocol`, or the command",
            does(&other)
        )),
        [only] if is_chosen_by_the_kernel(only.address.port()) => Some(format!(
            "the command {} and {not_there}: that looks like a port of the kernel's choice, so tell the command which one to \
             take",
            does(&[only])
        )),
        [only] => {
            let any = endpoints.iter().any(|endpoint| endpoint.address.ip().is_unspecified());
            let meant = match only.address {
                address if any => address.port().to_string(),
                address if address.is_ipv6() => format!("\"{address}\""),
                address => address.to_string(),
            };
            Some(format!(
                "the command {} and {not_there}: write `local_port: {meant}` if that is meant, or correct the command",
                does(&[only])
            ))
        }
        several => Some(format!(
            "the command {} and {not_there}: correct `local_port` or the command",
            does(several)
        )),
    }
}

/// What it does: "listens on 127.0.0.1:80, [::1]:80".
fn does(listeners: &[&Listener]) -> String {
    let verb = |protocol| match protocol {
        Protocol::Tcp => "listens on TCP",
        Protocol::Udp => "is bound to UDP",
    };
    let addresses = |protocol: Protocol| {
        let addresses: BTreeSet<_> =
            listeners.iter().filter(|one| one.protocol == protocol).map(|one| one.address).collect();
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let parts = [Protocol::Tcp, Protocol::Udp].into_iter().map(|protocol| (protocol, addresses(protocol)));
    let parts = parts.filter(|(_, addresses)| !addresses.is_empty());
    let parts: Vec<_> =
        parts.map(|(protocol, addresses)| format!("{} {}", verb(protocol), shortened(&addresses))).collect();
    parts.join(" and ")
}

/// What it does not: "not on TCP port 80".
fn not_there(endpoints: &[Endpoint]) -> String {
    let protocol = endpoints.first().map_or(Protocol::Tcp, |endpoint| endpoint.protocol);
    format!("not {}", described(protocol, &expected(endpoints)))
}

fn described(protocol: Protocol, place: &str) -> String {
    format!("on {} {place}", protocol.name())
}

/// The port alone, where any address would do.
fn expected(endpoints: &[Endpoint]) -> String {
    if endpoints.iter().any(|endpoint| endpoint.address.ip().is_unspecified()) {
        return endpoints.first().map_or_else(String::new, |endpoint| format!("port {}", endpoint.port()));
    }
    let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
    addresses.join(" or ")
}

fn shortened(all: &[String]) -> String {
    let first = all[..all.len().min(NAMED_AT_MOST)].join(", ");
    match all.len().saturating_sub(NAMED_AT_MOST) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// Whether a program that asked for any port may have been given this one.
fn is_chosen_by_the_kernel(port: u16) -> bool {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = range.split_whitespace().filter_map(|bound| bound.parse::<u16>().ok());
    matches!((bounds.next(), bounds.next()), (Some(first), Some(last)) if (first..=last).contains(&port))
}

/// Who listens where the command should; it is known that the command does not.
fn stranger(ports: &Ports, endpoints: &[Endpoint]) -> Option<String> {
    let held = ports.holders(endpoints).ok()?;
    let held = held.iter().find(|held| matches!(held.kind, HoldKind::Listener | HoldKind::Bound))?;
    Some(format!("{} is held by {}", held.endpoint, holder::describe(held)))
}

/// The processes of a command, as /proc shows them now.
#[derive(Debug, Default)]
struct Processes {
    /// Inodes of the sockets that they have open.
    sockets: BTreeSet<u32>,
    /// One that has ports of its own, in another network namespace.
    elsewhere: Option<u32>,
    /// One whose sockets this user may not see.
    hidden: Option<u32>,
}

impl Processes {
    fn those(is_ours: impl Fn(u32) -> bool) -> Self {
        let mut processes = Self::default();
        let ours = namespace(Path::new("/proc/thread-self"));
        for pid in holder::pids().into_iter().filter(|pid| is_ours(*pid)) {
            let theirs = namespace(&PathBuf::from(format!("/proc/{pid}")));
            if theirs.is_some() && theirs != ours {
                processes.elsewhere.get_or_insert(pid);
                continue;
            }
            match holder::sockets(pid) {
                Some(sockets) => processes.sockets.extend(sockets),
                // It may also have ended meanwhile.
                None if Path::new(&format!("/proc/{pid}/fd")).exists() => {
                    processes.hidden.get_or_insert(pid);
                }
                None => {}
            }
        }
        processes
    }

    /// What they listen on, in this network namespace.
    fn listeners(&self, ports: &Ports) -> Vec<Listener> {
        // What cannot be asked about is not spoken of: there may be no udp_diag.
        let of = |protocol| ports.all_listeners(protocol).unwrap_or_default();
        let all = [Protocol::Tcp, Protocol::Udp].into_iter().flat_map(of);
        all.filter(|listener| self.sockets.contains(&listener.inode)).collect()
    }

    /// The unix sockets that they listen on.
    fn unix_listeners(&self) -> Vec<String> {
        let table = fs::read("/proc/thread-self/net/unix").unwrap_or_default();
        let table = String::from_utf8_lossy(&table);
        let paths = table.lines().skip(1).filter_map(|line| {
            let (inode, path) = unix_listener(line)?;
            self.sockets.contains(&inode).then(|| text::line(path).into_owned())
        });
        paths.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// The network namespace of a process, by the link that names it; `None` where it may not be seen.
fn namespace(process: &Path) -> Option<PathBuf> {
    fs::read_link(process.join("ns/net")).ok()
}

/// Inode and path in a line of /proc/net/unix, if the socket listens and has a path.
fn unix_listener(line: &str) -> Option<(u32, &str)> {
    /// `__SO_ACCEPTCON`.
    const LISTENS: u32 = 1 << 16;
    // Num: RefCount Protocol Flags Type St Inode Path, where the inode may have more than one space before it.
    let mut fields = line.splitn(7, ' ');
    let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
    let (inode, path) = fields.nth(2)?.trim_start().split_once(' ')?;
    (flags & LISTENS != 0).then_some((inode.parse().ok()?, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(address: &str, protocol: Protocol) -> Listener {
        Listener { address: address.parse().unwrap(), v6only: false, protocol, inode: 1, uid: 0 }
    }

    fn endpoints(addresses: &[&str], protocol: Protocol) -> Vec<Endpoint> {
        let endpoint =
            |address: &&str| Endpoint { address: address.parse().unwrap(), v6only: false, protocol };
        addresses.iter().map(endpoint).collect()
    }

    #[test]
    fn what_the_command_listens_on_is_named_with_the_line_to_write() {
        use Protocol::{Tcp, Udp};
        let any = &["0.0.0.0:8080", "[::]:8080"][..];
        for (wanted, protocol, found, expected) in [
            (
                any,
                Tcp,
                vec![listener("127.0.0.1:8081", Tcp)],
                "the command listens on TCP 127.0.0.1:8081 and not on TCP port 8080: write `local_port: 8081` if that is \
                 meant, or correct the command",
            ),
            (
                any,
                Tcp,
                vec![listener("127.0.0.1:8080", Udp), listener("127.0.0.1:9", Tcp)],
                "the command is bound to UDP 127.0.0.1:8080 and not on TCP port 8080: write `protocol: udp` if UDP is \
                 meant, or correct the command",
            ),
            (
                any,
                Udp,
                vec![listener("[::]:8080", Tcp)],
                "the command listens on TCP [::]:8080 and not on UDP port 8080: remove `protocol: udp` if TCP is meant, or \
                 correct the command",
            ),
            (
                &["127.0.0.1:8080"][..],
                Tcp,
                vec![listener("[::1]:8080", Tcp)],
                "the command listens on TCP [::1]:8080 and not on TCP 127.0.0.1:8080: write `local_port: \"[::1]:8080\"` if \
                 that is meant, or correct the command",
            ),
            (
                any,
                Tcp,
                vec![listener("127.0.0.1:8081", Tcp), listener("[::1]:8081", Tcp)],
                "the command listens on TCP 127.0.0.1:8081, [::1]:8081 and not on TCP port 8080: correct `local_port` or the \
                 command",
            ),
            (
                any,
                Tcp,
                vec![listener("0.0.0.0:5353", Udp)],
                "the command is bound to UDP 0.0.0.0:5353 and not on TCP port 8080: correct `local_port` and `protocol`, or \
                 the command",
            ),
        ] {
            assert_eq!(listens_elsewhere(&found, &endpoints(wanted, protocol)).unwrap(), expected);
        }
        assert_eq!(listens_elsewhere(&[], &endpoints(any, Tcp)), None);
    }

    #[test]
    fn only_unix_sockets_that_listen_and_have_a_path_are_named() {
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 20931 /run/a b.sock";
        assert_eq!(unix_listener(line), Some((20931, "/run/a b.sock")));
        let padded = "0000000000000000: 00000002 00000000 00010000 0001 01   931 @abstract";
        assert_eq!(unix_listener(padded), Some((931, "@abstract")));
        let connected = "0000000000000000: 00000003 00000000 00000000 0001 03 20931 /run/a.sock";
        assert_eq!(unix_listener(connected), None);
        let nameless = "0000000000000000: 00000002 00000000 00010000 0001 01 20931";
        assert_eq!(unix_listener(nameless), None);
        assert_eq!(unix_listener(""), None);
    }
}
