//! A list that only grows, and that can be waited on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// No wait of a test takes longer. It is far beyond what anything takes, so that a loaded machine fails no test.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for something that is bound to happen; panics when it has not within [`DEADLINE`].
pub async fn within_deadline<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

/// A list that only grows, shared by who fills it and who waits for something in it.
#[derive(Debug)]
pub struct Record<T> {
    items: Arc<Mutex<Vec<T>>>,
    grown: watch::Sender<()>,
}

impl<T> Clone for Record<T> {
    fn clone(&self) -> Self {
        Self { items: Arc::clone(&self.items), grown: self.grown.clone() }
    }
}

impl<T> Default for Record<T> {
    fn default() -> Self {
        Self { items: Arc::default(), grown: watch::Sender::new(()) }
    }
}

impl<T: Clone> Record<T> {
    /// Appends an item and wakes who waits.
    pub fn push(&self, item: T) {
        self.lock().push(item);
        self.grown.send_replace(());
    }

    /// How many there are now: with [`Record::since`] and [`Record::find`], "from now on".
    pub fn mark(&self) -> usize {
        self.lock().len()
    }

    /// All of them.
    pub fn all(&self) -> Vec<T> {
        self.since(0)
    }

    /// Those that came after `mark`, which may lie in the future.
    pub fn since(&self, mark: usize) -> Vec<T> {
        self.lock().get(mark..).unwrap_or_default().to_vec()
    }

    /// Where the last item is for which `wanted` holds.
    pub fn last_position(&self, wanted: impl FnMut(&T) -> bool) -> Option<usize> {
        self.lock().iter().rposition(wanted)
    }

    /// Waits for the first item at or after `mark` for which `wanted` holds; `None` when [`DEADLINE`] is over.
    pub async fn find(&self, mark: usize, mut wanted: impl FnMut(&T) -> bool) -> Option<T> {
        let mut grown = self.grown.subscribe();
        let mut next = mark;
        let search = async {
            loop {
                for item in self.since(next) {
                    if wanted(&item) {
                        return Some(item);
                    }
                    next += 1;
                }
                grown.changed().await.ok()?;
            }
        };
        tokio::time::timeout(DEADLINE, search).await.ok().flatten()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<T>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
