//! The command line of an ssh master.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::askpass::Askpass;
use super::plan::Plan;
use crate::config::desired::Ssh;
use crate::config::ssh_options::{SSH_OPTIONS, SshOption, Treatment};

/// An ssh that connects, listens for requests on `control`, and forwards nothing of itself. On ssh's command line the first
/// value given for an option wins, and it wins over ssh's configuration.
pub fn command(ssh: &Ssh, control: &Path, plan: &Plan, connect_timeout: Duration) -> Command {
    asking(ssh, control, plan, connect_timeout, None)
}

/// As [`command`], for an ssh that asks a person by `askpass`, if there is one, and nobody otherwise.
pub fn asking(
    ssh: &Ssh,
    control: &Path,
    plan: &Plan,
    connect_timeout: Duration,
    askpass: Option<&Askpass>,
) -> Command {
    let mut command = Command::new(&ssh.program);
    command.envs(ssh.env.iter());
    if let Some(askpass) = askpass {
        askpass.prepare(&mut command);
    }
    command.arg("-N").arg("-T").arg("-S").arg(without_tokens(control));
    for option in SSH_OPTIONS {
        let is_asked = option.name == "BatchMode" && askpass.is_some();
        if let Some(value) = if is_asked { Some("no") } else { value(option, ssh, plan) } {
            command.arg("-o").arg(format!("{}={value}", option.name));
        }
    }
    if let Some(proxy) = plan.proxy_command() {
        command.arg("-o").arg(format!("ProxyCommand={proxy}"));
    }
    if let Some(file) = &ssh.config_file {
        command.arg("-F").arg(file);
    }
    if let Some(file) = &ssh.identity_file {
        if file.as_os_str().as_bytes().contains(&b'%') {
            // -i looks for the file under the name as given, and expands it later.
            let mut identity = OsString::from("IdentityFile=\"");
            identity.push(without_tokens(file));
            identity.push("\"");
            command.arg("-o").arg(identity);
        } else {
            command.arg("-i").arg(file);
        }
    }
    // ssh counts whole seconds.
    let connect_timeout = connect_timeout.as_secs().max(1);
    command.arg("-o").arg(format!("ConnectTimeout={connect_timeout}"));
    for (name, value) in &ssh.options {
        command.arg("-o").arg(format!("{name}={value}"));
    }
    // Whatever comes after `--` is a destination, even if it looked like an option.
    command.arg("--").arg(&ssh.destination);
    command
}

/// The ssh that prints what the master would do (`-G`), and connects to nobody.
pub fn question(ssh: &Ssh) -> Command {
    let master = command(ssh, Path::new("none"), &Plan::default(), Duration::ZERO);
    let mut command = Command::new(master.get_program());
    command.envs(ssh.env.iter()).arg("-G").args(master.get_args());
    command
}

/// The value that `option` is given on the command line.
fn value(option: &SshOption, ssh: &Ssh, plan: &Plan) -> Option<&'static str> {
    if option.since.is_some() && !plan.is_known(option.name) {
        return None;
    }
    let is_set = || ssh.options.keys().any(|set| set.eq_ignore_ascii_case(option.name));
    match option.treatment {
        Treatment::Fixed(value) => Some(value),
        Treatment::Default(value) => (!is_set()).then_some(value),
        Treatment::Louder(value) => (plan.is_quiet() && !is_set()).then_some(value),
        Treatment::Moot | Treatment::Followed => None,
    }
}

