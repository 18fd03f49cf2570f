//! Properties of `on_conflict: kill` against holders that come back.

use std::time::Duration;

use proptest::prelude::*;

use super::super::forward::{Context, Eviction, Forward, Input, Outcome, State};
use super::super::*;
use super::{occupant, policy};
use crate::clock::Moment;
use crate::port::Occupant;

/// A forward that waits for its port, and the time.
struct Waiting {
    forward: Forward,
    requests: Request,
    now: Moment,
}

impl Waiting {
    fn new(policy: Policy) -> Self {
        let now = Moment::from_origin(Duration::from_secs(1));
        let mut waiting = Self { forward: Forward::new(Slot(1), policy), requests: Request::default(), now };
        waiting.step(Input::Confirm(None));
        waiting
    }

    fn step(&mut self, input: Input) -> (Outcome, Vec<Action>) {
        let mut actions = Vec::new();
        let mut context = Context { now: self.now, requests: &mut self.requests, actions: &mut actions };
        let outcome = self.forward.step(input, &mut context);
        (outcome, actions)
    }

    fn hear(&mut self, event: ForwardEvent) -> (Outcome, Vec<Action>) {
        let request = self.forward.request().unwrap();
        self.step(Input::Event(request, event))
    }

    fn held_by(&mut self, pid: u32) -> (Outcome, Vec<Action>) {
        self.hear(ForwardEvent::PortHeld(vec![occupant(Some(pid))]))
    }

    /// The holder leaves, and the port is wanted once more.
    fn unbound(&mut self) {
        self.hear(ForwardEvent::PortUnbound);
        self.step(Input::Confirm(None));
    }

    /// Passes the deadline; whether holders were told to end.
    fn passes(&mut self) -> bool {
        self.now = self.forward.deadline().unwrap();
        let (outcome, actions) = self.step(Input::DeadlinePassed);
        assert_eq!(outcome, Outcome::Nothing);
        is_eviction(&actions)
    }
}

fn is_eviction(actions: &[Action]) -> bool {
    matches!(actions, [Action::TerminateHolders(..)])
}

fn kill(min_ms: u64, more_ms: u64) -> Policy {
    let min_delay = Duration::from_millis(min_ms);
    let max_delay = min_delay + Duration::from_millis(more_ms);
    Policy {
        min_delay,
        max_delay,
        reset_after: Duration::from_secs(60),
        ..policy(Kind::Ssh, OnConflict::Kill)
    }
}

proptest! {
    #[test]
    fn a_program_that_comes_back_is_ended_after_waits_that_double_and_each_return_is_told(
        min in 100u64..2_000, more in 0u64..60_000, gaps in prop::collection::vec(0u64..60_000, 1..12),
    ) {
        let policy = kill(min, more);
        let mut waiting = Waiting::new(policy);
        prop_assert!(is_eviction(&waiting.held_by(1).1), "the first one is ended at once");
        for (pid, (returns, gap)) in (2u32..).zip((1u32..).zip(gaps)) {
            waiting.unbound();
            waiting.now = waiting.now.after(Duration::from_millis(gap));
            let before = waiting.now;
            let (outcome, actions) = waiting.held_by(pid);
            prop_assert_eq!(actions, []);
            let Outcome::HoldersStay(failure) = outcome else { panic!("{outcome:?}") };
            let times = if returns == 1 { "once".to_owned() } else { format!("{returns} times") };
            prop_assert!(failure.message.contains(&format!("has come back {times} ")), "{}", failure);
            // Its supervisor has started it again meanwhile, which changes nothing.
            let (again, actions) = waiting.held_by(pid + 1000);
            prop_assert_eq!((again, actions), (Outcome::Nothing, vec![]));
            prop_assert!(waiting.passes());
            let whole = policy.min_delay.saturating_mul(1 << (returns - 1)).min(policy.max_delay);
            let waited = waiting.now.since(before);
            prop_assert!(waited >= whole / 2 && waited <= whole, "{:?} of {:?}", waited, whole);
        }
    }

    #[test]
    fn another_program_or_one_that_comes_back_late_is_ended_at_once(late in 60_000u64..600_000, other: bool) {
        let mut waiting = Waiting::new(kill(250, 60_000));
        waiting.held_by(1);
        waiting.unbound();
        let mut holders = vec![occupant(Some(2))];
        if other {
            holders[0].holder.as_mut().unwrap().command = Some("nginx".to_owned());
        } else {
            waiting.now = waiting.now.after(Duration::from_millis(late));
        }
        prop_assert!(is_eviction(&waiting.hear(ForwardEvent::PortHeld(holders)).1));
    }
}

#[test]
fn what_is_left_of_several_holders_has_not_come_back() {
    let mut waiting = Waiting::new(kill(250, 60_000));
    let both: Vec<Occupant> = [1, 2].map(|pid| occupant(Some(pid))).into();
    assert!(is_eviction(&waiting.hear(ForwardEvent::PortHeld(both)).1));
    assert!(is_eviction(&waiting.held_by(2).1));
    assert!(matches!(
        waiting.forward.state,
        State::AwaitingPort { eviction: Eviction::Terminated { .. }, .. }
    ));
    // It opens the port again itself.
    waiting.unbound();
    assert!(matches!(waiting.held_by(2).0, Outcome::HoldersStay(_)));
}

#[test]
fn a_policy_of_wait_and_a_start_forget_who_came_back() {
    let mut waiting = Waiting::new(kill(250, 60_000));
    let comes_back = |waiting: &mut Waiting| {
        waiting.held_by(1);
        waiting.unbound();
        waiting.held_by(2);
        assert!(waiting.forward.deadline().is_some());
    };
    comes_back(&mut waiting);
    waiting.forward.policy.on_conflict = OnConflict::Wait;
    assert_eq!(waiting.step(Input::PolicyChanged), (Outcome::EvictionEnded, vec![]));
    assert_eq!(waiting.forward.deadline(), None);
    waiting.forward.policy.on_conflict = OnConflict::Kill;
    assert!(is_eviction(&waiting.step(Input::PolicyChanged).1));
    waiting.unbound();
    comes_back(&mut waiting);
    waiting.step(Input::Release);
    waiting.forward.forget_failures();
    waiting.step(Input::Confirm(None));
    assert!(is_eviction(&waiting.held_by(3).1));
}
