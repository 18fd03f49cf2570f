//! The ssh programs of the tunnels, and what they make of their configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ask::{Answer, AskError, Asker};
use super::fix::{Fix, path};
use crate::config::desired::{self, Desired, Forward, Ssh, SshTunnel, Work};
use crate::protocol::doctor::Finding;
use crate::ssh::{Plan, Settings, question};

/// The first version that closes a forward over its control socket (`-O cancel`).
const OLDEST: (u32, u32) = (6, 0);

/// The answers of the ssh programs.
#[derive(Debug)]
pub(super) struct Answers {
    versions: Vec<Version>,
    pub(super) tunnels: Vec<Tunnel>,
}

/// The answer of an ssh program to `-V`.
#[derive(Debug)]
struct Version {
    program: PathBuf,
    tunnels: Vec<String>,
    answer: Result<Vec<String>, AskError>,
}

/// A tunnel, and the answer of its ssh to `-G`.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) name: String,
    pub(super) ssh: Ssh,
    forward: Forward,
    pub(super) settings: Result<Settings, Unsettled>,
}

/// Why a tunnel's settings are not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unsettled {
    /// ssh refuses its configuration, for this reason.
    Refused(String),
    /// The time limit was reached first.
    OutOfTime,
}

/// Asks the ssh programs of the enabled tunnels.
pub(super) fn ask(desired: &Desired, asker: Asker) -> Answers {
    let versions = versions(desired, asker);
    let tunnels = settings(desired, &versions, asker);
    Answers { versions, tunnels }
}

/// The programs that are not OpenSSH, and the settings that a tunnel cannot work with. Without `answers`, why the programs were
/// not run.
pub(super) fn findings(answers: Option<&Answers>, config: &Path, fix: Fix) -> Vec<Finding> {
    let Some(Answers { versions, tunnels }) = answers else {
        return vec![Finding::warning(
            format!("no ssh was run: users other than root can write {} or its directory", config.display()),
            "the configuration names programs, and they would be run as root",
            format!("portward check {}  # and run the fix of `directories`", path(config)),
        )];
    };
    let mut findings: Vec<Finding> =
        versions.iter().filter_map(|version| unusable(version, config, fix)).collect();
    findings.extend(tunnels.iter().flat_map(|tunnel| unsuitable(tunnel, config, fix)));
    let is_late = |tunnel: &&Tunnel| tunnel.settings == Err(Unsettled::OutOfTime);
    let late: Vec<String> = tunnels.iter().filter(is_late).map(|tunnel| tunnel.name.clone()).collect();
    if !late.is_empty() {
        let what =
            format!("the time limit was reached before the ssh of {} tunnels was examined", late.len());
        let why = "nothing is known about their keys and host keys";
        findings
            .push(Finding::warning(what, why, "portward doctor  # when the machine is less busy").of(late));
    }
    findings
}

fn enabled(desired: &Desired) -> impl Iterator<Item = (&desired::Tunnel, &SshTunnel)> {
    desired.tunnels.iter().filter(|tunnel| tunnel.enabled).filter_map(|tunnel| match &tunnel.work {
        Work::Ssh(ssh) => Some((tunnel, ssh)),
        Work::Command(_) => None,
    })
}

fn versions(desired: &Desired, asker: Asker) -> Vec<Version> {
    let mut programs: BTreeMap<&Path, Vec<String>> = BTreeMap::new();
    for (tunnel, ssh) in enabled(desired) {
        programs.entry(&ssh.ssh.program).or_default().push(tunnel.name.clone());
    }
    let ask = |(program, tunnels): (&Path, _)| {
        let mut command = Command::new(program);
        command.arg("-V");
        let answer = asker.ask(command).map(|answer| [answer.complaints, answer.output].concat());
        Version { program: program.to_owned(), tunnels, answer }
    };
    programs.into_iter().map(ask).collect()
}

/// The settings of the tunnels that start by themselves, and whose program is OpenSSH.
fn settings(desired: &Desired, versions: &[Version], asker: Asker) -> Vec<Tunnel> {
    let is_openssh = |version: &&Version| version.answer.as_deref().ok().and_then(parse).is_some();
    let programs: BTreeSet<&Path> =
        versions.iter().filter(is_openssh).map(|version| version.program.as_path()).collect();
    let tunnels: Vec<_> = enabled(desired)
        .filter(|(tunnel, ssh)| !tunnel.interactive && programs.contains(ssh.ssh.program.as_path()))
        .collect();
    let answers = asker.ask_all(tunnels.iter().map(|(_, ssh)| question(&ssh.ssh)).collect());
    let with = |((tunnel, ssh), answer): (&(&desired::Tunnel, &SshTunnel), _)| {
        let settings = match answer {
            Ok(Answer { status, output, .. }) if status.success() => Ok(Settings::from_lines(output)),
            Ok(answer) => Err(Unsettled::Refused(answer.complaints.join("; "))),
            Err(AskError::OutOfTime) => Err(Unsettled::OutOfTime),
            Err(error) => Err(Unsettled::Refused(error.to_string())),
        };
        let SshTunnel { ssh, forward } = (*ssh).clone();
        Tunnel { name: tunnel.name.clone(), ssh, forward, settings }
    };
    tunnels.iter().zip(answers).map(with).collect()
}

