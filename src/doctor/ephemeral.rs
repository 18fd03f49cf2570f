//! Ports that the kernel may give to outgoing connections.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::claims::{self, Claim, Group};
use super::fix::Fix;
use super::machine::Machine;
use crate::protocol::doctor::Finding;

/// The file that reserves the ports at boot.
const FILE: &str = "/etc/sysctl.d/90-portward.conf";

/// The local ports in the ephemeral range.
pub(super) fn finding(machine: &Machine, claims: &[Claim], fix: Fix) -> Option<Finding> {
    let (range, reserved) = ephemeral(machine)?;
    let group = Group::of(claims, |claim| {
        range.contains(&claim.endpoint.port()) && !reserved.contains(&claim.endpoint.port())
    })?;
    let setting = format!("net.ipv4.ip_local_reserved_ports={}", list(&(&reserved | &group.ports)));
    let now = fix.as_root(&format!("sysctl -w {setting}"));
    let at_boot = fix.as_root(&format!("sh -c 'echo {setting} > {FILE}'"));
    let verb = if group.ports.len() == 1 { "is" } else { "are" };
    let (first, last) = (range.start(), range.end());
    Some(group.about(Finding::warning(
        format!("{} {verb} in the range {first}-{last} of ephemeral ports", group.words()),
        "the kernel may give such a port to any outgoing connection, and the tunnel cannot listen until that has ended; \
         a client that retries while the tunnel is down may even connect to itself",
        format!("{now}\n{at_boot}  # the same at boot"),
    )))
}

/// The kernel's range of ephemeral ports, and the reserved ports, which it leaves out. Both are of this network namespace.
fn ephemeral(machine: &Machine) -> Option<(RangeInclusive<u16>, BTreeSet<u16>)> {
    let range = machine.sysctl("net/ipv4/ip_local_port_range")?;
    let mut bounds = range.split_ascii_whitespace().map(str::parse);
    let (first, last) = (bounds.next()?.ok()?, bounds.next()?.ok()?);
    let reserved = machine.sysctl("net/ipv4/ip_local_reserved_ports")?;
    let mut ports = BTreeSet::new();
    for part in reserved.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        ports.extend(first.trim().parse::<u16>().ok()?..=last.trim().parse().ok()?);
    }
    Some((first..=last, ports))
}

/// `ports` as the kernel writes them: `8080,35000-35010`.
fn list(ports: &BTreeSet<u16>) -> String {
    claims::runs(ports).join(",")
}

#[cfg(test)]
mod tests {
    use super::super::claims::tests::claim;
    use super::super::machine::tests::machine;
    use super::*;

    fn found(reserved: &str, ports: &[u16]) -> Option<Finding> {
        let (_root, machine) = machine(&[
            ("/proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
            ("/proc/sys/net/ipv4/ip_local_reserved_ports", reserved),
        ]);
        let claims: Vec<Claim> = ports.iter().map(|port| claim("web", *port)).collect();
        finding(&machine, &claims, Fix { uid: 1000 })
    }

    #[test]
    fn the_fix_keeps_the_ports_that_are_reserved_already() {
        let finding = found("8080,35000-35009\n", &[9443, 35010, 60999, 61000]).unwrap();
        assert_eq!((finding.tunnels, finding.ports), (vec!["web".to_owned()], vec![35010, 60999]));
        let setting = "net.ipv4.ip_local_reserved_ports=8080,35000-35010,60999";
        let fix = finding.fix.unwrap();
        assert_eq!(fix.lines().next().unwrap(), format!("sudo sysctl -w {setting}"));
        assert!(fix.contains(&format!("{setting} > /etc/sysctl.d/")), "{fix}");
    }

    #[test]
    fn ports_outside_the_range_and_reserved_ports_are_fine() {
        assert_eq!(found("\n", &[32767, 61000]), None);
        assert_eq!(found("35000-35010\n", &[35000, 35005, 35010]), None);
        assert!(found("", &[35000]).is_some());
    }

    #[test]
    fn a_range_that_is_not_known_is_no_problem() {
        let (_root, machine) = machine(&[]);
        assert_eq!(finding(&machine, &[claim("web", 35000)], Fix { uid: 1000 }), None);
    }
}
