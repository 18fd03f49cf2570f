//! How often the kernel is asked while a port is busy: as often as it stirs, as long as that costs little. Pure but for
//! reading a clock.
//!
//! A server with ten thousand connections a second on a port that is waited for sends as many events, and each asks for a
//! query. So queries are paid for with processor time that is saved up: a port that was quiet is asked about at once.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// Of how much time one part may be spent: a fiftieth is 2 % of one core.
const SHARE: u32 = 50;
/// What can be saved up: some fifty queries of the cheap kind.
const SAVINGS: Duration = Duration::from_millis(2);
/// The longest rest: after a query that took 5 ms or more, as with tens of thousands of sockets.
const LONGEST_REST: Duration = Duration::from_millis(250);

/// The account of one wait.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the account will be balanced, if nothing more is spent; it is overdrawn until then.
    balanced: Instant,
}

impl Pace {
    /// An account with savings.
    pub(super) fn new(now: Instant) -> Self {
        Self { balanced: now.checked_sub(SAVINGS * SHARE).unwrap_or(now) }
    }

    /// `cost` of processor time has been spent.
    pub(super) fn spend(&mut self, cost: Duration, now: Instant) {
        let saved = now.checked_sub(SAVINGS * SHARE).unwrap_or(now);
        let balanced = self.balanced.max(saved) + cost * SHARE;
        self.balanced = balanced.min(now + LONGEST_REST);
    }

    /// Until when to rest; `None` when the next query may be made at once.
    pub(super) fn rest(&self, now: Instant) -> Option<Instant> {
        (self.balanced > now).then_some(self.balanced)
    }
}

/// The processor time that `work` took on this thread, beside its result. How long others kept the processor does not count.
pub(super) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let before = processor_time();
    let result = work();
    (result, processor_time().saturating_sub(before))
}

fn processor_time() -> Duration {
    // It cannot fail for the clock of the calling thread.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: Duration = Duration::from_micros(40);

    /// Asks as often as the pace allows for `time`, each query being asked for at once, and returns how many there were.
    fn busy(pace: &mut Pace, start: Instant, time: Duration, cost: Duration) -> u32 {
        let (mut now, mut queries) = (start, 0);
        while now < start + time {
            pace.spend(cost, now);
            queries += 1;
            now = pace.rest(now).unwrap_or(now + cost);
        }
        queries
    }

    #[test]
    fn a_port_that_never_rests_costs_a_fiftieth_of_the_time() {
        let start = Instant::now();
        let queries = busy(&mut Pace::new(start), start, Duration::from_secs(10), QUERY);
        let most = (Duration::from_secs(10) / SHARE + SAVINGS).div_duration_f64(QUERY);
        assert!(f64::from(queries) < most + 1.0, "{queries} of {most}");
    }

    #[test]
    fn a_quiet_port_is_asked_about_at_once() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for query in 0..40 {
            let now = start + QUERY * query;
            assert_eq!(pace.rest(now), None, "query {query} of a burst");
            pace.spend(QUERY, now);
        }
        let storm = Duration::from_secs(10);
        busy(&mut pace, start, storm, QUERY);
        assert_eq!(pace.rest(start + storm + QUERY * SHARE), None, "one query's worth after a storm");
    }

    #[test]
    fn a_rest_is_bounded_whatever_a_query_costs() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.spend(Duration::from_secs(10), now);
        assert_eq!(pace.rest(now), Some(now + LONGEST_REST));
    }

    #[test]
    fn only_work_costs_processor_time() {
        let ((), cost) = timed(|| std::thread::sleep(Duration::from_millis(20)));
        assert!(cost < Duration::from_millis(10), "{cost:?}");
    }
}
