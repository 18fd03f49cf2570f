//! Whether ssh accepts its configuration and can use its keys.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ask::{Answer, Asker};
use super::fix::{Fix, path};
use super::permissions::Permissions;
use super::process::{AGENT, Process};
use super::ssh::{Tunnel, Unsettled, expand};
use crate::config::desired::{Desired, Ssh, SshTunnel, Work};
use crate::protocol::doctor::{Finding, Level};
use crate::ssh::{Settings, line};

/// What ssh prints when it refuses a file, before the file's path (readconf.c).
const BAD_OWNER: &str = "Bad owner or permissions on ";

/// What ssh-keygen prints about a key with a passphrase when it is given an empty one (ssherr.c).
const WRONG_PASSPHRASE: &str = "incorrect passphrase";

/// Why ssh cannot use a key.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Trouble {
    Missing,
    /// Others may read it, so ssh ignores it.
    Exposed {
        mode: u32,
    },
    Unreadable,
    /// It has a passphrase, and there is no agent that could hold it.
    Locked,
}

/// A key that ssh cannot use, and the tunnels that have it.
#[derive(Debug)]
struct Useless {
    trouble: Trouble,
    level: Level,
    /// Whether a tunnel names it as `identity_file`.
    is_named: bool,
    tunnels: Vec<String>,
    /// The destination of the first of them.
    destination: String,
}

/// The configurations that ssh refuses, and the keys that it cannot use.
pub(super) fn findings(tunnels: &[Tunnel], process: &Process, asker: Asker, fix: Fix) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut useless: BTreeMap<PathBuf, Useless> = BTreeMap::new();
    let home = process.home();
    let locked = locked(tunnels, home.as_deref(), asker);
    for tunnel in tunnels {
        match &tunnel.settings {
            Ok(settings) if settings.is_on("pubkeyauthentication") => {
                let agent = tunnel.ssh.env.get(AGENT).is_some_and(|socket| !socket.is_empty());
                let process = &Process { has_agent: process.has_agent || agent, ..process.clone() };
                let named = named(tunnel, process);
                match identities(settings, home.as_deref(), process, &locked) {
                    Some(keys) => note(named.into_iter().chain(keys), tunnel, &mut useless),
                    None if named.is_some() => note(named, tunnel, &mut useless),
                    None => findings.push(no_key(tunnel, process, fix)),
                }
            }
            Err(Unsettled::Refused(reason)) => findings.push(refused(tunnel, reason, process, fix)),
            Ok(_) | Err(Unsettled::OutOfTime) => {}
        }
    }
    findings.extend(useless.into_iter().map(|(key, useless)| finding(&key, useless, process, fix)));
    findings
}

/// A line for each `identity_file` of enabled tunnels that does not exist, or that this process cannot read.
pub fn unusable_identity_files(desired: &Desired) -> Vec<String> {
    let mut files: BTreeMap<&Path, Vec<&str>> = BTreeMap::new();
    for tunnel in desired.tunnels.iter().filter(|tunnel| tunnel.enabled) {
        if let Work::Ssh(SshTunnel { ssh: Ssh { identity_file: Some(file), .. }, .. }) = &tunnel.work {
            files.entry(file).or_default().push(&tunnel.name);
        }
    }
    let uid = nix::unistd::geteuid().as_raw();
    let line = |(file, tunnels): (&Path, Vec<&str>)| {
        let what = match trouble(file, uid)? {
            Trouble::Missing => "does not exist",
            Trouble::Unreadable => "cannot be read by this user",
            Trouble::Exposed { .. } | Trouble::Locked => return None,
        };
        Some(format!("tunnel `{}`: identity_file {} {what}", tunnels.join("`, `"), file.display()))
    };
    files.into_iter().filter_map(line).collect()
}

/// Whether these are the default keys of ssh: it prints all of them if no other is configured.
fn are_default(files: &[&str]) -> bool {
    files.len() > 1 && files.iter().all(|file| file.starts_with("~/.ssh/id_"))
}