/// Why a program cannot be used.
fn unusable(Version { program, tunnels, answer }: &Version, config: &Path, fix: Fix) -> Option<Finding> {
    let name = program.display();
    let what = match answer.as_ref().map(|lines| (parse(lines), lines)) {
        Ok((Some(version), _)) if version >= OLDEST => return None,
        Ok((Some((major, minor)), _)) => format!(
            "`{name}` is OpenSSH {major}.{minor}; {}.{} is the oldest that can close a forward",
            OLDEST.0, OLDEST.1
        ),
        Ok((None, lines)) => {
            let first = lines.first().map_or("nothing", String::as_str);
            format!("`{name}` is not OpenSSH: `{name} -V` prints {first}")
        }
        Err(AskError::OutOfTime) => return None,
        Err(error) => format!("cannot run ssh: {error}"),
    };
    let line = if program == Path::new("ssh") {
        fix.as_root("apt-get install openssh-client  # or the package of your distribution")
    } else {
        fix.edit(config, &format!("tunnel `{}`: ssh: {{program: ssh}}", tunnels.join("`, `")))
    };
    let why =
        "portward asks OpenSSH for each forward over its control socket, and works with no other program";
    Some(Finding::error(what, why, line).of(tunnels.iter().cloned()))
}

/// The version in lines such as `OpenSSH_9.2p1 Debian-2+deb12u10, OpenSSL 3.0.19 27 Jan 2026`.
fn parse(lines: &[String]) -> Option<(u32, u32)> {
    lines.iter().find_map(|line| {
        let (_, version) = line.split_once("OpenSSH_")?;
        let (major, rest) = version.split_once('.')?;
        let minor = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    })
}

/// Settings that a tunnel cannot work with, and that portward does not override.
fn unsuitable(tunnel: &Tunnel, config: &Path, fix: Fix) -> Vec<Finding> {
    let Tunnel { name, ssh, forward, settings: Ok(settings) } = tunnel else { return Vec::new() };
    let plan = Plan::new(settings.clone(), None);
    let mut findings = Vec::new();
    if let Err(refused) = plan.address_family().endpoints(forward.listens(), &ssh.destination) {
        let change =
            format!("tunnel `{name}`: another local_port, or ssh: {{options: {{AddressFamily: any}}}}");
        let what = format!("tunnel `{name}`: {}", refused.message);
        let why = "ssh does not listen on an address of another AddressFamily";
        findings.push(Finding::error(what, why, fix.edit(config, &change)));
    }
    let is_set = |option: &str| ssh.options.keys().any(|set| set.eq_ignore_ascii_case(option));
    if plan.is_quiet() && is_set("LogLevel") {
        let what = format!("LogLevel under `ssh: options:` silences the ssh of tunnel `{name}`");
        let why =
            "it does not say why it fails, nor that the server rejects clients, so portward cannot report it";
        let change = format!("tunnel `{name}`: remove LogLevel, or write INFO");
        findings.push(Finding::warning(what, why, fix.edit(config, &change)));
    }
    findings.into_iter().map(|finding| finding.of([name.clone()])).collect()
}

