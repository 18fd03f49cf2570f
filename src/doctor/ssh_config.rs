//! What ssh's configuration says that a tunnel cannot work with, and that portward does not override.

use std::path::Path;

use super::finding::{Check, Finding};
use super::mend::edit;
use super::settings::Resolved;
use crate::config::desired::{Forward, SshTunnel};
use crate::ssh::Plan;

/// Judges what ssh said of each tunnel. There is nothing to say of one that is well.
pub(super) fn judge(resolved: &[Resolved], config: &Path) -> Vec<Finding> {
    resolved.iter().flat_map(|tunnel| findings(tunnel, config)).collect()
}

fn findings(tunnel: &Resolved, config: &Path) -> Vec<Finding> {
    let Some(settings) = tunnel.settings() else { return Vec::new() };
    let Resolved { tunnel: name, ssh, .. } = tunnel;
    let plan = Plan::new(settings, None);
    let mut findings = Vec::new();
    if let Err(refused) = plan.endpoints(listens_on(ssh), &ssh.destination) {
        let change =
            format!("tunnel `{name}`: another local_port, or ssh: {{options: {{AddressFamily: any}}}}");
        findings.push(Finding::error(
            Check::Ssh,
            format!("tunnel `{name}`: {}", refused.message),
            "ssh refuses to listen on an address that is not of its AddressFamily",
            edit(config, &change),
        ));
    }
    let is_set = |option: &str| ssh.options.keys().any(|set| set.eq_ignore_ascii_case(option));
    if plan.is_quiet() && is_set("LogLevel") {
        findings.push(Finding::warning(
            Check::Ssh,
            format!("the ssh of tunnel `{name}` is told to be quiet (LogLevel under `ssh: options:`)"),
            "it does not say why it fails, nor that a server turns clients away, so portward cannot say it either",
            edit(config, &format!("tunnel `{name}`: remove LogLevel, or write INFO")),
        ));
    }
    findings.into_iter().map(|finding| finding.of([name.clone()])).collect()
}

fn listens_on(ssh: &SshTunnel) -> &[crate::port::Endpoint] {
    match &ssh.forward {
        Forward::Local { listen, .. } | Forward::Dynamic { listen } => listen,
        Forward::Remote { .. } => &[],
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::super::ask::Answer;
    use super::*;
    use crate::config::desired::Work;

    fn told(tunnel: &str, said: &[&str]) -> Vec<String> {
        let desired =
            crate::config::parse(&format!("tunnels: [{tunnel}]"), Path::new("/etc/c.yaml")).unwrap();
        let Work::Ssh(ssh) = &desired.tunnels[0].work else { panic!("an ssh tunnel") };
        let output = said.iter().map(|line| (*line).to_owned()).collect();
        let said = Ok(Answer { status: ExitStatus::from_raw(0), output, complaints: Vec::new() });
        let resolved = Resolved { tunnel: "db".to_owned(), ssh: ssh.clone(), said };
        judge(&[resolved], Path::new("/etc/c.yaml")).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn an_address_of_another_family_is_an_error() {
        let tunnel = "{remote_host: h, remote_port: 1, local_port: '[::1]:2'}";
        let what = told(tunnel, &["hostname h", "addressfamily inet"]);
        assert!(what[0].contains("AddressFamily inet"), "{what:?}");
        assert_eq!(told(tunnel, &["hostname h", "addressfamily any"]), Vec::<String>::new());
        let bare = "{remote_host: h, remote_port: 1, local_port: 2}";
        assert_eq!(told(bare, &["hostname h", "addressfamily inet"]), Vec::<String>::new());
    }

    #[test]
    fn an_ssh_is_quiet_only_if_the_tunnel_says_so() {
        let quiet = "{remote_host: h, remote_port: 1, local_port: 2, ssh: {options: {LogLevel: ERROR}}}";
        assert!(told(quiet, &["hostname h", "loglevel ERROR"])[0].contains("LogLevel"));
        let plain = "{remote_host: h, remote_port: 1, local_port: 2}";
        assert_eq!(told(plain, &["hostname h", "loglevel SILENT"]), Vec::<String>::new());
    }
}
