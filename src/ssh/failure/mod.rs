//! Classifies the end of an ssh by its status and output: the class of the failure, when to retry, and the next step.
//!
//! The last line of OpenSSH's own (`words`) decides, unless it only follows from what the process that carries the connection
//! (ProxyCommand, or the ssh of ProxyJump) said before it (`cause`). Output from before the master was ready
//! is not considered for an end after that. Only errors that ssh reports before it connects are never retried.

mod cause;
mod host_key;
mod late;
mod login;
mod words;

use std::process::ExitStatus;

pub use late::not_ready;
pub use words::is_debug;

use self::cause::{Cause, Found};
use self::words::Saying;
use super::by_hand::{try_by_hand, user};
use super::forward::MasterError;
use crate::config::desired::Ssh;
use crate::core::{Failure, FailureKind};
use crate::shell;
use crate::text;

/// The status that ssh itself exits with on an error of its own (ssh(1), EXIT STATUS).
const SSH_ERROR: i32 = 255;

/// Bytes of a line that are quoted: a link to log in by may have some hundred.
const QUOTE_LENGTH: usize = 600;

/// Ends of lines about a configuration file that do not mean an error in the file, and for which a retry can help.
const PASSING: [&str; 4] =
    ["Too many open files", "Too many open files in system", "Cannot allocate memory", "Input/output error"];

/// How an ssh ended.
#[derive(Debug)]
pub struct End<'end> {
    /// Its status; `None` if that is not known.
    pub status: Option<ExitStatus>,
    /// Its last lines on standard error; of one that was ready, those since then.
    pub said: &'end [String],
    /// Whether its control socket had answered.
    pub was_ready: bool,
    /// Whether a person has to log in: nothing is tried again without one.
    pub by_hand: bool,
}

impl End<'_> {
    /// What comes next, if nothing has to be changed for it.
    fn again(&self) -> &'static str {
        if self.by_hand { "a person has to log in again" } else { "portward connects again" }
    }

    fn started_again(&self) -> &'static str {
        if self.by_hand { "a person has to log in again" } else { "a new one is started" }
    }
}

/// Classifies the end of the ssh of `tunnel`.
pub fn classify(end: &End<'_>, ssh: &Ssh) -> Failure {
    use std::os::unix::process::ExitStatusExt;

    let destination = &ssh.destination;
    if let Some(signal) = end.status.and_then(|status| status.signal()) {
        let message = format!("ssh to {destination} was ended by signal {signal}; {}", end.started_again());
        return Failure::new(FailureKind::Killed, message);
    }
    match cause::find(end.said, end.was_ready) {
        Some(Found::Own(cause)) => told(&cause, end, ssh),
        Some(Found::Carrier(line)) => told_by_carrier(line, ssh),
        None if end.was_ready => ended_after_ready(end, ssh),
        None => ended_before_ready(end, ssh),
    }
}

/// The failure of an ssh whose control socket another process answers.
pub fn not_the_master(error: &MasterError, ssh: &Ssh) -> Failure {
    wrapper(ssh, &error.to_string())
}

/// The failure of a program in the place of ssh that does not do what ssh does.
fn wrapper(ssh: &Ssh, what: &str) -> Failure {
    let message = format!(
        "ssh to {}: {what}; if {} is a script, it must become ssh and hand on all its arguments: `exec ssh \"$@\"`",
        ssh.destination,
        shell::path(&ssh.program)
    );
    Failure::new(FailureKind::Config, message).retried_slowly()
}

