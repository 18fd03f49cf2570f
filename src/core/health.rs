//! The health checks of one tunnel: when one is due, what they have shown, and what follows from it.
//!
//! A check is made `every` so often while the tunnel is up, and never two at a time. `failures` failed checks in a row mean that
//! the tunnel is failing. It is then marked, or restarted; the next restart waits as the next try after a failure does: nothing
//! before the first, then `min_delay`, which doubles up to `max_delay`. A tunnel that was passing for `reset_after` starts anew.
//!
//! Total and pure, as the other machines: no event in any state fails, and time is a parameter.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{CheckError, ConnectionId, Policy, Retry, StateName, backoff};
use crate::clock::Moment;

/// How often a tunnel is checked, and what follows from failed checks. A change of it restarts nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthPolicy {
    /// `every`: from the start of one check to that of the next.
    pub every: Duration,
    /// `failures`: so many failed checks in a row mean that the tunnel is failing; at least 1.
    pub failures: u32,
    /// `action`.
    pub remedy: Remedy,
}

/// What to do about a tunnel that is failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Make a new connection.
    Restart,
    /// Only show it.
    Mark,
}

/// The number of a check: its result carries it, and the result of an earlier one changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CheckNumber(u64);

/// The word for what the checks have shown (`health.state`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// The connection that serves the tunnel has not been checked often enough to tell, or the tunnel is not up.
    Unknown,
    /// The last check passed, or fewer than `failures` have failed since one did.
    Passing,
    /// So many checks in a row have failed as the configuration says.
    Failing,
}

impl HealthState {
    /// The word used in JSON and in the journal.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Passing => "passing",
            Self::Failing => "failing",
        }
    }
}

/// What the checks of a tunnel have shown so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    policy: HealthPolicy,
    run: Run,
    finding: Finding,
    /// The connection that the finding is about.
    connection: Option<ConnectionId>,
    /// Failed checks in a row, from 0 again after each restart.
    failures: u32,
    last_error: Option<CheckError>,
    /// When the last check ended.
    checked: Option<Moment>,
    /// Restarts that no passing time of `reset_after` has followed.
    restarts: u32,
    latest: CheckNumber,
    seed: u64,
}

/// Whether there are checks now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Run {
    /// The tunnel is not up.
    Paused,
    Waiting {
        due: Moment,
    },
    Checking {
        number: CheckNumber,
        started: Moment,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    Unknown,
    Passing {
        since: Moment,
    },
    Failing,
    /// Failing, and the restart that should follow comes with the first failed check from then on.
    Held {
        until: Moment,
    },
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthEvent {
    /// The tunnel is in this state now, and this connection listens for it. It may have been before.
    Observed(StateName, Option<ConnectionId>),
    /// The time has come that [`Health::deadline`] told.
    DeadlinePassed,
    /// A check ended.
    Checked(CheckNumber, Result<(), CheckError>),
}

/// Something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthAction {
    /// Make a check: `Checked`.
    StartCheck(CheckNumber),
    /// End the check; its result is not needed.
    AbandonCheck,
    /// Tell that the checks pass now.
    ReportPassing,
    /// Tell that the tunnel is failing, and that it stays as it is.
    ReportFailing,
    /// Tell that the tunnel is failing, and that the restart waits for this long.
    ReportHeld(Duration),
    /// Tell that the tunnel is failing, and restart it.
    Restart,
}

impl Health {
    /// The health of a tunnel of which nothing is known; `seed` spreads the waits of different tunnels.
    pub fn new(policy: HealthPolicy, seed: u64) -> Self {
        Self {
            policy,
            run: Run::Paused,
            finding: Finding::Unknown,
            connection: None,
            failures: 0,
            last_error: None,
            checked: None,
            restarts: 0,
            latest: CheckNumber::default(),
            seed,
        }
    }

    /// The word for what the checks have shown.
    pub fn state(&self) -> HealthState {
        match self.finding {
            Finding::Unknown => HealthState::Unknown,
            Finding::Passing { .. } => HealthState::Passing,
            Finding::Failing | Finding::Held { .. } => HealthState::Failing,
        }
    }

    /// Failed checks in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Why the last check failed; `None` if it passed, or there was none.
    pub fn last_error(&self) -> Option<&CheckError> {
        self.last_error.as_ref()
    }

    /// When the last check ended.
    pub fn checked(&self) -> Option<Moment> {
        self.checked
    }

    /// When it has to hear [`HealthEvent::DeadlinePassed`].
    pub fn deadline(&self) -> Option<Moment> {
        match self.run {
            Run::Waiting { due } => Some(due),
            Run::Paused | Run::Checking { .. } => None,
        }
    }

