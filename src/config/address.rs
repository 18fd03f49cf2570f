//! The forms in which ports and addresses may be written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::desired::{HostPorts, RemoteListen, Target};
use super::diagnose::{Refusal, quote};
use super::hint::write;
use super::meant::{self, Keys};
use super::paths::{self, Base};
use crate::port::{Endpoint, PortRange};
use crate::text::is_unsafe;

/// Maximum number of ports of a range. ssh listens on up to two sockets for each, which is half of the 1,024 descriptors that it has
/// as a rule; its clients need the others. And each port is asked for, and looked at, by itself.
const LONGEST_RANGE: usize = 256;

/// What a port without an address means for a listener of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listener {
    /// ssh's: the loopback addresses, and IPv6 sockets leave IPv4 alone.
    Ssh,
    /// A program's: all addresses, because portward does not control which one the program binds.
    Command,
}

/// Where to listen on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listen {
    /// Every port at every address, in the order of the ports.
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) ports: PortRange,
}

/// `13306`, `0.0.0.0:13306`, `[::1]:80`, `localhost:80`, `*:80` or `8000-8010`: where to listen on this machine.
pub(super) fn listen(text: &str, listener: Listener) -> Result<Listen, Refusal> {
    let keys = match listener {
        Listener::Ssh => Keys::Pair("local_port", "remote_port"),
        Listener::Command => Keys::Command,
    };
    let (host, ports) = split(text, keys)?;
    if ports.length() > 1 && listener == Listener::Command {
        return Err(Refusal::new(format!("{} is more than one port", quote(text)))
            .hint("a command has one port: write a tunnel for each"));
    }
    let addresses: Vec<IpAddr> = match (host, listener) {
        (None, Listener::Ssh) | (Some("localhost"), _) => {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        }
        (None, Listener::Command) | (Some("*"), _) => {
            vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
        }
        (Some(host), _) => {
            let address = host.parse::<IpAddr>().map_err(|_| {
                Refusal::new(format!("{} is not an address of this machine", quote(host)))
                    .hint("write an IP address, `localhost:` for both loopback addresses, or `*:` for all addresses")
            })?;
            if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
                return Err(of_one_interface(host));
            }
            // The kernel treats an IPv4-mapped IPv6 address as an IPv4 address, and ssh cannot bind it.
            vec![address.to_canonical()]
        }
    };
    let v6only = |address: &IpAddr| address.is_ipv6() && listener == Listener::Ssh;
    let endpoint =
        |address: &IpAddr, port| Endpoint { v6only: v6only(address), ..Endpoint::new(*address, port) };
    let at_addresses = |port| addresses.iter().map(move |address| endpoint(address, port));
    Ok(Listen { endpoints: ports.ports().flat_map(at_addresses).collect(), ports })
}

/// `3306`, `10.0.0.5:3306`, `db.internal:3306`, `[::1]:3306` or `8000-8010`: where a forward connects to.
pub(super) fn target(text: &str) -> Result<HostPorts, Refusal> {
    let (host, ports) = split(text, Keys::Other)?;
    let host = host.unwrap_or("localhost");
    if host == "*" {
        return Err(Refusal::new("`*` is not a host to connect to").hint("write a host name or an address"));
    }
    Ok(HostPorts { host: host.to_owned(), ports })
}

/// Where a forward connects to, on the server's side.
pub(super) fn remote_target(text: &str) -> Result<Target, Refusal> {
    if is_socket(text) { remote_socket(text).map(Target::Socket) } else { target(text).map(Target::Ports) }
}

/// Where a forward connects to, on this machine.
pub(super) fn local_target(text: &str, base: Base<'_>) -> Result<Target, Refusal> {
    if is_socket(text) {
        local_socket(text, base).map(Target::Socket)
    } else {
        target(text).map(Target::Ports)
    }
}

/// Whether this is the path of a unix socket.
pub(super) fn is_socket(text: &str) -> bool {
    text.starts_with('/') || text.starts_with("~/")
}

/// The path of a unix socket of this machine.
pub(super) fn local_socket(text: &str, base: Base<'_>) -> Result<PathBuf, Refusal> {
    let path = paths::expand(text, base)?;
    check_socket(&path)?;
    Ok(path)
}

/// The path of a unix socket of the server.
fn remote_socket(text: &str) -> Result<PathBuf, Refusal> {
    if text.starts_with('~') {
        return Err(Refusal::new(format!("{} is a path of the server, which knows no `~`", quote(text)))
            .hint("write the path there from `/` on"));
    }
    // It is absolute, so that nothing of this machine is put in front.
    local_socket(text, Base { directory: Path::new("/"), home: None })
}

/// Paths of unix sockets are limited by the kernel's `sockaddr_un`.
const LONGEST_SOCKET_PATH: usize = 107;

