//! Whom to judge: tunnels run as the daemon does, and that may be somebody else than who calls doctor.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::unistd::{Uid, User};
use rustix::thread::CapabilitySet;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::environment::{self, Variables};
use super::machine::Machine;
use super::systemd::Unit;
use crate::config::environment::Environment;
use crate::paths;
use crate::port::holder;
use crate::port::holder::cgroup;

/// A daemon that lives takes a connection within microseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where ssh looks for an agent.
const AGENT: &str = "SSH_AUTH_SOCK";

/// How it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// A daemon answers on the socket.
    Daemon {
        /// Its pid.
        pid: u32,
    },
    /// No daemon runs; the system's unit would start one.
    Unit,
    /// Neither: a daemon would run as this process does.
    Ourselves,
}

/// The user and the capabilities of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) by: By,
    pub(super) uid: u32,
    /// Its group, and the others that it is in.
    pub(super) groups: BTreeSet<u32>,
    pub(super) capabilities: CapabilitySet,
    /// The system's unit that it runs in: a drop-in changes what it may do.
    pub(super) unit: Option<String>,
    /// Where it looks for programs; `None`: where this process does.
    pub(super) search: Option<OsString>,
    /// Whether its ssh finds an agent.
    pub(super) has_agent: bool,
    /// Its environment; `None`: that of this process.
    pub(super) variables: Option<Variables>,
}

impl Judged {
    /// Finds out. `unit` is the system's unit, if it is loaded.
    pub(super) async fn find(machine: &Machine, socket: &Path, unit: Option<&Unit>) -> Option<Self> {
        if let Some(pid) = daemon(socket).await
            && let Some(status) = machine.text(&format!("/proc/{pid}/status"))
        {
            let daemon = Self::from_status(By::Daemon { pid }, &status)?;
            let cgroup = machine.text(&format!("/proc/{pid}/cgroup")).unwrap_or_default();
            // One that this user may not see is taken for this user's own.
            let variables = fs::read(machine.path(format!("/proc/{pid}/environ"))).ok();
            let variables = variables.map(|environ| environment::of_process(&environ));
            return Some(Self { unit: system_unit(&cgroup), ..daemon.with(variables) });
        }
        match unit {
            Some(unit) if nix::unistd::geteuid().is_root() && !unit.is_running() => {
                Self::from_unit(machine, unit)
            }
            _ => {
                let ourselves = Self::from_status(By::Ourselves, &machine.text("/proc/self/status")?)?;
                Some(Self { has_agent: std::env::var_os(AGENT).is_some(), ..ourselves })
            }
        }
    }

