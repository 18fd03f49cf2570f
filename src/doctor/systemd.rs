//! Units of systemd, as `systemctl show` prints them.

use std::collections::HashMap;
use std::process::Command;

use super::ask::Asker;
use super::machine::Machine;

/// What decides whether the unit starts, and what its process is given.
const PROPERTIES: &str = "LoadState,ActiveState,UnitFileState,User,KillMode,ExecStart,Environment,EnvironmentFiles,\
                          ProtectHome,PrivateTmp";

/// A service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manager {
    /// The system's.
    System,
    /// This user's own.
    User,
}

/// A unit that systemd has loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) name: String,
    pub(super) manager: Manager,
    properties: HashMap<String, String>,
}

impl Unit {
    /// The unit `name`; `None` if it does not exist.
    ///
    /// # Errors
    /// The manager does not tell, for this reason.
    pub(super) fn find(manager: Manager, name: &str, asker: Asker) -> Result<Option<Self>, String> {
        let mut command = Command::new("systemctl");
        if manager == Manager::User {
            command.arg("--user");
        }
        command.args(["show", &format!("--property={PROPERTIES}"), "--", name]);
        let answer = asker.ask(command).map_err(|error| error.to_string())?;
        if !answer.status.success() {
            return Err(format!("systemctl: {}: {}", answer.status, answer.complaints.join("; ")));
        }
        Ok(Self::from_lines(name, manager, &answer.output))
    }

    fn from_lines(name: &str, manager: Manager, lines: &[String]) -> Option<Self> {
        let mut properties: HashMap<String, String> = HashMap::new();
        for (name, value) in lines.iter().filter_map(|line| line.split_once('=')) {
            // A list may have several lines.
            let known = properties.entry(name.to_owned()).or_default();
            if !known.is_empty() {
                known.push('\n');
            }
            known.push_str(value);
        }
        let unit = Self { name: name.to_owned(), manager, properties };
        (unit.property("LoadState") == "loaded").then_some(unit)
    }

    /// The value of a property; empty if it has none.
    pub(super) fn property(&self, name: &str) -> &str {
        self.properties.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Whether its process is running.
    pub(super) fn is_running(&self) -> bool {
        ["active", "activating", "reloading"].contains(&self.property("ActiveState"))
    }

    /// Whether systemd starts it at boot.
    pub(super) fn is_enabled(&self) -> bool {
        ["enabled", "enabled-runtime", "static", "generated"].contains(&self.property("UnitFileState"))
    }

    /// The command line in `{ path=... ; argv[]=/usr/local/bin/portward run ; ...`.
    pub(super) fn arguments(&self) -> Vec<&str> {
        let argv =
            self.property("ExecStart").split_once("argv[]=").and_then(|(_, rest)| rest.split(" ;").next());
        argv.unwrap_or_default().split_ascii_whitespace().collect()
    }

    /// The program in `{ path=/usr/local/bin/portward ; argv[]=...`.
    pub(super) fn program(&self) -> Option<&str> {
        let (_, rest) = self.property("ExecStart").split_once("path=")?;
        rest.split(" ;").next()
    }
}

/// Whether systemd is the init system of this machine (sd_booted(3)).
pub(super) fn is_booted(machine: &Machine) -> bool {
    machine.path("/run/systemd/system").is_dir()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A unit with these lines of `systemctl show`.
    pub(in crate::doctor) fn unit(manager: Manager, lines: &[&str]) -> Unit {
        let lines: Vec<String> =
            ["LoadState=loaded"].iter().chain(lines).map(|line| (*line).to_owned()).collect();
        Unit::from_lines("portward.service", manager, &lines).unwrap()
    }

    #[test]
    fn only_a_unit_that_is_loaded_exists() {
        let lines = ["LoadState=not-found".to_owned(), "ActiveState=inactive".to_owned()];
        assert_eq!(Unit::from_lines("portward.service", Manager::System, &lines), None);
        let command =
            "ExecStart={ path=/usr/bin/portward ; argv[]=/usr/bin/portward run ; ignore_errors=no }";
        let unit = unit(Manager::System, &["ActiveState=active", "UnitFileState=disabled", command]);
        assert_eq!(
            (unit.program(), unit.arguments()),
            (Some("/usr/bin/portward"), vec!["/usr/bin/portward", "run"])
        );
        assert!(unit.is_running() && !unit.is_enabled());
        assert_eq!(unit.property("User"), "");
    }
}