    /// Decides what follows from `event`. `policy` is the tunnel's own.
    pub fn hear(&mut self, event: HealthEvent, now: Moment, policy: &Policy) -> Vec<HealthAction> {
        let mut actions = Vec::new();
        match event {
            HealthEvent::Observed(state, connection) => self.observe(state, connection, now, &mut actions),
            HealthEvent::DeadlinePassed => self.pass_deadline(now, &mut actions),
            HealthEvent::Checked(number, result) => match self.run {
                Run::Checking { number: running, started } if running == number => {
                    // A check that took longer than that is followed by the next at once.
                    self.run = Run::Waiting { due: started.after(self.policy.every).max(now) };
                    self.checked = Some(now);
                    match result {
                        Ok(()) => self.pass(now, &mut actions),
                        Err(error) => self.fail(error, now, policy, &mut actions),
                    }
                }
                Run::Paused | Run::Waiting { .. } | Run::Checking { .. } => {}
            },
        }
        actions
    }

    /// Ends the check under way, and forgets all but the number of the latest check: something else is to be checked.
    pub fn redefine(&mut self, policy: HealthPolicy) -> Vec<HealthAction> {
        let mut actions = Vec::new();
        self.pause(&mut actions);
        *self = Self { latest: self.latest, ..Self::new(policy, self.seed) };
        actions
    }

    fn observe(
        &mut self,
        state: StateName,
        connection: Option<ConnectionId>,
        now: Moment,
        actions: &mut Vec<HealthAction>,
    ) {
        match (state, connection) {
            (StateName::Up, Some(connection)) => {
                if self.connection != Some(connection) {
                    self.pause(actions);
                    self.forget_finding();
                    self.connection = Some(connection);
                }
                match self.run {
                    Run::Paused => self.run = Run::Waiting { due: now.after(self.policy.every) },
                    Run::Waiting { .. } | Run::Checking { .. } => {}
                }
            }
            // What was found is true of the connection that serves until it is replaced.
            (StateName::Replacing, _) => self.pause(actions),
            (StateName::Stopped | StateName::NeedsAuth, _) => {
                actions.extend(self.redefine(self.policy));
            }
            (
                StateName::Up
                | StateName::AwaitingPort
                | StateName::Connecting
                | StateName::Forwarding
                | StateName::Stopping
                | StateName::Backoff
                | StateName::Failed,
                _,
            ) => {
                self.pause(actions);
                self.forget_finding();
            }
        }
    }

    fn pause(&mut self, actions: &mut Vec<HealthAction>) {
        match self.run {
            Run::Checking { .. } => actions.push(HealthAction::AbandonCheck),
            Run::Paused | Run::Waiting { .. } => {}
        }
        self.run = Run::Paused;
    }

    /// It was true of a connection that does not serve any more.
    fn forget_finding(&mut self) {
        (self.finding, self.connection, self.failures) = (Finding::Unknown, None, 0);
    }

    fn pass_deadline(&mut self, now: Moment, actions: &mut Vec<HealthAction>) {
        match self.run {
            Run::Waiting { due } if due <= now => {
                self.latest = CheckNumber(self.latest.0 + 1);
                self.run = Run::Checking { number: self.latest, started: now };
                actions.push(HealthAction::StartCheck(self.latest));
            }
            Run::Paused | Run::Waiting { .. } | Run::Checking { .. } => {}
        }
    }

    fn pass(&mut self, now: Moment, actions: &mut Vec<HealthAction>) {
        (self.failures, self.last_error) = (0, None);
        match self.finding {
            Finding::Passing { .. } => {}
            Finding::Unknown | Finding::Failing | Finding::Held { .. } => {
                self.finding = Finding::Passing { since: now };
                actions.push(HealthAction::ReportPassing);
            }
        }
    }

    fn fail(&mut self, error: CheckError, now: Moment, policy: &Policy, actions: &mut Vec<HealthAction>) {
        self.failures = self.failures.saturating_add(1);
        self.last_error = Some(error);
        if self.failures < self.policy.failures {
            return;
        }
        let before = self.finding;
        self.finding = Finding::Failing;
        match self.policy.remedy {
            Remedy::Mark => match before {
                Finding::Unknown | Finding::Passing { .. } => actions.push(HealthAction::ReportFailing),
                Finding::Failing | Finding::Held { .. } => {}
            },
            Remedy::Restart => {
                let wait = match before {
                    Finding::Held { until } => until.since(now),
                    Finding::Passing { since } if now.since(since) >= policy.reset_after => {
                        self.restarts = 0;
                        Duration::ZERO
                    }
                    Finding::Unknown | Finding::Passing { .. } | Finding::Failing => {
                        let failures = self.restarts.saturating_add(1);
                        backoff::delay(Retry::Prompt, failures, policy, self.seed).unwrap_or_default()
                    }
                };
                match (wait, before) {
                    (Duration::ZERO, _) => {
                        self.restarts = self.restarts.saturating_add(1);
                        actions.push(HealthAction::Restart);
                        // The count begins anew, also where the restart fails and the connection stays.
                        self.failures = 0;
                    }
                    (_, Finding::Held { .. }) => self.finding = before,
                    (wait, Finding::Unknown | Finding::Passing { .. } | Finding::Failing) => {
                        self.finding = Finding::Held { until: now.after(wait) };
                        actions.push(HealthAction::ReportHeld(wait));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
