//! Whether there are clients at all: the first and the last one are told, where somebody wants to know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::figures::News;

/// The clients of a tunnel that are connected or wait, without those of health checks. Used by the thread of the relay alone.
pub(super) struct Presence {
    count: AtomicUsize,
    is_told: AtomicBool,
    news: Arc<dyn Fn(News) + Send + Sync>,
}

/// One client, for as long as this lives.
pub(super) struct Present(Arc<Presence>);

impl Presence {
    /// Nobody is there yet. Whether the first and the last client are told.
    pub(super) fn new(is_told: bool, news: Arc<dyn Fn(News) + Send + Sync>) -> Arc<Self> {
        Arc::new(Self { count: AtomicUsize::new(0), is_told: AtomicBool::new(is_told), news })
    }

    /// Whether the first and the last client are told from now on. If they were not, it is told first what holds now: what was
    /// told before may not hold any more.
    pub(super) fn tell(&self, is_told: bool) {
        if !self.is_told.swap(is_told, Ordering::Relaxed) {
            self.report(if self.is_nobody() { News::LastLeft } else { News::FirstCame });
        }
    }

    /// Whether there is no client.
    pub(super) fn is_nobody(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// One more client.
    pub(super) fn add(self: &Arc<Self>) -> Present {
        if self.count.fetch_add(1, Ordering::Relaxed) == 0 {
            self.report(News::FirstCame);
        }
        Present(self.clone())
    }

    fn report(&self, news: News) {
        if self.is_told.load(Ordering::Relaxed) {
            (self.news)(news);
        }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let Self(presence) = self;
        if presence.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            presence.report(News::LastLeft);
        }
    }
}

impl std::fmt::Debug for Present {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Present")
    }
}
