//! Whether systemd starts portward, and shows it the files that the tunnels need.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::ask::Asker;
use super::fix::{Fix, path, word};
use super::machine::Machine;
use super::process::{Process, user};
use super::systemd::{self, Manager, Unit};
use crate::config::desired::{Desired, SshTunnel, Work};
use crate::protocol::doctor::Finding;

/// The name of the unit, in the system's manager and in a user's own.
const UNIT: &str = "portward.service";

/// What `ProtectHome=` hides (systemd.exec(5)).
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

/// What `PrivateTmp=` replaces.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

/// The units that start portward for the user of this process.
#[derive(Debug)]
pub(super) struct Units {
    is_booted: bool,
    /// Why the system's manager does not tell of its units.
    silence: Option<String>,
    /// The system's own unit.
    system: Option<Unit>,
    /// The unit of the system's manager that runs as this user.
    of_user: Option<Unit>,
    /// The unit of this user's own manager, and whether that runs without a login.
    own: Option<Unit>,
    lingers: bool,
    /// `None` for root.
    user: Option<String>,
}

impl Units {
    /// Asks systemd, if it is the init system.
    pub(super) fn find(machine: &Machine, asker: Asker) -> Self {
        let is_booted = systemd::is_booted(machine);
        let uid = nix::unistd::geteuid();
        let user = (!uid.is_root()).then(|| user(uid.as_raw()));
        let mut units =
            Self { is_booted, silence: None, system: None, of_user: None, own: None, lingers: false, user };
        units.silence = units.ask(machine, asker).err();
        units
    }

    fn ask(&mut self, machine: &Machine, asker: Asker) -> Result<(), String> {
        if self.is_booted {
            self.system = Unit::find(Manager::System, UNIT, asker)?;
            if let Some(user) = &self.user {
                self.of_user = Unit::find(Manager::System, &format!("portward@{user}.service"), asker)?;
                // A user who is not logged in may have no manager.
                self.own = Unit::find(Manager::User, UNIT, asker).ok().flatten();
                self.lingers = machine.path(format!("/var/lib/systemd/linger/{user}")).exists();
            }
        }
        Ok(())
    }

    /// The units of the system's manager.
    pub(super) fn of_system(&self) -> impl Iterator<Item = &Unit> {
        self.system.iter().chain(&self.of_user)
    }

    /// The unit that starts portward for this user; one that is enabled comes first.
    fn ours(&self) -> Option<&Unit> {
        let units = match self.user {
            None => [self.system.as_ref(), None],
            Some(_) => [self.of_user.as_ref(), self.own.as_ref()],
        };
        units.into_iter().flatten().min_by_key(|unit| !(unit.is_enabled() || unit.is_running()))
    }
}

/// Why systemd does not start portward, and which files it hides from the daemon. `desired` is the configuration, `daemon` the
/// pid of the daemon if one is running.
pub(super) fn findings(
    machine: &Machine,
    units: &Units,
    desired: Option<&Desired>,
    process: &Process,
    daemon: Option<u32>,
    fix: Fix,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let runs_in = units.of_system().find(|unit| process.unit.as_ref() == Some(&unit.name));
    if let (Some(unit), Some(desired)) = (runs_in, desired) {
        findings.extend(hidden(unit, &needed(desired, process), Path::exists, fix));
    }
    findings.extend(service(machine, units, daemon.is_some(), fix));
    if findings.is_empty() {
        findings.push(Finding::ok(match units.ours() {
            Some(unit) => {
                format!("{} is installed and enabled ({})", unit.name, unit.property("ActiveState"))
            }
            None => "systemd is not running: portward must be started by other means at boot".to_owned(),
        }));
    }
    findings
}

