//! What ssh itself makes of a tunnel's arguments and of its configuration files: `ssh -G`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::ask::{Answer, AskError, ask};
use super::judged::Judged;
use crate::config::desired::{Desired, SshTunnel, Work};
use crate::ssh;

pub(super) use crate::ssh::Settings;

/// A tunnel, and what its ssh said.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) tunnel: String,
    pub(super) ssh: SshTunnel,
    pub(super) said: Result<Answer, AskError>,
}

/// Asks ssh about all tunnels that start by themselves and whose program is among `programs`.
pub(super) async fn resolve(desired: &Desired, programs: &BTreeSet<&Path>, judged: &Judged) -> Vec<Resolved> {
    let mut resolved = Vec::new();
    for tunnel in desired.tunnels.iter().filter(|tunnel| tunnel.enabled && !tunnel.interactive) {
        let Work::Ssh(ssh) = &tunnel.work else { continue };
        if !programs.contains(ssh.program.as_path()) {
            continue;
        }
        let mut question = judged.dress(ssh::question(ssh));
        // It wins over the environment of the service.
        question.envs(ssh.env.iter());
        let said = ask(question).await;
        resolved.push(Resolved { tunnel: tunnel.name.clone(), ssh: ssh.clone(), said });
    }
    resolved
}

impl Resolved {
    /// The settings; `None` if ssh refuses.
    pub(super) fn settings(&self) -> Option<Settings> {
        let answer = self.said.as_ref().ok()?;
        answer.status.success().then(|| Settings::from_lines(&answer.output))
    }

    /// The line by which a person calls the same ssh, with `first` before all other arguments.
    pub(super) fn line(&self, first: &[&str]) -> String {
        ssh::line(&self.ssh, first)
    }
}

/// A path as ssh prints it, with the home directory filled in; `None` if it holds what only ssh can fill in.
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
    use super::*;

    #[test]
    fn what_only_ssh_can_fill_in_is_left_alone() {
        let home = Path::new("/home/alice");
        assert_eq!(expand("~/.ssh/id", Some(home)), Some("/home/alice/.ssh/id".into()));
        assert_eq!(expand("/etc/key", None), Some("/etc/key".into()));
        for unknown in ["%d/.ssh/id", "${KEYS}/id", "key", "~bob/key"] {
            assert_eq!(expand(unknown, Some(home)), None, "{unknown}");
        }
    }

    #[test]
    fn the_line_for_a_person_is_one_that_a_shell_takes() {
        let text = "tunnels: [{remote_host: u@db, remote_port: 1, local_port: 2, ssh: {identity_file: '/my key', \
                    options: {ProxyJump: b}}}]";
        let desired = crate::config::parse(text, Path::new("/etc/c.yaml")).unwrap();
        let Work::Ssh(ssh) = &desired.tunnels[0].work else { panic!("an ssh tunnel") };
        let said = Err(AskError::Silent { program: "ssh".into() });
        let resolved = Resolved { tunnel: "db".to_owned(), ssh: ssh.clone(), said };
        assert_eq!(resolved.line(&["-G"]), "ssh -G -i '/my key' -o ProxyJump=b u@db");
        assert_eq!(resolved.settings(), None);
    }
}
