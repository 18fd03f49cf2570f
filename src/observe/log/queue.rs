//! The bounded queue between those who log and the thread that writes.
//!
//! It is bounded in bytes. portward's own lines have their own room, which nothing that a tunnel's process says can take; the
//! rest is shared by the tunnels whose processes say something.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::record::{About, Record};

/// How much may wait for the writer, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// portward's own lines.
    pub(super) own: usize,
    /// What the process of a tunnel says.
    pub(super) tunnel: usize,
    /// What the processes of all tunnels say: with many of them, each has less.
    pub(super) tunnels: usize,
}

/// Holds records for the writer. Who puts one in never waits for the writer.
#[derive(Debug)]
pub(super) struct Queue {
    room: Room,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Batch,
    /// Bytes of the own lines among them.
    own: usize,
    /// Bytes of the output among them, by the tunnel's hash.
    output: HashMap<String, usize>,
    closed: bool,
}

/// What the writer takes in one go.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// In the order in which they were logged.
    pub(super) records: Vec<Record>,
    /// How many came after these and found no room, by the tunnel that they were about.
    pub(super) dropped: BTreeMap<About, u64>,
}

impl Queue {
    pub(super) fn new(room: Room) -> Self {
        Self { room, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Puts `record` in, or counts it as dropped if there is no room.
    pub(super) fn push(&self, record: Record) {
        let mut state = self.lock();
        if state.takes(self.room, &record) {
            state.waiting.records.push(record);
            self.changed.notify_one();
        } else {
            *state.waiting.dropped.entry(record.about()).or_default() += 1;
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
        state.own = 0;
        state.output.clear();
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

impl State {
    /// Whether there is room for `record`; then it is taken.
    fn takes(&mut self, room: Room, record: &Record) -> bool {
        let (taken, room) = match record.output_of() {
            None => (&mut self.own, room.own),
            Some(hash) => {
                if !self.output.contains_key(hash) {
                    self.output.insert(hash.to_owned(), 0);
                }
                let share = room.tunnel.min(room.tunnels / self.output.len());
                let Some(taken) = self.output.get_mut(hash) else { return false };
                (taken, share)
            }
        };
        let size = record.size();
        // One line has always room: then nothing is dropped without a line before it that waits as well.
        let has_room = *taken == 0 || *taken + size <= room;
        if has_room {
            *taken += size;
        }
        has_room
    }
}
