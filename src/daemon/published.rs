//! The state that was published last.

use std::collections::BTreeMap;

use crate::core::StateName;
use crate::protocol::TunnelStatus;

/// The part of what was published last that is needed to find changes.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// How many tunnels are in each state.
    pub(super) counts: BTreeMap<StateName, usize>,
    /// How many fail their health checks.
    pub(super) failing: usize,
    /// The last `STATUS=`.
    pub(super) summary: String,
}

impl Published {
    /// Counts a tunnel whose status changes; `None`: it is added, or removed.
    pub(super) fn count(&mut self, from: Option<&TunnelStatus>, to: Option<&TunnelStatus>) {
        if let Some(count) = from.and_then(|status| self.counts.get_mut(&status.state)) {
            *count -= 1;
        }
        if let Some(status) = to {
            *self.counts.entry(status.state).or_default() += 1;
        }
        let failing =
            |status: Option<&TunnelStatus>| usize::from(status.is_some_and(TunnelStatus::is_failing));
        self.failing = self.failing + failing(to) - failing(from);
    }
}
