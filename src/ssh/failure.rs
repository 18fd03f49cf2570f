//! From how ssh ended and what it said to the class of the failure. Pure.

use std::process::ExitStatus;

use crate::tunnel::{Failure, FailureKind};

/// The status that ssh itself exits with on an error of its own (ssh(1), EXIT STATUS).
const SSH_ERROR: i32 = 255;

/// What ssh's stderr says, and what it means. The first line of stderr that holds one of these decides; they are sorted
/// so that what is more telling comes first. The words are OpenSSH's (sshconnect.c, readconf.c, clientloop.c, packet.c).
const SAYINGS: &[(&str, FailureKind)] = &[
    ("Host key verification failed", FailureKind::HostKey),
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", FailureKind::HostKey),
    ("host key is known for", FailureKind::HostKey),
    ("Permission denied (", FailureKind::Auth),
    ("Too many authentication failures", FailureKind::Auth),
    ("No supported authentication methods", FailureKind::Auth),
    ("Could not resolve hostname", FailureKind::Dns),
    ("Bad configuration option", FailureKind::Config),
    ("terminating, ", FailureKind::Config),
    ("keyword ", FailureKind::Config),
    ("Can't open user config file", FailureKind::Config),
    ("Bad owner or permissions on", FailureKind::Config),
    ("ControlPath too long", FailureKind::Config),
    ("too long for Unix domain socket", FailureKind::Config),
    ("unknown option", FailureKind::Config),
    ("Connection refused", FailureKind::Refused),
    ("Connection timed out", FailureKind::Timeout),
    ("Operation timed out", FailureKind::Timeout),
    ("timed out", FailureKind::Timeout),
    ("Timeout, server", FailureKind::Timeout),
    ("No route to host", FailureKind::Network),
    ("Network is unreachable", FailureKind::Network),
    ("Host is down", FailureKind::Network),
    ("Connection reset", FailureKind::Network),
    ("Connection closed", FailureKind::Network),
    ("closed by remote host", FailureKind::Network),
    ("Broken pipe", FailureKind::Network),
    ("client_loop: ", FailureKind::Network),
    ("kex_exchange_identification", FailureKind::Network),
    ("banner exchange", FailureKind::Network),
    ("Unable to negotiate", FailureKind::Config),
];

/// Classifies the end of an ssh to `destination` that ended with `status` after saying `stderr` (its last lines).
pub fn classify(status: ExitStatus, stderr: &[String], destination: &str) -> Failure {
    use std::os::unix::process::ExitStatusExt;

    if let Some(signal) = status.signal() {
        return Failure::new(
            FailureKind::Killed,
            format!("ssh to {destination} was ended by signal {signal}; a new one is started"),
        );
    }
    let said = SAYINGS.iter().find_map(|(words, kind)| {
        let line = stderr.iter().find(|line| line.contains(words))?;
        Some((*kind, line.trim().trim_end_matches('.')))
    });
    if let Some((kind, line)) = said {
        Failure::new(kind, format!("ssh to {destination}: {line}; {}", next_step(kind, destination)))
    } else {
        let last = stderr.iter().rev().map(|line| line.trim()).find(|line| !line.is_empty());
        let status = match status.code() {
            Some(SSH_ERROR) | None => String::new(),
            Some(code) => format!(" with status {code}"),
        };
        Failure::new(
            FailureKind::Exited,
            match last {
                Some(line) => format!("ssh to {destination} ended{status}: {line}"),
                None => format!("ssh to {destination} ended{status} without a word"),
            },
        )
    }
}

/// What a person can do about it.
fn next_step(kind: FailureKind, destination: &str) -> String {
    match kind {
        FailureKind::Auth => format!(
            "try `ssh -o BatchMode=yes {destination} true` as the user that portward runs as; keys with a passphrase need \
             an agent"
        ),
        FailureKind::HostKey => format!(
            "compare the key's fingerprint, then accept it once with `ssh {destination}` as the user that portward runs as"
        ),
        FailureKind::Dns => "check the name and the resolver".to_owned(),
        FailureKind::Refused => "nothing listens there: check that sshd runs, and its port".to_owned(),
        FailureKind::Timeout => {
            "the server or a firewall does not answer: check the address and the route".to_owned()
        }
        FailureKind::Config => {
            "mend the tunnel's ssh settings or the ssh config file; editing the configuration retries"
                .to_owned()
        }
        FailureKind::Network
        | FailureKind::RemotePortHeld
        | FailureKind::LocalPortHeld
        | FailureKind::Killed
        | FailureKind::Exited => "portward connects again".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use proptest::prelude::*;

    use super::*;

    fn kind(stderr: &str) -> FailureKind {
        let lines: Vec<_> = stderr.lines().map(str::to_owned).collect();
        classify(ExitStatus::from_raw(SSH_ERROR << 8), &lines, "user@db").kind
    }

    #[test]
    fn each_saying_of_openssh_has_its_class() {
        for (stderr, expected) in [
            ("user@db: Permission denied (publickey).", FailureKind::Auth),
            (
                "Received disconnect from 10.0.0.1 port 22:2: Too many authentication failures",
                FailureKind::Auth,
            ),
            (
                "No ED25519 host key is known for db and you have requested strict checking.\nHost key verification failed.",
                FailureKind::HostKey,
            ),
            ("ssh: Could not resolve hostname db: Name or service not known", FailureKind::Dns),
            ("ssh: Could not resolve hostname db: Temporary failure in name resolution", FailureKind::Dns),
            ("ssh: connect to host db port 22: Connection refused", FailureKind::Refused),
            ("ssh: connect to host db port 22: Connection timed out", FailureKind::Timeout),
            ("Connection timed out during banner exchange", FailureKind::Timeout),
            ("Timeout, server db not responding.", FailureKind::Timeout),
            ("ssh: connect to host db port 22: No route to host", FailureKind::Network),
            ("ssh: connect to host db port 22: Network is unreachable", FailureKind::Network),
            ("Connection to db closed by remote host.", FailureKind::Network),
            ("kex_exchange_identification: Connection closed by remote host", FailureKind::Network),
            ("client_loop: send disconnect: Broken pipe", FailureKind::Network),
            (
                "/etc/ssh/x: line 3: Bad configuration option: foo\n/etc/ssh/x: terminating, 1 bad configuration options",
                FailureKind::Config,
            ),
            (
                "command-line line 0: keyword serveraliveinterval extra arguments at end of line",
                FailureKind::Config,
            ),
            ("", FailureKind::Exited),
            ("something new", FailureKind::Exited),
        ] {
            assert_eq!(kind(stderr), expected, "{stderr}");
        }
    }

    #[test]
    fn a_banner_before_the_error_does_not_hide_it() {
        assert_eq!(
            kind("Welcome!\nConnection closed is our motto\nuser@db: Permission denied (publickey)."),
            FailureKind::Auth
        );
    }

    #[test]
    fn a_signal_is_killed_whatever_was_said() {
        let said = ["Connection refused".to_owned()];
        assert_eq!(classify(ExitStatus::from_raw(9), &said, "db").kind, FailureKind::Killed);
    }

    proptest! {
        #[test]
        fn any_end_has_a_class_and_one_line(raw: i32, stderr in proptest::collection::vec("\\PC*", 0..5)) {
            let failure = classify(ExitStatus::from_raw(raw), &stderr, "db");
            prop_assert!(!failure.message.contains('\n'));
        }
    }
}
