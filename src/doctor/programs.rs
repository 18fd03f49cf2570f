//! The programs that tunnels run: ssh, and those of `command` tunnels.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ask::{AskError, ask};
use super::finding::{Check, Finding, or_ok};
use super::judged::Judged;
use super::mend::{Mend, edit, path};
use crate::config::desired::{CommandTunnel, Desired, Work};

/// The first version that closes a forward over its control socket (`-O cancel`).
const OLDEST: (u32, u32) = (6, 0);

/// What an ssh program says of itself.
#[derive(Debug)]
pub(super) struct Version {
    program: PathBuf,
    tunnels: Vec<String>,
    /// What it printed.
    said: Result<Vec<String>, AskError>,
}

/// Asks the ssh programs of all tunnels that are enabled.
pub(super) async fn versions(desired: &Desired, judged: &Judged) -> Vec<Version> {
    let mut programs: BTreeMap<&Path, Vec<String>> = BTreeMap::new();
    for tunnel in desired.tunnels.iter().filter(|tunnel| tunnel.enabled) {
        if let Work::Ssh(ssh) = &tunnel.work {
            programs.entry(&ssh.program).or_default().push(tunnel.name.clone());
        }
    }
    let mut versions = Vec::new();
    for (program, tunnels) in programs {
        let mut command = Command::new(program);
        command.arg("-V");
        let said = ask(judged.dress(command)).await.map(|answer| [answer.complaints, answer.output].concat());
        versions.push(Version { program: program.to_owned(), tunnels, said });
    }
    versions
}

/// The programs that can be asked what they would do.
pub(super) fn usable(versions: &[Version]) -> BTreeSet<&Path> {
    let is_usable = |version: &&Version| version.said.as_deref().ok().and_then(parse).is_some();
    versions.iter().filter(is_usable).map(|version| version.program.as_path()).collect()
}

/// Judges what they said.
pub(super) fn judge(versions: &[Version], config: &Path, mend: Mend) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fine = Vec::new();
    for Version { program, tunnels, said } in versions {
        let name = program.display();
        let change = format!("tunnel `{}`: ssh: {{program: ssh}}", tunnels.join("`, `"));
        let line = if program == Path::new("ssh") {
            mend.as_root("apt-get install openssh-client  # or what your system calls it")
        } else {
            edit(config, &change)
        };
        let error = |what| {
            let why =
                "portward asks OpenSSH for each forward over its control socket, and works with nothing else";
            Finding::error(Check::Ssh, what, why, line).of(tunnels.iter().cloned())
        };
        match said.as_ref().map(|lines| (parse(lines), lines)) {
            Ok((Some(version), lines)) if version >= OLDEST => {
                let said =
                    lines.iter().find(|line| line.contains("OpenSSH_")).map_or("OpenSSH", String::as_str);
                fine.push(format!("`{name}` is {}", said.split(',').next().unwrap_or(said)));
            }
            Ok((Some((major, minor)), _)) => findings.push(error(format!(
                "`{name}` is OpenSSH {major}.{minor}; {}.{} is the oldest that can close a forward",
                OLDEST.0, OLDEST.1
            ))),
            Ok((None, lines)) => {
                let said = lines.first().map_or("nothing", String::as_str);
                findings
                    .push(error(format!("`{name}` is not OpenSSH: asked for its version, it says: {said}")));
            }
            Err(failed) => findings.push(error(format!("ssh does not run: {failed}"))),
        }
    }
    if versions.is_empty() {
        fine.push("no tunnel needs ssh".to_owned());
    }
    or_ok(findings, Check::Ssh, fine.join(", "))
}

/// The version in lines like `OpenSSH_9.2p1 Debian-2+deb12u10, OpenSSL 3.0.19 27 Jan 2026`.
fn parse(lines: &[String]) -> Option<(u32, u32)> {
    lines.iter().find_map(|line| {
        let (_, version) = line.split_once("OpenSSH_")?;
        let (major, rest) = version.split_once('.')?;
        let minor = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    })
}

