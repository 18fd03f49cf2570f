//! Counts the single connections through a tunnel that ssh says have failed, and reports them: the first at once, those that
//! follow together, so that a client that tries all the time floods neither the journal nor `/events`.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::reporter::{Failed, LinkReport, Reporter};
use crate::core::LinkId;
use crate::ssh::ConnectionError;

/// The wait after a report until the next one. It doubles with each report
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// up to this one, which is how old the numbers may be. Twice this time without a failure, and it starts anew.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The counter of one ssh.
#[derive(Debug, Default)]
pub(super) struct Tally {
    counted: Mutex<Option<(u64, Instant, ConnectionError)>>,
    added: Notify,
}

impl Tally {
    /// Counts one.
    pub(super) fn add(&self, error: ConnectionError) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let before = counted.as_ref().map_or(0, |(count, ..)| *count);
        *counted = Some((before + 1, Instant::now(), error));
        self.added.notify_one();
    }

    /// Reports for as long as it is polled. While nothing fails it has no timer.
    pub(super) async fn run(&self, reporter: &Reporter<LinkId>) -> Infallible {
        let mut wait = FIRST_WAIT;
        let mut last: Option<Instant> = None;
        loop {
            self.added.notified().await;
            if !self.report(reporter) {
                continue;
            }
            let goes_on = last.is_some_and(|last| last.elapsed() < LONGEST_WAIT * 2);
            wait = if goes_on { (wait * 2).min(LONGEST_WAIT) } else { FIRST_WAIT };
            last = Some(Instant::now());
            sleep(wait).await;
        }
    }

    /// Reports what is counted; whether there was anything.
    pub(super) fn report(&self, reporter: &Reporter<LinkId>) -> bool {
        let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((count, at, error)) = counted else { return false };
        reporter.send(LinkReport::ConnectionsFailed(Failed { count, at, error }));
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::super::reporter::{Identity, Report};
    use super::super::shares::Shares;
    use super::*;
    use crate::core::Slot;

    /// Ten a second for an hour.
    const CLIENTS: u64 = 3600 * 10;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_tries_for_an_hour_is_reported_at_once_and_then_once_a_minute() {
        let (reports, mut told) = mpsc::unbounded_channel();
        let identity = Identity { name: "t".to_owned(), hash: String::new(), port: 1 };
        let reporter = Reporter::new(LinkId(Slot(1)), identity, reports, Shares::default());
        let tally = Tally::default();
        let line = "channel 2: open failed: connect failed: Connection refused";
        let clients = async {
            for _ in 0..CLIENTS {
                tally.add(ConnectionError::of_line(line).unwrap());
                sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            () = clients => {}
            never = tally.run(&reporter) => match never {},
        }
        tally.report(&reporter);
        let mut counts = Vec::new();
        while let Ok(Report::Link(_, LinkReport::ConnectionsFailed(failed))) = told.try_recv() {
            counts.push(failed.count);
        }
        assert_eq!(counts[0], 1);
        assert_eq!(counts.iter().sum::<u64>(), CLIENTS, "none is lost");
        assert!(counts.len() < 70, "{}", counts.len());
    }
}
