//! Whether ssh knows the host keys of the servers: there is nobody whom it could ask about a new one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ask::Asker;
use super::fix::Fix;
use super::process::Process;
use super::ssh::{Tunnel, expand};
use crate::protocol::doctor::Finding;
use crate::ssh::{Settings, accepting_line};

/// The port of ssh, which is left out in known hosts.
const DEFAULT_PORT: &str = "22";

/// Where ssh looks for a server's key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    /// Under any of these names,
    names: Vec<String>,
    /// in any of these files.
    files: Vec<PathBuf>,
}

/// The servers whose host key is not known, in one finding: whoever comes from a program that does not check them has many, and one line
/// asks about all of them.
pub(super) fn finding(tunnels: &[Tunnel], process: &Process, asker: Asker, fix: Fix) -> Option<Finding> {
    let home = process.home();
    let mut servers: BTreeMap<Wanted, Vec<&Tunnel>> = BTreeMap::new();
    for tunnel in tunnels {
        let wanted = tunnel.settings.as_ref().ok().and_then(|settings| wanted(settings, home.as_deref()));
        if let Some(wanted) = wanted {
            servers.entry(wanted).or_default().push(tunnel);
        }
    }
    servers.retain(|wanted, _| is_known(wanted, asker) == Some(false));
    unknown(&servers, process, fix)
}

/// Where the key must be; `None` if ssh accepts a new key, or looks in a place that is not known here.
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
        "" if port != DEFAULT_PORT => vec![format!("[{host}]:{port}"), host.to_owned()],
        "" => vec![host.to_owned()],
        alias => vec![alias.to_owned()],
    };
    let files = ["userknownhostsfile", "globalknownhostsfile"].map(|name| settings.one(name).split(' '));
    let files = files.into_iter().flatten().filter(|file| !["", "none"].contains(file));
    // A file whose path is not known may contain the key.
    Some(Wanted { names, files: files.map(|file| expand(file, home)).collect::<Option<_>>()? })
}

/// Whether a key is known; `None` if that cannot be determined.
fn is_known(wanted: &Wanted, asker: Asker) -> Option<bool> {
    for file in wanted.files.iter().filter(|file| file.exists()) {
        for name in &wanted.names {
            let mut command = Command::new("ssh-keygen");
            command.arg("-F").arg(name).arg("-f").arg(file);
            if asker.ask(command).ok()?.status.success() {
                return Some(true);
            }
        }
    }
    Some(false)
}

fn unknown(servers: &BTreeMap<Wanted, Vec<&Tunnel>>, process: &Process, fix: Fix) -> Option<Finding> {
    let user = process.user();
    let lines = servers
        .values()
        .filter_map(|tunnels| Some(fix.as_user(process.uid, &user, &accepting_line(&tunnels.first()?.ssh))));
    let lines: Vec<String> = lines.collect();
    let name_of = |wanted: &Wanted| wanted.names.first().cloned();
    let hosts = servers.keys().filter_map(name_of).collect::<Vec<_>>().join(", ");
    let names: Vec<String> = servers.values().flatten().map(|tunnel| tunnel.name.clone()).collect();
    let (keys, server, tunnel, compare) = match lines.len() {
        0 => return None,
        1 => (
            "host key",
            "the server",
            if names.len() == 1 { "tunnel" } else { "tunnels" },
            "the fingerprint, then answer yes",
        ),
        _ => ("host keys", "the servers", "tunnels", "each fingerprint, then answer yes"),
    };
    let finding = Finding::error(
        format!(
            "user {user} does not know the {keys} of {hosts}, {server} of {tunnel} `{}`",
            names.join("`, `")
        ),
        "ssh refuses a server whose key it does not know, and a daemon's ssh can ask nobody",
        format!("{}  # compare {compare}", lines.join("; ")),
    );
    Some(finding.of(names))
}

#[cfg(test)]
mod tests {
    use super::super::ask::tests::{ASKER, blocking};
    use super::*;

    fn wanted_by(lines: &[&str]) -> Option<Wanted> {
        let all = [&["hostname db", "userknownhostsfile ~/.ssh/known_hosts /other"], lines].concat();
        wanted(&Settings::from_lines(all), Some(Path::new("/home/alice")))
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
    fn no_key_is_wanted_where_a_new_one_is_accepted_or_found_otherwise() {
        assert_eq!(
            wanted_by(&["port 22", "stricthostkeychecking true"]).unwrap().files,
            ["/home/alice/.ssh/known_hosts", "/other"].map(PathBuf::from)
        );
        assert_eq!(wanted_by(&["port 22", "stricthostkeychecking accept-new"]), None);
        assert_eq!(wanted_by(&["port 22", "stricthostkeychecking false"]), None);
        assert_eq!(wanted_by(&["stricthostkeychecking true", "knownhostscommand /bin/keys"]), None);
        assert_eq!(wanted_by(&["stricthostkeychecking true", "globalknownhostsfile /%h"]), None);
    }

    #[test]
    fn a_known_key_is_found_in_any_file_under_any_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        let key = "AAAAC3NzaC1lZDI1NTE5AAAAIGMIWsCdSyZWWGWD6AQbqxBGcoSdcgKyRxfXmhbKXuWS";
        std::fs::write(&file, format!("db ssh-ed25519 {key}\n")).unwrap();
        let files = vec![directory.path().join("missing"), file];
        let is_known = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let wanted = Wanted { names, files: files.clone() };
            blocking(move || is_known(&wanted, ASKER))
        };
        assert_eq!(is_known(&["[db]:2222", "db"]), Some(true));
        assert_eq!(is_known(&["stranger"]), Some(false));
    }
}
