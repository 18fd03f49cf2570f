//! This user's home directory.

use std::env;
use std::path::PathBuf;
use std::sync::OnceLock;

use nix::unistd::{Uid, User};

/// The environment variable that names it.
pub const VARIABLE: &str = "HOME";

/// `$HOME`; where that is unset, empty or relative, what the passwd entry of this process's user says. systemd sets no HOME
/// for a system service without `User=`. `None`: neither names a directory.
pub fn directory() -> Option<PathBuf> {
    from_environment().or_else(from_passwd)
}

/// What `$HOME` says, if it is of use.
pub fn from_environment() -> Option<PathBuf> {
    env::var_os(VARIABLE).map(PathBuf::from).filter(|home| home.is_absolute())
}

/// Looked up once: a user's entry may come from a directory server, and the event loop must not wait for that again. That
/// there is none is not remembered: the server may come up later than portward.
fn from_passwd() -> Option<PathBuf> {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    if let Some(home) = HOME.get() {
        return Some(home.clone());
    }
    let home = of_user(Uid::effective().as_raw())?;
    Some(HOME.get_or_init(|| home).clone())
}

/// Home directory in the passwd entry of the user `uid`, if there is one.
pub fn of_user(uid: u32) -> Option<PathBuf> {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten()?;
    Some(user.dir).filter(|home| home.is_absolute())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_user_without_an_entry_has_no_home() {
        assert_eq!(of_user(0).as_deref(), Some(Path::new("/root")));
        assert_eq!(of_user(3_999_999_999), None);
    }
}
