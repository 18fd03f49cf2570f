//! The machine's files, from a root that tests bring themselves.

use std::fs;
use std::path::{Path, PathBuf};

/// Where /proc, /sys and /run are.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    root: PathBuf,
}

impl Machine {
    /// This one.
    pub(super) fn this() -> Self {
        Self { root: PathBuf::from("/") }
    }

    /// One whose files lie below `root`.
    #[cfg(test)]
    pub(super) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The place of an absolute path.
    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A file as text; `None` if it cannot be read.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let bytes = fs::read(self.path(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A setting of the kernel, as `net/ipv4/ip_local_port_range`.
    pub(super) fn sysctl(&self, name: &str) -> Option<String> {
        self.text(&format!("/proc/sys/{name}")).map(|text| text.trim().to_owned())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A machine with these files.
    pub(in crate::doctor) fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let root = tempfile::tempdir().unwrap();
        let machine = Machine::at(root.path());
        for (path, content) in files {
            let path = machine.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        (root, machine)
    }

    #[test]
    fn a_setting_comes_without_its_line_end_and_may_be_missing() {
        let (_root, machine) = machine(&[("/proc/sys/net/ipv4/ip_unprivileged_port_start", "1024\n")]);
        assert_eq!(machine.sysctl("net/ipv4/ip_unprivileged_port_start").as_deref(), Some("1024"));
        assert_eq!(machine.sysctl("net/ipv4/missing"), None);
    }
}
