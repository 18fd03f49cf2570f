//! Ports that the kernel gives to outgoing connections.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::claims::{Claim, Group};
use super::finding::{Check, Finding, or_ok};
use super::machine::Machine;
use super::mend::Mend;

/// Where the line that keeps ports reserved is written, read at boot.
const FILE: &str = "/etc/sysctl.d/90-portward.conf";

/// The kernel's range of ephemeral ports, and those that it leaves out. Both are of this network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ephemeral {
    range: RangeInclusive<u16>,
    reserved: BTreeSet<u16>,
}

impl Ephemeral {
    /// As the kernel has it; `None` if it does not tell.
    pub(super) fn read(machine: &Machine) -> Option<Self> {
        let range = machine.sysctl("net/ipv4/ip_local_port_range")?;
        let mut bounds = range.split_ascii_whitespace().map(str::parse);
        let (first, last) = (bounds.next()?.ok()?, bounds.next()?.ok()?);
        let reserved = machine.sysctl("net/ipv4/ip_local_reserved_ports")?;
        let reserved = reserved.split(',').filter(|part| !part.is_empty());
        let parts: Option<Vec<RangeInclusive<u16>>> = reserved.map(ports).collect();
        Some(Self { range: first..=last, reserved: parts?.into_iter().flatten().collect() })
    }

    /// Whether the kernel may give `port` away.
    fn gives(&self, port: u16) -> bool {
        self.range.contains(&port) && !self.reserved.contains(&port)
    }
}

/// `8080`, or `35000-35010`.
fn ports(part: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
}

/// `ports` as the kernel writes them: `8080,35000-35010`.
fn written(ports: &BTreeSet<u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for port in ports {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*port) => *last = *port,
            _ => ranges.push((*port, *port)),
        }
    }
    let written = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(written).collect::<Vec<_>>().join(",")
}

/// Judges the local ports.
pub(super) fn judge(ephemeral: Option<&Ephemeral>, claims: &[Claim], mend: Mend) -> Vec<Finding> {
    let Some(ephemeral) = ephemeral else {
        let what =
            "the kernel does not tell the range of its ephemeral ports: nothing is known against any port";
        return vec![Finding::ok(Check::EphemeralPorts, what)];
    };
    let (first, last) = (ephemeral.range.start(), ephemeral.range.end());
    let finding = Group::of(claims, |port| ephemeral.gives(port)).map(|group| {
        let reserved = &ephemeral.reserved | &group.ports;
        let setting = format!("net.ipv4.ip_local_reserved_ports={}", written(&reserved));
        let now = mend.as_root(&format!("sysctl -w {setting}"));
        let at_boot = mend.as_root(&format!("sh -c 'echo {setting} > {FILE}'"));
        group.tell(Finding::warning(
            Check::EphemeralPorts,
            format!("{} in the range {first}-{last} of ephemeral ports", in_words(&group)),
            "the kernel may give such a port to any outgoing connection, and then the tunnel cannot listen until that \
             has ended; a client that keeps trying while the tunnel is down may even connect to itself",
            format!("{now}\n{at_boot}  # the same after a boot"),
        ))
    });
    let what = format!("no local port is one that the kernel gives away (it does {first}-{last})");
    or_ok(finding.into_iter().collect(), Check::EphemeralPorts, what)
}

fn in_words(group: &Group) -> String {
    format!("{} {}", group.words(), if group.ports.len() == 1 { "lies" } else { "lie" })
}

#[cfg(test)]
mod tests {
    use super::super::claims::tests::claim;
    use super::super::finding::Level;
    use super::super::machine::tests::machine;
    use super::*;

    const MEND: Mend = Mend { uid: 1000 };

    fn judged(reserved: &str, ports: &[u16]) -> Finding {
        let (_root, machine) = machine(&[
            ("/proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
            ("/proc/sys/net/ipv4/ip_local_reserved_ports", reserved),
        ]);
        let claims: Vec<Claim> = ports.iter().map(|port| claim("web", *port)).collect();
        judge(Ephemeral::read(&machine).as_ref(), &claims, MEND).swap_remove(0)
    }

    #[test]
    fn the_line_keeps_what_is_reserved_already() {
        let finding = judged("8080,35000-35009\n", &[9443, 35010, 60999, 61000]);
        assert_eq!(finding.level, Level::Warning);
        assert_eq!((finding.tunnels, finding.ports), (vec!["web".to_owned()], vec![35010, 60999]));
        let mend = finding.mend.unwrap();
        assert_eq!(
            mend.lines().next(),
            Some("sudo sysctl -w net.ipv4.ip_local_reserved_ports=8080,35000-35010,60999")
        );
        assert!(mend.contains("net.ipv4.ip_local_reserved_ports=8080,35000-35010,60999 > /etc/sysctl.d/"));
    }

    #[test]
    fn ports_outside_and_reserved_ones_are_fine() {
        assert_eq!(judged("\n", &[32767, 61000]).level, Level::Ok);
        assert_eq!(judged("35000-35010\n", &[35000, 35005, 35010]).level, Level::Ok);
        assert_eq!(judged("", &[35000]).level, Level::Warning);
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_held_against_nobody() {
        let (_root, machine) = machine(&[]);
        assert_eq!(Ephemeral::read(&machine), None);
        assert_eq!(judge(None, &[claim("web", 35000)], MEND)[0].level, Level::Ok);
    }

    #[test]
    fn ports_in_a_row_are_written_as_a_range() {
        assert_eq!(written(&BTreeSet::from([1, 2, 3, 5, 65534, 65535])), "1-3,5,65534-65535");
        assert_eq!(written(&BTreeSet::new()), "");
    }
}
