//! Files of the kernel and of systemd, below a root directory that tests replace.

use std::fs;
use std::path::{Path, PathBuf};

/// The root directory.
#[derive(Debug, Clone)]
pub(super) struct Machine(PathBuf);

impl Machine {
    /// The machine that this process runs on.
    pub(super) fn this() -> Self {
        Self(PathBuf::from("/"))
    }

    /// The location of an absolute path.
    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The content of a file; `None` if it cannot be read.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let bytes = fs::read(self.path(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A kernel setting, such as `net/ipv4/ip_local_port_range`.
    pub(super) fn sysctl(&self, name: &str) -> Option<String> {
        self.text(&format!("/proc/sys/{name}")).map(|text| text.trim().to_owned())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A machine that has only these files.
    pub(in crate::doctor) fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let root = tempfile::tempdir().unwrap();
        let machine = Machine(root.path().to_owned());
        for (path, content) in files {
            let path = machine.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        (root, machine)
    }
}
