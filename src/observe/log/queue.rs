//! The bounded queue between the threads that log and the thread that writes.
//!
//! It is bounded in bytes. portward's own lines have capacity of their own, which the output of tunnels cannot use up. The rest
//! is shared by the tunnels whose processes write something.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::record::{About, Record};

/// Records of this process for which there was no room.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// How many log lines of this process were dropped, because nobody had read the earlier ones.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// How many bytes may wait for the writer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// portward's own lines.
    pub(super) own: usize,
    /// Output of the process of one tunnel.
    pub(super) tunnel: usize,
    /// Output of the processes of all tunnels; each tunnel has an equal share.
    pub(super) tunnels: usize,
}

/// Holds records for the writer. Adding one never waits for the writer.
#[derive(Debug)]
pub(super) struct Queue {
    room: Room,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Batch,
    /// Bytes of portward's own lines in `waiting`.
    own: usize,
    /// Bytes of output in `waiting`, by the tunnel's hash.
    output: HashMap<String, usize>,
    closed: bool,
}

/// What the writer takes at once.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// In the order in which they were logged.
    pub(super) records: Vec<Record>,
    /// Number of later records for which there was no room, by the tunnel that they were about.
    pub(super) dropped: BTreeMap<About, u64>,
}

impl Queue {
    pub(super) fn new(room: Room) -> Self {
        Self { room, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Adds `record`, or counts it as dropped if there is no room.
    pub(super) fn push(&self, record: Record) {
        let mut state = self.lock();
        if state.takes(self.room, &record) {
            state.waiting.records.push(record);
            self.changed.notify_one();
        } else {
            *state.waiting.dropped.entry(record.about()).or_default() += 1;
            DROPPED.fetch_add(1, Ordering::Relaxed);
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

    /// Lets the writer end once the queue is empty.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code below this lock panics in the middle of a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Reserves room for `record`; `false` if there is none.
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
        // One line always has room, so that nothing is dropped unless a line before it is waiting as well.
        let has_room = *taken == 0 || *taken + size <= room;
        if has_room {
            *taken += size;
        }
        has_room
    }
}
