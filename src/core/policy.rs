//! The numbers by which [`step`](super::step()) decides.

use std::time::Duration;

/// How long a login by a person may take, from the moment that somebody is there until the tunnel is up.
pub const LONGEST_LOGIN: Duration = Duration::from_secs(300);

/// How a tunnel is to be run. A change of it restarts nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// What `work` allows: whether a restart can be make-before-break.
    pub kind: Kind,
    /// `restart.min_delay`: the wait before the second retry; it doubles from there.
    pub min_delay: Duration,
    /// `restart.max_delay`: no wait is longer.
    pub max_delay: Duration,
    /// `restart.reset_after`: a tunnel that was up for this long starts counting failures anew.
    pub reset_after: Duration,
    /// Deadline from the start of the process until it is ready (control socket, or listener of a command).
    pub ready_timeout: Duration,
    /// `stop_grace`: time between SIGTERM and SIGKILL.
    pub stop_grace: Duration,
    /// `on_conflict`.
    pub on_conflict: OnConflict,
    /// `standby`: a second connection is kept ready.
    pub standby: bool,
    /// `restart.drain`: how long a connection that was replaced may go on carrying what it carries; zero ends it at once.
    pub drain: Duration,
    /// `on_demand`: how long a connection is kept without clients; `None`: for ever.
    pub on_demand: Option<Duration>,
    /// How many destinations there are: one, and `fallback_hosts`.
    pub destinations: usize,
}

impl Policy {
    /// What connections that serve both tunnels go by. `on_conflict` is each tunnel's own.
    pub(super) fn combined(self, other: Self) -> Self {
        Self {
            min_delay: self.min_delay.min(other.min_delay),
            max_delay: self.max_delay.min(other.max_delay),
            reset_after: self.reset_after.max(other.reset_after),
            ready_timeout: self.ready_timeout.max(other.ready_timeout),
            stop_grace: self.stop_grace.max(other.stop_grace),
            standby: self.standby || other.standby,
            drain: self.drain.max(other.drain),
            ..self
        }
    }
}

/// What kind of process holds the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An ssh master: connects first, is asked for the forward later.
    Ssh,
    /// A program that binds the port as soon as it runs.
    Command,
}

/// What to do when somebody else holds the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnConflict {
    /// Wait for the kernel's word that it is free.
    #[default]
    Wait,
    /// End exactly the processes that hold it: all of them, or where one may not be ended, none.
    Kill,
}
