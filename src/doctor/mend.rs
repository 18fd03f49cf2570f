//! Lines that mend, to be pasted into a shell.

use std::path::Path;

pub(super) use crate::shell::{path, word};

/// Writes lines for whoever has called doctor. Root needs no sudo, and may not have it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mend {
    /// Who that is.
    pub(super) uid: u32,
}

impl Mend {
    /// For the user of this process.
    pub(super) fn for_us() -> Self {
        Self { uid: nix::unistd::geteuid().as_raw() }
    }

    /// A line that root must run.
    pub(super) fn as_root(self, line: &str) -> String {
        self.as_owner(0, line)
    }

    /// A line that the user `owner` may run, or root.
    pub(super) fn as_owner(self, owner: u32, line: &str) -> String {
        if self.uid == 0 || self.uid == owner { line.to_owned() } else { format!("sudo {line}") }
    }

    /// A line that the user `uid`, called `user`, and nobody else must run.
    pub(super) fn as_user(self, uid: u32, user: &str, line: &str) -> String {
        if self.uid == uid {
            line.to_owned()
        } else if self.uid == 0 {
            format!("runuser -u {} -- {line}", word(user))
        } else {
            format!("sudo -u {} {line}", word(user))
        }
    }

    /// Adds `settings` to the system's unit `unit`, in a file of their own, and starts the unit anew if it runs.
    pub(super) fn drop_in(self, unit: &str, file: &str, settings: &[String]) -> String {
        let directory = format!("/etc/systemd/system/{unit}.d");
        let settings = settings.join("\\n");
        self.as_root(&format!(
            "sh -c 'mkdir -p {directory} && printf \"[Service]\\n{settings}\\n\" > {directory}/{file}.conf && \
             systemctl daemon-reload && systemctl try-restart {unit}'"
        ))
    }

    /// Gives capabilities to the system's unit `unit`. Those of several such files add up.
    pub(super) fn capabilities(self, unit: &str, file: &str, names: &str) -> String {
        let settings = ["CapabilityBoundingSet", "AmbientCapabilities"];
        self.drop_in(unit, file, &settings.map(|setting| format!("{setting}={names}")))
    }
}

/// Opens the configuration; a comment says what to change.
pub(super) fn edit(config: &Path, change: &str) -> String {
    let editor = if is_writable(config) { "${EDITOR:-vi}" } else { "sudoedit" };
    format!("{editor} {}  # {change}", path(config))
}

fn is_writable(path: &Path) -> bool {
    nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).is_ok()
}

/// `count` things.
pub(super) fn count(count: usize, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn said_by_a_shell(line: &str) -> String {
        let output = Command::new("/bin/sh").args(["-c", line]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn only_others_than_root_need_sudo() {
        let (root, alice) = (Mend { uid: 0 }, Mend { uid: 1000 });
        assert_eq!((root.as_root("id"), alice.as_root("id")), ("id".to_owned(), "sudo id".to_owned()));
        assert_eq!(
            (root.as_owner(1000, "id"), alice.as_owner(1000, "id")),
            ("id".to_owned(), "id".to_owned())
        );
        assert_eq!(alice.as_user(1000, "alice", "id"), "id");
        assert_eq!(alice.as_user(0, "root", "id"), "sudo -u root id");
        assert_eq!(root.as_user(1000, "alice", "id"), "runuser -u alice -- id");
    }

    #[test]
    fn a_drop_in_is_written_as_systemd_reads_it() {
        let line = Mend { uid: 0 }.capabilities("portward.service", "kill", "CAP_KILL");
        let directory = tempfile::tempdir().unwrap();
        let here = directory.path().display().to_string();
        let line = line.replace("/etc/systemd/system", &here).replace("systemctl", ": systemctl");
        said_by_a_shell(&line);
        let written = directory.path().join("portward.service.d/kill.conf");
        assert_eq!(
            std::fs::read_to_string(written).unwrap(),
            "[Service]\nCapabilityBoundingSet=CAP_KILL\nAmbientCapabilities=CAP_KILL\n"
        );
    }
}
