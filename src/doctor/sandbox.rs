//! Files that the daemon's unit hides from it: they are there for who looks from outside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::finding::{Check, Finding};
use super::judged::Judged;
use super::mend::Mend;
use super::systemd::Unit;
use crate::config::desired::{Desired, Work};

/// What `ProtectHome=` hides (systemd.exec(5)).
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];
/// What `PrivateTmp=` replaces.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

/// Judges the files that the configuration needs, for a daemon in `unit`.
pub(super) fn judge(
    config: &Path,
    socket: &Path,
    desired: Option<&Desired>,
    unit: Option<&Unit>,
    judged: &Judged,
    mend: Mend,
) -> Vec<Finding> {
    let Some(unit) = unit.filter(|unit| judged.unit.as_ref() == Some(&unit.name)) else { return Vec::new() };
    let mut findings = Vec::new();
    for (path, tunnels) in needed(config, socket, desired, judged) {
        let Some((setting, value)) = hidden_by(unit, &path) else { continue };
        let of =
            if tunnels.is_empty() { String::new() } else { format!(" of tunnel `{}`", tunnels.join("`, `")) };
        let settings = [format!("{setting}={value}")];
        let finding = Finding::error(
            Check::Unit,
            format!(
                "{} has {setting}={}, and hides {}{of}",
                unit.name,
                unit.property(setting),
                path.display()
            ),
            "the daemon and its ssh do not see the file, although it is there",
            mend.drop_in(&unit.name, "visible-files", &settings),
        );
        findings.push(finding.of(tunnels));
    }
    findings
}

/// The files that the daemon, its children or its clients open, and the tunnels that need them.
fn needed(
    config: &Path,
    socket: &Path,
    desired: Option<&Desired>,
    judged: &Judged,
) -> BTreeMap<PathBuf, Vec<String>> {
    let mut needed = BTreeMap::from([(config.to_owned(), Vec::new()), (socket.to_owned(), Vec::new())]);
    let Some(desired) = desired else { return needed };
    needed.extend(desired.api.tcp.iter().map(|tcp| (tcp.token_file.clone(), Vec::new())));
    let ssh_directory = judged.home().map(|home| home.join(".ssh"));
    for tunnel in desired.tunnels.iter().filter(|tunnel| tunnel.enabled) {
        let files: Vec<PathBuf> = match &tunnel.work {
            Work::Ssh(ssh) => [
                Some(&ssh.program),
                ssh.config_file.as_ref(),
                ssh.identity_file.as_ref(),
                ssh_directory.as_ref(),
            ]
            .into_iter()
            .flatten()
            .cloned()
            .collect(),
            Work::Command(command) => command.argv.first().map(PathBuf::from).into_iter().collect(),
        };
        for file in files.into_iter().filter(|file| file.is_absolute()) {
            needed.entry(file).or_default().push(tunnel.name.clone());
        }
    }
    needed
}

/// The setting of the unit that hides `path`, and its value that does not.
fn hidden_by(unit: &Unit, path: &Path) -> Option<(&'static str, &'static str)> {
    let is_below = |places: &[&str]| places.iter().any(|place| path.starts_with(place));
    if ["yes", "tmpfs"].contains(&unit.property("ProtectHome")) && is_below(&HOMES) {
        return Some(("ProtectHome", "read-only"));
    }
    if ["yes", "disconnected"].contains(&unit.property("PrivateTmp")) && is_below(&TEMPORARY) {
        return Some(("PrivateTmp", "no"));
    }
    None
}

#[cfg(test)]
mod tests {
    use rustix::thread::CapabilitySet;

    use super::super::judged::tests::judged;
    use super::super::systemd::Manager;
    use super::super::systemd::tests::unit;
    use super::*;

    fn told(lines: &[&str], text: &str) -> Vec<Finding> {
        let desired = crate::config::parse(text, Path::new("/etc/portward/config.yaml")).unwrap();
        let daemon = judged(0, CapabilitySet::empty(), true);
        let unit = unit(Manager::System, lines);
        let (config, socket) =
            (Path::new("/etc/portward/config.yaml"), Path::new("/run/portward/portward.sock"));
        judge(config, socket, Some(&desired), Some(&unit), &daemon, Mend { uid: 0 })
    }

    #[test]
    fn what_a_unit_hides_is_an_error_of_the_tunnels_that_need_it() {
        let text = "tunnels:
  - {name: a, remote_host: h, remote_port: 1, local_port: 8001, ssh: {identity_file: /tmp/key}}
  - {name: b, command: [/home/alice/bin/tool], local_port: 8003}
";
        let shipped = told(&["ProtectHome=read-only", "PrivateTmp=yes"], text);
        assert_eq!(shipped.len(), 1, "{shipped:?}");
        assert!(
            shipped[0].what.contains("has PrivateTmp=yes, and hides /tmp/key of tunnel `a`"),
            "{shipped:?}"
        );
        assert_eq!(shipped[0].tunnels, ["a"]);
        let closed = told(&["ProtectHome=yes", "PrivateTmp=no"], text);
        let hidden: Vec<&str> = closed.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(hidden.len(), 2, "{hidden:?}");
        assert!(hidden[0].contains("hides /home/alice/bin/tool of tunnel `b`"), "{hidden:?}");
        assert!(hidden[1].contains("hides /root/.ssh of tunnel `a`"), "{hidden:?}");
        assert_eq!(told(&["ProtectHome=no", "PrivateTmp=no"], text), []);
    }
}