/// A path as ssh prints it, with the home directory inserted; `None` if it contains what only ssh can expand.
pub(super) fn expand(text: &str, home: Option<&Path>) -> Option<PathBuf> {
    if text.contains('%') || text.contains("${") {
        return None;
    }
    match text.strip_prefix("~/") {
        Some(rest) => Some(home?.join(rest)),
        None => Some(PathBuf::from(text)).filter(|path| path.is_absolute()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ask::tests::{ASKER, blocking};
    use super::*;
    use crate::protocol::doctor::Level;

    const CONFIG: &str = "/etc/portward/config.yaml";
    const FIX: Fix = Fix { uid: 0 };

    fn version(program: &str, line: &str) -> Option<Finding> {
        let tunnels = vec!["web".to_owned()];
        let version = Version { program: program.into(), tunnels, answer: Ok(vec![line.to_owned()]) };
        unusable(&version, Path::new(CONFIG), FIX)
    }

    #[test]
    fn only_a_recent_openssh_can_be_used() {
        assert_eq!(version("ssh", "OpenSSH_9.2p1 Debian-2+deb12u10, OpenSSL 3.0.19 27 Jan 2026"), None);
        assert_eq!(version("ssh", "OpenSSH_10.0p2, OpenSSL 3.5"), None);
        let dropbear = version("dbclient", "Dropbear v2022.83").unwrap();
        assert_eq!((dropbear.level, &dropbear.tunnels[..]), (Level::Error, &["web".to_owned()][..]));
        assert!(dropbear.what.contains("prints Dropbear v2022.83"), "{dropbear:?}");
        assert!(dropbear.fix.unwrap().contains("tunnel `web`: ssh: {program: ssh}"));
        let old = version("ssh", "OpenSSH_5.9p1").unwrap();
        assert!(old.what.contains("OpenSSH 5.9; 6.0 is the oldest"), "{old:?}");
    }

    #[test]
    fn programs_of_enabled_tunnels_are_asked() {
        let text = "tunnels:
  - {name: a, remote_host: h, remote_port: 1, local_port: 8001, ssh: {program: /bin/echo}}
  - {name: b, remote_host: h, remote_port: 1, local_port: 8002, ssh: {program: /nonexistent/ssh}}
  - {name: c, remote_host: h, remote_port: 1, local_port: 8003, ssh: {options: {NoSuchOption: x}}}
  - {name: d, remote_host: h, remote_port: 1, local_port: 8004, ssh: {config_file: none}}
";
        let desired = crate::config::parse(text, Path::new(CONFIG)).unwrap();
        let (versions, tunnels) = blocking(move || {
            let versions = versions(&desired, ASKER);
            let tunnels = settings(&desired, &versions, ASKER);
            (versions, tunnels)
        });
        let findings: Vec<_> =
            versions.iter().filter_map(|version| unusable(version, Path::new(CONFIG), FIX)).collect();
        assert!(findings[0].what.contains("`/bin/echo` is not OpenSSH"), "{findings:?}");
        assert!(findings[1].what.contains("/nonexistent/ssh"), "{findings:?}");
        let [refused, resolved] = &tunnels[..] else { panic!("{tunnels:?}") };
        assert!(matches!(&refused.settings, Err(Unsettled::Refused(why)) if why.contains("nosuchoption")));
        assert_eq!(resolved.settings.as_ref().unwrap().one("hostname"), "h");
    }

    fn found(tunnel: &str, lines: &[&str]) -> Vec<String> {
        let desired = crate::config::parse(&format!("tunnels: [{tunnel}]"), Path::new(CONFIG)).unwrap();
        let Work::Ssh(ssh) = &desired.tunnels[0].work else { panic!("an ssh tunnel") };
        let settings = Ok(Settings::from_lines(lines));
        let tunnel =
            Tunnel { name: "db".to_owned(), ssh: ssh.ssh.clone(), forward: ssh.forward.clone(), settings };
        unsuitable(&tunnel, Path::new(CONFIG), FIX).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn an_address_of_another_family_is_an_error() {
        let tunnel = "{remote_host: h, remote_port: 1, local_port: '[::1]:2'}";
        let what = found(tunnel, &["hostname h", "addressfamily inet"]);
        assert!(what[0].contains("AddressFamily inet"), "{what:?}");
        assert_eq!(found(tunnel, &["hostname h", "addressfamily any"]), Vec::<String>::new());
        let bare = "{remote_host: h, remote_port: 1, local_port: 2}";
        assert_eq!(found(bare, &["hostname h", "addressfamily inet"]), Vec::<String>::new());
    }

    #[test]
    fn only_the_tunnels_own_log_level_silences_ssh() {
        let quiet = "{remote_host: h, remote_port: 1, local_port: 2, ssh: {options: {LogLevel: ERROR}}}";
        assert!(found(quiet, &["hostname h", "loglevel ERROR"])[0].contains("LogLevel"));
        let plain = "{remote_host: h, remote_port: 1, local_port: 2}";
        assert_eq!(found(plain, &["hostname h", "loglevel SILENT"]), Vec::<String>::new());
    }

    #[test]
    fn a_path_that_only_ssh_can_expand_is_left_alone() {
        let home = Path::new("/home/alice");
        assert_eq!(expand("~/.ssh/id", Some(home)), Some("/home/alice/.ssh/id".into()));
        assert_eq!(expand("/etc/key", None), Some("/etc/key".into()));
        for unknown in ["%d/.ssh/id", "${KEYS}/id", "key", "~bob/key"] {
            assert_eq!(expand(unknown, Some(home)), None, "{unknown}");
        }
    }
}
