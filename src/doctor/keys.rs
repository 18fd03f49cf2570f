//! Whether ssh takes its configuration, and the keys that it would use.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ask::{Answer, ask};
use super::finding::{Check, Finding, Level, or_ok};
use super::judged::{By, Judged};
use super::mend::{Mend, path};
use super::permissions::{Permissions, can_read};
use super::settings::{Resolved, Settings, expand};
use crate::config::desired::{Desired, SshTunnel, Work};

/// What ssh says when it refuses a file, before the file's path (readconf.c).
const BAD_OWNER: &str = "Bad owner or permissions on ";

/// What ssh-keygen says of a key that needs a passphrase, when it is given an empty one (ssherr.c).
const WRONG_PASSPHRASE: &str = "incorrect passphrase";

/// What keeps ssh from using a key.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Trouble {
    Missing,
    /// Others may read it, so ssh ignores it.
    Exposed {
        mode: u32,
    },
    /// The daemon may not read it.
    Unreadable,
    /// It needs a passphrase, and there is no agent that could hold it.
    Locked,
}

/// A key that is of no use, and to whom.
#[derive(Debug)]
struct Useless {
    trouble: Trouble,
    level: Level,
    /// Whether a tunnel asks for it by `identity_file`.
    is_named: bool,
    tunnels: Vec<String>,
    /// Where the first of them leads.
    destination: String,
}

/// Judges what ssh said of each tunnel.
pub(super) async fn judge(resolved: &[Resolved], judged: &Judged, mend: Mend) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut useless: BTreeMap<PathBuf, Useless> = BTreeMap::new();
    let home = judged.home();
    let locked = locked(resolved, home.as_deref(), judged).await;
    for tunnel in resolved {
        let judged = &judged.given(&tunnel.ssh.env);
        match tunnel.settings() {
            Some(settings) if settings.is_on("pubkeyauthentication") => {
                let named = named(tunnel, judged);
                match identities(&settings, home.as_deref(), judged, &locked) {
                    Some(keys) => note(named.into_iter().chain(keys), tunnel, &mut useless),
                    None if named.is_some() => note(named, tunnel, &mut useless),
                    None => findings.push(no_key(tunnel, judged, mend)),
                }
            }
            Some(_) => {}
            None => findings.push(refused(tunnel, judged, mend)),
        }
    }
    findings.extend(useless.into_iter().map(|(key, useless)| tell(&key, useless, judged, mend)));
    let what = match resolved.len() {
        0 => "no tunnel starts an ssh by itself".to_owned(),
        _ => "ssh takes its configuration, and can use the keys that it names".to_owned(),
    };
    or_ok(findings, Check::Keys, what)
}

/// Whether ssh goes through the keys that it has by default. It prints all of them then, and only those that are
/// configured otherwise.
fn are_default(files: &[&str]) -> bool {
    files.len() > 1 && files.iter().all(|file| file.starts_with("~/.ssh/id_"))
}

/// The tunnels that are enabled and have an `identity_file`.
fn named_files(desired: &Desired) -> impl Iterator<Item = (&str, &Path)> {
    desired.tunnels.iter().filter(|tunnel| tunnel.enabled).filter_map(|tunnel| match &tunnel.work {
        Work::Ssh(SshTunnel { identity_file: Some(file), .. }) => {
            Some((tunnel.name.as_str(), file.as_path()))
        }
        Work::Ssh(_) | Work::Command(_) => None,
    })
}

/// Whether a tunnel has one.
pub(super) fn are_files_named(desired: &Desired) -> bool {
    named_files(desired).next().is_some()
}

/// A line for each `identity_file` of enabled tunnels that is not there, or that `judged` cannot read.
pub(super) fn unusable_files(desired: &Desired, judged: &Judged) -> Vec<String> {
    let mut files: BTreeMap<&Path, Vec<&str>> = BTreeMap::new();
    for (tunnel, file) in named_files(desired) {
        files.entry(file).or_default().push(tunnel);
    }
    let line = |(file, tunnels): (&Path, Vec<&str>)| {
        let what = match trouble(file, judged)? {
            Trouble::Missing => "is not there".to_owned(),
            Trouble::Unreadable => format!("cannot be read by {judged}"),
            Trouble::Exposed { .. } | Trouble::Locked => return None,
        };
        Some(format!("tunnel `{}`: identity_file {} {what}", tunnels.join("`, `"), file.display()))
    };
    files.into_iter().filter_map(line).collect()
}

