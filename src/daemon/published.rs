//! The state that was published last.

use std::collections::BTreeMap;

use crate::core::StateName;

/// The part of what was published last that is needed to find changes.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// How many tunnels are in each state.
    pub(super) counts: BTreeMap<StateName, usize>,
    /// The last `STATUS=`.
    pub(super) summary: String,
}

impl Published {
    /// Counts a tunnel that changes its state; `None`: it is added, or removed.
    pub(super) fn count(&mut self, from: Option<StateName>, to: Option<StateName>) {
        if let Some(count) = from.and_then(|state| self.counts.get_mut(&state)) {
            *count -= 1;
        }
        if let Some(state) = to {
            *self.counts.entry(state).or_default() += 1;
        }
    }
}
