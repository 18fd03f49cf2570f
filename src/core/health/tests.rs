use proptest::prelude::*;

use super::*;
use crate::core::properties::policy as tunnel_policy;
use crate::core::{CheckErrorKind, Kind, OnConflict};

const EVERY: Duration = Duration::from_secs(30);

fn policy() -> Policy {
    tunnel_policy(Kind::Ssh, OnConflict::Wait)
}

fn health(failures: u32, remedy: Remedy) -> Health {
    Health::new(HealthPolicy { every: EVERY, failures, remedy }, 7)
}

fn connection(number: u64) -> ConnectionId {
    (0..number).fold(ConnectionId::default(), |id, _| id.next())
}

fn error() -> CheckError {
    CheckError::new(CheckErrorKind::Closed, "closed")
}

/// A tunnel whose checks end as soon as they are begun; a restart gives it a new connection at once.
struct World {
    health: Health,
    now: Moment,
    connections: u64,
    restarts: Vec<Moment>,
    told: Vec<HealthAction>,
}

impl World {
    fn up(health: Health) -> Self {
        let mut world =
            Self { health, now: Moment::default(), connections: 1, restarts: Vec::new(), told: Vec::new() };
        world.hear(HealthEvent::Observed(StateName::Up, Some(connection(1))));
        world
    }

    fn hear(&mut self, event: HealthEvent) -> Option<CheckNumber> {
        let mut started = None;
        for action in self.health.hear(event, self.now, &policy()) {
            match action {
                HealthAction::StartCheck(number) => started = Some(number),
                HealthAction::Restart => {
                    self.restarts.push(self.now);
                    self.hear(HealthEvent::Observed(
                        StateName::Replacing,
                        Some(connection(self.connections)),
                    ));
                    self.connections += 1;
                    self.hear(HealthEvent::Observed(StateName::Up, Some(connection(self.connections))));
                }
                HealthAction::AbandonCheck
                | HealthAction::ReportPassing
                | HealthAction::ReportFailing
                | HealthAction::ReportHeld(_) => self.told.push(action),
            }
        }
        started
    }

    /// Waits for the next check, which ends so.
    fn check(&mut self, result: Result<(), CheckError>) {
        self.now = self.health.deadline().expect("a check is to come");
        let number = self.hear(HealthEvent::DeadlinePassed).expect("a check is due");
        assert_eq!(self.health.deadline(), None, "one at a time");
        self.hear(HealthEvent::Checked(number, result));
    }
}

#[test]
fn the_first_check_is_made_after_every_and_the_next_ones_at_that_pace() {
    let mut world = World::up(health(3, Remedy::Restart));
    assert_eq!(world.health.state(), HealthState::Unknown);
    for number in 1..4 {
        world.check(Ok(()));
        assert_eq!(world.now, Moment::from_origin(EVERY * number));
        assert_eq!(world.health.checked(), Some(world.now));
    }
    assert_eq!((world.health.state(), world.told), (HealthState::Passing, vec![HealthAction::ReportPassing]));
}

#[test]
fn the_pace_is_counted_from_the_start_of_a_check() {
    let mut world = World::up(health(3, Remedy::Restart));
    for (took, wait) in [(10, 20), (30, 0), (45, 0)] {
        world.now = world.health.deadline().unwrap();
        let number = world.hear(HealthEvent::DeadlinePassed).unwrap();
        world.now = world.now.after(Duration::from_secs(took));
        world.hear(HealthEvent::Checked(number, Ok(())));
        assert_eq!(world.health.deadline(), Some(world.now.after(Duration::from_secs(wait))), "{took}");
    }
}

#[test]
fn so_many_failures_in_a_row_restart_the_tunnel_and_the_count_begins_anew() {
    let mut world = World::up(health(3, Remedy::Restart));
    world.check(Ok(()));
    world.check(Err(error()));
    world.check(Err(error()));
    assert_eq!((world.health.state(), world.health.failures()), (HealthState::Passing, 2));
    world.check(Ok(()));
    world.check(Err(error()));
    world.check(Err(error()));
    assert_eq!((world.restarts.len(), world.health.last_error()), (0, Some(&error())));
    world.check(Err(error()));
    assert_eq!(world.restarts, [world.now], "the first restart is made at once");
    assert_eq!((world.health.state(), world.health.failures()), (HealthState::Unknown, 0));
    assert_eq!(world.health.last_error(), Some(&error()), "what was found last is still told");
    assert_eq!(world.health.deadline(), Some(world.now.after(EVERY)));
    world.check(Ok(()));
    assert_eq!((world.health.state(), world.health.last_error()), (HealthState::Passing, None));
}