/// The keys of all tunnels that need a passphrase.
async fn locked(resolved: &[Resolved], home: Option<&Path>, judged: &Judged) -> BTreeSet<PathBuf> {
    let settings: Vec<Settings> = resolved.iter().filter_map(Resolved::settings).collect();
    let files = settings.iter().flat_map(|settings| settings.all("identityfile"));
    let keys: BTreeSet<PathBuf> =
        files.filter_map(|file| expand(file, home)).filter(|key| key.exists()).collect();
    let mut locked = BTreeSet::new();
    for key in keys {
        let mut command = Command::new("ssh-keygen");
        command.args(["-y", "-P", "", "-f"]).arg(&key);
        let says = |answer: Answer| answer.complaints.iter().any(|line| line.contains(WRONG_PASSPHRASE));
        if ask(judged.dress(command)).await.is_ok_and(says) {
            locked.insert(key);
        }
    }
    locked
}

/// The keys that are of no use, each with how much that matters; `None` if there is no key at all.
fn identities(
    settings: &Settings,
    home: Option<&Path>,
    judged: &Judged,
    locked: &BTreeSet<PathBuf>,
) -> Option<Vec<(PathBuf, Trouble, Level)>> {
    let files = settings.all("identityfile");
    let are_default = are_default(&files);
    let has_agent = judged.has_agent || settings.is_on("identityagent");
    let mut others = has_agent && !settings.is_on("identitiesonly") || settings.is_on("pkcs11provider");
    let mut troubled = Vec::new();
    for file in &files {
        match expand(file, home).map(|key| (trouble(&key, judged), key)) {
            Some((Some(Trouble::Missing), _)) if are_default => {}
            Some((Some(trouble), key)) => troubled.push((key, trouble)),
            Some((None, key)) if locked.contains(&key) && !has_agent => troubled.push((key, Trouble::Locked)),
            // It is fine, or nothing is known against it.
            Some((None, _)) | None => others = true,
        }
    }
    if are_default && troubled.is_empty() && !others {
        return None;
    }
    let level = if others { Level::Warning } else { Level::Error };
    Some(troubled.into_iter().map(|(key, trouble)| (key, trouble, level)).collect())
}

/// What is wrong with a key, as far as it can be seen from here.
fn trouble(key: &Path, judged: &Judged) -> Option<Trouble> {
    match Permissions::of(key) {
        // The private half may be in an agent, or on a token, when the public one is here.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let public = PathBuf::from(format!("{}.pub", key.display()));
            (!public.exists()).then_some(Trouble::Missing)
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && judged.by == By::Ourselves => {
            Some(Trouble::Unreadable)
        }
        Err(_) => None,
        // ssh looks at the mode of its own user's keys only (authfile.c).
        Ok(permissions) if permissions.uid == judged.uid && permissions.is_exposed() => {
            Some(Trouble::Exposed { mode: permissions.mode })
        }
        Ok(_) => matches!(can_read(judged, key), Ok(false)).then_some(Trouble::Unreadable),
    }
}

/// The tunnel's `identity_file`, if ssh cannot use it: it leaves out of its settings one that is missing. An error, because
/// other keys are not what was asked for.
fn named(tunnel: &Resolved, judged: &Judged) -> Option<(PathBuf, Trouble, Level)> {
    let key = tunnel.ssh.identity_file.as_ref()?;
    let trouble = trouble(key, judged).filter(is_out_of_reach)?;
    Some((key.clone(), trouble, Level::Error))
}

fn is_out_of_reach(trouble: &Trouble) -> bool {
    match trouble {
        Trouble::Missing | Trouble::Unreadable => true,
        Trouble::Exposed { .. } | Trouble::Locked => false,
    }
}

