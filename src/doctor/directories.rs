//! Who could change what the daemon reads and trusts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use super::finding::{Check, Finding, or_ok};
use super::judged::Judged;
use super::mend::{Mend, path};
use super::permissions::Permissions;
use crate::socket::{SocketError, check_directory};
use crate::token::{Token, TokenError};

/// Judges the configuration, the directory of the API's `socket`, the API's token and the user's `.ssh`.
pub(super) fn judge(
    config: &Path,
    socket: &Path,
    token: Option<&Path>,
    judged: &Judged,
    mend: Mend,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let why = format!("whoever can write there can make the daemon run any command as {}", judged.user());
    findings.extend(trusted(config).iter().filter_map(|path| shared(path, judged, &why, mend)));
    if let Some(directory) = judged.home().map(|home| home.join(".ssh")) {
        let why = "whoever can write there can exchange keys, known hosts and ssh's configuration";
        findings.extend(shared(&directory, judged, why, mend));
    }
    findings.extend(runtime(socket, judged, mend));
    findings.extend(token.and_then(|token| unusable(token, judged, mend)));
    or_ok(findings, Check::Directories, "only their owner can write what the daemon reads")
}

/// Whether somebody else than root and the daemon's user decides what `config` says. Then nothing that it names may be run.
pub(super) fn is_foreign(config: &Path, judged: &Judged) -> bool {
    trusted(config).iter().any(|path| shared(path, judged, "", Mend::for_us()).is_some())
}

/// The configuration, its directory, and where a symlink leads.
fn trusted(config: &Path) -> BTreeSet<PathBuf> {
    let mut paths = BTreeSet::from([config.to_owned()]);
    paths.extend(config.canonicalize());
    let directories: Vec<PathBuf> =
        paths.iter().filter_map(|path| path.parent()).map(Path::to_owned).collect();
    paths.extend(directories.into_iter().filter(|path| !path.as_os_str().is_empty()));
    paths
}

fn shared(place: &Path, judged: &Judged, why: &str, mend: Mend) -> Option<Finding> {
    // What is not there, or cannot be looked at, is told elsewhere or is nobody's fault.
    let permissions = Permissions::of(place).ok()?;
    let Permissions { uid, mode, .. } = permissions;
    let name = place.display();
    let (what, line) = if uid != 0 && uid != judged.uid {
        let line = mend.as_root(&format!("chown {} {}", judged.user(), path(place)));
        (format!("{name} belongs to uid {uid}, which is neither root nor {}", judged.user()), line)
    } else if permissions.is_shared() && !(place.is_dir() && permissions.is_sticky()) {
        let line = mend.as_owner(uid, &format!("chmod go-w {}", path(place)));
        (format!("{name} has mode {mode:04o}, so others than its owner can write it"), line)
    } else {
        return None;
    };
    Some(Finding::warning(Check::Directories, what, why, line))
}

/// The daemon does not start where others could put a socket in place of its own.
fn runtime(socket: &Path, judged: &Judged, mend: Mend) -> Option<Finding> {
    match check_directory(socket, Uid::from_raw(judged.uid)) {
        Err(error @ SocketError::SharedDirectory { .. }) => {
            let directory = path(socket.parent()?);
            let own = mend.as_root(&format!("chown {} {directory}", judged.user()));
            let close = mend.as_root(&format!("chmod 700 {directory}"));
            let why = "the daemon does not start with such a directory";
            Some(Finding::error(Check::Directories, error.to_string(), why, format!("{own} && {close}")))
        }
        // It is not there yet, and the daemon makes it.
        Err(_) | Ok(()) => None,
    }
}

fn unusable(token: &Path, judged: &Judged, mend: Mend) -> Option<Finding> {
    let error = Token::read(token).err()?;
    let word = path(token);
    let new = format!("sh -c 'umask 077 && openssl rand -hex 32 > {word}'");
    let line = match &error {
        TokenError::Exposed { .. } => format!("chmod 600 {word}"),
        TokenError::Unusable { .. } => new,
        TokenError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => new,
        // What this user may not read is not for this user to judge.
        TokenError::Read { source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied
                && judged.uid != Uid::effective().as_raw() =>
        {
            return None;
        }
        TokenError::Read { .. } => format!("chown {} {word}", judged.user()),
    };
    let why = "the daemon does not start without the token that guards `api.listen`";
    let line = mend.as_user(judged.uid, &judged.user(), &line);
    Some(Finding::error(Check::Directories, error.to_string(), why, line))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use rustix::thread::CapabilitySet;

    use super::super::finding::Level;
    use super::super::judged::tests::judged;
    use super::*;

    const MEND: Mend = Mend { uid: 0 };

    /// A directory of ours with a configuration.
    fn site() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.yaml");
        fs::write(&config, "tunnels: []\n").unwrap();
        set_mode(&config, 0o644);
        (directory, config)
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn ours() -> Judged {
        judged(nix::unistd::geteuid().as_raw(), CapabilitySet::empty(), false)
    }

    /// What is told of these, without what is said of the home directory of whoever runs the test.
    fn told(config: &Path, token: Option<&Path>) -> Vec<Finding> {
        let socket = config.with_file_name("portward.sock");
        let mut findings = judge(config, &socket, token, &ours(), MEND);
        findings.retain(|finding| finding.level != Level::Ok && !finding.what.contains(".ssh"));
        findings
    }

    fn run(line: &str) {
        assert!(Command::new("/bin/sh").args(["-c", line]).status().unwrap().success(), "{line}");
    }

    #[test]
    fn a_configuration_that_others_can_write_is_told_and_the_line_mends_it() {
        let (directory, config) = site();
        assert_eq!(told(&config, None), []);
        set_mode(&config, 0o666);
        let findings = told(&config, None);
        assert_eq!((findings.len(), findings[0].level), (1, Level::Warning), "{findings:?}");
        assert!(findings[0].what.contains("mode 0666"), "{findings:?}");
        run(findings[0].mend.as_ref().unwrap());
        assert_eq!(told(&config, None), []);
        set_mode(directory.path(), 0o1777);
        // Nobody can exchange a file in there; but the daemon wants a directory of its own for its socket.
        let findings = told(&config, None);
        assert_eq!((findings.len(), findings[0].level), (1, Level::Error), "{findings:?}");
        run(findings[0].mend.as_ref().unwrap());
        assert_eq!(told(&config, None), []);
    }

    #[test]
    fn where_a_symlink_leads_counts_as_well() {
        let (directory, config) = site();
        let elsewhere = directory.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::rename(&config, elsewhere.join("real.yaml")).unwrap();
        std::os::unix::fs::symlink(elsewhere.join("real.yaml"), &config).unwrap();
        set_mode(&elsewhere, 0o777);
        let findings = told(&config, None);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].what.contains("/elsewhere has mode 0777"), "{findings:?}");
    }

    #[test]
    fn a_token_that_others_can_read_is_an_error() {
        let (directory, config) = site();
        let token = directory.path().join("token");
        fs::write(&token, "s3cret\n").unwrap();
        set_mode(&token, 0o644);
        let findings = told(&config, Some(&token));
        assert_eq!(findings[0].level, Level::Error, "{findings:?}");
        run(findings[0].mend.as_ref().unwrap());
        assert_eq!(told(&config, Some(&token)), []);
        fs::remove_file(&token).unwrap();
        assert!(told(&config, Some(&token))[0].mend.as_ref().unwrap().contains("openssl rand"));
    }
}
