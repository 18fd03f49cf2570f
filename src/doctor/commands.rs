//! The programs of `command` tunnels, and those of health checks.

use std::path::Path;
use std::process::Command;

use rustix::fs::{Access, access};

use super::fix::{Fix, path};
use crate::config::desired::{Check, CommandTunnel, Desired, Ssh, SshTunnel, Tunnel, Work};
use crate::config::environment::Environment;
use crate::process::resolve;
use crate::protocol::doctor::Finding;

/// The programs and working directories that do not exist.
pub(super) fn findings(desired: &Desired, config: &Path, fix: Fix) -> Vec<Finding> {
    let mut findings = Vec::new();
    for tunnel in desired.tunnels.iter().filter(|tunnel| tunnel.enabled) {
        let Work::Command(CommandTunnel { argv, working_directory, env, .. }) = &tunnel.work else {
            continue;
        };
        let (Some(program), name) = (argv.first(), &tunnel.name) else { continue };
        let mut problem = |what: String, why: &str, line: String| {
            findings.push(Finding::error(what, why, line).of([name.clone()]));
        };
        if let Some(directory) = working_directory.as_deref().filter(|directory| !directory.is_dir()) {
            let directory = path(directory);
            problem(
                format!("the working directory {directory} of tunnel `{name}` does not exist"),
                "the tunnel cannot start",
                format!("mkdir -p {directory}  # or correct `working_directory` in {}", path(config)),
            );
        }
        if !is_found(program, env) {
            let search =
                if env.get("PATH").is_some() { "the tunnel's `env:`" } else { "portward's environment" };
            problem(
                format!("`{program}` of tunnel `{name}` is not found, or is not executable"),
                &format!("the tunnel cannot start; programs are searched in the PATH of {search}"),
                fix.edit(config, &format!("tunnel `{name}`: write the whole path of the program")),
            );
        }
    }
    findings.extend(desired.tunnels.iter().filter(|tunnel| tunnel.enabled).filter_map(|tunnel| {
        let program = missing_check(tunnel)?;
        let name = &tunnel.name;
        let what =
            format!("`{program}`, the health check of tunnel `{name}`, is not found, or is not executable");
        let why = "every check fails: the tunnel is restarted again and again, or marked as failing";
        let line =
            fix.edit(config, &format!("tunnel `{name}`: write the whole path of the program under `health`"));
        Some(Finding::error(what, why, line).of([name.clone()]))
    }));
    findings
}

/// The program of a tunnel's health check, if it is not there.
fn missing_check(tunnel: &Tunnel) -> Option<&String> {
    let Check::Command(argv) = &tunnel.health.as_ref()?.check else { return None };
    let (Work::Ssh(SshTunnel { ssh: Ssh { env, .. }, .. }) | Work::Command(CommandTunnel { env, .. })) =
        &tunnel.work;
    argv.first().filter(|program| !is_found(program, env))
}

/// Whether the program exists where the tunnel's processes search for it.
fn is_found(program: &str, env: &Environment) -> bool {
    let mut command = Command::new(program);
    command.envs(env.iter());
    let file = resolve(&command);
    let is_path = file.components().count() > 1;
    is_path && file.is_file() && access(&file, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_searched_as_the_tunnel_would() {
        let text = "tunnels:
  - {name: c, command: [sh, x], local_port: 8003}
  - {name: d, command: [no-such-program], local_port: 8004}
  - {name: e, command: [sh], local_port: 8005, env: {PATH: /nonexistent}}
  - {name: f, command: [sh], local_port: 8006, working_directory: /nonexistent}
  - {name: g, command: [/etc/passwd], local_port: 8007}
  - {name: h, remote_host: h, remote_port: 1, local_port: 8008, health: {command: [no-such-check]}}
  - {name: i, remote_host: h, remote_port: 1, local_port: 8009, health: {command: [sh, x]}}
";
        let config = Path::new("/etc/portward/config.yaml");
        let desired = crate::config::parse(text, config).unwrap();
        let findings = findings(&desired, config, Fix { uid: 0 });
        let tunnels: Vec<_> = findings.iter().map(|finding| finding.tunnels.concat()).collect();
        assert_eq!(tunnels, ["d", "e", "f", "g", "h"]);
        assert!(
            findings[4].what.starts_with("`no-such-check`, the health check of tunnel `h`"),
            "{findings:?}"
        );
        assert!(findings[0].why.as_ref().unwrap().ends_with("PATH of portward's environment"));
        assert!(findings[1].why.as_ref().unwrap().ends_with("PATH of the tunnel's `env:`"));
        assert!(findings[2].what.contains("working directory /nonexistent of tunnel `f`"), "{findings:?}");
    }
}