/// The failure that OpenSSH itself reports.
fn told(cause: &Cause<'_>, end: &End<'_>, ssh: &Ssh) -> Failure {
    let failure = |kind, next: &str| Failure::new(kind, message(cause, next, ssh));
    match cause.saying {
        Saying::Settings => {
            let next = "correct the tunnel's ssh settings or ssh's configuration file";
            let failure = failure(FailureKind::Config, next);
            if is_final(cause, end) { failure } else { failure.retried_slowly() }
        }
        Saying::NoUser => failure(
            FailureKind::Config,
            "ssh needs an entry in /etc/passwd for its user: add one, or run portward as a user that has one",
        )
        .retried_slowly(),
        Saying::Unresolved => failure(FailureKind::Dns, "check the name and the resolver"),
        Saying::Unconnected(reason) => {
            let kind = of_errno(reason).unwrap_or(FailureKind::Network);
            failure(kind, unconnected_step(kind))
        }
        Saying::Negotiation => failure(FailureKind::Config, &login::negotiation(cause.line)).retried_slowly(),
        Saying::HostKey => {
            let (line, next) = host_key::explain(cause, ssh);
            Failure::new(FailureKind::HostKey, message(&Cause { line, ..*cause }, &next, ssh))
        }
        Saying::Denied(methods) => {
            let (remark, next) = login::denied(methods, cause, ssh);
            let next = if end.by_hand { end.again().to_owned() } else { next };
            Failure::new(FailureKind::Auth, message(&Cause { remark, ..*cause }, &next, ssh))
        }
        Saying::Disconnected(code, reason) => match login::disconnected(code, reason) {
            Some(next) => failure(FailureKind::Auth, next),
            None => {
                failure(FailureKind::Network, &format!("the server ended the connection; {}", end.again()))
            }
        },
        Saying::NoChannel(reason) => {
            let next = "the jump host does not connect further: check the name and the port behind it, and \
                        AllowTcpForwarding and PermitOpen in the jump host's sshd_config";
            match of_errno(reason) {
                Some(kind) => failure(kind, next),
                None => failure(FailureKind::Network, next).retried_slowly(),
            }
        }
        Saying::TimedOut => failure(FailureKind::Timeout, unconnected_step(FailureKind::Timeout)),
        Saying::Unidentified if cause.line.contains("timed out") => {
            failure(FailureKind::Timeout, unconnected_step(FailureKind::Timeout))
        }
        Saying::Unidentified => failure(
            FailureKind::Network,
            &format!(
                "the connection ended before an ssh server said who it is: check the port, and whether the server limits \
                 connections (MaxStartups, PerSourcePenalties); {}",
                end.again()
            ),
        ),
        Saying::Lost | Saying::CarrierEnded | Saying::Consequence => {
            failure(FailureKind::Network, end.again())
        }
    }
}

/// The line, the output before it if that is relevant, and the next step.
fn message(cause: &Cause<'_>, next: &str, ssh: &Ssh) -> String {
    let who = if cause.is_of_carrier { "the ProxyCommand or jump host says: " } else { "" };
    let before = cause.remark.map(|line| format!(" (after: {})", quote(line))).unwrap_or_default();
    format!("ssh to {}: {who}{}{before}; {next}", ssh.destination, quote(cause.line))
}

/// The failure of the process that carries the connection, in its own words.
fn told_by_carrier(line: &str, ssh: &Ssh) -> Failure {
    let next = if cause::has_link(line) {
        format!("log in there as user {}", user())
    } else if line.ends_with("not found") {
        "install the program that ProxyCommand names, or write its whole path: the PATH of a service is short"
            .to_owned()
    } else {
        try_by_hand(ssh)
    };
    let destination = &ssh.destination;
    let message =
        format!("ssh to {destination}: the ProxyCommand or jump host says: {}; {next}", quote(line));
    match of_errno(line) {
        Some(kind) => Failure::new(kind, message),
        None => Failure::new(FailureKind::Network, message).retried_slowly(),
    }
}

/// An ssh that was connected, and has ended without one of its own lines.
fn ended_after_ready(end: &End<'_>, ssh: &Ssh) -> Failure {
    let destination = &ssh.destination;
    let Some(status) = end.status.and_then(|status| status.code()) else {
        return ended_somehow(end, ssh);
    };
    let message = match last_line(end.said) {
        Some(line) => {
            format!(
                "ssh to {destination} ended with status {status}: {}; {}",
                quote(line),
                end.started_again()
            )
        }
        None => format!(
            "ssh to {destination} ended with status {status} without a word, as it does on SIGTERM or `ssh -O exit`; {}",
            end.started_again()
        ),
    };
    Failure::new(FailureKind::Exited, message)
}

