//! What ssh says when a single connection through a forward fails, while the tunnel itself is up. Pure.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::desired::{Forward, Target};
use crate::text;

/// The most that is kept of what ssh, and the server through it, says, in characters.
const LONGEST_REASON: usize = 200;

/// Why a single connection was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionError {
    /// The class.
    pub kind: ConnectionErrorKind,
    /// What ssh said.
    reason: String,
}

/// The class of a connection that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionErrorKind {
    /// The server's configuration forbids it.
    Prohibited,
    /// Nothing listens on the target.
    Refused,
    /// The target's name does not resolve.
    Dns,
    /// The target does not answer.
    Timeout,
    /// Anything else, also where ssh does not say why.
    Failed,
}

impl ConnectionErrorKind {
    /// The word used in JSON and in the journal.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prohibited => "prohibited",
            Self::Refused => "refused",
            Self::Dns => "dns",
            Self::Timeout => "timeout",
            Self::Failed => "failed",
        }
    }
}

/// What a reason holds, and its class: the words of getaddrinfo and of the C library, as the server says them.
const REASONS: &[(&str, ConnectionErrorKind)] = &[
    ("Connection refused", ConnectionErrorKind::Refused),
    ("timed out", ConnectionErrorKind::Timeout),
    ("name resolution", ConnectionErrorKind::Dns),
    ("Name or service not known", ConnectionErrorKind::Dns),
    ("No address associated with hostname", ConnectionErrorKind::Dns),
    ("nodename nor servname", ConnectionErrorKind::Dns),
];

impl ConnectionError {
    /// From a line of ssh's stderr; `None` if it says something else. The lines are those of OpenSSH's channels.c:
    /// `channel 2: open failed: administratively prohibited: open failed`, `connect_to db port 1: failed.` and
    /// `connect_to db: unknown host (Name or service not known)`.
    pub fn of_line(line: &str) -> Option<Self> {
        let line = line.trim_end();
        let new = |kind, reason: &str| {
            Some(Self { kind, reason: text::excerpt(reason, LONGEST_REASON).into_owned() })
        };
        if let Some(rest) = line.strip_prefix("channel ") {
            // The server may give no reason.
            let (number, reason) = rest.split_once(": open failed:")?;
            let reason = reason.trim_start();
            if number.is_empty() || !number.bytes().all(|digit| digit.is_ascii_digit()) {
                return None;
            }
            if reason.starts_with("administratively prohibited") {
                return new(ConnectionErrorKind::Prohibited, reason);
            }
            return new(class(reason), reason);
        }
        // Of a unix socket, the port is that of the protocol: `connect to /run/s port -2 failed: No such file or directory`.
        if let Some((_, reason)) =
            line.strip_prefix("connect to /").and_then(|rest| rest.split_once(" port -2 failed: "))
        {
            return new(class(reason), reason);
        }
        let rest = line.strip_prefix("connect_to ")?;
        if let Some((_, port)) = rest.strip_suffix(": failed.").and_then(|rest| rest.rsplit_once(" port "))
            && port.bytes().all(|digit| digit.is_ascii_digit())
        {
            return new(ConnectionErrorKind::Failed, line);
        }
        rest.contains(": unknown host (").then(|| new(ConnectionErrorKind::Dns, line))?
    }

    /// What happened to the client of `forward`, and who must change what; one line for a person.
    pub fn message(&self, server: &str, forward: &Forward) -> String {
        let reason = &self.reason;
        let target = match forward {
            Forward::Local { target, .. } | Forward::Socket { target, .. } => target.to_string(),
            Forward::Dynamic { .. } => "what its client asked for".to_owned(),
            Forward::Remote { target, .. } => {
                let step = match self.kind {
                    ConnectionErrorKind::Dns => "correct the name in local_port".to_owned(),
                    ConnectionErrorKind::Prohibited
                    | ConnectionErrorKind::Refused
                    | ConnectionErrorKind::Timeout
                    | ConnectionErrorKind::Failed => {
                        "start the service there, or correct local_port".to_owned()
                    }
                };
                return format!("this machine cannot connect to {target} ({reason}): {step}");
            }
        };
        let step = match self.kind {
            ConnectionErrorKind::Prohibited => format!(
                "whoever runs {server} must allow it: {} and DisableForwarding in its sshd_config, `permitopen` and \
                 `restrict` in authorized_keys",
                permission(forward)
            ),
            ConnectionErrorKind::Refused => {
                format!("nothing listens there: start the service, or {}", correct(forward))
            }
            ConnectionErrorKind::Dns => format!("{server} does not find that name: {}", correct(forward)),
            ConnectionErrorKind::Timeout => {
                format!(
                    "it does not answer {server}: check the service and the firewall, or {}",
                    correct(forward)
                )
            }
            ConnectionErrorKind::Failed => {
                format!("check from {server} whether it can be reached, or {}", correct(forward))
            }
        };
        format!("{server} does not connect to {target} ({reason}): {step}")
    }

