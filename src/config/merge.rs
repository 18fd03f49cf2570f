//! `defaults:` merged into a tunnel, key by key.

use super::environment::Variables;
use super::located::{Field, Located};
use super::raw::{Defaults, DirectionMode, Listener, Restart, Ssh, Tunnel};
use super::values::Options;
use super::{entry, work};

impl Tunnel {
    /// This tunnel with what it does not say taken from `defaults`; `mode` says which of its keys apply.
    pub(super) fn merged(&self, defaults: &Defaults, mode: DirectionMode) -> Self {
        let mut merged = self.clone();
        let mut restart = defaults.restart.clone();
        if self.command.get().is_some() {
            if let Field::Right(restart) = &mut restart {
                restart.value.drain = Field::Absent;
            }
            merged.working_directory = self.working_directory.or(&defaults.working_directory);
            merged.start_timeout = self.start_timeout.or(&defaults.start_timeout);
        } else {
            merged.remote_host = self.remote_host.or(&defaults.remote_host);
            merged.direction = self.direction.or(&defaults.direction);
            merged.ssh = merge(&self.ssh, &defaults.ssh, Ssh::merged);
            merged.interactive = self.interactive.or(&defaults.interactive);
            let is_by_hand = merged.interactive.value() == Some(&true);
            if !is_by_hand {
                merged.standby = self.standby.or(&defaults.standby);
            }
            merged.share = self.share.or(&defaults.share);
            if work::is_local(&merged, mode) && !work::listens_on_socket(&merged, mode) {
                merged.listener = self.listener.or(&defaults.listener);
            }
            if work::is_remote(&merged, mode) {
                merged.remote_port_recovery = self.remote_port_recovery.or(&defaults.remote_port_recovery);
            }
            if merged.listener.value() == Some(&Listener::Portward) {
                merged.connect_wait = self.connect_wait.or(&defaults.connect_wait);
                merged.allow_users = self.allow_users.or(&defaults.allow_users);
                if !self.on_demand.is_absent() {
                    merged.standby = self.standby.clone();
                } else if entry::may_sleep(self) && !is_by_hand {
                    merged.on_demand = defaults.on_demand.clone();
                }
            }
        }
        merged.env = merge(&self.env, &defaults.env, Variables::merged);
        merged.enabled = self.enabled.or(&defaults.enabled);
        merged.restart = merge(&self.restart, &restart, Restart::merged);
        merged.on_change = self.on_change.or(&defaults.on_change);
        merged.stop_grace = self.stop_grace.or(&defaults.stop_grace);
        if !work::listens_on_socket(&merged, mode) {
            merged.on_conflict = self.on_conflict.or(&defaults.on_conflict);
        }
        merged
    }
}

impl Ssh {
    fn merged(&self, defaults: &Self) -> Self {
        Self {
            program: self.program.or(&defaults.program),
            config_file: self.config_file.or(&defaults.config_file),
            identity_file: self.identity_file.or(&defaults.identity_file),
            options: merge(&self.options, &defaults.options, Options::merged),
            connect_timeout: self.connect_timeout.or(&defaults.connect_timeout),
        }
    }
}

impl Options {
    /// ssh does not mind the case of an option's name, so neither does this.
    fn merged(&self, defaults: &Self) -> Self {
        let mut merged = self.clone();
        let missing = |(name, _): &&(Located<String>, Field<String>)| {
            !self.0.iter().any(|(own, _)| own.value.eq_ignore_ascii_case(&name.value))
        };
        merged.0.extend(defaults.0.iter().filter(missing).cloned());
        merged
    }
}

impl Restart {
    fn merged(&self, defaults: &Self) -> Self {
        Self {
            min_delay: self.min_delay.or(&defaults.min_delay),
            max_delay: self.max_delay.or(&defaults.max_delay),
            reset_after: self.reset_after.or(&defaults.reset_after),
            drain: self.drain.or(&defaults.drain),
        }
    }
}

/// Merges two mappings key by key.
fn merge<T: Clone>(own: &Field<T>, defaults: &Field<T>, both: impl Fn(&T, &T) -> T) -> Field<T> {
    match (own.get(), defaults.get()) {
        (Some(own), Some(defaults)) => Field::Right(own.with(both(&own.value, &defaults.value))),
        _ => own.or(defaults),
    }
}
