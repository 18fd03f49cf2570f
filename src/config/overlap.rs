//! Conflicts between tunnels that listen on the same port.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::desired::{Api, Forward, RemoteListen, Ssh, SshTunnel, Tunnel, Work};
use super::diagnose::{Place, Problems, Refusal, quote};
use crate::port::Endpoint;

/// Reports every tunnel that would listen where an earlier one does, each against the first such one.
/// `tunnels` come with the place of their port.
pub(super) fn check(tunnels: &[(Place, Tunnel)], api: &Api, problems: &Problems) {
    let mut local: HashMap<u16, Vec<(Endpoint, Owner<'_>)>> = HashMap::new();
    if let Some(api) = &api.tcp {
        // The API's listener on `[::]` accepts IPv4, too, unless the machine is configured otherwise.
        let endpoint = Endpoint { address: api.listen, v6only: false, ..Endpoint::new(api.listen.ip(), 0) };
        local
            .entry(api.listen.port())
            .or_default()
            .push((endpoint, Owner { name: "api.listen", line: None }));
    }
    let mut sockets: HashMap<&Path, Owner<'_>> = HashMap::new();
    if let Some(path) = &api.socket {
        sockets.insert(path, Owner { name: "api.socket", line: None });
    }
    let mut remote_sockets: HashMap<(Server<'_>, &Path), Owner<'_>> = HashMap::new();
    let mut remote: HashMap<(Server<'_>, u16), Vec<(&str, Owner<'_>)>> = HashMap::new();
    for (place, tunnel) in tunnels {
        let owner = Owner { name: &tunnel.name, line: Some(place.line) };
        if let Some(socket) = tunnel.work.socket() {
            match sockets.get(&*socket.path) {
                Some(first) => {
                    report(problems, *place, owner, *first, &socket.path.display().to_string(), PATH);
                }
                None => drop(sockets.insert(&socket.path, owner)),
            }
        }
        if let Work::Ssh(SshTunnel {
            ssh,
            forward: Forward::Remote { listen: RemoteListen::Socket(path), .. },
        }) = &tunnel.work
        {
            let server = Server::of(ssh);
            match remote_sockets.get(&(server, path.as_path())) {
                Some(first) => {
                    let listens = format!("{} of {}", path.display(), ssh.destination);
                    report(problems, *place, owner, *first, &listens, PATH);
                }
                None => drop(remote_sockets.insert((server, path), owner)),
            }
        }
        if let Work::Ssh(SshTunnel {
            ssh,
            forward: Forward::Remote { listen: RemoteListen::Ports { bind, ports }, .. },
        }) = &tunnel.work
        {
            let bind = bind.as_deref().unwrap_or("localhost");
            let server = Server::of(ssh);
            let clash = ports.ports().find_map(|port| {
                let listeners = remote.get(&(server, port))?;
                let (other, first) = listeners.iter().find(|(other, _)| remote_overlap(bind, other))?;
                Some((port, *other, *first))
            });
            if let Some((port, other, first)) = clash {
                let listens = format!("port {port} of {}, bound to {other}", ssh.destination);
                report(problems, *place, owner, first, &listens, PORT);
            } else {
                for port in ports.ports() {
                    remote.entry((server, port)).or_default().push((bind, owner));
                }
            }
        }
        let clash = tunnel.work.endpoints().iter().find_map(|endpoint| {
            let listeners = local.get(&endpoint.port())?;
            listeners.iter().find(|(other, _)| endpoint.overlaps(other)).copied()
        });
        if let Some((other, first)) = clash {
            report(problems, *place, owner, first, &other.to_string(), PORT);
        } else {
            for endpoint in tunnel.work.endpoints() {
                local.entry(endpoint.port()).or_default().push((*endpoint, owner));
            }
        }
    }
}

/// What to do about two that listen on one port,
const PORT: &str = "give one of them another port or another address";
/// or on one path.
const PATH: &str = "give one of them another path";

/// Who listens, for messages.
#[derive(Clone, Copy)]
struct Owner<'t> {
    name: &'t str,
    /// `None`: not a tunnel.
    line: Option<usize>,
}

fn report(problems: &Problems, place: Place, second: Owner<'_>, first: Owner<'_>, listens: &str, hint: &str) {
    let line = first.line.map_or(String::new(), |line| format!(" (line {line})"));
    let refusal = Refusal::new(format!(
        "{} would listen where {}{line} does: {listens}",
        quote(second.name),
        quote(first.name)
    ));
    problems.report(place, refusal.hint(hint));
}

/// Whether two listeners on one port of a server exclude each other, as far as the configuration shows what they bind.
fn remote_overlap(left: &str, right: &str) -> bool {
    let (left_binds, right_binds) = (remote_endpoints(left), remote_endpoints(right));
    if left_binds.is_empty() || right_binds.is_empty() {
        // Which address a name of the server stands for is not known here.
        return left.eq_ignore_ascii_case(right);
    }
    left_binds.iter().any(|left| right_binds.iter().any(|right| left.overlaps(right)))
}

/// What sshd binds for this address of a forward, whatever its port; nothing for a name.
fn remote_endpoints(bind: &str) -> Vec<Endpoint> {
    let addresses: Vec<IpAddr> = match bind {
        "*" => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        bind if bind.eq_ignore_ascii_case("localhost") => {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        }
        bind => bind.parse().into_iter().collect(),
    };
    // sshd sets IPV6_V6ONLY, as ssh does.
    addresses.into_iter().map(|address| Endpoint::new(address, 0)).collect()
}

/// How the configuration distinguishes servers: by the destination, and by options that redirect ssh. Two different ones may still be
/// the same server, which then refuses the second listener.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Server<'t> {
    destination: &'t str,
    config_file: Option<&'t Path>,
    route: [Option<&'t str>; ROUTE.len()],
}

/// The options that say which server a destination stands for.
const ROUTE: [&str; 4] = ["HostName", "Port", "ProxyCommand", "ProxyJump"];

impl<'t> Server<'t> {
    fn of(ssh: &'t Ssh) -> Self {
        let option = |wanted: &str| {
            let found = ssh.options.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.as_str())
        };
        Self {
            destination: &ssh.destination,
            config_file: ssh.config_file.as_deref(),
            route: ROUTE.map(option),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_on_a_server_overlap_as_sshd_would_bind_them() {
        for (left, right, expected) in [
            ("localhost", "127.0.0.1", true),
            ("localhost", "::1", true),
            ("localhost", "*", true),
            ("*", "10.0.0.5", true),
            ("0.0.0.0", "::", false),
            ("0.0.0.0", "::1", false),
            ("127.0.0.1", "::ffff:127.0.0.1", true),
            ("10.0.0.5", "10.0.0.6", false),
            ("eth0.example", "ETH0.example", true),
            ("eth0.example", "10.0.0.5", false),
        ] {
            assert_eq!(remote_overlap(left, right), expected, "{left} {right}");
            assert_eq!(remote_overlap(right, left), expected, "{right} {left}");
        }
    }
}
