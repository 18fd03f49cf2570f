//! `portward doctor`: what on this machine would make a tunnel fail, and the line that mends it.
//!
//! Each check has two halves: one looks at the machine and changes nothing, the other judges what was seen and does no IO
//! where that can be had. Files are looked for below a root that tests bring themselves (`machine`). Judged is not who calls
//! doctor but the daemon that runs, or the one that systemd would start (`judged`).

mod ask;
mod cgroup;
mod claims;
mod directories;
mod environment;
mod ephemeral;
mod file_events;
mod finding;
mod held;
mod host_keys;
mod journal;
mod judged;
mod kernel;
mod keys;
mod machine;
mod mend;
mod multiplexing;
mod permissions;
mod privileges;
mod programs;
mod runner;
mod sandbox;
mod settings;
mod ssh_config;
mod systemd;
mod unit;

use std::path::{Path, PathBuf};

pub use finding::{Check, Finding, Level};
pub use runner::{Runner, runner_of};

use self::claims::Claim;
use self::ephemeral::Ephemeral;
use self::judged::Judged;
use self::machine::Machine;
use self::mend::Mend;
use self::unit::Units;
use crate::config::{self, ConfigError, Desired};
use crate::paths;
use crate::port::{PortError, Ports};

/// What doctor has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whom it judged, in words.
    pub judged: String,
    /// In the order of [`Check::ALL`]. Each check is there at least once; without a valid configuration, not those of tunnels.
    pub findings: Vec<Finding>,
}

/// The operating system does not tell who this process is.
#[derive(Debug, thiserror::Error)]
#[error("cannot read /proc/self/status, which tells who this process is: is /proc mounted?")]
pub struct NoProcess;

/// Examines this machine for the configuration `config`. `socket` is where the daemon is looked for; without it, where the
/// configuration says, or else in the default place. Must be called within a tokio runtime; blocks for some milliseconds.
pub async fn examine(config: &Path, socket: Option<PathBuf>) -> Result<Report, NoProcess> {
    let machine = Machine::this();
    let mend = Mend::for_us();
    let configured = || config::load(config).ok().and_then(|desired| desired.api.socket);
    let socket = socket.or_else(configured).unwrap_or_else(paths::socket);
    let units = Units::find(&machine).await;
    let judged = Judged::find(&machine, &socket, units.system.as_ref()).await.ok_or(NoProcess)?;
    let loaded = config::load_for(config, judged.config_home().as_deref());
    let desired = loaded.as_ref().ok();
    let examination = Examination { machine, mend, judged, config, socket, units };
    let mut findings = vec![examination.configuration(&loaded)];
    findings.extend(examination.machine(desired).await);
    if let Some(desired) = desired {
        findings.extend(examination.tunnels(desired).await);
    }
    findings.sort_by_key(|finding| Check::ALL.iter().position(|check| *check == finding.check));
    Ok(Report { judged: examination.judged.to_string(), findings })
}

/// A line for each `identity_file` that the daemon cannot use: the daemon that runs, or the one that would be started.
/// `socket` is as for [`examine`]. Must be called within a tokio runtime; blocks for some milliseconds.
pub async fn unusable_identity_files(desired: &Desired, socket: Option<PathBuf>) -> Vec<String> {
    if !keys::are_files_named(desired) {
        return Vec::new();
    }
    let machine = Machine::this();
    let socket = socket.or_else(|| desired.api.socket.clone()).unwrap_or_else(paths::socket);
    let units = Units::find(&machine).await;
    let judged = Judged::find(&machine, &socket, units.system.as_ref()).await;
    judged.map_or_else(Vec::new, |judged| keys::unusable_files(desired, &judged))
}

/// What all checks need.
struct Examination<'a> {
    machine: Machine,
    mend: Mend,
    judged: Judged,
    config: &'a Path,
    socket: PathBuf,
    units: Units,
}