    /// From the text of a status file in /proc.
    fn from_status(by: By, status: &str) -> Option<Self> {
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            Some(value.split_ascii_whitespace())
        };
        // Real, effective, saved, and that for files.
        let effective = |name: &str| field(name)?.nth(1)?.parse::<u32>().ok();
        let supplementary = field("Groups")?.filter_map(|group| group.parse().ok());
        let bits = u64::from_str_radix(field("CapEff")?.next()?, 16).ok()?;
        Some(Self {
            by,
            uid: effective("Uid")?,
            groups: supplementary.chain(effective("Gid")).collect(),
            capabilities: CapabilitySet::from_bits_retain(bits),
            unit: None,
            search: None,
            has_agent: false,
            variables: None,
        })
    }

    /// With this environment.
    fn with(self, variables: Option<Variables>) -> Self {
        let variable = |name: &str| variables.as_ref()?.get(OsStr::new(name)).cloned();
        let (search, has_agent) = (variable("PATH"), variable(AGENT).is_some());
        Self { search, has_agent, variables, ..self }
    }

    /// As systemd would start it.
    fn from_unit(machine: &Machine, unit: &Unit) -> Option<Self> {
        let user = user_of(unit)?;
        let bounding = capabilities(unit.property("CapabilityBoundingSet"));
        // Root has all that it may have; others have only what they are given.
        let capabilities = if user.uid.is_root() {
            bounding
        } else {
            bounding & capabilities(unit.property("AmbientCapabilities"))
        };
        let judged = Self {
            by: By::Unit,
            uid: user.uid.as_raw(),
            groups: BTreeSet::from([user.gid.as_raw()]),
            capabilities,
            unit: Some(unit.name.clone()),
            search: None,
            has_agent: false,
            variables: None,
        };
        Some(judged.with(Some(environment::of_unit(machine, unit, &user))))
    }

    /// Whether it has this capability.
    pub(super) fn may(&self, capability: CapabilitySet) -> bool {
        self.capabilities.contains(capability)
    }

    /// Its pid, if it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        match self.by {
            By::Daemon { pid } => Some(pid),
            By::Unit | By::Ourselves => None,
        }
    }

    /// Name of its user.
    pub(super) fn user(&self) -> String {
        holder::user(self.uid).unwrap_or_else(|| self.uid.to_string())
    }

    /// Home directory of its user, which is where ssh looks, whatever HOME says.
    pub(super) fn home(&self) -> Option<PathBuf> {
        User::from_uid(Uid::from_raw(self.uid)).ok().flatten().map(|user| user.dir)
    }

    /// The same for a process that it gives these variables.
    pub(super) fn given(&self, environment: &Environment) -> Self {
        let mut changed = self.clone();
        if let Some(search) = environment.get("PATH") {
            changed.search = Some(search.into());
        }
        changed.has_agent |= environment.get(AGENT).is_some_and(|socket| !socket.is_empty());
        changed
    }

    /// What `~/` in its configuration is.
    pub(super) fn config_home(&self) -> Option<PathBuf> {
        match &self.variables {
            Some(variables) => environment::home(variables, self.uid),
            None => paths::home(),
        }
    }

    /// Where it finds the program `name`.
    pub(super) fn find_program(&self, name: &Path) -> Option<PathBuf> {
        let is_program = |path: &PathBuf| {
            path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
        };
        if name.components().count() > 1 {
            return Some(name.to_owned()).filter(is_program);
        }
        let search = self.search.clone().or_else(|| std::env::var_os("PATH"))?;
        std::env::split_paths(&search).map(|directory| directory.join(name)).find(is_program)
    }

    /// Makes `command` run with its environment, and if we are root, as its user.
    pub(super) fn dress(&self, mut command: Command) -> Command {
        match (&self.variables, &self.search) {
            (Some(variables), _) => {
                command.env_clear().envs(variables);
                if let Some(home) = self.config_home() {
                    command.env(paths::HOME, home);
                }
            }
            (None, Some(search)) => drop(command.env("PATH", search)),
            (None, None) => {}
        }
        if nix::unistd::geteuid().is_root()
            && self.uid != 0
            && let Ok(Some(user)) = User::from_uid(Uid::from_raw(self.uid))
        {
            use std::os::unix::process::CommandExt;

            // Without a directory of its own, it may stand where it may not be.
            command.uid(self.uid).gid(user.gid.as_raw()).current_dir("/");
            if self.variables.is_none() {
                command.env(paths::HOME, &user.dir);
            }
        }
        command
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user();
        match (self.by, &self.unit) {
            (By::Daemon { pid }, _) => write!(formatter, "the daemon (pid {pid}, user {user})"),
            (By::Unit, Some(unit)) => write!(formatter, "{unit} (not running, user {user})"),
            (By::Unit | By::Ourselves, _) => write!(formatter, "`portward run` by {user}"),
        }
    }
}

/// The pid of who listens on the socket.
async fn daemon(socket: &Path) -> Option<u32> {
    let stream = timeout(PATIENCE, UnixStream::connect(socket)).await.ok()?.ok()?;
    // None, or 0, when it is in another pid namespace.
    u32::try_from(stream.peer_cred().ok()?.pid()?).ok().filter(|pid| *pid != 0)
}

/// The user that a unit of the system runs as.
pub(super) fn user_of(unit: &Unit) -> Option<User> {
    let user = match unit.property("User") {
        "" => User::from_uid(Uid::from_raw(0)),
        name => match name.parse() {
            Ok(uid) => User::from_uid(Uid::from_raw(uid)),
            Err(_) => User::from_name(name),
        },
    };
    user.ok().flatten()
}

/// The system's unit in the text of a cgroup file. What is below `user.slice` is a user's own.
fn system_unit(cgroups: &str) -> Option<String> {
    let path = cgroup::path_in(cgroups)?;
    let unit = cgroup::unit_in(path).filter(|unit| unit.ends_with(".service"))?;
    (!path.starts_with("/user.slice/")).then(|| unit.to_owned())
}

