//! The end of `tracing` that the whole process logs to.

use std::sync::Arc;

use jiff::Timestamp;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::queue::Queue;
use super::record::{Escaped, Record};
use crate::observe::recent::RecentLogs;

/// Takes each event over as a [`Record`]; never waits.
#[derive(Debug)]
pub(super) struct Collector {
    queue: Arc<Queue>,
    recent: Arc<RecentLogs>,
}

impl Collector {
    pub(super) fn new(queue: Arc<Queue>, recent: Arc<RecentLogs>) -> Self {
        Self { queue, recent }
    }
}

impl<S: Subscriber> Layer<S> for Collector {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let record = Record::of(event, Timestamp::now());
        if let Some(hash) = record.text("tunnel_hash") {
            let text = format!("{:.3} {} {}", record.at, record.level(), Escaped(record.message()));
            self.recent.push(hash, record.at, text);
        }
        self.queue.push(record);
    }
}