fn note(
    keys: impl IntoIterator<Item = (PathBuf, Trouble, Level)>,
    tunnel: &Resolved,
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
        if known.tunnels.last() != Some(&tunnel.tunnel) {
            known.tunnels.push(tunnel.tunnel.clone());
        }
    }
}

fn tell(key: &Path, useless: Useless, judged: &Judged, mend: Mend) -> Finding {
    let Useless { trouble, level, is_named, tunnels, destination } = useless;
    let (name, word, user) = (key.display(), path(key), judged.user());
    let of = format!("of tunnel `{}`", tunnels.join("`, `"));
    let (what, why, line) = match trouble {
        Trouble::Missing => (
            format!("the key {name} {of} is not there"),
            "ssh goes on without it",
            mend.as_user(
                judged.uid,
                &user,
                &format!("ssh-keygen -t ed25519 -f {word}  # then: ssh-copy-id -i {word} {destination}"),
            ),
        ),
        Trouble::Exposed { mode } => (
            format!("the key {name} {of} has mode {mode:04o}, so others can read it"),
            "ssh ignores a key that others may read",
            mend.as_owner(judged.uid, &format!("chmod 600 {word}")),
        ),
        Trouble::Unreadable => (
            format!("{judged} cannot read the key {name} {of}"),
            "ssh goes on without it",
            mend.as_root(&format!("chown {user} {word}")),
        ),
        Trouble::Locked => (
            format!("the key {name} {of} needs a passphrase, and there is no agent"),
            "nobody is there to type it, so ssh goes on without the key",
            mend.as_user(
                judged.uid,
                &user,
                &format!("ssh-keygen -p -N '' -f {word}  # or make a key for portward alone"),
            ),
        ),
    };
    let finding = match level {
        Level::Error if is_named => {
            let why = format!("{why}, and identity_file names this one");
            Finding::error(Check::Keys, what, why, line)
        }
        Level::Error => {
            let why = format!("{why}, and there is no other key: the server refuses the login");
            Finding::error(Check::Keys, what, why, line)
        }
        Level::Warning | Level::Ok => {
            let why = format!("{why}, and with the others the server may refuse the login");
            Finding::warning(Check::Keys, what, why, line)
        }
    };
    finding.of(tunnels)
}

fn no_key(tunnel: &Resolved, judged: &Judged, mend: Mend) -> Finding {
    let destination = &tunnel.ssh.destination;
    let line = format!("ssh-keygen -t ed25519  # then: ssh-copy-id {destination}");
    Finding::warning(
        Check::Keys,
        format!("{} has no key for tunnel `{}`, and no agent", judged.user(), tunnel.tunnel),
        "portward's ssh asks for no password, so most servers refuse it",
        mend.as_user(judged.uid, &judged.user(), &line),
    )
    .of([tunnel.tunnel.clone()])
}

