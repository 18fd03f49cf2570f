//! The `tracing` layer that receives the events of the whole process.

use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::queue::Queue;
use super::record::Record;
use crate::observe::recent::{RecentLogs, Speaker};
use crate::text;

/// Longest message that is kept for a tunnel's recent lines, in bytes.
const LONGEST_KEPT: usize = 4096;

/// Turns each event into a [`Record`]. Never blocks.
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
            let message = text::excerpt(record.message(), LONGEST_KEPT);
            let at = record.at.to_zoned(TimeZone::system()).strftime("%F %T").to_string();
            let text = format!("[{at}] [{}] {message}", record.level);
            let speaker = if record.output_of().is_some() { Speaker::Process } else { Speaker::Portward };
            self.recent.push(hash, record.at, speaker, text);
        }
        self.queue.push(record);
    }
}
