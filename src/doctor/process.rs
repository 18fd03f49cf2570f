//! The process that is examined, which is always this one.

use std::path::PathBuf;

use nix::unistd::{Uid, geteuid};
use rustix::thread::{CapabilitySet, capabilities};

use super::machine::Machine;
use crate::paths;
use crate::port::holder;
use crate::port::holder::cgroup;

/// The variable that tells ssh where its agent is.
pub(super) const AGENT: &str = "SSH_AUTH_SOCK";

/// User, capabilities and unit of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) uid: u32,
    pub(super) capabilities: CapabilitySet,
    /// The system unit that it runs in, if it is the daemon: a drop-in can change what it may do.
    pub(super) unit: Option<String>,
    /// Whether its environment names an agent.
    pub(super) has_agent: bool,
}

impl Process {
    /// This process.
    pub(super) fn this(machine: &Machine, is_daemon: bool) -> Self {
        let cgroups = machine.text("/proc/self/cgroup").filter(|_| is_daemon).unwrap_or_default();
        Self {
            uid: geteuid().as_raw(),
            capabilities: capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective),
            unit: system_unit(&cgroups),
            has_agent: std::env::var_os(AGENT).is_some(),
        }
    }

    /// Whether it has this capability.
    pub(super) fn has(&self, capability: CapabilitySet) -> bool {
        self.capabilities.contains(capability)
    }

    /// The name of its user.
    pub(super) fn user(&self) -> String {
        user(self.uid)
    }

    /// The home directory in the passwd entry, which is the one that ssh uses, whatever HOME says.
    pub(super) fn home(&self) -> Option<PathBuf> {
        paths::home_of(self.uid)
    }
}

/// The name of a user, or the number if there is no name.
pub(super) fn user(uid: u32) -> String {
    holder::user(uid).unwrap_or_else(|| Uid::from_raw(uid).to_string())
}

/// The system unit in the content of a cgroup file. Units below `user.slice` belong to a user's own manager.
fn system_unit(cgroups: &str) -> Option<String> {
    let path = cgroup::path_in(cgroups)?;
    let unit = cgroup::unit_in(path).filter(|unit| unit.ends_with(".service"))?;
    (!path.starts_with("/user.slice/")).then(|| unit.to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A process of `uid` with these capabilities, in the system unit portward.service if `unit`.
    pub(in crate::doctor) fn process(uid: u32, capabilities: CapabilitySet, unit: bool) -> Process {
        Process { uid, capabilities, unit: unit.then(|| "portward.service".to_owned()), has_agent: false }
    }

    #[test]
    fn only_a_system_unit_can_be_given_a_drop_in() {
        let unit = |path: &str| system_unit(&format!("0::{path}\n"));
        assert_eq!(unit("/system.slice/portward.service").as_deref(), Some("portward.service"));
        let instance = unit("/system.slice/system-portward.slice/portward@alice.service");
        assert_eq!(instance.as_deref(), Some("portward@alice.service"));
        assert_eq!(unit("/user.slice/user-1000.slice/user@1000.service/app.slice/portward.service"), None);
        assert_eq!(unit("/user.slice/user-1000.slice/session-1.scope"), None);
    }
}