/// The keys of all tunnels that have a passphrase.
fn locked(tunnels: &[Tunnel], home: Option<&Path>, asker: Asker) -> BTreeSet<PathBuf> {
    let settings = tunnels.iter().filter_map(|tunnel| tunnel.settings.as_ref().ok());
    let files = settings.flat_map(|settings| settings.all("identityfile"));
    let keys: BTreeSet<PathBuf> =
        files.filter_map(|file| expand(file, home)).filter(|key| key.exists()).collect();
    let question = |key: &PathBuf| {
        let mut command = Command::new("ssh-keygen");
        command.args(["-y", "-P", "", "-f"]).arg(key);
        command
    };
    let answers = asker.ask_all(keys.iter().map(question).collect());
    let is_locked = |answer: Answer| answer.complaints.iter().any(|line| line.contains(WRONG_PASSPHRASE));
    keys.into_iter()
        .zip(answers)
        .filter_map(|(key, answer)| answer.is_ok_and(is_locked).then_some(key))
        .collect()
}

/// The keys that ssh cannot use, each with its level; `None` if there is no key at all.
fn identities(
    settings: &Settings,
    home: Option<&Path>,
    process: &Process,
    locked: &BTreeSet<PathBuf>,
) -> Option<Vec<(PathBuf, Trouble, Level)>> {
    let files = settings.all("identityfile");
    let are_default = are_default(&files);
    let has_agent = process.has_agent || settings.is_on("identityagent");
    let mut others = has_agent && !settings.is_on("identitiesonly") || settings.is_on("pkcs11provider");
    let mut troubled = Vec::new();
    for file in &files {
        match expand(file, home).map(|key| (trouble(&key, process.uid), key)) {
            Some((Some(Trouble::Missing), _)) if are_default => {}
            Some((Some(trouble), key)) => troubled.push((key, trouble)),
            Some((None, key)) if locked.contains(&key) && !has_agent => troubled.push((key, Trouble::Locked)),
            // The key is usable, or nothing is known against it.
            Some((None, _)) | None => others = true,
        }
    }
    if are_default && troubled.is_empty() && !others {
        return None;
    }
    let level = if others { Level::Warning } else { Level::Error };
    Some(troubled.into_iter().map(|(key, trouble)| (key, trouble, level)).collect())
}

/// Why the ssh of this process, whose user is `uid`, cannot use a key.
fn trouble(key: &Path, uid: u32) -> Option<Trouble> {
    let is_denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    match Permissions::of(key) {
        // The private half may be in an agent or on a token if the public half is here.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let public = PathBuf::from(format!("{}.pub", key.display()));
            (!public.exists()).then_some(Trouble::Missing)
        }
        Err(error) => is_denied(&error).then_some(Trouble::Unreadable),
        // ssh looks at the mode of its own user's keys only (authfile.c).
        Ok(permissions) if permissions.uid == uid && permissions.is_exposed() => {
            Some(Trouble::Exposed { mode: permissions.mode })
        }
        Ok(_) => File::open(key).is_err_and(|error| is_denied(&error)).then_some(Trouble::Unreadable),
    }
}

/// The tunnel's `identity_file`, if ssh cannot use it: `ssh -G` leaves out a missing one. This is an error, because other keys
/// are not what was asked for.
fn named(tunnel: &Tunnel, process: &Process) -> Option<(PathBuf, Trouble, Level)> {
    let key = tunnel.ssh.identity_file.as_ref()?;
    let trouble = trouble(key, process.uid).filter(is_out_of_reach)?;
    Some((key.clone(), trouble, Level::Error))
}

fn is_out_of_reach(trouble: &Trouble) -> bool {
    matches!(trouble, Trouble::Missing | Trouble::Unreadable)
}

