//! Who else can change what the daemon reads and trusts.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use super::fix::{Fix, path};
use super::process::Process;
use crate::access::{self, Fault, Insecure, Rule};
use crate::protocol::doctor::Finding;
use crate::socket::{SocketError, check_directory};
use crate::token::{TokenError, Tokens};

/// Whether a user other than root and the user of `process` can change `config`. Then no program that it names may be run.
pub(super) fn is_foreign(config: &Path, process: &Process) -> bool {
    let fix = Fix { uid: process.uid };
    trusted(config).iter().any(|path| shared(path, process, "", fix).is_some())
}

/// Which of the configuration, the directory of the API's socket, its token and the user's `.ssh` others can write or, as to the
/// token, read.
pub(super) fn findings(
    config: &Path,
    socket: &Path,
    token: Option<&Path>,
    process: &Process,
    fix: Fix,
) -> Vec<Finding> {
    let why = format!("whoever can write there can make the daemon run any command as {}", process.user());
    let mut findings: Vec<Finding> =
        trusted(config).iter().filter_map(|path| shared(path, process, &why, fix)).collect();
    if let Some(directory) = process.home().map(|home| home.join(".ssh")) {
        let why = "whoever can write there can replace keys, known hosts and ssh's configuration";
        findings.extend(shared(&directory, process, why, fix));
    }
    findings.extend(runtime(socket, process, fix));
    findings.extend(token.and_then(|token| unusable(token, process, fix)));
    findings
}

/// The configuration, the target of a symbolic link, and all directories on the way to them: whoever can rename one of these can
/// replace the file.
fn trusted(config: &Path) -> BTreeSet<PathBuf> {
    let mut paths = BTreeSet::from([config.to_owned()]);
    paths.extend(config.canonicalize());
    let directories: Vec<PathBuf> =
        paths.iter().flat_map(|path| path.ancestors().skip(1)).map(Path::to_owned).collect();
    paths.extend(directories.into_iter().filter(|path| !path.as_os_str().is_empty()));
    paths
}

fn shared(place: &Path, process: &Process, why: &str, fix: Fix) -> Option<Finding> {
    // Other checks report what does not exist.
    let metadata = fs::metadata(place).ok()?;
    let Insecure { uid, mode, fault } = access::check(&metadata, Rule::ChangedBy(process.uid)).err()?;
    let (name, user) = (place.display(), process.user());
    let (what, line) = match fault {
        Fault::Owner => (
            format!("{name} belongs to uid {uid}, which is neither root nor {user}"),
            fix.as_root(&format!("chown {user} {}", path(place))),
        ),
        Fault::Mode => (
            format!("{name} has mode {mode:04o}: users other than its owner can write it"),
            fix.as_owner(uid, &format!("chmod go-w {}", path(place))),
        ),
    };
    Some(Finding::warning(what, why, line))
}

/// The daemon does not start where others could replace its socket.
fn runtime(socket: &Path, process: &Process, fix: Fix) -> Option<Finding> {
    let checked = check_directory(socket, Uid::from_raw(process.uid));
    let why = "the daemon does not start with such a directory";
    // The daemon creates a directory that does not exist.
    let error = checked.err()?;
    match &error {
        SocketError::SharedDirectory { .. } => {
            let directory = path(socket.parent()?);
            let own = fix.as_root(&format!("chown {} {directory}", process.user()));
            let close = fix.as_root(&format!("chmod 700 {directory}"));
            Some(Finding::error(error.to_string(), why, format!("{own} && {close}")))
        }
        SocketError::SharedParent { directory, uid, .. } => {
            let directory = path(directory);
            let line = if [0, process.uid].contains(uid) {
                fix.as_owner(*uid, &format!("chmod go-w {directory}"))
            } else {
                fix.as_root(&format!("chown -h {} {directory}", process.user()))
            };
            Some(Finding::error(error.to_string(), why, line))
        }
        SocketError::Directory { .. }
        | SocketError::Lock { .. }
        | SocketError::AlreadyRunning { .. }
        | SocketError::Socket { .. } => None,
    }
}