#[test]
fn a_restart_that_fails_leaves_the_connection_failing_and_is_tried_again_after_a_wait() {
    let mut health = health(1, Remedy::Restart);
    let (mut now, up) = (Moment::default(), HealthEvent::Observed(StateName::Up, Some(connection(1))));
    health.hear(up.clone(), now, &policy());
    let mut fail = |health: &mut Health| {
        now = health.deadline().unwrap();
        let started = health.hear(HealthEvent::DeadlinePassed, now, &policy());
        let [HealthAction::StartCheck(number)] = started[..] else { panic!("{started:?}") };
        (now, health.hear(HealthEvent::Checked(number, Err(error())), now, &policy()))
    };
    let (restarted, actions) = fail(&mut health);
    assert_eq!(actions, [HealthAction::Restart]);
    health.hear(HealthEvent::Observed(StateName::Replacing, Some(connection(1))), restarted, &policy());
    assert_eq!((health.state(), health.deadline()), (HealthState::Failing, None));
    health.hear(up, restarted, &policy());
    assert_eq!((health.state(), health.failures()), (HealthState::Failing, 0));
    let (_, actions) = fail(&mut health);
    assert!(matches!(actions[..], [HealthAction::ReportHeld(wait)] if !wait.is_zero()), "{actions:?}");
    assert_eq!(fail(&mut health).1, [HealthAction::Restart]);
}

#[test]
fn restarts_that_do_not_help_back_off_until_the_tunnel_was_passing_for_long_enough() {
    let second = Duration::from_secs(1);
    let often = HealthPolicy { every: second, failures: 1, remedy: Remedy::Restart };
    let mut world = World::up(Health::new(often, 7));
    while world.restarts.len() < 20 {
        world.check(Err(error()));
    }
    let waits: Vec<_> = world.restarts.windows(2).map(|pair| pair[1].since(pair[0])).collect();
    assert!(waits[0] <= 3 * second, "{waits:?}");
    assert!(waits[15..].iter().all(|wait| *wait >= policy().max_delay / 2), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= policy().max_delay + 2 * second), "{waits:?}");

    // One check that passes does not mean that the restart has helped.
    world.check(Ok(()));
    world.check(Err(error()));
    assert_eq!(world.restarts.len(), 20);
    let last = world.health.state();
    assert_eq!(last, HealthState::Failing);
    while world.restarts.len() < 21 {
        world.check(Err(error()));
    }

    let passing_since = world.now;
    while world.now.since(passing_since) <= policy().reset_after + second {
        world.check(Ok(()));
    }
    world.check(Err(error()));
    assert_eq!(world.restarts.last(), Some(&world.now), "at once, as the first one");
}

#[test]
fn a_tunnel_that_is_only_marked_is_told_of_once_and_recovers() {
    let mut world = World::up(health(2, Remedy::Mark));
    for _ in 0..5 {
        world.check(Err(error()));
    }
    assert_eq!((world.health.state(), world.health.failures()), (HealthState::Failing, 5));
    world.check(Ok(()));
    assert_eq!((world.health.state(), world.health.failures()), (HealthState::Passing, 0));
    assert_eq!(world.told, [HealthAction::ReportFailing, HealthAction::ReportPassing]);
    assert!(world.restarts.is_empty());
}

#[test]
fn a_tunnel_that_is_not_up_is_not_checked_and_a_check_under_way_is_abandoned() {
    for state in [
        StateName::Stopped,
        StateName::AwaitingPort,
        StateName::Connecting,
        StateName::Forwarding,
        StateName::Replacing,
        StateName::Stopping,
        StateName::Backoff,
        StateName::Failed,
        StateName::NeedsAuth,
    ] {
        let mut world = World::up(health(1, Remedy::Restart));
        world.now = world.health.deadline().unwrap();
        let number = world.hear(HealthEvent::DeadlinePassed).unwrap();
        world.hear(HealthEvent::Observed(state, None));
        assert_eq!((world.health.deadline(), world.told.len()), (None, 1), "{state}");
        world.hear(HealthEvent::Checked(number, Err(error())));
        assert_eq!(world.health.checked(), None, "{state}: its result changes nothing");
        world.hear(HealthEvent::Observed(StateName::Up, Some(connection(2))));
        assert_eq!(world.health.deadline(), Some(world.now.after(EVERY)), "{state}");
    }
}

