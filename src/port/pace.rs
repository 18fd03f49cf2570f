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
/// So many times in a row may be asked at once after a while of quiet, whatever one time costs: a query takes 20 microseconds
/// where somebody listens, and milliseconds where all sockets must be looked at.
const BURST: u32 = 8;

/// An account of processor time.
#[derive(Debug)]
pub(super) struct Pace {
    terms: Terms,
    /// When the account will be balanced, if nothing more is spent; it is overdrawn until then. `None` before the first time.
    balanced: Option<Instant>,
    /// The most that was spent at a time.
    dearest: Duration,
}

/// How an account is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// What can be saved up at least; else it is [`BURST`] times what is spent.
    pub(super) savings: Duration,
    /// The longest rest, whatever was spent.
    pub(super) longest_rest: Duration,
}

impl Terms {
    /// For queries: some fifty of the cheap kind can be saved up. The longest rest follows one of 5 ms or more, as with tens
    /// of thousands of sockets.
    pub(super) const QUERIES: Self =
        Self { savings: Duration::from_millis(2), longest_rest: Duration::from_millis(250) };
    /// For reading /proc, which takes some 10 ms: ten times can be saved up.
    pub(super) const PROCESSES: Self =
        Self { savings: Duration::from_millis(100), longest_rest: Duration::from_secs(1) };
}

impl Pace {
    /// An account with all that can be saved up.
    pub(super) fn new(terms: Terms) -> Self {
        Self { terms, balanced: None, dearest: Duration::ZERO }
    }

    /// `cost` of processor time has been spent.
    pub(super) fn spend(&mut self, cost: Duration, now: Instant) {
        self.dearest = self.dearest.max(cost);
        let savings = self.terms.savings.max(self.dearest * BURST);
        // In the first seconds of a machine nothing can have been saved up.
        let saved_up = now.checked_sub(savings * SHARE).unwrap_or(now);
        let balanced = self.balanced.map_or(saved_up, |balanced| balanced.max(saved_up)) + cost * SHARE;
        self.balanced = Some(balanced.min(now + self.terms.longest_rest));
    }

    /// Until when to rest; `None` when the next query may be made at once.
    pub(super) fn rest(&self, now: Instant) -> Option<Instant> {
        self.balanced.filter(|balanced| *balanced > now)
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
        let queries = busy(&mut Pace::new(Terms::QUERIES), start, Duration::from_secs(10), QUERY);
        let most = (Duration::from_secs(10) / SHARE + Terms::QUERIES.savings).div_duration_f64(QUERY);
        assert!(f64::from(queries) < most + 1.0, "{queries} of {most}");
    }

    #[test]
    fn a_quiet_port_is_asked_about_at_once() {
        let start = Instant::now();
        let mut pace = Pace::new(Terms::QUERIES);
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
    fn queries_that_cost_much_are_made_at_once_as_well_after_quiet() {
        let mut now = Instant::now();
        let dear = Duration::from_millis(10);
        let mut pace = Pace::new(Terms::QUERIES);
        for after in [Duration::ZERO, dear * BURST * SHARE] {
            now += after;
            for query in 0..BURST {
                assert_eq!(pace.rest(now), None, "query {query} of a burst");
                pace.spend(dear, now);
                pace.spend(Duration::from_micros(5), now);
            }
            assert!(pace.rest(now).is_some());
            now += Terms::QUERIES.longest_rest;
        }
    }

    #[test]
    fn a_rest_is_bounded_whatever_a_query_costs() {
        let now = Instant::now();
        let mut pace = Pace::new(Terms::QUERIES);
        for _ in 0..2 * BURST {
            pace.spend(Duration::from_secs(10), now);
        }
        assert_eq!(pace.rest(now), Some(now + Terms::QUERIES.longest_rest));
    }

    #[test]
    fn only_work_costs_processor_time() {
        let ((), cost) = timed(|| std::thread::sleep(Duration::from_millis(20)));
        assert!(cost < Duration::from_millis(10), "{cost:?}");
    }
}
