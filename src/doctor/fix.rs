//! Shell commands that solve a problem.

use std::path::Path;

use nix::unistd::{AccessFlags, access};

use super::permissions::Permissions;
pub(super) use crate::shell::{path, word};

/// Writes commands for the user who will run them. Root needs no sudo, and may not have it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fix {
    /// That user.
    pub(super) uid: u32,
}

impl Fix {
    /// A command that root must run.
    pub(super) fn as_root(self, line: &str) -> String {
        self.as_owner(0, line)
    }

    /// A command that the user `owner` or root must run.
    pub(super) fn as_owner(self, owner: u32, line: &str) -> String {
        if self.uid == 0 || self.uid == owner { line.to_owned() } else { format!("sudo {line}") }
    }

    /// A command that the user `uid`, whose name is `user`, must run, and nobody else.
    pub(super) fn as_user(self, uid: u32, user: &str, line: &str) -> String {
        if self.uid == uid {
            line.to_owned()
        } else if self.uid == 0 {
            format!("runuser -u {} -- {line}", word(user))
        } else {
            format!("sudo -u {} {line}", word(user))
        }
    }

    /// Adds `settings` to the system unit `unit` in a drop-in of their own, and stops and starts the unit if it is running: with a restart
    /// its processes would go on as they were started.
    pub(super) fn drop_in(self, unit: &str, file: &str, settings: &[String]) -> String {
        let directory = format!("/etc/systemd/system/{unit}.d");
        let settings = settings.join("\\n");
        self.as_root(&format!(
            "sh -c 'mkdir -p {directory} && printf \"[Service]\\n{settings}\\n\" > {directory}/{file}.conf && \
             systemctl daemon-reload && if systemctl is-active --quiet {unit}; then systemctl stop {unit} && systemctl start \
             {unit}; fi'"
        ))
    }

    /// Gives capabilities to the system unit `unit`. Several such drop-ins add up.
    pub(super) fn capabilities(self, unit: &str, file: &str, names: &str) -> String {
        let settings = ["CapabilityBoundingSet", "AmbientCapabilities"];
        self.drop_in(unit, file, &settings.map(|setting| format!("{setting}={names}")))
    }

    /// Opens the configuration in an editor; the comment says what to change.
    pub(super) fn edit(self, config: &Path, change: &str) -> String {
        // The unit of the daemon may have the file read-only, but its owner can write it from outside.
        let is_owner = Permissions::of(config).is_ok_and(|permissions| permissions.uid == self.uid);
        let is_writable = is_owner || self.uid == 0 || access(config, AccessFlags::W_OK).is_ok();
        format!("{} {}  # {change}", if is_writable { "${EDITOR:-vi}" } else { "sudoedit" }, path(config))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_users_other_than_root_need_sudo() {
        let (root, alice) = (Fix { uid: 0 }, Fix { uid: 1000 });
        assert_eq!((root.as_root("id"), alice.as_root("id")), ("id".to_owned(), "sudo id".to_owned()));
        assert_eq!((root.as_owner(1000, "id"), alice.as_owner(1000, "id")), ("id".into(), "id".into()));
        assert_eq!(alice.as_user(1000, "alice", "id"), "id");
        assert_eq!(alice.as_user(0, "root", "id"), "sudo -u root id");
        assert_eq!(root.as_user(1000, "alice", "id"), "runuser -u alice -- id");
    }

    #[test]
    fn a_drop_in_is_written_as_systemd_reads_it() {
        let line = Fix { uid: 0 }.capabilities("portward.service", "kill", "CAP_KILL");
        let directory = tempfile::tempdir().unwrap();
        let here = directory.path().display().to_string();
        let line = line.replace("/etc/systemd/system", &here).replace("systemctl", ": systemctl");
        assert!(Command::new("/bin/sh").args(["-c", &line]).status().unwrap().success(), "{line}");
        let written = directory.path().join("portward.service.d/kill.conf");
        assert_eq!(
            std::fs::read_to_string(written).unwrap(),
            "[Service]\nCapabilityBoundingSet=CAP_KILL\nAmbientCapabilities=CAP_KILL\n"
        );
    }
}
