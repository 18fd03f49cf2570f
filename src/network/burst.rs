//! When a burst of changes is reported. Pure: the time is a parameter.
//!
//! One command, or one answer of a DHCP server, makes several messages within a millisecond: they are one change. And some
//! networks never rest (a container that is started again every second, a wireless link at its limit). Each report makes
//! every connection ask its server for a sign of life, so in the long run there is one a second.

use std::time::Duration;

use tokio::time::Instant;

/// A burst is over when it has been quiet for so long.
const QUIET: Duration = Duration::from_millis(10);

/// One that goes on is reported nevertheless after this.
const AT_MOST: Duration = Duration::from_millis(30);

/// In the long run there is one report in this time,
const EVERY: Duration = Duration::from_secs(1);

/// and after quiet so many may follow each other sooner: a network comes back step by step.
const AT_ONCE: u32 = 5;

/// The present burst, and what was reported before it.
#[derive(Debug, Default)]
pub(super) struct Burst {
    /// Of the burst that is not reported yet: its first change, and its latest.
    open: Option<(Instant, Instant)>,
    /// When all reports so far are [`EVERY`] apart, if they are spread evenly.
    balanced: Option<Instant>,
}

impl Burst {
    /// Something changed.
    pub(super) fn touch(&mut self, now: Instant) {
        let first = self.open.map_or(now, |(first, _)| first);
        self.open = Some((first, now));
    }

    /// When to report the burst, if nothing changes until then.
    pub(super) fn due(&self) -> Option<Instant> {
        let (first, last) = self.open?;
        let over = (last + QUIET).min(first + AT_MOST);
        // Just after the start of a machine there is no such moment.
        let allowed = self.balanced.and_then(|balanced| balanced.checked_sub(EVERY * (AT_ONCE - 1)));
        Some(allowed.map_or(over, |allowed| over.max(allowed)))
    }

    /// It is reported.
    pub(super) fn report(&mut self, now: Instant) {
        self.open = None;
        self.balanced = Some(self.balanced.map_or(now, |balanced| balanced.max(now)) + EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn every_change_prolongs_a_burst_up_to_its_most() {
        let start = Instant::now();
        let mut burst = Burst::default();
        assert_eq!(burst.due(), None);
        burst.touch(start);
        assert_eq!(burst.due(), Some(start + millis(10)));
        burst.touch(start + millis(8));
        assert_eq!(burst.due(), Some(start + millis(18)));
        burst.touch(start + millis(29));
        assert_eq!(burst.due(), Some(start + millis(30)));
        burst.report(start + millis(30));
        assert_eq!(burst.due(), None);
    }

    /// How many reports there are when the network changes every millisecond for `seconds`.
    fn storm(burst: &mut Burst, start: Instant, seconds: u64) -> u32 {
        let mut reports = 0;
        for now in (0..seconds * 1000).map(|after| start + millis(after)) {
            burst.touch(now);
            if burst.due().is_some_and(|due| due <= now) {
                burst.report(now);
                reports += 1;
            }
        }
        reports
    }

    #[test]
    fn a_network_that_never_rests_is_reported_once_a_second_and_one_that_rested_at_once() {
        let start = Instant::now();
        let mut burst = Burst::default();
        let reports = storm(&mut burst, start, 60);
        assert!((60..=60 + AT_ONCE).contains(&reports), "{reports} in 60 s");
        let end = start + Duration::from_secs(60);
        burst.report(end);
        let later = end + EVERY * (AT_ONCE + 1);
        for change in 0..u64::from(AT_ONCE) {
            let now = later + millis(100 * change);
            burst.touch(now);
            assert_eq!(burst.due(), Some(now + QUIET), "change {change}");
            burst.report(now + QUIET);
        }
    }
}
