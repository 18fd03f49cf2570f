//! The endpoints that the configuration listens on.

use std::collections::BTreeSet;

use crate::config::desired::Desired;
use crate::core::OnConflict;
use crate::port::{Endpoint, Ports, Protocol};
use crate::protocol::doctor::Finding;

/// An endpoint that the configuration listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    /// The tunnel; `None` for the API.
    pub(super) tunnel: Option<String>,
    pub(super) endpoint: Endpoint,
    pub(super) on_conflict: OnConflict,
}

impl Claim {
    /// The tunnel or the API, for a message.
    pub(super) fn claimant(&self) -> String {
        match &self.tunnel {
            Some(name) => format!("tunnel `{name}`"),
            None => "the API (`api.listen`)".to_owned(),
        }
    }
}

/// The claims of everything that is enabled.
pub(super) fn of(desired: &Desired, ports: &Ports) -> Vec<Claim> {
    let tunnels = desired.tunnels.iter().filter(|tunnel| tunnel.enabled);
    let mut claims: Vec<Claim> = tunnels
        .flat_map(|tunnel| {
            let claim = |endpoint| Claim {
                tunnel: Some(tunnel.name.clone()),
                endpoint,
                on_conflict: tunnel.policy.on_conflict,
            };
            ports.usable(tunnel.work.endpoints()).into_iter().map(claim)
        })
        .collect();
    if let Some(tcp) = &desired.api.tcp {
        let endpoint = Endpoint::new(tcp.listen.ip(), tcp.listen.port());
        claims.push(Claim { tunnel: None, endpoint, on_conflict: OnConflict::Wait });
    }
    claims
}

/// The protocols of the claims, and TCP in any case.
pub(super) fn protocols(claims: &[Claim]) -> BTreeSet<Protocol> {
    claims.iter().map(|claim| claim.endpoint.protocol).chain([Protocol::Tcp]).collect()
}

/// Several claims that a single finding is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) ports: BTreeSet<u16>,
    tunnels: Vec<String>,
    claimants: Vec<String>,
}

impl Group {
    /// The claims for which `is_wanted` holds; `None` if there are none.
    pub(super) fn of(claims: &[Claim], is_wanted: impl Fn(&Claim) -> bool) -> Option<Self> {
        let mut group = Self { ports: BTreeSet::new(), tunnels: Vec::new(), claimants: Vec::new() };
        for claim in claims.iter().filter(|claim| is_wanted(claim)) {
            group.ports.insert(claim.endpoint.port());
            if !group.claimants.contains(&claim.claimant()) {
                group.claimants.push(claim.claimant());
                group.tunnels.extend(claim.tunnel.clone());
            }
        }
        (!group.ports.is_empty()).then_some(group)
    }

    /// `finding`, about these tunnels and ports.
    pub(super) fn about(&self, finding: Finding) -> Finding {
        finding.of(self.tunnels.iter().cloned()).on(self.ports.iter().copied())
    }

    /// The ports and their tunnels, for a message.
    pub(super) fn words(&self) -> String {
        let word = if self.ports.len() == 1 { "port" } else { "ports" };
        format!("local {word} {} of {}", runs(&self.ports).join(", "), self.claimants.join(", "))
    }
}

/// `ports` as people write them, those that follow one another as a range: `8080`, `35000-35010`.
pub(super) fn runs(ports: &BTreeSet<u16>) -> Vec<String> {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for port in ports {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*port) => *last = *port,
            _ => ranges.push((*port, *port)),
        }
    }
    let range = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(range).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;

    /// A claim of the tunnel `name` on 127.0.0.1.
    pub(in crate::doctor) fn claim(name: &str, port: u16) -> Claim {
        let endpoint = Endpoint::new(std::net::Ipv4Addr::LOCALHOST.into(), port);
        Claim { tunnel: Some(name.to_owned()), endpoint, on_conflict: OnConflict::Wait }
    }

    #[test]
    fn only_what_is_enabled_and_listens_on_this_machine_has_claims() {
        let text = "tunnels:
  - {name: web, remote_host: a, remote_port: 80, local_port: '127.0.0.1:8080'}
  - {name: home, remote_host: a, remote_port: 22, local_port: 22, direction: local_to_remote}
  - {name: off, remote_host: a, remote_port: 81, local_port: 8081, enabled: false}
  - {name: dns, command: [socat], local_port: '127.0.0.1:53', protocol: udp, on_conflict: kill}
api: {listen: '127.0.0.1:5002', token_file: /token}
";
        let desired = crate::config::parse(text, Path::new("/config.yaml")).unwrap();
        let claims = of(&desired, &Ports::new().unwrap());
        let words = |claim: &Claim| format!("{} {}", claim.claimant(), claim.endpoint);
        assert_eq!(
            claims.iter().map(words).collect::<Vec<_>>(),
            [
                "tunnel `web` 127.0.0.1:8080",
                "tunnel `dns` 127.0.0.1:53/udp",
                "the API (`api.listen`) 127.0.0.1:5002"
            ]
        );
        assert_eq!(protocols(&claims), [Protocol::Tcp, Protocol::Udp].into());
        assert_eq!(claims[1].on_conflict, OnConflict::Kill);
    }

    #[test]
    fn a_group_names_each_tunnel_once() {
        let claims = [claim("a", 80), claim("a", 80), claim("b", 81), claim("c", 8080)];
        let group = Group::of(&claims, |claim| claim.endpoint.port() < 1024).unwrap();
        assert_eq!(group.words(), "local ports 80-81 of tunnel `a`, tunnel `b`");
        assert_eq!(Group::of(&claims, |claim| claim.endpoint.port() > 9000), None);
    }
}
