//! What the daemon may do beyond what any user may: see and end the processes of others, and bind low ports.

use rustix::thread::CapabilitySet;

use super::claims::{Claim, Group};
use super::finding::{Check, Finding, or_ok};
use super::judged::Judged;
use super::machine::Machine;
use super::mend::Mend;
use crate::tunnel::OnConflict;

/// The first port that anybody may bind, unless the kernel says otherwise.
const FIRST_UNPRIVILEGED: u16 = 1024;

/// Judges whether the holders of ports can be named, and ended.
pub(super) fn judge(judged: &Judged, claims: &[Claim], mend: Mend) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !judged.may(CapabilitySet::SYS_PTRACE) {
        let port =
            claims.first().map_or_else(|| "PORT".to_owned(), |claim| claim.endpoint.port().to_string());
        findings.push(Finding::warning(
            Check::Privileges,
            format!("{judged} has no CAP_SYS_PTRACE"),
            "of a process of another user that holds a tunnel's port it knows the user and the unit, but neither the \
             pid nor the command line",
            match &judged.unit {
                Some(unit) => mend.capabilities(unit, "see-holders", "CAP_SYS_PTRACE"),
                None => format!("sudo portward who {port}  # shows both"),
            },
        ));
    }
    let killing: Vec<String> = claims
        .iter()
        .filter(|claim| claim.on_conflict == OnConflict::Kill)
        .filter_map(|claim| claim.tunnel.clone())
        .collect();
    let has = judged.may(CapabilitySet::KILL) && judged.may(CapabilitySet::SYS_PTRACE);
    if !killing.is_empty() && !has {
        let finding = Finding::warning(
            Check::Privileges,
            format!("{judged} can end its own user's processes only, and `on_conflict: kill` is set"),
            "when a process of another user holds the port, the tunnel waits until that goes by itself: to end it takes \
             CAP_KILL, and to find it CAP_SYS_PTRACE",
            match &judged.unit {
                Some(unit) => mend.capabilities(unit, "end-holders", "CAP_KILL CAP_SYS_PTRACE"),
                None => {
                    "sudo systemctl enable --now portward  # the system's unit can be given both".to_owned()
                }
            },
        );
        let ports = claims.iter().filter(|claim| claim.on_conflict == OnConflict::Kill);
        let mut ports: Vec<u16> = ports.map(|claim| claim.endpoint.port()).collect();
        ports.dedup();
        let mut killing = killing;
        killing.dedup();
        findings.push(finding.of(killing).on(ports));
    }
    or_ok(findings, Check::Privileges, format!("{judged} sees whose process holds a port"))
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
        assert_eq!(findings.len(), 2);
        assert!(findings.iter().all(|finding| finding.level == Level::Warning), "{findings:?}");
        assert!(findings[0].what.contains("the daemon (pid 812, user root)"), "{findings:?}");
        assert_eq!((&findings[1].tunnels[..], &findings[1].ports[..]), (&["db".to_owned()][..], &[3306][..]));
        let mend = findings[1].mend.as_ref().unwrap();
        for setting in ["CapabilityBoundingSet=CAP_KILL", "AmbientCapabilities=CAP_KILL", "daemon-reload"] {
            assert!(mend.contains(setting), "{setting} in {mend}");
        }
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
