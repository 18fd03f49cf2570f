//! Properties of [`step`], checked against a small world.

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use proptest::prelude::*;

use self::world::{World, all_events, conflicts, happenings, occupant, policy, stranger};
use super::state::State;
use super::*;
use crate::clock::Moment;
use crate::port::{Holder, Occupant, OccupantKind, Protocol};

fn any_policy() -> impl Strategy<Value = Policy> {
    (prop::sample::select(vec![Kind::Ssh, Kind::Command]), conflicts())
        .prop_map(|(kind, on_conflict)| policy(kind, on_conflict))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn from_any_state_with_all_faults_ended_the_tunnel_comes_up_and_can_be_stopped(
        policy in any_policy(), happenings in happenings(),
    ) {
        let mut world = World::new(policy);
        for happening in happenings {
            world.happen(happening);
        }
        world.hear(Event::StartRequested);
        world.settle(|world| world.tunnel.name() == StateName::Up && world.tunnel.suspended.is_empty());
        let owners = world.processes.values().filter(|process| process.listening).count();
        prop_assert_eq!(owners, 1, "up without its one listener: {:#?}", world);
        prop_assert_eq!(world.processes.len(), 1, "up with a spare process: {:#?}", world);
        prop_assert!(world.deadlines.is_empty(), "up with a deadline: {:#?}", world);

        world.hear(Event::StopRequested);
        world.settle(|world| world.tunnel.name() == StateName::Stopped);
    }

    #[test]
    fn a_process_that_is_stopped_for_good_is_replaced_and_one_that_goes_on_is_kept(
        policy in any_policy(), goes_on: bool, index: prop::sample::Index,
    ) {
        let mut world = World::new(policy);
        world.hear(Event::StartRequested);
        world.settle(|world| world.tunnel.name() == StateName::Up);
        let before = world.tunnel.listening();
        world.suspend(index, true);
        prop_assert_eq!(world.tunnel.name(), StateName::Up);
        prop_assert_eq!(world.tunnel.last_failure().map(|failure| failure.kind), Some(FailureKind::Timeout));
        prop_assert_eq!(world.deadlines.len(), 1);
        if goes_on {
            world.suspend(index, false);
            prop_assert_eq!(world.tunnel.last_failure(), None);
            prop_assert!(world.deadlines.is_empty());
            prop_assert_eq!(world.starts, 1);
        } else {
            world.settle(|world| world.tunnel.name() == StateName::Up && world.tunnel.listening() != before);
            prop_assert_eq!(world.starts, 2);
            prop_assert_eq!(world.tunnel.last_failure(), None);
        }
    }

    #[test]
    fn a_restart_starts_one_process_however_often_it_is_asked_for(more in 0usize..50) {
        let mut world = World::new(policy(Kind::Ssh, OnConflict::Wait));
        world.hear(Event::StartRequested);
        world.settle(|world| world.tunnel.name() == StateName::Up);
        let before = world.starts;
        for _ in 0..=more {
            world.hear(Event::RestartRequested);
        }
        world.settle(|world| world.tunnel.name() == StateName::Up);
        prop_assert_eq!(world.starts, before + 1);
    }
}

#[test]
fn every_state_answers_every_event() {
    let generations: Vec<_> =
        std::iter::successors(Some(Generation::default()), |last| Some(last.next())).take(4).collect();
    let policies = [OnConflict::Wait, OnConflict::Kill].map(|on_conflict| policy(Kind::Ssh, on_conflict));
    let mut seen = BTreeMap::new();
    let mut open = vec![Tunnel::stopped(Moment::default(), 1), Tunnel::needing_auth(Moment::default(), 1)];
    // Breadth first through everything that can be reached within the first generations.
    while let Some(tunnel) = open.pop() {
        if tunnel.latest() > generations[3]
            || tunnel.failures > 3
            || tunnel.ending.len() > 3
            || tunnel.suspended.len() > 1
        {
            continue;
        }
        let key = format!("{tunnel:?}");
        if seen.insert(key, variant(&tunnel.state)).is_some() {
            continue;
        }
        let concerned = generations.iter().flat_map(|generation| all_events(*generation));
        for event in concerned {
            for policy in &policies {
                let (next, _) = step(tunnel.clone(), event.clone(), Moment::default(), policy);
                open.push(next);
            }
        }
    }
    let states: BTreeSet<_> = seen.values().collect();
    assert_eq!(states.len(), 11, "not every state was reached: {states:?}");
}

#[test]
fn a_stopped_connection_whose_replacement_fails_is_given_up() {
    let mut world = World::new(policy(Kind::Ssh, OnConflict::Wait));
    world.hear(Event::StartRequested);
    world.settle(|world| world.tunnel.name() == StateName::Up);
    let old = world.tunnel.latest();
    world.hear(Event::ProcessStopped(old, 7));
    world.hear(Event::DeadlinePassed(old));
    assert_eq!(world.tunnel.name(), StateName::Replacing);
    let refused = Event::ProcessEnded(world.tunnel.latest(), Failure::new(FailureKind::Refused, "refused"));
    let (tunnel, actions) = step(world.tunnel, refused, world.now, &world.policy);
    assert!(actions.contains(&Action::Terminate(old)), "{actions:?}");
    assert_ne!(tunnel.name(), StateName::Up, "nobody is served");
}

