//! `GET /doctor`: the daemon examines itself, and answers with a [`Report`].

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::text;

/// The daemon answers within this time, if only with an error.
pub const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Longest text of a finding, in bytes: the errors of a configuration, or what a program printed.
const LONGEST_TEXT: usize = 16 * 1024;

/// The query of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct DoctorQuery {
    /// The user who will run the fixes, who needs `sudo` or not; the daemon's user if not given.
    #[param(maximum = 4_294_967_295_u32)]
    pub uid: Option<u32>,
}

/// The result of an examination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// The process that was examined.
    pub subject: Subject,
    /// At least one finding for each check that was run, in the order of the checks.
    pub findings: Vec<Finding>,
}

/// The process that was examined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Subject {
    /// The daemon, by itself.
    Daemon {
        /// Its process id.
        pid: u32,
        /// The name of its user.
        user: String,
    },
    /// `portward doctor`, by itself.
    Command {
        /// The name of its user.
        user: String,
        /// Why the daemon was not asked.
        reason: String,
    },
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon { pid, user } => write!(formatter, "the running daemon, pid {pid}, as user {user}"),
            Self::Command { user, reason } => write!(formatter, "this command, as user {user}; {reason}"),
        }
    }
}

/// The result of a check, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// No problem was found.
    Ok,
    /// A tunnel or the service may fail later, or works with restrictions.
    Warning,
    /// A tunnel or the service fails, now or at its next start.
    Error,
}

/// One result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// The name of the check.
    pub check: String,
    /// Its result.
    pub level: Level,
    /// Names of the affected tunnels; empty if the finding is not about particular tunnels.
    pub tunnels: Vec<String>,
    /// The affected local ports.
    pub ports: Vec<u16>,
    /// What was found.
    pub what: String,
    /// Why this is a problem; `None` if it is none.
    pub why: Option<String>,
    /// Shell commands, one on each line, of which the first solves the problem now; `None` if there is none.
    pub fix: Option<String>,
}

impl Finding {
    /// No problem.
    pub fn ok(what: impl Into<String>) -> Self {
        Self {
            check: String::new(),
            level: Level::Ok,
            tunnels: Vec::new(),
            ports: Vec::new(),
            what: text::cut(what.into(), LONGEST_TEXT),
            why: None,
            fix: None,
        }
    }

    /// A problem that may make a tunnel fail later.
    pub fn warning(what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        let (why, fix) = (Some(text::cut(why.into(), LONGEST_TEXT)), Some(fix.into()));
        Self { level: Level::Warning, why, fix, ..Self::ok(what) }
    }

    /// A problem that makes a tunnel fail.
    pub fn error(what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Error, ..Self::warning(what, why, fix) }
    }

    /// The same finding, about these tunnels.
    #[must_use]
    pub fn of(self, tunnels: impl IntoIterator<Item = String>) -> Self {
        Self { tunnels: tunnels.into_iter().collect(), ..self }
    }

    /// The same finding, about these ports.
    #[must_use]
    pub fn on(self, ports: impl IntoIterator<Item = u16>) -> Self {
        Self { ports: ports.into_iter().collect(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_which_process_was_examined() {
        let daemon = Subject::Daemon { pid: 7, user: "alice".to_owned() };
        assert_eq!(daemon.to_string(), "the running daemon, pid 7, as user alice");
        let reason = "no daemon is running at /run/p.sock".to_owned();
        let command = Subject::Command { user: "root".to_owned(), reason };
        assert_eq!(command.to_string(), "this command, as user root; no daemon is running at /run/p.sock");
        let json = serde_json::to_string(&daemon).unwrap();
        assert_eq!(json, r#"{"kind":"daemon","pid":7,"user":"alice"}"#);
    }
}