/// Checks that a unix socket may have this path.
pub(super) fn check_socket(path: &Path) -> Result<(), Refusal> {
    if path.as_os_str().len() > LONGEST_SOCKET_PATH {
        let refusal = Refusal::new(format!("the path is longer than {LONGEST_SOCKET_PATH} bytes"));
        return Err(refusal.hint("the kernel takes no longer path for a unix socket"));
    }
    if path.file_name().is_none() || path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(Refusal::new(format!("{} names no file", quote(&path.to_string_lossy())))
            .hint("write the path of the socket itself, as in /run/app.sock"));
    }
    Ok(())
}

/// `8080`, `0.0.0.0:8080`, `*:8080`, `8000-8010` or a path: where the server listens.
pub(super) fn remote_listen(text: &str) -> Result<RemoteListen, Refusal> {
    if is_socket(text) {
        return remote_socket(text).map(RemoteListen::Socket);
    }
    let (host, ports) = split(text, Keys::Pair("remote_port", "local_port"))?;
    Ok(RemoteListen::Ports { bind: host.map(str::to_owned), ports })
}

/// Splits `[host:]port[-port]` and removes the brackets around an IPv6 address.
fn split(text: &str, keys: Keys) -> Result<(Option<&str>, PortRange), Refusal> {
    meant::port(text, keys)?;
    if text.contains('/') {
        return Err(Refusal::new(format!("{} is not a port", quote(text)))
            .hint("write a port, address:port, or the path of a unix socket from `/` on"));
    }
    let Some((host, digits)) = text.rsplit_once(':') else {
        return Ok((None, ports(text)?));
    };
    let ports = ports(digits)?;
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return match address.parse::<Ipv6Addr>() {
            Ok(_) => Ok((Some(address), ports)),
            Err(_) if address.contains('%') => Err(of_one_interface(address)),
            Err(_) => Err(Refusal::new(format!("{} is not an IPv6 address", quote(address)))),
        };
    }
    if host.contains(':') {
        return Err(Refusal::new(format!("{} is ambiguous", quote(text)))
            .hint("write an IPv6 address in brackets and quotes, as in \"[::1]:80\""));
    }
    if host.is_empty() {
        return Err(Refusal::new(format!("{} has no address before the colon", quote(text)))
            .hint(format!("write \"*:{digits}\" for all addresses, or {digits} alone")));
    }
    check_host(host)?;
    Ok((Some(host), ports))
}

/// A link-local address requires the name of an interface, for which the syntax has no place.
fn of_one_interface(address: &str) -> Refusal {
    Refusal::new(format!("{} is an address of one interface alone, which is not supported", quote(address)))
        .hint("write another address, or the port alone")
}

/// `8000`, or `8000-8010`.
fn ports(text: &str) -> Result<PortRange, Refusal> {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|digit| digit.is_ascii_digit());
    let range = text.split_once('-').map(|(first, last)| (first.trim(), last.trim()));
    let (first, last) =
        range.filter(|(first, last)| is_number(first) && is_number(last)).unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    let range = PortRange::new(first, last).ok_or_else(|| {
        let meant = format!("{last}-{first}");
        Refusal::new(format!("{} ends before it begins", quote(text))).hint(write(&meant))
    })?;
    if text.contains(char::is_whitespace) {
        return Err(
            Refusal::new(format!("{} has white space in it", quote(text))).hint(write(&range.to_string()))
        );
    }
    if range.length() > LONGEST_RANGE {
        return Err(Refusal::new(format!("{} is {} ports", quote(text), range.length()))
            .hint(format!("{LONGEST_RANGE} are the most: write a tunnel for each part of them")));
    }
    Ok(range)
}

fn port(digits: &str) -> Result<u16, Refusal> {
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(
            Refusal::new(format!("{} is not a port", quote(digits))).hint("write a number from 1 to 65535")
        );
    }
    match digits.parse() {
        Ok(port @ 1..) => Ok(port),
        _ => {
            Err(Refusal::new(format!("port {} is out of range", quote(digits)))
                .hint("ports go from 1 to 65535"))
        }
    }
}

/// Names that no host may have, because ssh or the shell of a ProxyCommand would interpret them.
pub(super) fn check_host(host: &str) -> Result<(), Refusal> {
    if host.starts_with('-') {
        return Err(Refusal::new(format!(
            "{} begins with `-`, so ssh would take it for an option",
            quote(host)
        )));
    }
    match host.chars().find(|letter| is_never_in_destination(*letter)) {
        Some(letter) => Err(Refusal::new(format!("{} is not a host", quote(host)))
            .hint(format!("take out the character {letter:?}"))),
        None => Ok(()),
    }
}

