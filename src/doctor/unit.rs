//! Whether systemd starts portward, and what would become of the tunnels if not.

use super::finding::{Check, Finding, or_ok};
use super::machine::Machine;
use super::mend::{Mend, path, word};
use super::systemd::{self, Manager, Unit};

/// The unit's name, with the system's manager and with a user's own.
const UNIT: &str = "portward.service";

/// The units that would start portward for who calls doctor.
#[derive(Debug)]
pub(super) struct Units {
    is_booted: bool,
    /// The system's own unit.
    pub(super) system: Option<Unit>,
    /// The unit with the system's manager that runs as this user.
    of_user: Option<Unit>,
    /// The unit with this user's own manager, and whether that runs without a login.
    own: Option<Unit>,
    lingers: bool,
    /// `None` for root.
    user: Option<String>,
}

impl Units {
    /// Asks systemd, if that runs this machine.
    pub(super) async fn find(machine: &Machine) -> Self {
        let is_booted = systemd::is_booted(machine);
        let uid = nix::unistd::geteuid();
        let user = (!uid.is_root())
            .then(|| crate::port::holder::user(uid.as_raw()).unwrap_or_else(|| uid.to_string()));
        let mut units = Self { is_booted, system: None, of_user: None, own: None, lingers: false, user };
        if is_booted {
            units.system = systemd::unit(Manager::System, UNIT).await;
            if let Some(user) = &units.user {
                units.of_user = systemd::unit(Manager::System, &format!("portward@{user}.service")).await;
                units.own = systemd::unit(Manager::User, UNIT).await;
                units.lingers = machine.path(format!("/var/lib/systemd/linger/{user}")).exists();
            }
        }
        units
    }

    /// Those with the system's manager that would start portward for who calls doctor.
    pub(super) fn of_system(&self) -> impl Iterator<Item = &Unit> {
        self.system.iter().chain(&self.of_user)
    }

    /// Those that are for who calls doctor, the ones that are enabled first.
    fn ours(&self) -> Vec<&Unit> {
        let mut units: Vec<&Unit> = match self.user {
            None => self.system.iter().collect(),
            Some(_) => self.of_user.iter().chain(&self.own).collect(),
        };
        units.sort_by_key(|unit| !(unit.is_enabled() || unit.is_running()));
        units
    }
}

/// Judges the unit that starts portward.
pub(super) fn judge(machine: &Machine, units: &Units, mend: Mend) -> Vec<Finding> {
    if !units.is_booted {
        let what = "systemd does not run this machine: whoever starts `portward run` must start it again after a boot";
        return vec![Finding::ok(Check::Unit, what)];
    }
    let Some(unit) = units.ours().first().copied() else {
        return vec![missing(units, mend)];
    };
    let mut findings = Vec::new();
    let name = &unit.name;
    if let Some(program) = unit.program().filter(|program| !machine.path(program).exists()) {
        let ours =
            std::env::current_exe().map_or_else(|_| "target/release/portward".to_owned(), |exe| path(&exe));
        findings.push(Finding::error(
            Check::Unit,
            format!("{name} runs {program}, which is not there"),
            "the unit cannot start",
            mend.as_root(&format!("install {ours} {}", word(program))),
        ));
    }
    if !unit.is_enabled() {
        findings.push(Finding::warning(
            Check::Unit,
            format!("{name} is installed and not enabled"),
            "systemd does not start it at boot: the tunnels are gone then",
            enable(unit, mend),
        ));
    }
    if ["process", "none"].contains(&unit.property("KillMode")) {
        findings.push(Finding::warning(
            Check::Unit,
            format!("{name} has KillMode={}", unit.property("KillMode")),
            "what a daemon that crashed leaves behind keeps its ports, and the next one takes nothing over",
            match unit.manager {
                Manager::System => mend.drop_in(name, "kill-mode", &["KillMode=mixed".to_owned()]),
                Manager::User => format!("systemctl --user edit {name}  # [Service] KillMode=mixed"),
            },
        ));
    }
    if unit.manager == Manager::User && !units.lingers {
        let user = units.user.as_deref().unwrap_or("root");
        findings.push(Finding::warning(
            Check::Unit,
            format!("{name} of {user} runs only while {user} is logged in"),
            "the tunnels end with the last session",
            mend.as_root(&format!("loginctl enable-linger {}", word(user))),
        ));
    }
    let state = unit.property("ActiveState");
    or_ok(findings, Check::Unit, format!("{name} is installed and enabled ({state})"))
}