#[test]
fn the_rest_of_a_tree_gets_the_grace_and_a_command_waits_for_its_end() {
    let mut world = World::new(policy(Kind::Command, OnConflict::Kill));
    world.hear(Event::StartRequested);
    world.settle(|world| world.tunnel.name() == StateName::Up);
    let old = world.tunnel.latest();
    let crash = Failure::new(FailureKind::Killed, "the wrapper was killed");
    let ended = Event::LeaderEnded(old, crash.clone());
    let (tunnel, actions) = step(world.tunnel, ended, world.now, &world.policy);
    let grace_over = world.now.after(world.policy.stop_grace);
    assert_eq!(actions.last_chunk(), Some(&[Action::Terminate(old), Action::Arm(old, grace_over)]));
    assert_eq!(tunnel.name(), StateName::Stopping);
    let (tunnel, actions) = step(tunnel, Event::ProcessEnded(old, crash), world.now, &world.policy);
    assert!(actions.contains(&Action::ConfirmPort(tunnel.latest())), "{actions:?}");
}

fn variant(state: &State) -> String {
    format!("{state:?}").chars().take_while(|letter| letter.is_alphanumeric()).collect()
}

#[test]
fn a_failed_restart_leaves_the_old_connection_up() {
    let mut world = World::new(policy(Kind::Ssh, OnConflict::Wait));
    world.hear(Event::StartRequested);
    world.settle(|world| world.tunnel.name() == StateName::Up);
    let old = world.tunnel.listening();
    world.hear(Event::RestartRequested);
    let new = world.tunnel.latest();
    let (tunnel, actions) = step(
        world.tunnel.clone(),
        Event::ProcessEnded(new, Failure::new(FailureKind::Refused, "refused")),
        world.now,
        &world.policy,
    );
    assert_eq!(tunnel.name(), StateName::Up);
    assert_eq!(tunnel.listening(), old);
    assert!(actions.iter().any(|action| matches!(action, Action::ReportRestartFailed(_))));
}

/// A tunnel that waits for a port held by a stranger, and what it ordered when it heard of the stranger.
fn held(world: &mut World) -> Vec<Action> {
    world.squatted = true;
    world.hear(Event::StartRequested);
    let generation = world.tunnel.latest();
    let held = Event::PortHeld(generation, stranger());
    let (tunnel, actions) = step(world.tunnel.clone(), held, world.now, &world.policy);
    world.tunnel = tunnel;
    actions
}

#[test]
fn a_holder_is_ended_as_soon_as_the_policy_says_so_and_spared_as_soon_as_it_does_not() {
    let mut world = World::new(policy(Kind::Ssh, OnConflict::Wait));
    assert_eq!(held(&mut world), []);
    let generation = world.tunnel.latest();

    let kill = policy(Kind::Ssh, OnConflict::Kill);
    let (tunnel, actions) = step(world.tunnel, Event::PolicyChanged, world.now, &kill);
    assert!(actions.contains(&Action::TerminateHolders(generation)), "{actions:?}");
    assert_eq!(tunnel.holders(), stranger());

    let wait = policy(Kind::Ssh, OnConflict::Wait);
    let (tunnel, actions) = step(tunnel, Event::PolicyChanged, world.now, &wait);
    assert_eq!(actions, [Action::Disarm(generation)]);
    let (_, actions) = step(tunnel, Event::DeadlinePassed(generation), world.now, &wait);
    assert_eq!(actions, [], "no SIGKILL follows");
}

#[test]
fn a_spared_holder_leaves_the_tunnel_waiting_with_the_reason_until_the_holder_changes() {
    let mut world = World::new(policy(Kind::Ssh, OnConflict::Kill));
    assert!(!held(&mut world).is_empty());
    let generation = world.tunnel.latest();
    let reason = Failure::new(FailureKind::LocalPortHeld, "hidden");
    let spared = |pid| Event::HoldersSpared(generation, vec![occupant(pid)], reason.clone());
    let before = world.tunnel.clone();
    world.hear(spared(Some(12)));
    assert_eq!(world.tunnel, before, "that was about somebody who is gone");
    world.hear(spared(stranger()[0].holder.as_ref().and_then(|holder| holder.pid)));
    assert_eq!(world.tunnel.name(), StateName::AwaitingPort);
    assert_eq!(world.tunnel.last_failure(), Some(&reason));
    assert!(world.deadlines.is_empty(), "no SIGKILL follows");

    let again = Event::PortHeld(generation, stranger());
    let (tunnel, actions) = step(world.tunnel.clone(), again, world.now, &world.policy);
    assert_eq!((tunnel, actions), (world.tunnel.clone(), vec![]));
    let other = vec![occupant(Some(4712))];
    let changed = Event::PortHeld(generation, other);
    let (_, actions) = step(world.tunnel, changed, world.now, &world.policy);
    assert!(actions.contains(&Action::TerminateHolders(generation)), "{actions:?}");
}

#[test]
fn a_holder_that_survives_is_named_and_the_tunnel_goes_on_waiting() {
    let mut world = World::new(policy(Kind::Ssh, OnConflict::Kill));
    let actions = held(&mut world);
    let generation = world.tunnel.latest();
    assert_eq!(actions[0], Action::TerminateHolders(generation));
    let grace_over = Event::DeadlinePassed(generation);
    let (tunnel, actions) = step(world.tunnel, grace_over.clone(), world.now, &world.policy);
    assert_eq!(actions[0], Action::KillHolders(generation));
    assert_eq!(tunnel.last_failure(), None);
    let (tunnel, actions) = step(tunnel, grace_over, world.now, &world.policy);
    assert_eq!(actions, [], "nothing is tried again");
    assert_eq!((tunnel.name(), tunnel.holders()), (StateName::AwaitingPort, &stranger()[..]));
    let failure = tunnel.last_failure().unwrap();
    assert_eq!(failure.kind, FailureKind::LocalPortHeld);
    assert!(failure.message.contains("pid 4711"), "{failure}");
}