#[test]
fn what_is_checked_anew_is_unknown_and_takes_no_result_of_before() {
    let mut world = World::up(health(1, Remedy::Mark));
    world.check(Err(error()));
    world.now = world.health.deadline().unwrap();
    let number = world.hear(HealthEvent::DeadlinePassed).unwrap();
    let policy = HealthPolicy { every: EVERY, failures: 1, remedy: Remedy::Restart };
    assert_eq!(world.health.redefine(policy), [HealthAction::AbandonCheck]);
    world.hear(HealthEvent::Observed(StateName::Up, Some(connection(1))));
    world.now = world.health.deadline().unwrap();
    let next = world.hear(HealthEvent::DeadlinePassed).unwrap();
    assert!(next > number);
    world.hear(HealthEvent::Checked(number, Err(error())));
    assert_eq!((world.health.state(), world.restarts.len()), (HealthState::Unknown, 0));
}

fn remedies() -> impl Strategy<Value = Remedy> {
    prop_oneof![Just(Remedy::Restart), Just(Remedy::Mark)]
}

proptest! {
    #[test]
    fn only_so_many_failures_in_a_row_make_a_tunnel_failing_and_only_a_pass_makes_it_passing(
        results in prop::collection::vec(prop::bool::weighted(0.3), 1..200), failures in 1u32..5, remedy in remedies(),
    ) {
        let mut world = World::up(health(failures, remedy));
        let mut row = 0;
        for passes in results {
            let (restarts, before) = (world.restarts.len(), world.health.state());
            world.check(if passes { Ok(()) } else { Err(error()) });
            row = if passes { 0 } else { row + 1 };
            let is_restarted = world.restarts.len() > restarts;
            match world.health.state() {
                HealthState::Passing => prop_assert!(passes || before == HealthState::Passing && row < failures),
                HealthState::Failing => prop_assert!(row >= failures),
                HealthState::Unknown => prop_assert!(is_restarted || before == HealthState::Unknown),
            }
            if is_restarted {
                prop_assert!(row >= failures && remedy == Remedy::Restart);
                row = 0;
            }
        }
    }

    /// In any order, also of answers that are late.
    #[test]
    fn there_is_one_check_at_a_time_and_none_while_the_tunnel_is_not_up(
        steps in prop::collection::vec((0u8..6, 0u64..40), 1..300), remedy in remedies(),
    ) {
        let mut health = health(2, remedy);
        let (mut now, mut up, mut running, mut latest) = (Moment::default(), false, None, CheckNumber(0));
        for (step, seconds) in steps {
            now = now.after(Duration::from_secs(seconds));
            let event = match step {
                0 => HealthEvent::Observed(StateName::Up, Some(connection(seconds % 3 + 1))),
                1 => HealthEvent::Observed(StateName::Replacing, Some(connection(1))),
                2 => HealthEvent::Observed(StateName::Backoff, None),
                3 => HealthEvent::DeadlinePassed,
                4 => HealthEvent::Checked(latest, Ok(())),
                _ => HealthEvent::Checked(CheckNumber(latest.0.saturating_sub(1)), Err(error())),
            };
            if let HealthEvent::Observed(state, _) = event {
                up = state == StateName::Up;
            }
            if matches!(event, HealthEvent::Checked(number, _) if Some(number) == running) {
                running = None;
            }
            for action in health.hear(event, now, &policy()) {
                match action {
                    HealthAction::StartCheck(number) => {
                        prop_assert!(up && running.is_none() && number > latest);
                        (running, latest) = (Some(number), number);
                    }
                    HealthAction::AbandonCheck => prop_assert!(running.take().is_some()),
                    HealthAction::ReportPassing
                    | HealthAction::ReportFailing
                    | HealthAction::ReportHeld(_)
                    | HealthAction::Restart => {}
                }
            }
            prop_assert_eq!(health.deadline().is_some(), up && running.is_none());
        }
    }
}