impl Examination<'_> {
    fn configuration(&self, loaded: &Result<Desired, ConfigError>) -> Finding {
        let path = self.config.display();
        match loaded {
            Ok(desired) => {
                let tunnels = mend::count(desired.tunnels.len(), "tunnel", "tunnels");
                if let Some(runner) = self.other_runner() {
                    return Finding::warning(
                        Check::Configuration,
                        format!(
                            "{path} is valid: {tunnels}; but {} reads it, and that was not judged",
                            runner.name
                        ),
                        format!(
                            "what is said here is about {}: another user may read other files",
                            self.judged
                        ),
                        format!("sudo portward doctor {}", mend::path(self.config)),
                    );
                }
                Finding::ok(Check::Configuration, format!("{path} is valid: {tunnels}"))
            }
            Err(error) => Finding::error(
                Check::Configuration,
                error.to_string(),
                "without a valid configuration the daemon does not start; one that runs goes on with what it had",
                format!("portward check {}", mend::path(self.config)),
            ),
        }
    }

    /// The service that reads the configuration, if that runs as another user than who is judged.
    fn other_runner(&self) -> Option<Runner> {
        let runner =
            self.units.of_system().find_map(|unit| runner::runner(&self.machine, unit, self.config))?;
        (runner.uid != self.judged.uid).then_some(runner)
    }

    /// The machine's own checks, and those of the ports that the configuration wants.
    async fn machine(&self, desired: Option<&Desired>) -> Vec<Finding> {
        let Self { machine, mend, judged, .. } = self;
        let mut findings = vec![
            cgroup::judge(machine, judged, self.units.system.as_ref(), *mend),
            journal::judge(machine, *mend),
        ];
        findings.extend(file_events::judge(machine, self.config, judged, *mend));
        let hidden =
            sandbox::judge(self.config, &self.socket, desired, self.units.system.as_ref(), judged, *mend);
        let is_hidden = !hidden.is_empty();
        findings.extend(hidden);
        let of_unit = unit::judge(machine, &self.units, *mend);
        findings.extend(of_unit.into_iter().filter(|finding| !is_hidden || finding.level != Level::Ok));
        findings.extend(multiplexing::judge(&self.socket, judged, *mend));
        let token = desired.and_then(|desired| desired.api.tcp.as_ref()).map(|tcp| tcp.token_file.as_path());
        findings.extend(directories::judge(self.config, &self.socket, token, judged, *mend));
        let ports = Ports::new();
        let claims = match (desired, &ports) {
            (Some(desired), Ok(ports)) => Some(claims::of(desired, ports)),
            (None, _) | (_, Err(_)) => None,
        };
        match &ports {
            Ok(ports) => findings.extend(self.kernel(ports, claims.as_deref()).await),
            Err(error) => findings.push(kernel::silent(error, *mend)),
        }
        findings.extend(kernel::judge_namespace(machine, judged.pid(), *mend));
        findings.extend(privileges::judge(judged, claims.as_deref().unwrap_or_default(), *mend));
        if let (Some(claims), Ok(ports)) = (&claims, &ports) {
            findings.extend(privileges::judge_ports(machine, judged, claims, *mend));
            findings.extend(ephemeral::judge(Ephemeral::read(machine).as_ref(), claims, *mend));
            findings.extend(held::judge(&held::ask(ports, claims, judged), *mend));
        }
        findings
    }

    async fn kernel(&self, ports: &Ports, claims: Option<&[Claim]>) -> Vec<Finding> {
        match kernel::prove(ports, &claims::protocols(claims.unwrap_or_default())).await {
            Ok(proof) => kernel::judge(&proof, self.mend),
            Err(source) => {
                let error = PortError::Netlink { operation: "bind a socket to ask about", source };
                vec![kernel::silent(&error, self.mend)]
            }
        }
    }

    /// What only makes sense with a configuration.
    async fn tunnels(&self, desired: &Desired) -> Vec<Finding> {
        let Self { mend, judged, config, .. } = self;
        if nix::unistd::geteuid().is_root() && directories::is_foreign(config, judged) {
            return vec![Finding::warning(
                Check::Ssh,
                format!("no ssh was asked: others than root can write {} or its directory", config.display()),
                "the configuration names programs, and to ask them is to run them as root",
                format!("portward check {}  # and mend what is said under `directories`", mend::path(config)),
            )];
        }
        let versions = programs::versions(desired, judged).await;
        let resolved = settings::resolve(desired, &programs::usable(&versions), judged).await;
        let mut findings = programs::judge(&versions, config, *mend);
        findings.extend(ssh_config::judge(&resolved, config));
        findings.extend(programs::judge_commands(desired, judged, config));
        findings.extend(keys::judge(&resolved, judged, *mend).await);
        findings.extend(host_keys::judge(&resolved, judged, *mend).await);
        findings
    }
}