/// An ssh of which nobody but its parent, an earlier portward, could have learned how it ended.
fn ended_somehow(end: &End<'_>, ssh: &Ssh) -> Failure {
    let said = last_line(end.said).map(|line| format!(": {}", quote(line))).unwrap_or_default();
    let message = format!(
        "ssh to {} ended, with a status that is not known, because an earlier portward had started it{said}; {}",
        ssh.destination,
        end.started_again()
    );
    Failure::new(FailureKind::Exited, message)
}

/// An ssh that never was ready, and has ended without one of its own lines.
fn ended_before_ready(end: &End<'_>, ssh: &Ssh) -> Failure {
    let destination = &ssh.destination;
    let Some(status) = end.status.and_then(|status| status.code()) else {
        return ended_somehow(end, ssh);
    };
    let failure = |message| Failure::new(FailureKind::Exited, message).retried_slowly();
    match (status, last_line(end.said)) {
        (SSH_ERROR, Some(line)) => {
            failure(format!("ssh to {destination} ended: {}; {}", quote(line), try_by_hand(ssh)))
        }
        (SSH_ERROR, None) => failure(format!(
            "ssh to {destination} ended without a word, as LogLevel QUIET has it; `options: {{LogLevel: INFO}}` under the \
             tunnel's `ssh:` lets it say why"
        )),
        (0, said) => {
            let said = said.map(|line| format!(" ({})", quote(line))).unwrap_or_default();
            wrapper(ssh, &format!("it ended with success before it was ready{said}"))
        }
        (_, said) => {
            let said = said.map(|line| format!(": {}", quote(line))).unwrap_or_default();
            failure(format!(
                "ssh to {destination} ended with status {status}{said}; ssh itself ends with {SSH_ERROR}, so this is the \
                 status of a program in its place: see what {} does",
                shell::path(&ssh.program)
            ))
        }
    }
}

fn last_line(said: &[String]) -> Option<&str> {
    said.iter().rev().map(String::as_str).find(|line| !line.trim().is_empty() && !words::is_noise(line))
}

/// Whether only an edit helps. ssh reads its configuration before it connects, and prints nothing after that error: if there is any
/// other output, the line may have another origin.
fn is_final(cause: &Cause<'_>, end: &End<'_>) -> bool {
    end.status.and_then(|status| status.code()) == Some(SSH_ERROR)
        && !end.was_ready
        && !cause.is_of_carrier
        && !PASSING.iter().any(|reason| cause.line.ends_with(reason))
        && end.said.iter().all(|line| {
            let is_usage = || line.starts_with(char::is_whitespace);
            matches!(words::read(line), Some(Saying::Settings)) || words::is_noise(line) || is_usage()
        })
}

/// The class of a failed system call, by the words that the C library has for its error.
fn of_errno(text: &str) -> Option<FailureKind> {
    let text = text.trim_end_matches('.');
    [
        ("Connection refused", FailureKind::Refused),
        ("timed out", FailureKind::Timeout),
        ("No route to host", FailureKind::Network),
        ("Network is unreachable", FailureKind::Network),
        ("Host is down", FailureKind::Network),
        ("Connection reset by peer", FailureKind::Network),
        ("Name or service not known", FailureKind::Dns),
        ("Temporary failure in name resolution", FailureKind::Dns),
    ]
    .into_iter()
    .find_map(|(words, kind)| text.ends_with(words).then_some(kind))
}

const fn unconnected_step(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Refused => "nothing listens there: check that sshd runs, and its port",
        FailureKind::Timeout => "the server or a firewall does not answer: check the address and the route",
        _ => "check the address and the route",
    }
}

/// A line of another origin, bounded and escaped.
pub fn quote(line: &str) -> String {
    text::excerpt(line.trim().trim_end_matches('.'), QUOTE_LENGTH).into_owned()
}

#[cfg(test)]
mod tests;