/// A path in which ssh finds no `%` token.
fn without_tokens(path: &Path) -> OsString {
    let doubled = path.as_os_str().as_bytes().split(|byte| *byte == b'%').map(OsStr::from_bytes);
    OsString::from_vec(doubled.collect::<Vec<_>>().join(OsStr::new("%%")).into_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::Settings;

    fn arguments(ssh: &Ssh) -> Vec<String> {
        let command =
            command(ssh, Path::new("/run/100%/ssh/1-2"), &Plan::default(), Duration::from_millis(1500));
        command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn the_user_can_set_what_a_tunnel_needs_otherwise_but_nothing_becomes_an_option_of_its_own() {
        let ssh = Ssh {
            destination: "user@db".to_owned(),
            program: "ssh".into(),
            config_file: None,
            identity_file: Some("-key".into()),
            env: [("SSH_AUTH_SOCK", "/run/agent")].into_iter().collect(),
            options: [("serveraliveinterval".to_owned(), "3".to_owned())].into(),
        };
        let arguments = arguments(&ssh);
        assert!(arguments.contains(&"serveraliveinterval=3".to_owned()));
        assert!(!arguments.iter().any(|argument| argument.starts_with("ServerAliveInterval")));
        assert!(arguments.contains(&"ConnectTimeout=1".to_owned()));
        assert_eq!(arguments[arguments.len() - 2..], ["--", "user@db"]);
        let key = arguments.iter().position(|argument| argument == "-key").unwrap();
        assert_eq!(arguments[key - 1], "-i");
        assert!(arguments.contains(&"/run/100%%/ssh/1-2".to_owned()));
        assert!(arguments.contains(&"ForwardAgent=no".to_owned()), "{arguments:?}");
    }

    #[test]
    fn only_an_ssh_that_somebody_attends_asks_and_its_token_is_no_argument() {
        let ssh = Ssh {
            destination: "db".to_owned(),
            program: "ssh".into(),
            config_file: None,
            identity_file: None,
            options: [].into(),
            env: [("SSH_ASKPASS", "/users/own")].into_iter().collect(),
        };
        let askpass = Askpass::new("/run/portward.sock".into(), "one-time".to_owned());
        let batch_mode = |askpass| {
            let command = asking(&ssh, Path::new("none"), &Plan::default(), Duration::from_secs(1), askpass);
            let arguments: Vec<_> =
                command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
            assert!(!arguments.join(" ").contains("one-time"), "{arguments:?}");
            let mode = arguments.iter().filter(|argument| argument.starts_with("BatchMode=")).cloned();
            let program = command.get_envs().find(|(name, _)| *name == "SSH_ASKPASS");
            let program = program.and_then(|(_, value)| Some(value?.to_string_lossy().into_owned()));
            (mode.collect::<Vec<_>>().join(" "), program.unwrap())
        };
        let own = format!("/proc/{}/exe", std::process::id());
        assert_eq!(batch_mode(Some(&askpass)), ("BatchMode=no".to_owned(), own));
        assert_eq!(batch_mode(None), ("BatchMode=yes".to_owned(), "/users/own".to_owned()));
        assert!(!format!("{askpass:?}").contains("one-time"));
    }

    #[test]
    fn an_option_that_ssh_does_not_know_is_not_given() {
        let ssh = Ssh {
            destination: "db".to_owned(),
            program: "ssh".into(),
            config_file: None,
            identity_file: Some("/keys/100%/id".into()),
            options: [("LogLevel".to_owned(), "ERROR".to_owned())].into(),
            env: crate::config::environment::Environment::default(),
        };
        let given = |lines: &[&str], ssh: &Ssh| {
            let plan = Plan::new(Settings::from_lines(lines), None);
            let command = command(ssh, Path::new("none"), &plan, Duration::from_secs(1));
            let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
            arguments.collect::<Vec<_>>()
        };
        let new = given(&["hostname db", "forkafterauthentication yes", "loglevel SILENT"], &ssh);
        assert!(new.contains(&"ForkAfterAuthentication=no".to_owned()), "{new:?}");
        assert!(new.contains(&"IdentityFile=\"/keys/100%%/id\"".to_owned()), "{new:?}");
        assert!(!new.contains(&"LogLevel=INFO".to_owned()), "{new:?}");
        let old = given(&["hostname db", "loglevel SILENT"], &Ssh { options: [].into(), ..ssh });
        assert!(!old.iter().any(|argument| argument.starts_with("ForkAfter")), "{old:?}");
        assert!(old.contains(&"LogLevel=INFO".to_owned()), "{old:?}");
    }
}
