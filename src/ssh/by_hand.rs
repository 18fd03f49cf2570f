//! The lines by which a person starts the ssh of a tunnel.

use nix::unistd::{User, geteuid};

use crate::config::desired::Ssh;
use crate::shell::{path, word};

/// A line that calls the same ssh with the same settings, with `first` before all other arguments: on ssh's command line the
/// first value given for an option wins.
pub fn line(ssh: &Ssh, first: &[&str]) -> String {
    let Ssh { program, config_file, identity_file, options, destination, .. } = ssh;
    let mut words = vec![path(program)];
    words.extend(first.iter().map(|argument| word(argument)));
    for (option, file) in [("-F", config_file), ("-i", identity_file)] {
        words.extend(file.iter().flat_map(|file| [option.to_owned(), path(file)]));
    }
    words
        .extend(options.iter().flat_map(|(name, value)| ["-o".to_owned(), word(&format!("{name}={value}"))]));
    words.push(word(destination));
    words.join(" ")
}

/// A line that shows an unknown host key and asks whether to accept it. It takes no control socket, because a connection over
/// an existing one checks no key.
pub fn accepting_line(ssh: &Ssh) -> String {
    format!("{} true", line(ssh, &["-S", "none", "-o", "BatchMode=no", "-o", "StrictHostKeyChecking=ask"]))
}

/// The last resort: a line that shows a person what the daemon's ssh sees.
pub(super) fn try_by_hand(ssh: &Ssh) -> String {
    format!("try `{}` as user {}", login_line(ssh), user())
}

/// A line that logs in as the daemon does, and asks nobody.
fn login_line(ssh: &Ssh) -> String {
    format!("{} true", line(ssh, &["-S", "none", "-o", "BatchMode=yes"]))
}

/// The user of this process, whose keys and known hosts ssh takes: a name, or the uid of one without.
pub(super) fn user() -> String {
    let uid = geteuid();
    User::from_uid(uid).ok().flatten().map_or_else(|| format!("uid {uid}"), |user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::desired::Environment;

    #[test]
    fn the_line_has_the_settings_of_the_tunnel_and_a_shell_takes_it() {
        let ssh = Ssh {
            destination: "CORP\\alice@db".to_owned(),
            program: "ssh".into(),
            config_file: Some("/my config".into()),
            identity_file: Some("/keys/it's".into()),
            options: [("Port".to_owned(), "2222".to_owned())].into(),
            env: Environment::default(),
        };
        assert_eq!(
            accepting_line(&ssh),
            "ssh -S none -o BatchMode=no -o StrictHostKeyChecking=ask -F '/my config' -i '/keys/it'\\''s' -o Port=2222 'CORP\\alice@db' true"
        );
    }
}