/// Judges the programs of `command` tunnels.
pub(super) fn judge_commands(desired: &Desired, judged: &Judged, config: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fine = Vec::new();
    for tunnel in desired.tunnels.iter().filter(|tunnel| tunnel.enabled) {
        let Work::Command(CommandTunnel { argv, working_directory, env, .. }) = &tunnel.work else {
            continue;
        };
        let Some(program) = argv.first() else { continue };
        let judged = &judged.given(env);
        if let Some(directory) = working_directory.as_deref().filter(|directory| !directory.is_dir()) {
            let directory = path(directory);
            let what = format!("the working directory {directory} of tunnel `{}` is not there", tunnel.name);
            let line = format!("mkdir -p {directory}  # or correct `working_directory` in {}", path(config));
            let why = "the tunnel cannot start";
            findings.push(Finding::error(Check::Commands, what, why, line).of([tunnel.name.clone()]));
        }
        match judged.find_program(Path::new(program)) {
            Some(found) => fine.push(path(&found)),
            None => findings.push(
                Finding::error(
                    Check::Commands,
                    format!("`{program}` of tunnel `{}` is not a program that {judged} finds", tunnel.name),
                    format!(
                        "the tunnel cannot start; looked for in {}",
                        judged.search.as_ref().map_or_else(
                            || "PATH".to_owned(),
                            |search| search.to_string_lossy().into_owned()
                        )
                    ),
                    edit(config, &format!("tunnel `{}`: write the whole path of the program", tunnel.name)),
                )
                .of([tunnel.name.clone()]),
            ),
        }
    }
    let what = if fine.is_empty() {
        "no tunnel needs one".to_owned()
    } else {
        format!("found: {}", fine.join(", "))
    };
    or_ok(findings, Check::Commands, what)
}

#[cfg(test)]
mod tests {
    use rustix::thread::CapabilitySet;

    use super::super::finding::Level;
    use super::super::judged::tests::judged;
    use super::*;

    const CONFIG: &str = "/etc/portward/config.yaml";
    const MEND: Mend = Mend { uid: 0 };

    fn said(program: &str, line: &str) -> Finding {
        let version = Version {
            program: program.into(),
            tunnels: vec!["web".to_owned()],
            said: Ok(vec![line.to_owned()]),
        };
        judge(&[version], Path::new(CONFIG), MEND).swap_remove(0)
    }

    #[test]
    fn an_openssh_that_multiplexes_is_fine() {
        let finding = said("ssh", "OpenSSH_9.2p1 Debian-2+deb12u10, OpenSSL 3.0.19 27 Jan 2026");
        assert_eq!(
            (finding.level, finding.what.as_str()),
            (Level::Ok, "`ssh` is OpenSSH_9.2p1 Debian-2+deb12u10")
        );
        assert_eq!(said("ssh", "OpenSSH_10.0p2, OpenSSL 3.5").level, Level::Ok);
    }

    #[test]
    fn others_and_older_ones_are_errors_of_their_tunnels() {
        let dropbear = said("dbclient", "Dropbear v2022.83");
        assert_eq!((dropbear.level, &dropbear.tunnels[..]), (Level::Error, &["web".to_owned()][..]));
        assert!(dropbear.what.contains("it says: Dropbear v2022.83"), "{dropbear:?}");
        assert!(dropbear.mend.unwrap().contains("tunnel `web`: ssh: {program: ssh}"));
        assert!(said("ssh", "OpenSSH_5.9p1").what.contains("OpenSSH 5.9; 6.0 is the oldest"));
    }

    #[tokio::test]
    async fn programs_are_asked_as_the_daemon_would_find_them() {
        let text = "tunnels:
  - {name: a, remote_host: h, remote_port: 1, local_port: 8001, ssh: {program: /bin/echo}}
  - {name: b, remote_host: h, remote_port: 1, local_port: 8002, ssh: {program: /nonexistent/ssh}}
  - {name: c, command: [sh, x], local_port: 8003}
  - {name: d, command: [no-such-program], local_port: 8004}
  - {name: e, command: [sh], local_port: 8005, env: {PATH: /nonexistent}}
  - {name: f, command: [sh], local_port: 8006, working_directory: /nonexistent}
";
        let desired = crate::config::parse(text, Path::new(CONFIG)).unwrap();
        let mut judged = judged(0, CapabilitySet::empty(), false);
        judged.search = Some("/bin".into());
        let versions = versions(&desired, &judged).await;
        assert_eq!(usable(&versions), BTreeSet::new());
        let findings = judge(&versions, Path::new(CONFIG), MEND);
        assert!(findings[0].what.contains("`/bin/echo` is not OpenSSH"), "{findings:?}");
        assert!(findings[1].what.contains("/nonexistent/ssh"), "{findings:?}");

        let findings = judge_commands(&desired, &judged, Path::new(CONFIG));
        let blamed: Vec<_> =
            findings.iter().map(|finding| (finding.level, finding.tunnels.concat())).collect();
        assert_eq!(blamed, ["d", "e", "f"].map(|tunnel| (Level::Error, tunnel.to_owned())));
        assert!(findings[1].why.as_ref().unwrap().contains("looked for in /nonexistent"), "{findings:?}");
        assert!(findings[2].what.contains("working directory /nonexistent of tunnel `f`"), "{findings:?}");
        assert!(findings[0].why.as_ref().unwrap().contains("looked for in /bin"), "{findings:?}");
    }
}