/// `cap_kill cap_net_bind_service`, as systemd writes it.
fn capabilities(words: &str) -> CapabilitySet {
    let names = words.split_ascii_whitespace().filter_map(|word| word.strip_prefix("cap_"));
    names.filter_map(|name| CapabilitySet::from_name(&name.to_ascii_uppercase())).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::systemd::Manager;
    use super::super::systemd::tests::unit;
    use super::*;

    /// A daemon of `uid` with these capabilities, in the system's unit if `unit`.
    pub(in crate::doctor) fn judged(uid: u32, capabilities: CapabilitySet, unit: bool) -> Judged {
        Judged {
            by: By::Daemon { pid: 812 },
            uid,
            groups: BTreeSet::from([uid]),
            capabilities,
            unit: unit.then(|| "portward.service".to_owned()),
            search: None,
            has_agent: false,
            variables: None,
        }
    }

    const STATUS: &str = "Name:\tportward\nUid:\t1000\t1001\t1000\t1000\nGid:\t100\t101\t100\t100\n\
                          Groups:\t4 24 \nCapPrm:\t0000000000000000\nCapEff:\t0000000000000420\n";

    fn from_unit(unit: &Unit) -> Option<Judged> {
        Judged::from_unit(&Machine::this(), unit)
    }

    #[test]
    fn the_effective_user_and_capabilities_count() {
        let judged = Judged::from_status(By::Ourselves, STATUS).unwrap();
        assert_eq!((judged.uid, judged.groups.clone()), (1001, BTreeSet::from([4, 24, 101])));
        assert!(judged.may(CapabilitySet::KILL | CapabilitySet::NET_BIND_SERVICE));
        assert!(!judged.may(CapabilitySet::SYS_PTRACE));
        assert_eq!(Judged::from_status(By::Ourselves, "Name:\tportward\n"), None);
    }

    #[test]
    fn root_in_a_unit_has_what_the_bounding_set_leaves() {
        let hardened = from_unit(&unit(Manager::System, &["CapabilityBoundingSet="])).unwrap();
        assert_eq!((hardened.uid, hardened.capabilities), (0, CapabilitySet::empty()));
        let given = "CapabilityBoundingSet=cap_kill cap_net_bind_service cap_unheard_of";
        let given = from_unit(&unit(Manager::System, &[given])).unwrap();
        assert_eq!(given.capabilities, CapabilitySet::KILL | CapabilitySet::NET_BIND_SERVICE);
    }

    #[test]
    fn another_user_in_a_unit_has_what_it_is_given() {
        let set = "CapabilityBoundingSet=cap_kill cap_net_bind_service";
        let lines = ["User=nobody", "AmbientCapabilities=cap_net_bind_service cap_sys_ptrace", set];
        let judged = from_unit(&unit(Manager::System, &lines)).unwrap();
        assert_eq!(judged.capabilities, CapabilitySet::NET_BIND_SERVICE);
        assert_ne!(judged.uid, 0);
        assert_eq!(from_unit(&unit(Manager::System, &["User=no-such-user-here"])), None);
    }

    #[test]
    fn only_a_unit_of_the_system_takes_a_drop_in_of_the_system() {
        let unit = |path: &str| system_unit(&format!("0::{path}\n"));
        assert_eq!(unit("/system.slice/portward.service").as_deref(), Some("portward.service"));
        assert_eq!(
            unit("/system.slice/system-portward.slice/portward@alice.service").as_deref(),
            Some("portward@alice.service")
        );
        assert_eq!(unit("/user.slice/user-1000.slice/user@1000.service/app.slice/portward.service"), None);
        assert_eq!(unit("/user.slice/user-1000.slice/session-1.scope"), None);
    }

    #[test]
    fn programs_are_asked_with_the_environment_of_the_daemon() {
        let environ = b"XPATH=/no\0PATH=/opt/bin:/bin\0SSH_AUTH_SOCK=/run/agent\0";
        let daemon = judged(0, CapabilitySet::empty(), false).with(Some(environment::of_process(environ)));
        assert_eq!((daemon.search.as_deref(), daemon.has_agent), (Some(OsStr::new("/opt/bin:/bin")), true));
        let command = daemon.dress(Command::new("ssh"));
        let variables: Vec<_> =
            command.get_envs().filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?))).collect();
        let home = paths::home_of(0).unwrap();
        assert!(variables.contains(&("HOME", home.to_str().unwrap())), "{variables:?}");
        assert!(variables.contains(&("PATH", "/opt/bin:/bin")), "{variables:?}");
    }

    #[tokio::test]
    async fn whoever_listens_on_the_socket_is_judged() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("portward.sock");
        let _daemon = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let ours = std::process::id();
        let judged = Judged::find(&Machine::this(), &socket, None).await.unwrap();
        assert_eq!(judged.by, By::Daemon { pid: ours });
        let nobody = directory.path().join("missing.sock");
        let judged = Judged::find(&Machine::this(), &nobody, None).await.unwrap();
        assert_eq!(judged.by, By::Ourselves);
    }
}