fn note(
    keys: impl IntoIterator<Item = (PathBuf, Trouble, Level)>,
    tunnel: &Tunnel,
    useless: &mut BTreeMap<PathBuf, Useless>,
) {
    for (key, trouble, level) in keys {
        let is_named = is_out_of_reach(&trouble) && tunnel.ssh.identity_file.as_deref() == Some(&key);
        let known = useless.entry(key).or_insert_with(|| Useless {
            trouble,
            level,
            is_named: false,
            tunnels: Vec::new(),
            destination: tunnel.ssh.destination.clone(),
        });
        known.level = known.level.max(level);
        known.is_named |= is_named;
        if known.tunnels.last() != Some(&tunnel.name) {
            known.tunnels.push(tunnel.name.clone());
        }
    }
}

fn finding(key: &Path, useless: Useless, process: &Process, fix: Fix) -> Finding {
    let Useless { trouble, level, is_named, tunnels, destination } = useless;
    let (word, user) = (path(key), process.user());
    let key = format!("the key {} of tunnel `{}`", key.display(), tunnels.join("`, `"));
    let as_user = |line: &str| fix.as_user(process.uid, &user, line);
    let (what, why, line) = match trouble {
        Trouble::Missing => (
            format!("{key} does not exist"),
            "ssh ignores it",
            as_user(&format!("ssh-keygen -t ed25519 -f {word}  # then: ssh-copy-id -i {word} {destination}")),
        ),
        Trouble::Exposed { mode } => (
            format!("{key} has mode {mode:04o}: other users can read it"),
            "ssh ignores a key that others may read",
            fix.as_owner(process.uid, &format!("chmod 600 {word}")),
        ),
        Trouble::Unreadable => (
            format!("user {user} cannot read {key}"),
            "ssh ignores it",
            fix.as_root(&format!("chown {user} {word}")),
        ),
        Trouble::Locked => (
            format!("{key} has a passphrase, and there is no agent"),
            "nobody can enter the passphrase, so ssh ignores the key",
            as_user(&format!("ssh-keygen -p -N '' -f {word}  # or create a key for portward alone")),
        ),
    };
    let (level, consequence) = match level {
        Level::Error if is_named => (Level::Error, "identity_file names this one"),
        Level::Error => (Level::Error, "there is no other key: the server refuses the login"),
        Level::Warning | Level::Ok => (Level::Warning, "the server may refuse the login with the other keys"),
    };
    Finding { level, ..Finding::error(what, format!("{why}, and {consequence}"), line).of(tunnels) }
}

fn no_key(tunnel: &Tunnel, process: &Process, fix: Fix) -> Finding {
    let line = format!("ssh-keygen -t ed25519  # then: ssh-copy-id {}", tunnel.ssh.destination);
    Finding::warning(
        format!("user {} has no key for tunnel `{}`, and no agent", process.user(), tunnel.name),
        "portward's ssh does not ask for a password, so most servers refuse the login",
        fix.as_user(process.uid, &process.user(), &line),
    )
    .of([tunnel.name.clone()])
}

