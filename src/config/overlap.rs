//! Tunnels that would be in each other's way.

use std::collections::HashMap;
use std::net::IpAddr;

use super::desired::{ApiTcp, Forward, SshTunnel, Tunnel, Work};
use super::diagnose::{Place, Problems, Refusal, quote};
use crate::port::Endpoint;

/// Reports every tunnel that would listen where an earlier one does, each against the first such one.
/// `tunnels` come with the place of their port.
pub(super) fn check(tunnels: &[(Place, Tunnel)], api: Option<&ApiTcp>, problems: &Problems) {
    let mut local: HashMap<u16, Vec<(Endpoint, Owner<'_>)>> = HashMap::new();
    if let Some(api) = api {
        let endpoint = Endpoint::new(api.listen.ip(), api.listen.port());
        local
            .entry(api.listen.port())
            .or_default()
            .push((endpoint, Owner { name: "api.listen", line: None }));
    }
    let mut remote: HashMap<(&str, u16), Vec<(&str, Owner<'_>)>> = HashMap::new();
    for (place, tunnel) in tunnels {
        let owner = Owner { name: &tunnel.name, line: Some(place.line) };
        if let Work::Ssh(SshTunnel { destination, forward: Forward::Remote { bind, port, .. }, .. }) =
            &tunnel.work
        {
            let bind = bind.as_deref().unwrap_or("localhost");
            let listeners = remote.entry((destination, *port)).or_default();
            if let Some((other, first)) = listeners.iter().find(|(other, _)| remote_overlap(bind, other)) {
                let listens = format!("port {port} of {destination}, bound to {other}");
                report(problems, *place, owner, *first, &listens);
            } else {
                listeners.push((bind, owner));
            }
        }
        let clash = tunnel.work.endpoints().iter().find_map(|endpoint| {
            let listeners = local.get(&endpoint.port())?;
            listeners.iter().find(|(other, _)| overlap(*endpoint, *other)).copied()
        });
        if let Some((other, first)) = clash {
            report(problems, *place, owner, first, &other.to_string());
        } else {
            for endpoint in tunnel.work.endpoints() {
                local.entry(endpoint.port()).or_default().push((*endpoint, owner));
            }
        }
    }
}

/// Who listens, for messages.
#[derive(Clone, Copy)]
struct Owner<'t> {
    name: &'t str,
    /// `None`: not a tunnel.
    line: Option<usize>,
}

fn report(problems: &Problems, place: Place, second: Owner<'_>, first: Owner<'_>, listens: &str) {
    let line = first.line.map_or(String::new(), |line| format!(" (line {line})"));
    let refusal = Refusal::new(format!(
        "{} would listen where {}{line} does: {listens}",
        quote(second.name),
        quote(first.name)
    ));
    problems.report(place, refusal.hint("give one of them another port or another address"));
}

/// Whether two listeners of the same port exclude each other, as the kernel sees it.
fn overlap(left: Endpoint, right: Endpoint) -> bool {
    let covers = |wide: Endpoint, narrow: Endpoint| match (wide.address.ip(), narrow.address.ip()) {
        (IpAddr::V4(wide), IpAddr::V4(narrow)) => wide.is_unspecified() || wide == narrow,
        (IpAddr::V6(wide), IpAddr::V6(narrow)) => wide.is_unspecified() || wide == narrow,
        (IpAddr::V6(address), IpAddr::V4(_)) => address.is_unspecified() && !wide.v6only,
        (IpAddr::V4(_), IpAddr::V6(_)) => false,
    };
    left.protocol == right.protocol
        && left.port() == right.port()
        && (covers(left, right) || covers(right, left))
}

/// The same for addresses on a server, of which only the texts are known.
fn remote_overlap(left: &str, right: &str) -> bool {
    let is_wildcard = |bind: &str| matches!(bind, "*" | "0.0.0.0" | "::");
    left == right || is_wildcard(left) || is_wildcard(right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::Protocol;

    fn endpoint(text: &str, v6only: bool) -> Endpoint {
        Endpoint { address: text.parse().unwrap(), v6only, protocol: Protocol::Tcp }
    }

    #[test]
    fn wildcards_cover_addresses_of_their_family() {
        let v4_wildcard = endpoint("0.0.0.0:80", false);
        let v6_wildcard = endpoint("[::]:80", true);
        let dual_wildcard = endpoint("[::]:80", false);
        let v4 = endpoint("127.0.0.1:80", false);
        let v6 = endpoint("[::1]:80", true);
        for (left, right, expected) in [
            (v4_wildcard, v4, true),
            (v4_wildcard, v6, false),
            (v6_wildcard, v6, true),
            (v6_wildcard, v4, false),
            (v6_wildcard, v4_wildcard, false),
            (dual_wildcard, v4, true),
            (dual_wildcard, v4_wildcard, true),
            (v4, endpoint("127.0.0.2:80", false), false),
            (v4, endpoint("127.0.0.1:81", false), false),
        ] {
            assert_eq!(overlap(left, right), expected, "{left} {right}");
            assert_eq!(overlap(right, left), expected, "{right} {left}");
        }
    }
}
