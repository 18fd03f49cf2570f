//! The bounded queue between those who log and the thread that writes.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::record::Record;

/// Holds records for the writer. Who puts one in never waits for the writer.
#[derive(Debug)]
pub(super) struct Queue {
    capacity: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Batch,
    closed: bool,
}

/// What the writer takes in one go.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// In the order in which they were logged.
    pub(super) records: Vec<Record>,
    /// How many came after these and found the queue full.
    pub(super) dropped: u64,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Puts `record` in, or counts it as dropped if there is no room.
    pub(super) fn push(&self, record: Record) {
        let mut state = self.lock();
        if state.waiting.records.len() < self.capacity {
            state.waiting.records.push(record);
            self.changed.notify_one();
        } else {
            state.waiting.dropped += 1;
        }
    }

    /// Waits for records and takes all there are; `None` once the queue is closed and empty.
    pub(super) fn take(&self) -> Option<Batch> {
        let state = self.lock();
        let mut state = self
            .changed
            .wait_while(state, |state| state.waiting.records.is_empty() && !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        let batch = std::mem::take(&mut state.waiting);
        (!batch.records.is_empty()).then_some(batch)
    }

    /// Lets the writer end once it has taken what is in here.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
