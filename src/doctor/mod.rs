//! `portward doctor`: checks this process and its machine for problems that would make a tunnel fail.
//!
//! [`CHECKS`] is the list of checks, from which help, documentation and tests are drawn. A check examines the process that runs
//! it: its user, environment, files and limits. So the daemon runs the checks in its own process, and `portward doctor` runs them
//! in its own only where no daemon can be asked. Checks block, and change nothing.

mod ask;
mod claims;
mod commands;
mod directories;
mod ephemeral;
mod file_events;
mod fix;
mod held;
mod host_keys;
mod kernel;
mod keys;
mod machine;
mod multiplexing;
mod permissions;
mod privileges;
mod process;
mod service;
mod ssh;
mod systemd;
mod unit;

use std::cell::OnceCell;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

pub use keys::unusable_identity_files;
pub use service::{Runner, is_same_file, runner_of};

use self::ask::Asker;
use self::claims::Claim;
use self::fix::Fix;
use self::machine::Machine;
use self::process::Process;
use self::unit::Units;
use crate::config::{self, ConfigError, Desired};
use crate::port::{PortError, Ports};
use crate::protocol::doctor::{Finding, Report, Subject, TIME_LIMIT};

/// The part of [`TIME_LIMIT`] that is left for what cannot be interrupted.
const RESERVE: Duration = Duration::from_secs(2);

/// A check.
#[derive(Debug)]
pub struct Check {
    /// Its name, on which programs match.
    pub name: &'static str,
    /// What is true if it finds no problem.
    pub about: &'static str,
    /// Runs it: the problems that it finds, or `None` if it cannot be run.
    run: fn(&Examination) -> Option<Vec<Finding>>,
}

const fn check(
    name: &'static str,
    about: &'static str,
    run: fn(&Examination) -> Option<Vec<Finding>>,
) -> Check {
    Check { name, about, run }
}

/// All checks, in the order in which they run.
pub const CHECKS: &[Check] = &[
    check("daemon", "the running daemon answers", |x| Some(x.daemon())),
    check("configuration", "the configuration exists and is valid", |x| Some(x.configuration())),
    check("file_events", "changes of the configuration are noticed", |x| {
        Some(file_events::findings(&x.machine, &x.config, &x.process, x.is_daemon(), x.fix))
    }),
    check("sock_diag", "the kernel reports who holds a port", |x| {
        Some(kernel::sock_diag(&x.ports, x.claims().unwrap_or_default(), x.fix))
    }),
    check("destroy_events", "the kernel reports that a port was released", |x| {
        Some(Vec::from_iter(kernel::destroy_events(x.ports.as_ref().ok()?, x.fix)))
    }),
    check("privileges", "`on_conflict: kill` can end every holder", |x| {
        Some(Vec::from_iter(privileges::cannot_kill(&x.process, x.claims()?, x.fix)))
    }),
    check("ssh", "the ssh programs are a recent OpenSSH, with suitable settings", |x| {
        x.desired()?;
        Some(ssh::findings(x.ssh(), &x.config, x.fix))
    }),
    check("commands", "the programs of `command` tunnels and of health checks exist", |x| {
        Some(commands::findings(x.desired()?, &x.config, x.fix))
    }),
    check("multiplexing", "ssh can create its control sockets", |x| {
        Some(Vec::from_iter(multiplexing::finding(&x.socket, &x.process, x.fix)))
    }),
    check("keys", "ssh accepts its configuration and can use its keys", |x| {
        Some(keys::findings(&x.ssh()?.tunnels, &x.process, x.asker, x.fix))
    }),
    check("host_keys", "the host keys of the servers are known", |x| {
        Some(Vec::from_iter(host_keys::finding(&x.ssh()?.tunnels, &x.process, x.asker, x.fix)))
    }),
    check("directories", "nobody else can change what the daemon reads", |x| {
        let token = x.desired().and_then(|desired| Some(desired.api.tcp.as_ref()?.token_file.as_path()));
        Some(directories::findings(&x.config, &x.socket, token, &x.process, x.fix))
    }),
    check("environment", "no variable of autossh-tunnel is set that has no effect here", |x| {
        let unread = config::unread_variables(x.desired()?, &x.config);
        let why = "portward does not read it, and what autossh-tunnel would do by it is not done";
        let finding = |(name, instead)| Finding::warning(format!("{name} is set"), why, instead);
        Some(unread.into_iter().map(finding).collect())
    }),
    check("addresses", "this machine has the addresses to listen on", |x| Some(held::addresses(x.held()?))),
    check("ephemeral_ports", "no local port is given to outgoing connections", |x| {
        Some(Vec::from_iter(ephemeral::finding(&x.machine, x.claims()?, x.fix)))
    }),
    check("privileged_ports", "the local ports below 1024 can be bound", |x| {
        Some(Vec::from_iter(privileges::cannot_bind(&x.machine, &x.process, x.claims()?, x.fix)))
    }),
    check("held_ports", "no other process holds a local port", |x| {
        Some(held::findings(x.held()?, false, x.fix))
    }),
    check("time_wait", "no closed connection keeps a local port", |x| {
        Some(held::findings(x.held()?, true, x.fix))
    }),
    check("unit", "systemd starts portward, and hides no file that a tunnel needs", |x| {
        let units = Units::find(&x.machine, x.asker);
        Some(unit::findings(&x.machine, &units, x.desired(), &x.process, x.daemon, x.fix))
    }),
];