/// Characters that ssh refuses in the name of a host (ssh.c, `valid_hostname`), and those that a terminal does not show.
pub(super) fn is_never_in_destination(letter: char) -> bool {
    letter.is_whitespace() || is_unsafe(letter) || "'`\"$\\;&<>|(){},".contains(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listens(text: &str, listener: Listener) -> Vec<String> {
        let Listen { endpoints, .. } = listen(text, listener).unwrap();
        endpoints
            .iter()
            .map(|endpoint| format!("{endpoint}{}", if endpoint.v6only { " v6only" } else { "" }))
            .collect()
    }

    #[test]
    fn a_bare_port_of_ssh_means_both_loopback_addresses() {
        assert_eq!(listens("13306", Listener::Ssh), ["127.0.0.1:13306", "[::1]:13306 v6only"]);
        assert_eq!(listens("localhost:80", Listener::Ssh), ["127.0.0.1:80", "[::1]:80 v6only"]);
    }

    #[test]
    fn a_bare_port_of_a_command_means_all_addresses() {
        assert_eq!(listens("13306", Listener::Command), ["0.0.0.0:13306", "[::]:13306"]);
        assert_eq!(listens("localhost:80", Listener::Command), ["127.0.0.1:80", "[::1]:80"]);
    }

    #[test]
    fn an_address_is_taken_as_it_is() {
        assert_eq!(listens("0.0.0.0:80", Listener::Ssh), ["0.0.0.0:80"]);
        assert_eq!(listens("[::1]:80", Listener::Ssh), ["[::1]:80 v6only"]);
        assert_eq!(listens("*:80", Listener::Ssh), ["0.0.0.0:80", "[::]:80 v6only"]);
        assert_eq!(listens("[::ffff:127.0.0.1]:80", Listener::Ssh), ["127.0.0.1:80"]);
        assert_eq!(listens("08080", Listener::Ssh), ["127.0.0.1:8080", "[::1]:8080 v6only"]);
    }

    #[test]
    fn a_target_is_localhost_unless_it_names_a_host() {
        let host_port = |host: &str, port| HostPorts {
            host: host.to_owned(),
            ports: PortRange::new(port, port).unwrap(),
        };
        assert_eq!(target("3306").unwrap(), host_port("localhost", 3306));
        assert_eq!(target("db.internal:3306").unwrap(), host_port("db.internal", 3306));
        assert_eq!(target("[::1]:3306").unwrap(), host_port("::1", 3306));
    }

    #[test]
    fn the_server_binds_what_it_is_told() {
        let port = PortRange::new(8080, 8080).unwrap();
        let listen = |bind: Option<&str>| RemoteListen::Ports { bind: bind.map(str::to_owned), ports: port };
        assert_eq!(remote_listen("8080").unwrap(), listen(None));
        assert_eq!(remote_listen("*:8080").unwrap(), listen(Some("*")));
        assert_eq!(remote_listen("[::]:8080").unwrap(), listen(Some("::")));
    }

    #[test]
    fn a_range_is_every_port_at_every_address_in_the_order_of_the_ports() {
        assert_eq!(
            listens("80-81", Listener::Ssh),
            ["127.0.0.1:80", "[::1]:80 v6only", "127.0.0.1:81", "[::1]:81 v6only"]
        );
        assert_eq!(
            listens("0.0.0.0:8000-8002", Listener::Ssh),
            ["0.0.0.0:8000", "0.0.0.0:8001", "0.0.0.0:8002"]
        );
        assert_eq!(listens("127.0.0.1:8000-8000", Listener::Ssh), ["127.0.0.1:8000"]);
        let target = target("db-1:8000-8010").unwrap();
        assert_eq!((target.host.as_str(), target.ports.length()), ("db-1", 11));
        assert_eq!(super::target("1-256").unwrap().ports.length(), LONGEST_RANGE);
    }

    #[test]
    fn a_path_is_a_unix_socket() {
        let base = Base { directory: Path::new("/etc/portward"), home: Some(Path::new("/home/alice")) };
        assert_eq!(local_target("~/app.sock", base).unwrap(), Target::Socket("/home/alice/app.sock".into()));
        assert_eq!(remote_target("/run/x y:1.sock").unwrap(), Target::Socket("/run/x y:1.sock".into()));
        assert_eq!(remote_listen("/run/s").unwrap(), RemoteListen::Socket("/run/s".into()));
        let longest = format!("/{}", "x".repeat(LONGEST_SOCKET_PATH - 1));
        assert!(remote_target(&longest).is_ok());
        for text in
            ["~/s", "/run/", "/", "/run/\0", "/run/a\nb", &format!("{longest}x"), "./s", "run/s", "~root/s"]
        {
            assert!(remote_target(text).is_err(), "{text}");
        }
        assert!(local_socket("/run/..", base).is_err());
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in
            ["0-5", "5-0", "8010-8000", "1-65536", "8000-", "8000--8010", "8000-8010-8020", "1-257", "a-b"]
        {
            assert!(target(text).is_err(), "{text}");
            assert!(target(&format!("db:{text}")).is_err(), "{text}");
        }
        let refused = target("db:8000 - 8010").unwrap_err().to_string();
        assert!(refused.contains("white space"), "{refused}");
        assert!(listen("8000-8001", Listener::Command).is_err());
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for text in [
            "",
            "0",
            "65536",
            "http",
            "-1",
            "1.5",
            "99999999999999999999",
            ":80",
            "::1:80",
            "a b:80",
            "/run/s",
            "[x]:1",
        ] {
            assert!(target(text).is_err(), "{text}");
        }
    }
}