/// ssh ended instead of telling its settings.
fn refused(tunnel: &Resolved, judged: &Judged, mend: Mend) -> Finding {
    let said = match &tunnel.said {
        Ok(answer) => answer.complaints.join("; "),
        Err(error) => error.to_string(),
    };
    let file = said.split_once(BAD_OWNER).map(|(_, rest)| PathBuf::from(rest.trim_end()));
    let line = match file {
        Some(file) => {
            let owner = Permissions::of(&file).map_or(judged.uid, |permissions| permissions.uid);
            if owner == judged.uid || owner == 0 {
                mend.as_owner(owner, &format!("chmod go-w {}", path(&file)))
            } else {
                mend.as_root(&format!("chown {} {}", judged.user(), path(&file)))
            }
        }
        None => {
            mend.as_user(judged.uid, &judged.user(), &format!("{}  # says it again", tunnel.line(&["-G"])))
        }
    };
    Finding::error(
        Check::Keys,
        format!("ssh does not take its configuration for tunnel `{}`: {said}", tunnel.tunnel),
        "the tunnel's ssh ends like this as well, before it connects",
        line,
    )
    .of([tunnel.tunnel.clone()])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use rustix::thread::CapabilitySet;

    use super::super::judged::tests::judged;
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

    fn ours() -> Judged {
        judged(nix::unistd::geteuid().as_raw(), CapabilitySet::DAC_OVERRIDE, false)
    }

    fn troubles(files: &[&Path], judged: &Judged) -> Vec<(Trouble, Level)> {
        let lines: Vec<String> =
            files.iter().map(|file| format!("identityfile {}", file.display())).collect();
        let found = identities(&settings(&lines), None, judged, &BTreeSet::new()).unwrap();
        found.into_iter().map(|(_, trouble, level)| (trouble, level)).collect()
    }

    #[test]
    fn a_key_that_others_may_read_is_no_key() {
        let directory = tempfile::tempdir().unwrap();
        let (good, bad) = (key(directory.path(), "good", 0o600), key(directory.path(), "bad", 0o644));
        let exposed = Trouble::Exposed { mode: 0o644 };
        assert_eq!(troubles(&[&good], &ours()), []);
        assert_eq!(troubles(&[&bad], &ours()), [(exposed.clone(), Level::Error)]);
        assert_eq!(troubles(&[&bad, &good], &ours()), [(exposed, Level::Warning)]);
        // ssh does not look at the mode of another user's key.
        let other = judged(ours().uid + 1, CapabilitySet::DAC_OVERRIDE, false);
        assert_eq!(troubles(&[&bad], &other), []);
    }

    #[test]
    fn a_key_of_another_user_is_unreadable_without_the_capability() {
        let directory = tempfile::tempdir().unwrap();
        let good = key(directory.path(), "good", 0o600);
        let other = judged(ours().uid + 1, CapabilitySet::empty(), false);
        assert_eq!(troubles(&[&good], &other), [(Trouble::Unreadable, Level::Error)]);
    }

    #[test]
    fn a_missing_key_matters_unless_its_public_half_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        assert_eq!(troubles(&[&missing], &ours()), [(Trouble::Missing, Level::Error)]);
        fs::write(directory.path().join("missing.pub"), "").unwrap();
        assert_eq!(troubles(&[&missing], &ours()), []);
    }

    #[test]
    fn an_agent_may_have_other_keys() {
        let mut agent = ours();
        agent.has_agent = true;
        let lines = ["pubkeyauthentication true", "identitiesonly no", "identityfile /nonexistent/key"];
        let settings = Settings::from_lines(lines);
        let found = identities(&settings, None, &agent, &BTreeSet::new()).unwrap();
        assert_eq!((found[0].1.clone(), found[0].2), (Trouble::Missing, Level::Warning));
        assert_eq!(identities(&settings, None, &ours(), &BTreeSet::new()).unwrap()[0].2, Level::Error);
    }

    #[test]
    fn a_locked_key_takes_an_agent() {
        let directory = tempfile::tempdir().unwrap();
        let key = key(directory.path(), "key", 0o600);
        let settings = settings(&[format!("identityfile {}", key.display())]);
        let locked = BTreeSet::from([key.clone()]);
        let found = |judged: &Judged| identities(&settings, None, judged, &locked).unwrap();
        assert_eq!(found(&ours()), [(key, Trouble::Locked, Level::Error)]);
        let mut agent = ours();
        agent.has_agent = true;
        assert_eq!(found(&agent), []);
    }

    #[test]
    fn default_keys_need_not_be_there_but_one_should() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join(".ssh")).unwrap();
        let lines = ["id_rsa", "id_ed25519"].map(|name| format!("identityfile ~/.ssh/{name}"));
        let settings = settings(&lines);
        assert_eq!(identities(&settings, Some(home.path()), &ours(), &BTreeSet::new()), None);
        key(&home.path().join(".ssh"), "id_ed25519", 0o600);
        assert_eq!(identities(&settings, Some(home.path()), &ours(), &BTreeSet::new()), Some(Vec::new()));
        key(&home.path().join(".ssh"), "id_rsa", 0o640);
        assert_eq!(
            identities(&settings, Some(home.path()), &ours(), &BTreeSet::new()).unwrap()[0].2,
            Level::Warning
        );
    }
}