fn unusable(token: &Path, process: &Process, fix: Fix) -> Option<Finding> {
    let error = Tokens::read(token).err()?;
    let word = path(token);
    let new = format!("sh -c 'umask 077 && openssl rand -hex 32 > {word}'");
    let line = match &error {
        TokenError::Exposed { .. } => format!("chmod 600 {word}"),
        TokenError::Unusable { .. } => new,
        TokenError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => new,
        TokenError::Read { .. } => format!("chown {} {word}", process.user()),
    };
    let why = "the daemon does not start without the token that protects `api.listen`";
    Some(Finding::error(error.to_string(), why, fix.as_user(process.uid, &process.user(), &line)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use rustix::thread::CapabilitySet;

    use super::super::process::tests::process;
    use super::*;
    use crate::protocol::doctor::Level;

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

    /// The findings, except those about the home directory of the user who runs the test.
    fn found(config: &Path, token: Option<&Path>) -> Vec<Finding> {
        let socket = config.with_file_name("portward.sock");
        let process = process(nix::unistd::geteuid().as_raw(), CapabilitySet::empty(), false);
        let mut findings = findings(config, &socket, token, &process, Fix { uid: 0 });
        findings.retain(|finding| !finding.what.contains(".ssh"));
        findings
    }

    /// Runs the fix of the only finding, after which nothing is found.
    fn fixed(config: &Path, token: Option<&Path>) -> Finding {
        let findings = found(config, token);
        assert_eq!(findings.len(), 1, "{findings:?}");
        let line = findings[0].fix.as_ref().unwrap();
        assert!(Command::new("/bin/sh").args(["-c", line]).status().unwrap().success(), "{line}");
        assert_eq!(found(config, token), []);
        findings[0].clone()
    }

    #[test]
    fn the_fix_closes_a_configuration_that_others_can_write() {
        let (directory, config) = site();
        assert_eq!(found(&config, None), []);
        set_mode(&config, 0o666);
        let finding = fixed(&config, None);
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.what.contains("mode 0666"), "{finding:?}");
        // Nobody can replace a file in a sticky directory, but the daemon's socket needs a directory of its own.
        set_mode(directory.path(), 0o1777);
        assert_eq!(fixed(&config, None).level, Level::Error);
    }

    #[test]
    fn the_target_of_a_symbolic_link_counts_as_well() {
        let (directory, config) = site();
        let elsewhere = directory.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::rename(&config, elsewhere.join("real.yaml")).unwrap();
        std::os::unix::fs::symlink(elsewhere.join("real.yaml"), &config).unwrap();
        set_mode(&elsewhere, 0o777);
        assert!(fixed(&config, None).what.contains("/elsewhere has mode 0777"));
    }

    #[test]
    fn a_parent_that_others_can_write_is_found() {
        let (directory, _) = site();
        let inner = directory.path().join("etc/portward");
        fs::create_dir_all(&inner).unwrap();
        let config = inner.join("config.yaml");
        fs::write(&config, "tunnels: []\n").unwrap();
        set_mode(&directory.path().join("etc"), 0o777);
        // The socket lies beside the configuration, so there are two reasons.
        let [of_config, of_socket] = &found(&config, None)[..] else { panic!("{:?}", found(&config, None)) };
        assert!(of_config.what.contains("/etc has mode 0777"), "{of_config:?}");
        assert!(of_socket.what.contains("the directory of the API's socket"), "{of_socket:?}");
        assert_eq!(of_socket.level, Level::Error);
        let line = of_socket.fix.as_ref().unwrap();
        assert!(Command::new("/bin/sh").args(["-c", line]).status().unwrap().success(), "{line}");
        assert_eq!(found(&config, None), []);
    }

    #[test]
    fn a_token_that_others_can_read_or_that_is_missing_is_an_error() {
        let (directory, config) = site();
        let token = directory.path().join("token");
        fs::write(&token, "s3cret\n").unwrap();
        set_mode(&token, 0o644);
        assert_eq!(fixed(&config, Some(&token)).level, Level::Error);
        fs::remove_file(&token).unwrap();
        assert!(found(&config, Some(&token))[0].fix.as_ref().unwrap().contains("openssl rand"));
    }
}
