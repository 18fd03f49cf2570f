//! Whether ssh knows the servers' host keys: it asks nobody about a new one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ask::ask;
use super::finding::{Check, Finding, or_ok};
use super::judged::Judged;
use super::mend::Mend;
use super::settings::{Resolved, Settings, expand};
use crate::ssh;

/// ssh's port, which known hosts are written without.
const USUAL_PORT: &str = "22";

/// Where ssh looks for a server's key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    /// Under any of these names,
    names: Vec<String>,
    /// in any of these files.
    files: Vec<PathBuf>,
}

/// Judges the tunnels' servers.
pub(super) async fn judge(resolved: &[Resolved], judged: &Judged, mend: Mend) -> Vec<Finding> {
    let home = judged.home();
    let mut servers: BTreeMap<Wanted, Vec<&Resolved>> = BTreeMap::new();
    for tunnel in resolved {
        if let Some(settings) = tunnel.settings()
            && let Some(wanted) = wanted(&settings, home.as_deref())
        {
            servers.entry(wanted).or_default().push(tunnel);
        }
    }
    let mut findings = Vec::new();
    for (wanted, tunnels) in servers {
        if is_known(&wanted, judged).await == Some(false) {
            findings.extend(unknown(&wanted, &tunnels, judged, mend));
        }
    }
    or_ok(findings, Check::HostKeys, "no server was found whose host key is unknown")
}

/// What must be known; `None` when ssh would take a new key, or finds keys in a way that cannot be told from here.
fn wanted(settings: &Settings, home: Option<&Path>) -> Option<Wanted> {
    let is_strict = ["yes", "true", "ask"].contains(&settings.one("stricthostkeychecking"));
    let other_ways = ["verifyhostkeydns", "knownhostscommand", "nohostauthenticationforlocalhost"];
    if !is_strict || other_ways.into_iter().any(|name| settings.is_on(name)) {
        return None;
    }
    let (host, port) = (settings.one("hostname"), settings.one("port"));
    let names = match settings.one("hostkeyalias") {
        "" if host.is_empty() => return None,
        // ssh looks for the name without the port as well (sshconnect.c, "checking without port identifier").
        "" if port != USUAL_PORT => vec![format!("[{host}]:{port}"), host.to_owned()],
        "" => vec![host.to_owned()],
        alias => vec![alias.to_owned()],
    };
    let files = ["userknownhostsfile", "globalknownhostsfile"].map(|name| settings.one(name).split(' '));
    let files = files.into_iter().flatten().filter(|file| !["", "none"].contains(file));
    // One that cannot be told may hold the key.
    Some(Wanted { names, files: files.map(|file| expand(file, home)).collect::<Option<_>>()? })
}

/// Whether a key is known; `None` if that cannot be found out.
async fn is_known(wanted: &Wanted, judged: &Judged) -> Option<bool> {
    for file in wanted.files.iter().filter(|file| file.exists()) {
        for name in &wanted.names {
            let mut command = Command::new("ssh-keygen");
            command.arg("-F").arg(name).arg("-f").arg(file);
            if ask(judged.dress(command)).await.ok()?.status.success() {
                return Some(true);
            }
        }
    }
    Some(false)
}

fn unknown(wanted: &Wanted, tunnels: &[&Resolved], judged: &Judged, mend: Mend) -> Option<Finding> {
    let first = tunnels.first()?;
    let name = wanted.names.first()?;
    let names: Vec<String> = tunnels.iter().map(|tunnel| tunnel.tunnel.clone()).collect();
    let line = ssh::accepting_line(&first.ssh);
    let finding = Finding::error(
        Check::HostKeys,
        format!(
            "the host key of {name}, where tunnel `{}` leads, is unknown to {}",
            names.join("`, `"),
            judged.user()
        ),
        "ssh refuses a server whose key it does not know, and a daemon's ssh has nobody to ask",
        format!(
            "{}  # compare the fingerprint, then say yes",
            mend.as_user(judged.uid, &judged.user(), &line)
        ),
    );
    Some(finding.of(names))
}

#[cfg(test)]
mod tests {
    use rustix::thread::CapabilitySet;

    use super::super::judged::tests::judged;
    use super::*;

    fn wanted_by(lines: &[&str]) -> Option<Wanted> {
        let mut all = vec!["hostname db", "userknownhostsfile ~/.ssh/known_hosts /other"];
        all.extend(lines);
        let lines: Vec<String> = all.iter().map(|line| (*line).to_owned()).collect();
        wanted(&Settings::from_lines(&lines), Some(Path::new("/home/alice")))
    }

    #[test]
    fn the_name_is_the_one_that_ssh_looks_for() {
        let names =
            |lines: &[&str]| wanted_by(&[&["stricthostkeychecking ask"], lines].concat()).unwrap().names;
        assert_eq!(names(&["port 22"]), ["db"]);
        assert_eq!(names(&["port 2222"]), ["[db]:2222", "db"]);
        assert_eq!(names(&["port 2222", "hostkeyalias server"]), ["server"]);
    }

    #[test]
    fn nothing_is_wanted_where_a_new_key_is_taken_or_found_otherwise() {
        assert_eq!(
            wanted_by(&["port 22", "stricthostkeychecking true"]).unwrap().files,
            ["/home/alice/.ssh/known_hosts", "/other"].map(PathBuf::from)
        );
        assert_eq!(wanted_by(&["port 22", "stricthostkeychecking accept-new"]), None);
        assert_eq!(wanted_by(&["port 22", "stricthostkeychecking false"]), None);
        assert_eq!(wanted_by(&["stricthostkeychecking true", "knownhostscommand /bin/keys"]), None);
        assert_eq!(wanted_by(&["stricthostkeychecking true", "globalknownhostsfile /%h"]), None);
    }

    #[tokio::test]
    async fn a_known_key_is_found_in_any_file_under_any_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        std::fs::write(
            &file,
            "db ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGMIWsCdSyZWWGWD6AQbqxBGcoSdcgKyRxfXmhbKXuWS\n",
        )
        .unwrap();
        let judged = judged(nix::unistd::geteuid().as_raw(), CapabilitySet::empty(), false);
        let files = vec![directory.path().join("missing"), file];
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let known = Wanted { names: names(&["[db]:2222", "db"]), files: files.clone() };
        assert_eq!(is_known(&known, &judged).await, Some(true));
        let unknown = Wanted { names: names(&["stranger"]), files };
        assert_eq!(is_known(&unknown, &judged).await, Some(false));
    }
}