fn service(machine: &Machine, units: &Units, is_daemon_running: bool, fix: Fix) -> Vec<Finding> {
    if !units.is_booted {
        return Vec::new();
    }
    if let Some(silence) = &units.silence {
        let what = "systemd does not tell whether one of its units starts portward";
        return vec![Finding::warning(what, silence, "systemctl status portward && portward doctor")];
    }
    let Some(unit) = units.ours() else { return vec![missing(units, fix)] };
    let name = &unit.name;
    let mut findings = Vec::new();
    if let Some(program) = unit.program().filter(|program| !machine.path(program).exists()) {
        let ours =
            std::env::current_exe().map_or_else(|_| "target/release/portward".to_owned(), |exe| path(&exe));
        findings.push(Finding::error(
            format!("{name} runs {program}, which does not exist"),
            "the unit cannot start",
            fix.as_root(&format!("install {ours} {}", word(program))),
        ));
    }
    let systemctl = |verb: &str| match unit.manager {
        Manager::System => fix.as_root(&format!("systemctl {verb} {name}")),
        Manager::User => format!("systemctl --user {verb} {name}"),
    };
    if !unit.is_enabled() {
        let what = format!("{name} is installed, but not enabled");
        let why = "systemd does not start it at boot, and the tunnels are down then";
        findings.push(Finding::warning(what, why, systemctl("enable --now")));
    } else if !is_daemon_running && !unit.is_running() {
        let what = format!("{name} is enabled, but not running");
        let why = "the tunnels are down; the other results are about this command, which may have other rights and \
                   see other files than the service";
        findings.push(Finding::warning(what, why, format!("{} && portward doctor", systemctl("start"))));
    }
    let mode = unit.property("KillMode");
    if !["", "process"].contains(&mode) {
        let line = match unit.manager {
            Manager::System => fix.drop_in(name, "kill-mode", &["KillMode=process".to_owned()]),
            Manager::User => format!("systemctl --user edit {name}  # [Service] KillMode=process"),
        };
        let why = "systemd ends the tunnels together with a daemon that crashes or is restarted; otherwise they go on, and the \
                   next one takes them over";
        findings.push(Finding::warning(format!("{name} has KillMode={mode}"), why, line));
    }
    if unit.manager == Manager::User && !units.lingers {
        let user = units.user.as_deref().unwrap_or("root");
        let what = format!("{name} of {user} runs only while {user} is logged in");
        let line = fix.as_root(&format!("loginctl enable-linger {}", word(user)));
        findings.push(Finding::warning(what, "the tunnels end with the last session", line));
    }
    findings
}

fn missing(units: &Units, fix: Fix) -> Finding {
    let (file, name) = match &units.user {
        None => ("portward.service", "portward".to_owned()),
        Some(user) => ("portward@.service", format!("portward@{}", word(user))),
    };
    let install = fix.as_root(&format!("install -m 644 config/systemd/{file} /etc/systemd/system/"));
    let enable = fix.as_root(&format!("systemctl enable --now {name}"));
    Finding::warning(
        "no systemd unit starts portward",
        "the tunnels end with the process that started `portward run`, and do not start at boot",
        format!("{install}  # in portward's source directory\n{enable}"),
    )
}

/// The files that the daemon and its processes open, and the tunnels that need them.
fn needed(desired: &Desired, process: &Process) -> BTreeMap<PathBuf, Vec<String>> {
    let token = desired.api.tcp.iter().map(|tcp| (tcp.token_file.clone(), Vec::new()));
    let mut needed: BTreeMap<PathBuf, Vec<String>> = token.collect();
    let ssh_directory = process.home().map(|home| home.join(".ssh"));
    for tunnel in desired.tunnels.iter().filter(|tunnel| tunnel.enabled) {
        let files = match &tunnel.work {
            Work::Ssh(SshTunnel { ssh, .. }) => [
                Some(ssh.program.clone()),
                ssh.config_file.clone(),
                ssh.identity_file.clone(),
                ssh_directory.clone(),
            ],
            Work::Command(command) => [command.argv.first().map(PathBuf::from), None, None, None],
        };
        for file in files.into_iter().flatten().filter(|file| file.is_absolute()) {
            needed.entry(file).or_default().push(tunnel.name.clone());
        }
    }
    needed
}

/// The files of `needed` that the unit hides from its process.
fn hidden(
    unit: &Unit,
    needed: &BTreeMap<PathBuf, Vec<String>>,
    is_visible: impl Fn(&Path) -> bool,
    fix: Fix,
) -> Vec<Finding> {
    let hidden = needed.iter().filter(|(path, _)| !is_visible(path)).filter_map(|(path, tunnels)| {
        let is_below = |places: &[&str]| places.iter().any(|place| path.starts_with(place));
        let is_set = |name, values: [&str; 2]| values.contains(&unit.property(name));
        let (setting, value) = if is_set("ProtectHome", ["yes", "tmpfs"]) && is_below(&HOMES) {
            ("ProtectHome", "read-only")
        } else if is_set("PrivateTmp", ["yes", "disconnected"]) && is_below(&TEMPORARY) {
            ("PrivateTmp", "no")
        } else {
            return None;
        };
        let of =
            if tunnels.is_empty() { String::new() } else { format!(" of tunnel `{}`", tunnels.join("`, `")) };
        let (name, current) = (&unit.name, unit.property(setting));
        let finding = Finding::error(
            format!("{name} has {setting}={current}, and hides {}{of}", path.display()),
            "the daemon and its ssh do not see the file, although it may exist",
            fix.drop_in(name, "visible-files", &[format!("{setting}={value}")]),
        );
        Some(finding.of(tunnels.iter().cloned()))
    });
    hidden.collect()
}

#[cfg(test)]
mod tests {
    use rustix::thread::CapabilitySet;

    use super::super::machine::tests::machine;
    use super::super::process::tests::process;
    use super::super::systemd::tests::unit;
    use super::*;
    use crate::protocol::doctor::Level;

