//! What was published last.

use std::collections::BTreeMap;

use crate::core::StateName;

/// What was told last, as far as it is needed to tell what is new.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// How many tunnels are in each state.
    pub(super) counts: BTreeMap<StateName, usize>,
    /// What `STATUS=` said last.
    pub(super) summary: String,
}

impl Published {
    /// Counts a tunnel that goes from one state to another; `None`: it comes, or goes.
    pub(super) fn count(&mut self, from: Option<StateName>, to: Option<StateName>) {
        if let Some(count) = from.and_then(|state| self.counts.get_mut(&state)) {
            *count -= 1;
        }
        if let Some(state) = to {
            *self.counts.entry(state).or_default() += 1;
        }
    }
}