/// An examination to be made.
#[derive(Debug)]
pub struct Order {
    /// The configuration.
    pub config: PathBuf,
    /// The API's socket.
    pub socket: PathBuf,
    /// The user who will run the fixes; the user of this process if not given.
    pub reader: Option<u32>,
    /// Who runs the checks.
    pub by: By,
}

/// Who runs the checks.
#[derive(Debug)]
pub enum By {
    /// The daemon.
    Daemon,
    /// A command, because the daemon was not asked.
    Command {
        /// Why.
        reason: String,
        /// The pid of the daemon, if one is running.
        daemon: Option<u32>,
        /// What the check of the daemon has found.
        finding: Finding,
    },
}

/// Runs all checks. Blocks for some milliseconds or seconds; must be called on a thread of a tokio runtime that may block. The
/// daemon takes no longer than [`TIME_LIMIT`], unless a file system hangs.
pub fn examine(order: Order) -> Report {
    let examination = Examination::new(order);
    let run = |check: &Check| {
        let mut findings = (check.run)(&examination)?;
        if findings.is_empty() {
            findings.push(Finding::ok(check.about));
        }
        Some(findings.into_iter().map(|finding| Finding { check: check.name.to_owned(), ..finding }))
    };
    let findings = CHECKS.iter().filter_map(run).flatten().collect();
    Report { subject: examination.subject(), findings }
}

/// What the checks need.
struct Examination {
    machine: Machine,
    process: Process,
    fix: Fix,
    asker: Asker,
    config: PathBuf,
    socket: PathBuf,
    loaded: Result<Desired, ConfigError>,
    ports: Result<Ports, PortError>,
    /// Those of the configuration, if it is valid.
    claims: Option<Vec<Claim>>,
    by: By,
    /// The pid of the daemon, if one is running.
    daemon: Option<u32>,
    ssh: OnceCell<Option<ssh::Answers>>,
    held: OnceCell<Vec<held::Answer>>,
}

impl Examination {
    fn new(Order { config, socket, reader, by }: Order) -> Self {
        let machine = Machine::this();
        let (deadline, daemon) = match &by {
            By::Daemon => {
                (Some(Instant::now() + TIME_LIMIT.saturating_sub(RESERVE)), Some(std::process::id()))
            }
            By::Command { daemon, .. } => (None, *daemon),
        };
        let process = Process::this(&machine, matches!(by, By::Daemon));
        let (loaded, ports) = (config::load(&config), Ports::new());
        let claims = match (&loaded, &ports) {
            (Ok(desired), Ok(ports)) => Some(claims::of(desired, ports)),
            (Err(_), _) | (_, Err(_)) => None,
        };
        Self {
            machine,
            fix: Fix { uid: reader.unwrap_or(process.uid) },
            process,
            asker: Asker { deadline },
            config,
            socket,
            loaded,
            ports,
            claims,
            by,
            daemon,
            ssh: OnceCell::new(),
            held: OnceCell::new(),
        }
    }

