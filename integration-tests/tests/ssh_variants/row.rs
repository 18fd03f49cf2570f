//! What a row of the table says.

use std::time::Duration;

use integration_tests::ORIGIN_PORT;
use portward::protocol::FailureKind;

/// `restart.min_delay` of every row, in milliseconds.
pub(crate) const MIN_DELAY_MS: u64 = 1000;
/// `restart.max_delay` of every row, in seconds.
pub(crate) const MAX_DELAY_S: u64 = 60;

/// A login takes this long on a loaded machine, all the more with two hops before it.
const LONG_TIMEOUT: &str = "connect_timeout: 60s";

/// A variant of the two configurations, and what it must lead to.
///
/// In all texts `{lab}` stands for the lab's directory, `{config}` for the row's ssh_config file, and `{port}` for the server's
/// port.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// Also the tunnel's name and the Host alias.
    pub(crate) name: &'static str,
    /// Lines of the block `Host NAME`, at the beginning of the row's ssh_config file; further blocks may follow.
    pub(crate) ssh_config: &'static str,
    /// Keys of the tunnel's `ssh:` beside `config_file`.
    pub(crate) settings: &'static str,
    /// As whom, where the destination says so: `USER@`.
    pub(crate) user: &'static str,
    pub(crate) server: Server,
    pub(crate) forward: Forward,
    pub(crate) outcome: Outcome,
    /// What the message holds: that of `last_error`, or for [`Outcome::Refuses`] the status.
    pub(crate) says: &'static [&'static str],
    /// What that does not hold.
    pub(crate) never_says: &'static [&'static str],
    /// The addresses of the tunnel's listeners.
    pub(crate) listens: &'static [&'static str],
    /// Ports on which nobody may listen.
    pub(crate) closed: &'static [u16],
    /// A file that may not be there.
    pub(crate) absent: Option<&'static str>,
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    /// An sshd without lines of its own, for all such rows.
    Plain,
    /// An sshd with these lines at the beginning of its configuration.
    Sshd(&'static str),
    /// An sshd that takes one login at a time, and somebody who does not finish his.
    Full,
    /// A program that closes each connection.
    Closes,
    /// A program that says nothing.
    Silent,
    /// A program that says more than an ssh server may before its version.
    Talks,
    /// A web server.
    Http,
    /// Nobody listens.
    Nobody,
}

/// What is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forward {
    /// -L from a bare port to this port, where the page is served or not.
    Local(u16),
    /// -R from a port of the server to the page; the text stands before the port.
    Remote(&'static str),
}

/// What becomes of the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Up with the first ssh, without an error, and the page comes through.
    Carries,
    /// Up with the first ssh; connections are refused, and the status tells.
    Refuses,
    /// Never up, and tried again.
    Retried(FailureKind, Pace),
    /// Given up after one ssh, of class `config`.
    Failed,
}

/// How often it is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// At once, then after waits that double from `min_delay`.
    Prompt,
    /// After waits that double from 16 times `min_delay`.
    Slow,
    /// As [`Pace::Prompt`], but some of the tries are made over the same connection.
    Connected,
}

impl Pace {
    /// The most starts of ssh within `elapsed`: none of them is earlier than half the wait's whole length (src/tunnel/backoff.rs).
    pub(crate) fn most_starts(self, elapsed: Duration) -> usize {
        let max_delay = Duration::from_secs(MAX_DELAY_S);
        let mut next = Duration::ZERO;
        let mut wait = Duration::from_millis(match self {
            Self::Prompt | Self::Connected => MIN_DELAY_MS,
            Self::Slow => 16 * MIN_DELAY_MS,
        });
        // The first, and for a prompt one the retry at once.
        let mut starts = if self == Self::Slow { 1 } else { 2 };
        loop {
            next += wait.min(max_delay) / 2;
            if next > elapsed {
                return starts;
            }
            starts += 1;
            wait *= 2;
        }
    }

    /// The fewest that are worth the name of a retry. How many more there are is left to how long each takes.
    pub(crate) fn fewest_starts(self) -> usize {
        match self {
            Self::Prompt | Self::Slow => 2,
            Self::Connected => 1,
        }
    }
}

impl Outcome {
    pub(crate) fn is_up(self) -> bool {
        matches!(self, Self::Carries | Self::Refuses)
    }
}

/// A tunnel that carries the page from a bare port of this machine over an sshd of no particular kind.
pub(crate) fn row(name: &'static str) -> Row {
    Row {
        name,
        ssh_config: "",
        settings: LONG_TIMEOUT,
        user: "",
        server: Server::Plain,
        forward: Forward::Local(ORIGIN_PORT),
        outcome: Outcome::Carries,
        says: &[],
        never_says: &[],
        listens: &["127.0.0.1", "[::1]"],
        closed: &[],
        absent: None,
    }
}

/// [`row`] with these lines in its ssh_config.
pub(crate) fn client(name: &'static str, ssh_config: &'static str) -> Row {
    Row { ssh_config, ..row(name) }
}

/// [`row`] with these lines in its sshd_config.
pub(crate) fn server(name: &'static str, sshd_config: &'static str) -> Row {
    Row { server: Server::Sshd(sshd_config), ..row(name) }
}

impl Row {
    /// ssh's destination.
    pub(crate) fn destination(&self) -> String {
        format!("{}{}", self.user, self.name)
    }

    pub(crate) fn user(self, user: &'static str) -> Self {
        Self { user, ..self }
    }

    pub(crate) fn ssh_config(self, ssh_config: &'static str) -> Self {
        Self { ssh_config, ..self }
    }

    pub(crate) fn settings(self, settings: &'static str) -> Self {
        Self { settings, ..self }
    }

    pub(crate) fn server(self, server: Server) -> Self {
        Self { server, ..self }
    }

    pub(crate) fn remote(self, bind: &'static str) -> Self {
        Self { forward: Forward::Remote(bind), listens: &[], ..self }
    }

    pub(crate) fn target(self, target: u16) -> Self {
        Self { forward: Forward::Local(target), ..self }
    }

    pub(crate) fn listens(self, listens: &'static [&'static str]) -> Self {
        Self { listens, ..self }
    }

    pub(crate) fn refuses(self) -> Self {
        Self { outcome: Outcome::Refuses, ..self }
    }

    pub(crate) fn retried(self, class: FailureKind, pace: Pace) -> Self {
        Self { outcome: Outcome::Retried(class, pace), ..self }
    }

    pub(crate) fn failed(self) -> Self {
        Self { outcome: Outcome::Failed, ..self }
    }

    pub(crate) fn says(self, says: &'static [&'static str]) -> Self {
        Self { says, ..self }
    }

    pub(crate) fn never_says(self, never_says: &'static [&'static str]) -> Self {
        Self { never_says, ..self }
    }

    pub(crate) fn closed(self, closed: &'static [u16]) -> Self {
        Self { closed, ..self }
    }

    pub(crate) fn absent(self, absent: &'static str) -> Self {
        Self { absent: Some(absent), ..self }
    }
}