/// ssh ended with an error instead of printing its settings.
fn refused(tunnel: &Tunnel, reason: &str, process: &Process, fix: Fix) -> Finding {
    let user = process.user();
    let file = reason.split_once(BAD_OWNER).map(|(_, rest)| PathBuf::from(rest.trim_end()));
    let fix = match file {
        Some(file) => {
            let owner = Permissions::of(&file).map_or(process.uid, |permissions| permissions.uid);
            if owner == process.uid || owner == 0 {
                fix.as_owner(owner, &format!("chmod go-w {}", path(&file)))
            } else {
                fix.as_root(&format!("chown {user} {}", path(&file)))
            }
        }
        None => {
            fix.as_user(process.uid, &user, &format!("{}  # prints it again", line(&tunnel.ssh, &["-G"])))
        }
    };
    Finding::error(
        format!("ssh does not accept its configuration for tunnel `{}`: {reason}", tunnel.name),
        "the tunnel's ssh ends in the same way, before it connects",
        fix,
    )
    .of([tunnel.name.clone()])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use rustix::thread::CapabilitySet;

    use super::super::process::tests::process;
    use super::*;

    fn settings(lines: &[String]) -> Settings {
        let rest = ["pubkeyauthentication true".to_owned(), "identitiesonly yes".to_owned()];
        Settings::from_lines([lines, &rest].concat())
    }

    /// A key with this mode, of this user.
    fn key(directory: &Path, name: &str, mode: u32) -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn ours() -> Process {
        process(nix::unistd::geteuid().as_raw(), CapabilitySet::empty(), false)
    }

    fn with_agent() -> Process {
        Process { has_agent: true, ..ours() }
    }

    fn troubles(files: &[&Path], process: &Process) -> Vec<(Trouble, Level)> {
        let lines: Vec<String> =
            files.iter().map(|file| format!("identityfile {}", file.display())).collect();
        let found = identities(&settings(&lines), None, process, &BTreeSet::new()).unwrap();
        found.into_iter().map(|(_, trouble, level)| (trouble, level)).collect()
    }

    #[test]
    fn ssh_ignores_a_key_that_others_may_read() {
        let directory = tempfile::tempdir().unwrap();
        let (good, bad) = (key(directory.path(), "good", 0o600), key(directory.path(), "bad", 0o644));
        let exposed = Trouble::Exposed { mode: 0o644 };
        assert_eq!(troubles(&[&good], &ours()), []);
        assert_eq!(troubles(&[&bad], &ours()), [(exposed.clone(), Level::Error)]);
        assert_eq!(troubles(&[&bad, &good], &ours()), [(exposed, Level::Warning)]);
        // ssh does not look at the mode of another user's key.
        assert_eq!(troubles(&[&bad], &process(ours().uid + 1, CapabilitySet::empty(), false)), []);
    }

    #[test]
    fn a_missing_key_matters_unless_its_public_half_exists() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        assert_eq!(troubles(&[&missing], &ours()), [(Trouble::Missing, Level::Error)]);
        fs::write(directory.path().join("missing.pub"), "").unwrap();
        assert_eq!(troubles(&[&missing], &ours()), []);
    }

    #[test]
    fn an_agent_may_have_other_keys() {
        let lines = ["pubkeyauthentication true", "identitiesonly no", "identityfile /nonexistent/key"];
        let settings = Settings::from_lines(lines);
        let level = |process| identities(&settings, None, &process, &BTreeSet::new()).unwrap()[0].2;
        assert_eq!((level(with_agent()), level(ours())), (Level::Warning, Level::Error));
    }

    #[test]
    fn a_key_with_a_passphrase_requires_an_agent() {
        let directory = tempfile::tempdir().unwrap();
        let key = key(directory.path(), "key", 0o600);
        let settings = settings(&[format!("identityfile {}", key.display())]);
        let locked = BTreeSet::from([key.clone()]);
        let found = |process| identities(&settings, None, &process, &locked).unwrap();
        assert_eq!(found(ours()), [(key, Trouble::Locked, Level::Error)]);
        assert_eq!(found(with_agent()), []);
    }

    #[test]
    fn one_of_the_default_keys_is_enough() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join(".ssh")).unwrap();
        let lines = ["id_rsa", "id_ed25519"].map(|name| format!("identityfile ~/.ssh/{name}"));
        let settings = settings(&lines);
        let found = || identities(&settings, Some(home.path()), &ours(), &BTreeSet::new());
        assert_eq!(found(), None);
        key(&home.path().join(".ssh"), "id_ed25519", 0o600);
        assert_eq!(found(), Some(Vec::new()));
        key(&home.path().join(".ssh"), "id_rsa", 0o640);
        assert_eq!(found().unwrap()[0].2, Level::Warning);
    }
}
