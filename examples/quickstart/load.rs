//! A client that fetches the page all the while, each time over a new connection, and counts.

use std::fmt;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval, timeout};

use crate::origin;
use crate::report::Milliseconds;
use crate::steps::PATIENCE;
use crate::{Result, steps};

/// Time between two requests, at the least.
const PACE: Duration = Duration::from_millis(1);

/// The running client.
pub(crate) struct Load {
    enough: oneshot::Sender<()>,
    fetching: JoinHandle<Tally>,
}

/// What the client saw.
pub(crate) struct Tally {
    /// Requests answered with the page.
    pub(crate) fetched: u32,
    /// Requests that were refused, cut off or not answered in time.
    pub(crate) failed: u32,
    /// The longest time from one page to the next.
    pub(crate) longest_gap: Duration,
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fetched, failed, longest_gap } = self;
        write!(
            formatter,
            "requests: {fetched} answered, {failed} failed; longest gap {}",
            Milliseconds(*longest_gap)
        )
    }
}

impl Load {
    /// Starts fetching through the tunnel that listens on `port`.
    pub(crate) fn start(port: u16) -> Self {
        let (enough, asked_to_end) = oneshot::channel();
        Self { enough, fetching: tokio::spawn(fetch_until(asked_to_end, port)) }
    }

    /// Ends with the next page that comes, so that a gap which is still open is measured whole.
    pub(crate) async fn finish(self) -> Result<Tally> {
        // Fails only if the client is gone, and then the line below says why.
        let _ = self.enough.send(());
        steps::within(PATIENCE, "another page", async { Ok(self.fetching.await?) }).await
    }
}

async fn fetch_until(mut asked_to_end: oneshot::Receiver<()>, port: u16) -> Tally {
    let mut tally = Tally { fetched: 0, failed: 0, longest_gap: Duration::ZERO };
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_page = Instant::now();
    loop {
        pace.tick().await;
        if !matches!(timeout(PATIENCE, origin::fetch_through(port)).await, Ok(Ok(()))) {
            tally.failed += 1;
            continue;
        }
        tally.fetched += 1;
        tally.longest_gap = tally.longest_gap.max(last_page.elapsed());
        last_page = Instant::now();
        if asked_to_end.try_recv() != Err(oneshot::error::TryRecvError::Empty) {
            return tally;
        }
    }
}
