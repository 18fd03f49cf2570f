//! cgroups: by them the kernel tells whose a socket is when its process is hidden. No tunnel depends on them.

use super::finding::{Check, Finding};
use super::judged::Judged;
use super::machine::Machine;
use super::mend::Mend;
use super::systemd::Unit;
use crate::port::holder::cgroup::{path_in, root_in};

/// Judges the tree of cgroups and the daemon's own place in it.
pub(super) fn judge(machine: &Machine, judged: &Judged, unit: Option<&Unit>, mend: Mend) -> Finding {
    let mounts = machine.text("/proc/self/mounts").unwrap_or_default();
    let Some(root) = root_in(&mounts) else {
        return Finding::warning(
            Check::Cgroup,
            "cgroup v2 is not mounted",
            "of a process of another user that holds a tunnel's port, portward cannot tell the unit or the container",
            mend.as_root(
                "sh -c 'mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified'",
            ),
        );
    };
    let process = judged.pid().map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let cgroups = machine.text(&format!("/proc/{process}/cgroup")).unwrap_or_default();
    let is_delegated = unit.is_some_and(|unit| unit.property("Delegate") == "yes");
    let delegated = if is_delegated { "is delegated" } else { "is not delegated, and need not be" };
    let of_unit = unit.map(|unit| unit.property("ControlGroup")).filter(|path| !path.is_empty());
    match (judged.pid().and(path_in(&cgroups)), of_unit) {
        (Some(path), _) | (None, Some(path)) => Finding::ok(
            Check::Cgroup,
            format!("cgroup v2 is mounted on {root}; the daemon's {path} {delegated}"),
        ),
        (None, None) => Finding::ok(
            Check::Cgroup,
            format!("cgroup v2 is mounted on {root}; portward needs none of its own: it ends process groups"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use rustix::thread::CapabilitySet;

    use super::super::finding::Level;
    use super::super::judged::tests::judged;
    use super::super::machine::tests::machine;
    use super::super::systemd::Manager;
    use super::super::systemd::tests::unit;
    use super::*;

    const MEND: Mend = Mend { uid: 1000 };

    #[test]
    fn without_cgroup_v2_a_warning_is_all() {
        let (_root, machine) = machine(&[("/proc/self/mounts", "tmpfs /tmp tmpfs rw 0 0\n")]);
        let finding = judge(&machine, &judged(0, CapabilitySet::empty(), true), None, MEND);
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.mend.unwrap().starts_with("sudo sh -c '"));
    }

    #[test]
    fn the_place_of_the_daemon_is_told() {
        let (_root, machine) = machine(&[
            ("/proc/self/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"),
            ("/proc/812/cgroup", "0::/system.slice/portward.service\n"),
        ]);
        let daemon = judged(0, CapabilitySet::empty(), true);
        let told = |lines: &[&str]| judge(&machine, &daemon, Some(&unit(Manager::System, lines)), MEND);
        assert_eq!(told(&["Delegate=no"]).level, Level::Ok);
        assert!(told(&["Delegate=no"]).what.contains("/system.slice/portward.service is not delegated"));
        assert!(told(&["Delegate=yes"]).what.contains("is delegated"));
    }
}
