//! Lines that mend, to be pasted into a shell.

use std::path::Path;

/// Writes lines for whoever has called doctor. Root needs no sudo, and may not have it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mend {
    /// Whether that is root.
    pub(super) is_root: bool,
}

impl Mend {
    /// For the user of this process.
    pub(super) fn for_us() -> Self {
        Self { is_root: nix::unistd::geteuid().is_root() }
    }

    /// A line that root must run.
    pub(super) fn as_root(self, line: &str) -> String {
        if self.is_root { line.to_owned() } else { format!("sudo {line}") }
    }

    /// A line that the user `user` must run.
    pub(super) fn as_user(self, uid: u32, user: &str, line: &str) -> String {
        if nix::unistd::geteuid().as_raw() == uid {
            line.to_owned()
        } else if uid == 0 {
            format!("sudo {line}")
        } else {
            format!("sudo -u {} {line}", word(user))
        }
    }

    /// A line that the owner of `path` may run, or root.
    pub(super) fn as_owner(self, owner: u32, line: &str) -> String {
        if self.is_root || nix::unistd::geteuid().as_raw() == owner {
            line.to_owned()
        } else {
            format!("sudo {line}")
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

    /// Opens the configuration; a comment says what to change.
    pub(super) fn edit(self, config: &Path, change: &str) -> String {
        let editor = if is_writable(config) { "${EDITOR:-vi}" } else { "sudoedit" };
        format!("{editor} {}  # {change}", path(config))
    }
}

fn is_writable(path: &Path) -> bool {
    nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).is_ok()
}

/// A path as one word of a shell.
pub(super) fn path(path: &Path) -> String {
    word(&path.display().to_string())
}

/// A text as one word of a shell.
pub(super) fn word(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "_-./:@%+=,".contains(letter);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
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
    fn a_word_is_one_word_whatever_is_in_it() {
        for text in ["plain-1.2/@x", "", "two words", "it's", "$HOME `id` \"q\" \\ ; # *", "a\nb"] {
            assert_eq!(said_by_a_shell(&format!("printf %s {}", word(text))), text);
        }
        assert_eq!(word("/etc/portward/config.yaml"), "/etc/portward/config.yaml");
    }

    #[test]
    fn only_others_than_root_need_sudo() {
        assert_eq!(Mend { is_root: true }.as_root("true"), "true");
        assert_eq!(Mend { is_root: false }.as_root("true"), "sudo true");
    }

    #[test]
    fn a_drop_in_is_written_as_systemd_reads_it() {
        let line = Mend { is_root: true }.capabilities("portward.service", "kill", "CAP_KILL");
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