    /// The same where it is not known whose client it was: the connection is shared by so many tunnels.
    pub fn message_of_one_of(&self, tunnels: usize, server: &str) -> String {
        format!(
            "{}; it is one of the {tunnels} tunnels that share a connection to {server}, and ssh does not say which: check their \
             targets",
            self.reason
        )
    }
}

fn class(reason: &str) -> ConnectionErrorKind {
    let found = REASONS.iter().find(|(words, _)| reason.contains(words));
    found.map_or(ConnectionErrorKind::Failed, |(_, kind)| *kind)
}

/// What in sshd_config allows it.
fn permission(forward: &Forward) -> &'static str {
    match forward {
        Forward::Local { target: Target::Socket(_), .. }
        | Forward::Socket { target: Target::Socket(_), .. } => "AllowStreamLocalForwarding",
        Forward::Local { .. } | Forward::Socket { .. } | Forward::Remote { .. } | Forward::Dynamic { .. } => {
            "AllowTcpForwarding, PermitOpen"
        }
    }
}

fn correct(forward: &Forward) -> &'static str {
    match forward {
        Forward::Local { .. } | Forward::Socket { .. } => "correct remote_port",
        Forward::Dynamic { .. } => "correct what the client asks for",
        Forward::Remote { .. } => "correct local_port",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_lines_of_openssh_are_known() {
        for (line, kind) in [
            (
                "channel 2: open failed: administratively prohibited: open failed",
                ConnectionErrorKind::Prohibited,
            ),
            ("channel 12: open failed: connect failed: Connection refused", ConnectionErrorKind::Refused),
            (
                "channel 1: open failed: connect failed: Temporary failure in name resolution",
                ConnectionErrorKind::Dns,
            ),
            ("channel 1: open failed: connect failed: Name or service not known", ConnectionErrorKind::Dns),
            ("channel 1: open failed: connect failed: Connection timed out", ConnectionErrorKind::Timeout),
            ("channel 1: open failed: connect failed: open failed", ConnectionErrorKind::Failed),
            ("channel 1: open failed: unknown channel type: ", ConnectionErrorKind::Failed),
            ("connect_to 127.0.0.1 port 1: failed.", ConnectionErrorKind::Failed),
            ("connect_to db: unknown host (Temporary failure in name resolution)", ConnectionErrorKind::Dns),
            ("connect to /run/s port -2 failed: Connection refused", ConnectionErrorKind::Refused),
            ("connect to /run/s port -2 failed: No such file or directory", ConnectionErrorKind::Failed),
        ] {
            assert_eq!(ConnectionError::of_line(line).map(|error| error.kind), Some(kind), "{line}");
        }
    }

    #[test]
    fn what_only_looks_like_one_is_none() {
        for line in [
            "",
            "channel x: open failed: administratively prohibited: open failed",
            "channel : open failed: x",
            "connect to db port 22 failed: Connection refused",
            "Welcome! channel 2: open failed: administratively prohibited: open failed",
            "connect_to me port of call: failed.",
            "ssh: connect to host db port 22: Connection refused",
            "Permission denied (publickey).",
        ] {
            assert_eq!(ConnectionError::of_line(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn what_is_kept_of_a_line_is_bounded(text in "\\PC{0,600}") {
            let line = format!("channel 1: open failed: {text}");
            let error = ConnectionError::of_line(&line).unwrap();
            prop_assert!(error.reason.chars().count() <= LONGEST_REASON);
        }
    }
}