    fn subject(&self) -> Subject {
        let user = self.process.user();
        match &self.by {
            By::Daemon => Subject::Daemon { pid: std::process::id(), user },
            By::Command { reason, .. } => Subject::Command { user, reason: reason.clone() },
        }
    }

    fn is_daemon(&self) -> bool {
        matches!(self.by, By::Daemon)
    }

    /// The configuration, if it is valid.
    fn desired(&self) -> Option<&Desired> {
        self.loaded.as_ref().ok()
    }

    fn claims(&self) -> Option<&[Claim]> {
        self.claims.as_deref()
    }

    /// The answers of the ssh programs. `None` without a configuration, and if they must not be run: whoever can write the
    /// configuration, which names the programs, could have them run as root.
    fn ssh(&self) -> Option<&ssh::Answers> {
        let desired = self.desired()?;
        let is_dangerous = || self.process.uid == 0 && directories::is_foreign(&self.config, &self.process);
        self.ssh.get_or_init(|| (!is_dangerous()).then(|| ssh::ask(desired, self.asker))).as_ref()
    }

    /// Who holds the ports of the configuration.
    fn held(&self) -> Option<&[held::Answer]> {
        let (ports, claims) = (self.ports.as_ref().ok()?, self.claims()?);
        Some(self.held.get_or_init(|| held::ask(ports, claims, self.daemon)))
    }

    fn daemon(&self) -> Vec<Finding> {
        match &self.by {
            By::Daemon => Vec::new(),
            By::Command { finding, .. } => vec![finding.clone()],
        }
    }

    fn configuration(&self) -> Vec<Finding> {
        let path = &self.config;
        vec![match &self.loaded {
            Ok(desired) => Finding::ok(match desired.tunnels.len() {
                1 => format!("{} is valid: 1 tunnel", path.display()),
                count => format!("{} is valid: {count} tunnels", path.display()),
            }),
            Err(error) => Finding::error(
                match error {
                    ConfigError::Read(error) => error.to_string(),
                    // The report goes to clients of the API as well.
                    ConfigError::Invalid(found) => found.clone().without_secrets().to_string(),
                },
                "the daemon does not start without a valid configuration; if it is running, it keeps the previous one",
                format!("portward check {}", fix::path(path)),
            ),
        }]
    }
}

#[cfg(test)]
mod tests {
    use super::ask::tests::blocking;
    use super::*;
    use crate::protocol::doctor::Level;

    #[test]
    fn every_check_has_a_finding_with_its_name_and_problems_have_a_fix() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.yaml");
        std::fs::write(&config, "tunnels: [{name: a, command: [no-such-program], local_port: 65001}]\n")
            .unwrap();
        let socket = directory.path().join("portward.sock");
        let report = blocking(move || examine(Order { config, socket, reader: None, by: By::Daemon }));
        let mut names: Vec<&str> = report.findings.iter().map(|finding| finding.check.as_str()).collect();
        names.dedup();
        assert_eq!(names, CHECKS.iter().map(|check| check.name).collect::<Vec<_>>());
        for Finding { level, why, fix, .. } in &report.findings {
            assert_eq!((why.is_some(), fix.is_some()), (*level != Level::Ok, *level != Level::Ok));
        }
        let commands = report.findings.iter().find(|finding| finding.check == "commands").unwrap();
        assert_eq!(commands.level, Level::Error);
        assert!(matches!(report.subject, Subject::Daemon { pid, .. } if pid == std::process::id()));
    }
}