fn enable(unit: &Unit, mend: Mend) -> String {
    match unit.manager {
        Manager::System => mend.as_root(&format!("systemctl enable --now {}", unit.name)),
        Manager::User => format!("systemctl --user enable --now {}", unit.name),
    }
}

fn missing(units: &Units, mend: Mend) -> Finding {
    let lines = match &units.user {
        None => [
            mend.as_root("install -m 644 config/systemd/portward.service /etc/systemd/system/"),
            mend.as_root("systemctl enable --now portward"),
        ],
        Some(user) => [
            mend.as_root("install -m 644 config/systemd/portward@.service /etc/systemd/system/"),
            mend.as_root(&format!("systemctl enable --now portward@{}", word(user))),
        ],
    };
    Finding::warning(
        Check::Unit,
        "no unit of systemd starts portward",
        "the tunnels end with who started `portward run`, and do not come back after a boot",
        format!("{}  # in portward's source\n{}", lines[0], lines[1]),
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::machine::tests::machine;
    use super::super::systemd::tests::unit;
    use super::*;

    const MEND: Mend = Mend { uid: 1000 };
    const PROGRAM: &str = "ExecStart={ path=/usr/local/bin/portward ; argv[]=/usr/local/bin/portward run }";

    fn units(system: Option<Unit>) -> Units {
        Units { is_booted: true, system, of_user: None, own: None, lingers: false, user: None }
    }

    fn judge_on(files: &[(&str, &str)], units: &Units) -> Vec<Finding> {
        let (_root, machine) = machine(files);
        judge(&machine, units, MEND)
    }

    #[test]
    fn an_enabled_unit_with_its_program_is_fine() {
        let lines = ["UnitFileState=enabled", "ActiveState=active", "KillMode=mixed", PROGRAM];
        let units = units(Some(unit(Manager::System, &lines)));
        let findings = judge_on(&[("/usr/local/bin/portward", "")], &units);
        assert_eq!((findings.len(), findings[0].level), (1, Level::Ok), "{findings:?}");
        let findings = judge_on(&[], &units);
        assert_eq!((findings.len(), findings[0].level), (1, Level::Error), "{findings:?}");
        assert!(findings[0].mend.as_ref().unwrap().ends_with(" /usr/local/bin/portward"), "{findings:?}");
    }

    #[test]
    fn what_does_not_survive_a_boot_is_a_warning() {
        let lines = ["UnitFileState=disabled", "KillMode=process"];
        let findings = judge_on(&[], &units(Some(unit(Manager::System, &lines))));
        let mends: Vec<&str> = findings.iter().filter_map(|finding| finding.mend.as_deref()).collect();
        assert_eq!(mends[0], "sudo systemctl enable --now portward.service");
        assert!(mends[1].contains("KillMode=mixed"), "{mends:?}");
        let findings = judge_on(&[], &units(None));
        assert_eq!(findings[0].level, Level::Warning);
        assert!(findings[0].mend.as_ref().unwrap().ends_with("\nsudo systemctl enable --now portward"));
    }

    #[test]
    fn a_unit_of_a_user_needs_that_the_user_lingers() {
        let own = Some(unit(Manager::User, &["UnitFileState=enabled"]));
        let mut units = Units { own, user: Some("alice".to_owned()), ..units(None) };
        let findings = judge_on(&[], &units);
        assert_eq!(findings[0].mend.as_deref(), Some("sudo loginctl enable-linger alice"));
        units.lingers = true;
        assert_eq!(judge_on(&[], &units)[0].level, Level::Ok);
    }

    #[test]
    fn a_machine_without_systemd_is_not_blamed() {
        let units = Units { is_booted: false, ..units(None) };
        assert_eq!(judge_on(&[], &units)[0].level, Level::Ok);
    }
}
