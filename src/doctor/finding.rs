//! What doctor tells: a check, how it went, and if not well, why that matters and what mends it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What was looked at. The words are part of the command line's contract: programs match on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The configuration is there and valid.
    Configuration,
    /// Changes of the configuration are noticed.
    FileEvents,
    /// The kernel tells who has a port.
    SockDiag,
    /// The kernel tells when a port is let go.
    DestroyEvents,
    /// The kernel shows sockets that are bound and do not listen.
    BoundSockets,
    /// Other users' processes can be named, and ended where a tunnel says so.
    Privileges,
    /// The ssh programs are OpenSSH.
    Ssh,
    /// The programs of `command` tunnels are there.
    Commands,
    /// ssh's control sockets have a place.
    Multiplexing,
    /// ssh takes its configuration and finds its keys.
    Keys,
    /// The servers' host keys are known.
    HostKeys,
    /// Nobody else can change what the daemon reads.
    Directories,
    /// This machine has the addresses to listen on.
    Addresses,
    /// No local port is one that the kernel gives away.
    EphemeralPorts,
    /// The daemon may bind the low ports.
    PrivilegedPorts,
    /// Nobody else has a local port.
    HeldPorts,
    /// No closed connection keeps a local port.
    TimeWait,
    /// cgroups tell whose a process is.
    Cgroup,
    /// systemd starts portward.
    Unit,
    /// The journal takes log lines.
    Journal,
}

impl Check {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 20] = [
        Self::Configuration,
        Self::FileEvents,
        Self::SockDiag,
        Self::DestroyEvents,
        Self::BoundSockets,
        Self::Privileges,
        Self::Ssh,
        Self::Commands,
        Self::Multiplexing,
        Self::Keys,
        Self::HostKeys,
        Self::Directories,
        Self::Addresses,
        Self::EphemeralPorts,
        Self::PrivilegedPorts,
        Self::HeldPorts,
        Self::TimeWait,
        Self::Cgroup,
        Self::Unit,
        Self::Journal,
    ];

    /// The word in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::FileEvents => "file_events",
            Self::SockDiag => "sock_diag",
            Self::DestroyEvents => "destroy_events",
            Self::BoundSockets => "bound_sockets",
            Self::Privileges => "privileges",
            Self::Ssh => "ssh",
            Self::Commands => "commands",
            Self::Multiplexing => "multiplexing",
            Self::Keys => "keys",
            Self::HostKeys => "host_keys",
            Self::Directories => "directories",
            Self::Addresses => "addresses",
            Self::EphemeralPorts => "ephemeral_ports",
            Self::PrivilegedPorts => "privileged_ports",
            Self::HeldPorts => "held_ports",
            Self::TimeWait => "time_wait",
            Self::Cgroup => "cgroup",
            Self::Unit => "unit",
            Self::Journal => "journal",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// How it went, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Nothing is in the way of a tunnel.
    Ok,
    /// portward can do less than elsewhere, or a tunnel may fail one day.
    Warning,
    /// A tunnel fails, now or when it is next started.
    Error,
}

/// One thing found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub check: Check,
    /// How it went.
    pub level: Level,
    /// Names of the tunnels that it concerns; none if it is not about certain tunnels.
    pub tunnels: Vec<String>,
    /// The local ports that it concerns.
    pub ports: Vec<u16>,
    /// What is so.
    pub what: String,
    /// Why that matters; `None` when all is well.
    pub why: Option<String>,
    /// Lines for a shell, of which the first mends it now; `None` when all is well.
    pub mend: Option<String>,
}

impl Finding {
    /// All is well.
    pub(super) fn ok(check: Check, what: impl Into<String>) -> Self {
        Self {
            check,
            level: Level::Ok,
            tunnels: Vec::new(),
            ports: Vec::new(),
            what: what.into(),
            why: None,
            mend: None,
        }
    }

    /// It could be better.
    pub(super) fn warning(
        check: Check,
        what: impl Into<String>,
        why: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Warning,
            why: Some(why.into()),
            mend: Some(mend.into()),
            ..Self::ok(check, what)
        }
    }

    /// A tunnel fails of it.
    pub(super) fn error(
        check: Check,
        what: impl Into<String>,
        why: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self { level: Level::Error, ..Self::warning(check, what, why, mend) }
    }

    /// The same about these tunnels.
    pub(super) fn of(self, tunnels: impl IntoIterator<Item = String>) -> Self {
        Self { tunnels: tunnels.into_iter().collect(), ..self }
    }

    /// The same about these ports.
    pub(super) fn on(self, ports: impl IntoIterator<Item = u16>) -> Self {
        Self { ports: ports.into_iter().collect(), ..self }
    }
}

/// `findings`, or if there are none, that all is well.
pub(super) fn or_ok(findings: Vec<Finding>, check: Check, what: impl Into<String>) -> Vec<Finding> {
    if findings.is_empty() { vec![Finding::ok(check, what)] } else { findings }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_of_a_check_is_the_one_in_json() {
        for check in Check::ALL {
            assert_eq!(serde_json::to_value(check).unwrap(), check.as_str());
        }
    }

    #[test]
    fn the_worst_level_is_the_greatest() {
        assert!(Level::Ok < Level::Warning && Level::Warning < Level::Error);
    }
}
