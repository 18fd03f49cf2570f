//! Default paths: the home directory, the configuration, the runtime directory and what is in it.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::unistd::{Uid, User};

/// File name of the API's socket in the runtime directory.
pub const SOCKET_FILE: &str = "portward.sock";

/// The environment variable that names the home directory.
pub const HOME: &str = "HOME";

/// The configuration of root, and of users that have no home directory.
const SYSTEM_CONFIG: &str = "/etc/portward/config.yaml";

/// The default configuration file.
pub fn config() -> PathBuf {
    let base = env::var_os("XDG_CONFIG_HOME");
    config_of(Uid::effective().as_raw(), base.as_deref(), home).unwrap_or_else(|| SYSTEM_CONFIG.into())
}

/// The default configuration file of the user `uid`: `/etc/portward/config.yaml` for root, `$XDG_CONFIG_HOME/portward/config.yaml`
/// otherwise, where `~/.config` is the default of `xdg_config_home`. `None` if there is no `home` either.
pub fn config_of(
    uid: u32,
    xdg_config_home: Option<&OsStr>,
    home: impl FnOnce() -> Option<PathBuf>,
) -> Option<PathBuf> {
    if uid == 0 {
        return Some(SYSTEM_CONFIG.into());
    }
    let base = absolute(xdg_config_home).or_else(|| Some(home()?.join(".config")))?;
    Some(base.join("portward/config.yaml"))
}

/// `$RUNTIME_DIRECTORY` (set by systemd), else `/run/portward` for root and `$XDG_RUNTIME_DIR/portward` for other users. Where that is
/// not set, `/tmp/portward-UID`, which the daemon creates with mode 0700 and refuses if it belongs to another user.
pub fn runtime_directory() -> PathBuf {
    if let Some(directories) = env::var_os("RUNTIME_DIRECTORY") {
        // systemd separates directories with colons. portward's is the first one.
        let directories = directories.to_string_lossy();
        if let Some(first) = absolute(directories.split(':').next().map(OsStr::new)) {
            return first;
        }
    }
    let uid = Uid::effective();
    if uid.is_root() {
        return PathBuf::from("/run/portward");
    }
    match absolute(env::var_os("XDG_RUNTIME_DIR").as_deref()) {
        Some(directory) => directory.join("portward"),
        None => PathBuf::from(format!("/tmp/portward-{uid}")),
    }
}

/// The default socket of the API.
pub fn socket() -> PathBuf {
    runtime_directory().join(SOCKET_FILE)
}

/// The lock file of the API's `socket`.
pub fn lock_file(socket: &Path) -> PathBuf {
    socket.with_extension("lock")
}

/// The directory of ssh's control sockets: beside the API's `socket`, whose lock keeps a second daemon away from it.
pub fn control_directory(socket: &Path) -> PathBuf {
    socket.with_extension("ssh")
}

/// The home directory: `$HOME`, or if that is unset, empty or relative, the one in the passwd entry of this process's user. systemd
/// sets no HOME for a system service without `User=`. `None` if neither names a directory.
pub fn home() -> Option<PathBuf> {
    home_from_environment().or_else(home_from_passwd)
}

/// `$HOME`, if it is an absolute path.
pub fn home_from_environment() -> Option<PathBuf> {
    absolute(env::var_os(HOME).as_deref())
}

/// Looked up only once, because the entry may come from a directory server, and the event loop must not wait for it again. A failure
/// is not remembered: the server may start after portward.
fn home_from_passwd() -> Option<PathBuf> {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    if let Some(home) = FOUND.get() {
        return Some(home.clone());
    }
    let home = home_of(Uid::effective().as_raw())?;
    Some(FOUND.get_or_init(|| home).clone())
}

/// The home directory in the passwd entry of the user `uid`, if there is one.
pub fn home_of(uid: u32) -> Option<PathBuf> {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten()?;
    Some(user.dir).filter(|home| home.is_absolute())
}

fn absolute(path: Option<&OsStr>) -> Option<PathBuf> {
    path.map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_without_an_entry_has_no_home() {
        assert_eq!(home_of(0).as_deref(), Some(Path::new("/root")));
        assert_eq!(home_of(3_999_999_999), None);
    }

    #[test]
    fn the_configuration_is_in_etc_for_root_and_below_the_home_directory_for_others() {
        let path = |uid, base: Option<&str>, home: Option<&str>| {
            let path = config_of(uid, base.map(OsStr::new), || home.map(PathBuf::from));
            path.map(|path| path.display().to_string()).unwrap_or_default()
        };
        assert_eq!(path(0, Some("/xdg"), Some("/root")), "/etc/portward/config.yaml");
        assert_eq!(path(1000, Some("/xdg"), Some("/home/alice")), "/xdg/portward/config.yaml");
        for base in [None, Some(""), Some("relative")] {
            assert_eq!(path(1000, base, Some("/home/alice")), "/home/alice/.config/portward/config.yaml");
        }
        assert_eq!(path(1000, None, None), "");
    }
}