    const FIX: Fix = Fix { uid: 1000 };
    const PROGRAM: &str = "ExecStart={ path=/usr/local/bin/portward ; argv[]=/usr/local/bin/portward run }";

    fn units(system: Option<Unit>) -> Units {
        Units { is_booted: true, silence: None, system, of_user: None, own: None, lingers: false, user: None }
    }

    fn found(files: &[(&str, &str)], units: &Units) -> Vec<Finding> {
        let (_root, machine) = machine(files);
        service(&machine, units, true, FIX)
    }

    #[test]
    fn a_unit_needs_its_program() {
        let lines = ["UnitFileState=enabled", "ActiveState=active", "KillMode=process", PROGRAM];
        let units = units(Some(unit(Manager::System, &lines)));
        assert_eq!(found(&[("/usr/local/bin/portward", "")], &units), []);
        let findings = found(&[], &units);
        assert_eq!((findings.len(), findings[0].level), (1, Level::Error), "{findings:?}");
        assert!(findings[0].fix.as_ref().unwrap().ends_with(" /usr/local/bin/portward"), "{findings:?}");
    }

    #[test]
    fn tunnels_that_end_with_a_boot_or_a_crash_are_a_warning() {
        let lines = ["UnitFileState=disabled", "KillMode=mixed"];
        let findings = found(&[], &units(Some(unit(Manager::System, &lines))));
        let fixes: Vec<&str> = findings.iter().filter_map(|finding| finding.fix.as_deref()).collect();
        assert_eq!(fixes[0], "sudo systemctl enable --now portward.service");
        assert!(fixes[1].contains("KillMode=process"), "{fixes:?}");
        let findings = found(&[], &units(None));
        assert_eq!(findings[0].level, Level::Warning);
        assert!(findings[0].fix.as_ref().unwrap().ends_with("\nsudo systemctl enable --now portward"));
        let silence = Some("no answer".to_owned());
        let unknown = found(&[], &Units { silence, ..units(None) }).swap_remove(0);
        assert!(
            unknown.what.contains("does not tell"),
            "nothing is claimed that was not looked at: {unknown:?}"
        );
        assert_eq!(unknown.why.as_deref(), Some("no answer"));
    }

    #[test]
    fn a_unit_that_is_not_running_is_a_warning_without_a_daemon() {
        let units = units(Some(unit(Manager::System, &["UnitFileState=enabled", "ActiveState=inactive"])));
        let (_root, machine) = machine(&[]);
        assert_eq!(service(&machine, &units, true, FIX), []);
        let fix = service(&machine, &units, false, FIX).swap_remove(0).fix.unwrap();
        assert_eq!(fix, "sudo systemctl start portward.service && portward doctor");
    }

    #[test]
    fn a_users_own_unit_needs_that_the_user_lingers() {
        let own = Some(unit(Manager::User, &["UnitFileState=enabled"]));
        let mut units = Units { own, user: Some("alice".to_owned()), ..units(None) };
        assert_eq!(found(&[], &units)[0].fix.as_deref(), Some("sudo loginctl enable-linger alice"));
        units.lingers = true;
        assert_eq!(found(&[], &units), []);
        assert_eq!(found(&[], &Units { is_booted: false, ..units }), []);
    }

    #[test]
    fn files_that_a_unit_hides_are_errors_of_the_tunnels_that_need_them() {
        let text = "tunnels:
  - {name: a, remote_host: h, remote_port: 1, local_port: 8001, ssh: {identity_file: /tmp/key}}
  - {name: b, command: [/home/alice/bin/tool], local_port: 8003}
";
        let desired = crate::config::parse(text, Path::new("/etc/portward/config.yaml")).unwrap();
        let needed = needed(&desired, &process(0, CapabilitySet::empty(), true));
        let found = |lines: &[&str]| hidden(&unit(Manager::System, lines), &needed, |_| false, FIX);
        let shipped = found(&["ProtectHome=read-only", "PrivateTmp=yes"]);
        assert_eq!(shipped.len(), 1, "{shipped:?}");
        assert!(
            shipped[0].what.contains("has PrivateTmp=yes, and hides /tmp/key of tunnel `a`"),
            "{shipped:?}"
        );
        assert_eq!(shipped[0].tunnels, ["a"]);
        let closed = found(&["ProtectHome=yes", "PrivateTmp=no"]);
        assert_eq!(closed.len(), 2, "{closed:?}");
        assert!(closed[0].what.contains("hides /home/alice/bin/tool of tunnel `b`"), "{closed:?}");
        assert!(closed[1].what.contains("hides /root/.ssh of tunnel `a`"), "{closed:?}");
        assert_eq!(found(&["ProtectHome=no", "PrivateTmp=no"]), []);
        let unit = unit(Manager::System, &["PrivateTmp=yes"]);
        assert_eq!(hidden(&unit, &needed, |_| true, FIX), []);
    }
}
