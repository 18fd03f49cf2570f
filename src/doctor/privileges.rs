//! What the daemon may do beyond what any user may: see and end the processes of others, and bind low ports.

use rustix::thread::CapabilitySet;

use super::claims::{Claim, Group};
use super::finding::{Check, Finding, or_ok};
use super::judged::Judged;
use super::machine::Machine;
use super::mend::Mend;
use crate::core::OnConflict;

/// The first port that anybody may bind, unless the kernel says otherwise.
const FIRST_UNPRIVILEGED: u16 = 1024;

/// Judges whether the holders of ports can be named, and ended where a tunnel says so.
pub(super) fn judge(judged: &Judged, claims: &[Claim], mend: Mend) -> Vec<Finding> {
    let sees = judged.may(CapabilitySet::SYS_PTRACE);
    let killing: Vec<Claim> =
        claims.iter().filter(|claim| claim.on_conflict == OnConflict::Kill).cloned().collect();
    let finding = match Group::of(&killing, |_| true) {
        Some(group) if !(sees && judged.may(CapabilitySet::KILL)) => Some(group.tell(Finding::warning(
            Check::Privileges,
            format!("{judged} cannot end every process, and `on_conflict: kill` is set for {}", group.words()),
            "a process of another user, or one with capabilities, is found by CAP_SYS_PTRACE only and ended by CAP_KILL \
             only: when it holds the port, the tunnel waits until that goes by itself",
            match &judged.unit {
                Some(unit) => mend.capabilities(unit, "end-holders", "CAP_KILL CAP_SYS_PTRACE"),
                None => "sudo systemctl enable --now portward  # the system's unit can be given both".to_owned(),
            },
        ))),
        Some(_) | None if sees => None,
        Some(_) | None => Some(Finding::warning(
            Check::Privileges,
            format!("{judged} has no CAP_SYS_PTRACE"),
            "of a process of another user, or one with capabilities, that holds a tunnel's port it knows the user and \
             the unit, but neither the pid nor the command line",
            match (&judged.unit, claims.first()) {
                (Some(unit), _) => mend.capabilities(unit, "see-holders", "CAP_SYS_PTRACE"),
                (None, Some(claim)) => format!("sudo portward who {}  # shows both", claim.endpoint.port()),
                (None, None) => "sudo portward who 1-65535  # shows both".to_owned(),
            },
        )),
    };
    or_ok(
        finding.into_iter().collect(),
        Check::Privileges,
        format!("{judged} sees whose process holds a port"),
    )
}

/// Judges the local ports under 1024.
pub(super) fn judge_ports(machine: &Machine, judged: &Judged, claims: &[Claim], mend: Mend) -> Vec<Finding> {
    let first = machine.sysctl("net/ipv4/ip_unprivileged_port_start").and_then(|text| text.parse().ok());
    let first = first.unwrap_or(FIRST_UNPRIVILEGED);
    let low = Group::of(claims, |port| port < first);
    let may = judged.may(CapabilitySet::NET_BIND_SERVICE);
    let finding = low.filter(|_| !may).map(|group| {
        let lowest = group.ports.first().copied().unwrap_or_default();
        let what = format!("{judged} may not listen on {}", group.words());
        let why = format!(
            "binding a port under {first} takes CAP_NET_BIND_SERVICE, which it does not have: it fails"
        );
        let line = match &judged.unit {
            Some(unit) => mend.capabilities(unit, "low-ports", "CAP_NET_BIND_SERVICE"),
            None => mend.as_root(&format!("sysctl -w net.ipv4.ip_unprivileged_port_start={lowest}")),
        };
        group.tell(Finding::error(Check::PrivilegedPorts, what, why, line))
    });
    let what = if may {
        format!("{judged} may bind every port")
    } else {
        format!("no local port is under {first}, where a capability would be needed")
    };
    or_ok(finding.into_iter().collect(), Check::PrivilegedPorts, what)
}

#[cfg(test)]
mod tests {
    use super::super::claims::tests::claim;
    use super::super::finding::Level;
    use super::super::judged::tests::judged;
    use super::super::machine::tests::machine;
    use super::*;

    const MEND: Mend = Mend { uid: 0 };

    fn killing(name: &str, port: u16) -> Claim {
        Claim { on_conflict: OnConflict::Kill, ..claim(name, port) }
    }

    #[test]
    fn root_without_a_capability_is_told_the_drop_in() {
        let root = judged(0, CapabilitySet::empty(), true);
        let findings = judge(&root, &[claim("web", 9443), killing("db", 3306), killing("db", 3306)], MEND);
        assert_eq!((findings.len(), findings[0].level), (1, Level::Warning), "{findings:?}");
        assert!(findings[0].what.contains("the daemon (pid 812, user root)"), "{findings:?}");
        assert_eq!((&findings[0].tunnels[..], &findings[0].ports[..]), (&["db".to_owned()][..], &[3306][..]));
        let mend = findings[0].mend.as_ref().unwrap();
        for setting in ["CapabilityBoundingSet=CAP_KILL", "AmbientCapabilities=CAP_KILL", "daemon-reload"] {
            assert!(mend.contains(setting), "{setting} in {mend}");
        }
    }

    #[test]
    fn to_see_is_enough_where_nobody_is_to_be_ended() {
        let blind = judged(1000, CapabilitySet::empty(), false);
        let finding = judge(&blind, &[claim("web", 9443)], MEND).swap_remove(0);
        assert_eq!(finding.mend.as_deref(), Some("sudo portward who 9443  # shows both"));
        let seeing = judged(0, CapabilitySet::SYS_PTRACE, true);
        assert_eq!(judge(&seeing, &[claim("web", 9443)], MEND)[0].level, Level::Ok);
        assert_eq!(judge(&seeing, &[killing("web", 9443)], MEND)[0].level, Level::Warning);
    }

    #[test]
    fn whoever_has_the_capabilities_is_well() {
        let able = judged(1, CapabilitySet::SYS_PTRACE | CapabilitySet::KILL, true);
        assert_eq!(judge(&able, &[killing("db", 3306)], MEND)[0].level, Level::Ok);
    }

    #[test]
    fn a_low_port_takes_the_capability() {
        let (_root, machine) = machine(&[]);
        let claims = [claim("web", 80), claim("database", 13306)];
        let root = judged(0, CapabilitySet::KILL, true);
        let finding = judge_ports(&machine, &root, &claims, MEND).swap_remove(0);
        assert_eq!((finding.level, &finding.ports[..]), (Level::Error, &[80][..]));
        assert!(finding.mend.unwrap().contains("=CAP_NET_BIND_SERVICE"));
        let able = judged(0, CapabilitySet::NET_BIND_SERVICE, true);
        assert_eq!(judge_ports(&machine, &able, &claims, MEND)[0].level, Level::Ok);
    }

    #[test]
    fn where_low_ports_begin_is_the_kernels_to_say() {
        let (_root, machine) = machine(&[("/proc/sys/net/ipv4/ip_unprivileged_port_start", "80\n")]);
        let user = judged(1000, CapabilitySet::empty(), false);
        assert_eq!(judge_ports(&machine, &user, &[claim("web", 80)], MEND)[0].level, Level::Ok);
        let finding = judge_ports(&machine, &user, &[claim("web", 79)], MEND).swap_remove(0);
        assert_eq!(finding.mend.as_deref(), Some("sysctl -w net.ipv4.ip_unprivileged_port_start=79"));
    }
}
