//! What a tunnel needs beyond the rights of an ordinary user: to end processes of others, and to bind low ports.

use rustix::thread::CapabilitySet;

use super::claims::{Claim, Group};
use super::fix::Fix;
use super::machine::Machine;
use super::process::Process;
use crate::core::OnConflict;
use crate::protocol::doctor::Finding;

/// The first port that every user may bind, unless the kernel says otherwise.
const FIRST_UNPRIVILEGED: u16 = 1024;

/// What prevents `on_conflict: kill` from ending every holder.
pub(super) fn cannot_kill(process: &Process, claims: &[Claim], fix: Fix) -> Option<Finding> {
    let group = Group::of(claims, |claim| claim.on_conflict == OnConflict::Kill)?;
    let line = match &process.unit {
        _ if process.has(CapabilitySet::SYS_PTRACE | CapabilitySet::KILL) => return None,
        Some(unit) => fix.capabilities(unit, "end-holders", "CAP_KILL CAP_SYS_PTRACE"),
        None => {
            "sudo systemctl enable --now portward  # a system unit can be given both capabilities".to_owned()
        }
    };
    let user = process.user();
    Some(group.about(Finding::warning(
        format!("user {user} cannot end every process, and `on_conflict: kill` is set for {}", group.words()),
        "CAP_SYS_PTRACE and CAP_KILL are required to find and to end a process of another user or with capabilities: if \
         one holds the port, the tunnel waits until it leaves",
        line,
    )))
}

/// What prevents ports below 1024 from being bound.
pub(super) fn cannot_bind(
    machine: &Machine,
    process: &Process,
    claims: &[Claim],
    fix: Fix,
) -> Option<Finding> {
    let first = machine.sysctl("net/ipv4/ip_unprivileged_port_start").and_then(|text| text.parse().ok());
    let first = first.unwrap_or(FIRST_UNPRIVILEGED);
    let low = Group::of(claims, |claim| claim.endpoint.port() < first)?;
    let lowest = low.ports.first().copied().unwrap_or_default();
    let line = match &process.unit {
        _ if process.has(CapabilitySet::NET_BIND_SERVICE) => return None,
        Some(unit) => fix.capabilities(unit, "low-ports", "CAP_NET_BIND_SERVICE"),
        None => fix.as_root(&format!("sysctl -w net.ipv4.ip_unprivileged_port_start={lowest}")),
    };
    Some(low.about(Finding::error(
        format!("user {} may not bind {}", process.user(), low.words()),
        format!("CAP_NET_BIND_SERVICE is required for ports below {first}: the bind fails without it"),
        line,
    )))
}

#[cfg(test)]
mod tests {
    use super::super::claims::tests::claim;
    use super::super::machine::tests::machine;
    use super::super::process::tests::process;
    use super::*;
    use crate::protocol::doctor::Level;

    const FIX: Fix = Fix { uid: 0 };

    fn killing(name: &str, port: u16) -> Claim {
        Claim { on_conflict: OnConflict::Kill, ..claim(name, port) }
    }

    #[test]
    fn a_unit_is_given_the_capabilities_to_end_holders() {
        let root = process(0, CapabilitySet::SYS_PTRACE, true);
        let claims = [claim("web", 9443), killing("db", 3306), killing("db", 3306)];
        let finding = cannot_kill(&root, &claims, FIX).unwrap();
        assert_eq!(
            (finding.level, &finding.tunnels[..], &finding.ports[..]),
            (Level::Warning, &["db".to_owned()][..], &[3306][..])
        );
        let fix = finding.fix.unwrap();
        for setting in ["CapabilityBoundingSet=CAP_KILL", "AmbientCapabilities=CAP_KILL", "daemon-reload"] {
            assert!(fix.contains(setting), "{setting} in {fix}");
        }
        assert_eq!(cannot_kill(&root, &[claim("web", 9443)], FIX), None);
        let able = process(1, CapabilitySet::SYS_PTRACE | CapabilitySet::KILL, true);
        assert_eq!(cannot_kill(&able, &claims, FIX), None);
    }

    #[test]
    fn a_low_port_requires_the_capability() {
        let (_root, machine) = machine(&[]);
        let claims = [claim("web", 80), claim("database", 13306)];
        let finding = cannot_bind(&machine, &process(0, CapabilitySet::KILL, true), &claims, FIX).unwrap();
        assert_eq!((finding.level, &finding.ports[..]), (Level::Error, &[80][..]));
        assert!(finding.fix.unwrap().contains("=CAP_NET_BIND_SERVICE"));
        let able = process(0, CapabilitySet::NET_BIND_SERVICE, true);
        assert_eq!(cannot_bind(&machine, &able, &claims, FIX), None);
    }

    #[test]
    fn the_kernel_says_which_ports_are_low() {
        let (_root, machine) = machine(&[("/proc/sys/net/ipv4/ip_unprivileged_port_start", "80\n")]);
        let user = process(1000, CapabilitySet::empty(), false);
        assert_eq!(cannot_bind(&machine, &user, &[claim("web", 80)], FIX), None);
        let finding = cannot_bind(&machine, &user, &[claim("web", 79)], FIX).unwrap();
        assert_eq!(finding.fix.as_deref(), Some("sysctl -w net.ipv4.ip_unprivileged_port_start=79"));
    }
}
