//! Where things live: the configuration, the runtime directory, the API's socket.

use std::env;
use std::path::PathBuf;

use crate::home;

/// File name of the API's socket in the runtime directory.
pub const SOCKET_FILE: &str = "portward.sock";

/// `/etc/portward/config.yaml` for root, `$XDG_CONFIG_HOME/portward/config.yaml` otherwise.
pub fn default_config() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/etc/portward/config.yaml");
    }
    let base = env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| home::directory().map(|home| home.join(".config")))
        .unwrap_or_else(|| PathBuf::from("/etc"));
    base.join("portward/config.yaml")
}

/// `$RUNTIME_DIRECTORY` (systemd sets it), `/run/portward` for root, `$XDG_RUNTIME_DIR/portward` otherwise; without any of
/// these `/tmp/portward-UID`, which the daemon makes with mode 0700 and refuses when somebody else owns it.
pub fn runtime_directory() -> PathBuf {
    if let Some(directory) = env::var_os("RUNTIME_DIRECTORY") {
        // systemd separates several directories with colons; the first one is ours.
        let first = directory.to_string_lossy().split(':').next().map(PathBuf::from);
        if let Some(first) = first.filter(|path| path.is_absolute()) {
            return first;
        }
    }
    let uid = nix::unistd::geteuid();
    if uid.is_root() {
        return PathBuf::from("/run/portward");
    }
    match env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute()) {
        Some(directory) => directory.join("portward"),
        None => PathBuf::from(format!("/tmp/portward-{uid}")),
    }
}

/// The API's socket: `$PORTWARD_SOCKET` is read by the command line, this is the default behind it.
pub fn default_socket() -> PathBuf {
    runtime_directory().join(SOCKET_FILE)
}
