//! The deadlines that are armed: the next one, and those that have passed, without looking at the others.

use std::collections::{BTreeSet, HashMap};

use crate::clock::Moment;
use crate::core::{LinkId, Slot};

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
}

impl Timers {
    /// Arms `timer`; a later call replaces the deadline.
    pub(super) fn arm(&mut self, timer: Timer, due: Moment) {
        self.disarm(timer);
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
    use std::time::Duration;

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
}
