//! What systemd says of a unit.

use std::collections::HashMap;
use std::process::Command;

use super::ask::ask;
use super::machine::Machine;

/// What is asked for: what the unit gives to its process, and whether it starts.
const PROPERTIES: &str = "LoadState,ActiveState,UnitFileState,User,AmbientCapabilities,CapabilityBoundingSet,KillMode,\
                          Delegate,ControlGroup,ExecStart,Environment,EnvironmentFiles,ProtectHome,PrivateTmp";

/// Whose service manager.
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
    /// Its name.
    pub(super) name: String,
    /// Who runs it.
    pub(super) manager: Manager,
    properties: HashMap<String, String>,
}

impl Unit {
    /// From what `systemctl show` prints; `None` if there is no such unit.
    pub(super) fn from_lines(name: &str, manager: Manager, lines: &[String]) -> Option<Self> {
        let pairs = lines.iter().filter_map(|line| line.split_once('='));
        let mut properties: HashMap<String, String> = HashMap::new();
        for (name, value) in pairs {
            // Those that are lists may come in several lines.
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

    /// Whether its process runs.
    pub(super) fn is_running(&self) -> bool {
        ["active", "activating", "reloading"].contains(&self.property("ActiveState"))
    }

    /// Whether systemd starts it by itself.
    pub(super) fn is_enabled(&self) -> bool {
        ["enabled", "enabled-runtime", "static", "generated"].contains(&self.property("UnitFileState"))
    }

    /// The arguments that it runs the program with, as in `{ path=... ; argv[]=/usr/local/bin/portward run ; ...`.
    pub(super) fn arguments(&self) -> Vec<&str> {
        let argv =
            self.property("ExecStart").split_once("argv[]=").and_then(|(_, rest)| rest.split(" ;").next());
        argv.unwrap_or_default().split_ascii_whitespace().collect()
    }

    /// The program that it runs, as in `{ path=/usr/local/bin/portward ; argv[]=...`.
    pub(super) fn program(&self) -> Option<&str> {
        let (_, rest) = self.property("ExecStart").split_once("path=")?;
        rest.split(" ;").next()
    }
}

/// Whether systemd is what runs this machine (sd_booted(3)).
pub(super) fn is_booted(machine: &Machine) -> bool {
    machine.path("/run/systemd/system").is_dir()
}

/// Asks systemd about a unit; `None` if it is not there, or systemd does not answer.
pub(super) async fn unit(manager: Manager, name: &str) -> Option<Unit> {
    let mut command = Command::new("systemctl");
    if manager == Manager::User {
        command.arg("--user");
    }
    command.args(["show", &format!("--property={PROPERTIES}"), "--", name]);
    let answer = ask(command).await.ok()?;
    Unit::from_lines(name, manager, &answer.output)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A unit with these lines of `systemctl show`.
    pub(in crate::doctor) fn unit(manager: Manager, lines: &[&str]) -> Unit {
        let mut all = vec!["LoadState=loaded".to_owned()];
        all.extend(lines.iter().map(|line| (*line).to_owned()));
        Unit::from_lines("portward.service", manager, &all).unwrap()
    }

    #[test]
    fn a_unit_that_is_not_there_is_none() {
        let lines = ["LoadState=not-found".to_owned(), "ActiveState=inactive".to_owned()];
        assert_eq!(Unit::from_lines("portward.service", Manager::System, &lines), None);
    }

    #[test]
    fn what_it_runs_is_told() {
        let unit = unit(
            Manager::System,
            &[
                "ActiveState=active",
                "UnitFileState=disabled",
                "ExecStart={ path=/usr/local/bin/portward ; argv[]=/usr/local/bin/portward run ; ignore_errors=no }",
            ],
        );
        assert_eq!(unit.program(), Some("/usr/local/bin/portward"));
        assert!(unit.is_running() && !unit.is_enabled());
        assert_eq!(unit.property("User"), "");
    }
}
