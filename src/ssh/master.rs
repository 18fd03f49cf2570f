//! The command line of an ssh master.

use std::path::Path;
use std::process::Command;

use crate::config::desired::SshTunnel;

/// What a tunnel needs and the user may still set otherwise.
const DEFAULTS: [(&str, &str); 2] = [("ServerAliveInterval", "15"), ("ServerAliveCountMax", "3")];

/// What the master's part demands. `ssh.options` cannot name these (the configuration refuses them), and on ssh's
/// command line the first value given for an option wins.
const REQUIRED: [&str; 5] = [
    "ControlMaster=yes",
    "ControlPersist=no",
    "ClearAllForwardings=yes",
    "BatchMode=yes",
    "PermitLocalCommand=no",
];

/// An ssh that connects, listens for requests on `control`, and forwards nothing of itself.
pub fn command(tunnel: &SshTunnel, control: &Path) -> Command {
    let mut command = Command::new(&tunnel.program);
    command.envs(tunnel.env.iter());
    command.arg("-N").arg("-T").arg("-S").arg(control);
    for option in REQUIRED {
        command.arg("-o").arg(option);
    }
    if let Some(file) = &tunnel.config_file {
        command.arg("-F").arg(file);
    }
    if let Some(file) = &tunnel.identity_file {
        command.arg("-i").arg(file);
    }
    // ssh counts whole seconds.
    let connect_timeout = tunnel.connect_timeout.as_secs().max(1);
    command.arg("-o").arg(format!("ConnectTimeout={connect_timeout}"));
    for (name, value) in &tunnel.options {
        command.arg("-o").arg(format!("{name}={value}"));
    }
    for (name, value) in DEFAULTS {
        if !tunnel.options.keys().any(|set| set.eq_ignore_ascii_case(name)) {
            command.arg("-o").arg(format!("{name}={value}"));
        }
    }
    // Whatever comes after `--` is a destination, even if it looked like an option.
    command.arg("--").arg(&tunnel.destination);
    command
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::desired::{Forward, SshTunnel};

    fn arguments(tunnel: &SshTunnel) -> Vec<String> {
        let command = command(tunnel, Path::new("/run/portward/ssh/1-2"));
        command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn the_user_can_set_what_a_tunnel_needs_otherwise_but_nothing_becomes_an_option_of_its_own() {
        let tunnel = SshTunnel {
            destination: "user@db".to_owned(),
            forward: Forward::Dynamic { listen: Vec::new() },
            program: "ssh".into(),
            config_file: None,
            identity_file: Some("-key".into()),
            env: [("SSH_AUTH_SOCK", "/run/agent")].into_iter().collect(),
            options: [("serveraliveinterval".to_owned(), "3".to_owned())].into(),
            connect_timeout: Duration::from_millis(1500),
        };
        let arguments = arguments(&tunnel);
        assert!(arguments.contains(&"serveraliveinterval=3".to_owned()));
        assert!(!arguments.iter().any(|argument| argument.starts_with("ServerAliveInterval")));
        assert!(arguments.contains(&"ConnectTimeout=1".to_owned()));
        assert_eq!(arguments[arguments.len() - 2..], ["--", "user@db"]);
        let key = arguments.iter().position(|argument| argument == "-key").unwrap();
        assert_eq!(arguments[key - 1], "-i");
    }
}
