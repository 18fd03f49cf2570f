//! The deadlines that are armed: the next one, and those that have passed, without looking at the others.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::clock::Moment;
use crate::core::{LinkId, Slot};

/// A deadline that is noticed so late passed while portward did not run: it was stopped by a signal, or the machine had no time
/// for it.
const OVERSLEPT: Duration = Duration::from_secs(1);

/// How long those deadlines are postponed, so that what was said meanwhile is heard first: as long as a server may take to answer
/// a probe.
const GRACE: Duration = Duration::from_secs(3);

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Timer {
    /// The next deadline of a link: `DeadlinePassed`.
    Link(LinkId),
    /// A health check of a tunnel is due: `HealthEvent::DeadlinePassed`.
    Health(Slot),
    /// A request about a tunnel, by its number: it is answered.
    Request(Slot, u64),
}

/// The armed deadlines. A timer has at most one.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: HashMap<Timer, Moment>,
    queue: BTreeSet<(Moment, Timer)>,
    postponed: Option<Postponed>,
}

/// All deadlines that had passed at one moment are due at a later one.
#[derive(Debug, Clone, Copy)]
struct Postponed {
    passed: Moment,
    until: Moment,
}

impl Timers {
    /// Arms `timer`; a later call replaces the deadline.
    pub(super) fn arm(&mut self, timer: Timer, due: Moment) {
        self.disarm(timer);
        let postponed = self.postponed.filter(|postponed| due <= postponed.passed);
        let due = postponed.map_or(due, |postponed| postponed.until);
        self.due.insert(timer, due);
        self.queue.insert((due, timer));
    }

    /// Forgets the deadline of `timer`, if it has one.
    pub(super) fn disarm(&mut self, timer: Timer) {
        if let Some(due) = self.due.remove(&timer) {
            self.queue.remove(&(due, timer));
        }
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Moment> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// Postpones the deadlines that passed while portward did not run, as the first one of them shows, and tells how late that is.
    /// Each is postponed once: a machine that never has time does not keep them from passing.
    pub(super) fn postpone_overslept(&mut self, now: Moment) -> Option<Duration> {
        let due = self.next()?;
        let late = now.since(due);
        if late < OVERSLEPT || self.postponed.is_some_and(|postponed| postponed.until == due) {
            return None;
        }
        self.postponed = Some(Postponed { passed: now, until: now.after(GRACE) });
        while let Some(timer) = self.take_passed(now) {
            self.arm(timer, now);
        }
        Some(late)
    }

    /// Takes the timer whose deadline passed first, if one has passed by `now`.
    pub(super) fn take_passed(&mut self, now: Moment) -> Option<Timer> {
        let (due, timer) = self.queue.first().copied()?;
        if due > now {
            return None;
        }
        self.disarm(timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(seconds: u64) -> Moment {
        Moment::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn timers_pass_in_the_order_of_their_deadlines_and_once() {
        let (first, second) = (Timer::Request(Slot(1), 1), Timer::Request(Slot(1), 2));
        let mut timers = Timers::default();
        timers.arm(second, moment(2));
        timers.arm(first, moment(1));
        assert_eq!(timers.next(), Some(moment(1)));
        assert_eq!(timers.take_passed(moment(0)), None);
        assert_eq!(
            [timers.take_passed(moment(2)), timers.take_passed(moment(2))],
            [Some(first), Some(second)]
        );
        assert_eq!((timers.take_passed(moment(2)), timers.next()), (None, None));
    }

    #[test]
    fn arming_again_replaces_the_deadline_and_disarming_forgets_it() {
        let timer = Timer::Link(LinkId(Slot(1)));
        let mut timers = Timers::default();
        timers.arm(timer, moment(1));
        timers.arm(timer, moment(3));
        assert_eq!((timers.take_passed(moment(2)), timers.next()), (None, Some(moment(3))));
        timers.disarm(timer);
        assert_eq!(timers.next(), None);
    }
    #[test]
    fn what_passed_while_portward_did_not_run_is_postponed_once_and_nothing_else_is() {
        let [late, next, new] = [1, 2, 3].map(|request| Timer::Request(Slot(1), request));
        let mut timers = Timers::default();
        timers.arm(late, moment(10));
        timers.arm(next, moment(71));
        assert_eq!(timers.postpone_overslept(moment(10)), None);
        assert_eq!(timers.postpone_overslept(moment(70)), Some(Duration::from_secs(60)));
        // A link that hears of something tells its deadline again.
        timers.arm(late, moment(10));
        timers.arm(new, moment(72));
        for (timer, due) in [(next, 71), (new, 72), (late, 73)] {
            assert_eq!((timers.next(), timers.postpone_overslept(moment(due))), (Some(moment(due)), None));
            assert_eq!(timers.take_passed(moment(due)), Some(timer));
        }
        timers.arm(late, moment(10));
        assert_eq!(
            (timers.postpone_overslept(moment(80)), timers.take_passed(moment(80))),
            (None, Some(late))
        );
    }
}
