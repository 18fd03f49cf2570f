//! Properties of a [`Link`], checked against a small world.

mod by_hand;
mod demand;
mod evictions;
mod inherit;
mod network;
mod relay;
mod shared;
mod world;

use std::time::Duration;

use proptest::prelude::*;

use self::world::{Happening, World, conflicts, happenings, stranger};
pub(super) use self::world::{occupant, policy};
use super::*;

/// A policy, and how many tunnels share the link: a command serves one.
fn links() -> impl Strategy<Value = (Policy, u64)> {
    prop_oneof![
        (conflicts(), 1u64..4).prop_map(|(on_conflict, tunnels)| (policy(Kind::Ssh, on_conflict), tunnels)),
        conflicts().prop_map(|on_conflict| (policy(Kind::Command, on_conflict), 1)),
    ]
}

/// Besides, with a standby connection and with connections that drain.
fn all_links() -> impl Strategy<Value = (Policy, u64)> {
    (links(), any::<bool>(), any::<bool>()).prop_map(|((policy, tunnels), standby, drains)| {
        let drain = if drains { Duration::from_secs(30) } else { Duration::ZERO };
        let standby = standby && policy.kind == Kind::Ssh;
        (Policy { standby, drain, ..policy }, tunnels)
    })
}

/// With tunnels that share a connection, and with one alone.
fn counts() -> impl Strategy<Value = u64> {
    1u64..4
}

const ONE: Slot = Slot(1);

fn ssh() -> Policy {
    policy(Kind::Ssh, OnConflict::Wait)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn from_any_state_with_all_faults_ended_the_tunnels_come_up_and_can_be_stopped(
        (policy, tunnels) in all_links(), happenings in happenings(),
    ) {
        let mut world = World::new(policy, tunnels);
        for happening in happenings {
            world.happen(happening);
        }
        world.start_all();
        world.settle(|world| world.all_up() && world.link.deadline().is_none());
        let owners: Vec<_> = world.slots.iter().map(|slot| world.owner(*slot)).collect();
        prop_assert!(owners.iter().all(Option::is_some), "up without a listener: {:#?}", world);

        world.stop_all();
        world.settle(|world| world.all(StateName::Stopped));
    }

    #[test]
    fn a_process_that_is_stopped_for_good_is_replaced_and_one_that_goes_on_is_kept(
        (policy, tunnels) in links(), goes_on: bool, index: prop::sample::Index,
    ) {
        let mut world = World::up(policy, tunnels);
        let before = world.owner(ONE);
        world.suspend(index, true);
        prop_assert_eq!(world.name(ONE), StateName::Up);
        prop_assert_eq!(world.link.last_failure(ONE).map(|failure| failure.kind), Some(FailureKind::Timeout));
        prop_assert!(world.link.deadline().is_some());
        if goes_on {
            world.suspend(index, false);
            prop_assert_eq!(world.link.last_failure(ONE), None);
            prop_assert_eq!(world.link.deadline(), None);
            prop_assert_eq!(world.starts, 1);
        } else {
            world.settle(|world| world.all_up() && world.owner(ONE) != before);
            prop_assert_eq!(world.starts, 2);
            prop_assert_eq!(world.link.last_failure(ONE), None);
        }
    }

    #[test]
    fn a_restart_starts_one_process_however_often_it_is_asked_for(more in 0usize..50, tunnels in counts()) {
        let mut world = World::up(ssh(), tunnels);
        let before = world.owner(ONE);
        for asked in 0..=more {
            let slot = world.slots[asked % world.slots.len()];
            world.hear(Event::RestartRequested(slot));
        }
        world.settle(|world| world.all_up() && world.owner(ONE) != before);
        prop_assert_eq!(world.starts, 2);
    }

    #[test]
    fn a_restart_makes_a_new_connection_from_every_state(
        (policy, tunnels) in all_links(), happenings in happenings(),
    ) {
        let mut world = World::new(policy, tunnels);
        // What is stopped by a signal stays so, and a new connection as well.
        for happening in happenings.into_iter().filter(|one| !matches!(one, Happening::Hang(_))) {
            world.happen(happening);
        }
        world.hear(Event::RestartRequested(ONE));
        let awaited = world.link.awaited();
        prop_assert!(world.link.listening(ONE).is_none_or(|(on, _)| on <= awaited), "{:#?}", world);
        world.start_all();
        world.settle(World::all_up);
        prop_assert!(world.owner(ONE) >= Some(awaited), "{:#?}", world);
    }

    #[test]
    fn a_lost_listener_is_asked_for_again_on_the_same_connection(tunnels in counts(), index: prop::sample::Index) {
        let mut world = World::up(ssh(), tunnels);
        let slot = *index.get(&world.slots);
        let owner = world.owner(slot).unwrap();
        world.lose_listener(slot, owner);
        prop_assert_eq!(world.name(slot), StateName::Forwarding);
        world.settle(World::all_up);
        prop_assert_eq!((world.owner(slot), world.starts), (Some(owner), 1));
    }

    #[test]
    fn what_a_server_refuses_three_times_is_asked_of_a_new_connection(tunnels in counts()) {
        let mut world = World::new(ssh(), tunnels);
        let first = world.link.awaited();
        world.refusing.insert(first);
        world.start_all();
        world.settle(World::all_up);
        prop_assert_eq!(world.starts, 2);
        prop_assert!(world.owner(ONE) > Some(first));
    }
}

#[test]
fn a_spare_takes_over_and_another_one_is_made() {
    let mut world = World::up(Policy { standby: true, ..ssh() }, 2);
    assert_eq!((world.starts, world.link.standby()), (2, Some(Standby::Ready)));
    let first = world.owner(ONE).unwrap();
    world.die(first);
    assert!(world.all(StateName::Forwarding), "nothing but the port is between: {world:#?}");
    assert_eq!(
        (world.starts, world.link.standby()),
        (2, Some(Standby::Absent)),
        "what is to listen comes first"
    );
    world.settle(World::all_up);
    assert_eq!((world.owner(ONE), world.starts), (Some(first.next()), 3));
}

#[test]
fn a_spare_that_is_lost_is_made_again_and_the_tunnel_stays_up() {
    let mut world = World::up(Policy { standby: true, ..ssh() }, 1);
    let first = world.owner(ONE).unwrap();
    world.die(first.next());
    assert!(matches!(world.actions[..], [Action::ReportStandbyFailed(_), ..]), "{:?}", world.actions);
    assert_eq!((world.name(ONE), world.link.last_failure(ONE)), (StateName::Up, None));
    world.settle(World::all_up);
    assert_eq!((world.owner(ONE), world.starts), (Some(first), 3));
}

#[test]
fn a_spare_stands_ready_for_a_port_that_is_held() {
    let mut world = held(Policy { standby: true, ..ssh() });
    let request = world.link.awaiting_port(ONE).unwrap();
    let Some(Action::StartConnection(spare, _)) = world.actions.first().cloned() else {
        panic!("{:?}", world.actions);
    };
    world.carry_out(spare);
    assert_eq!((world.name(ONE), world.link.standby()), (StateName::AwaitingPort, Some(Standby::Ready)));
    world.hear(Event::Forward(request, ForwardEvent::PortUnbound));
    assert!(
        matches!(world.actions[..], [Action::ReportTakeover(id), ..] if id == spare),
        "{:?}",
        world.actions
    );
    assert!(
        world.actions.iter().any(|action| matches!(action, Action::OpenForward(_, _, on) if *on == spare))
    );
}

#[test]
fn a_replaced_connection_carries_on_what_its_clients_have_begun_and_no_longer_than_allowed() {
    let drain = Duration::from_secs(30);
    let mut world = World::up(Policy { drain, ..ssh() }, 1);
    let old = world.owner(ONE).unwrap();
    world.hear(Event::RestartRequested(ONE));
    world.settle(|world| world.name(ONE) == StateName::Up && world.owner(ONE) != Some(old));
    assert_eq!(world.actions, [Action::AwaitClients(old)]);
    assert_eq!((world.link.draining(), world.link.deadline()), (1, Some(world.now.after(drain))));
    let mut timed = world.link.clone();
    let actions = timed.hear(Event::DeadlinePassed, world.now.after(drain));
    assert_eq!(actions, [Action::Terminate(old)]);
    world.hear(Event::Connection(old, ConnectionEvent::Drained));
    assert_eq!(world.actions, [Action::Terminate(old)]);
    world.settle(World::all_up);
}

#[test]
fn a_command_that_listens_again_is_kept_and_one_that_does_not_is_started_anew() {
    let mut world = World::up(policy(Kind::Command, OnConflict::Wait), 1);
    let owner = world.owner(ONE).unwrap();
    world.lose_listener(ONE, owner);
    assert_eq!(world.name(ONE), StateName::Connecting);
    world.settle(World::all_up);
    assert_eq!((world.owner(ONE), world.starts), (Some(owner), 1));

    world.hear(Event::Connection(owner, ConnectionEvent::ListenerLost));
    let deadline = world.link.deadline().unwrap();
    world.now = deadline;
    world.hear(Event::DeadlinePassed);
    assert_eq!(world.actions, [Action::ExplainDelay(owner)]);
    world.hear(Event::Connection(owner, ConnectionEvent::NotReady(None)));
    let failure = world.link.last_failure(ONE).unwrap();
    assert!(failure.message.contains("not listened again within 5 s"), "{failure}");
    world.settle(|world| world.all_up() && world.starts == 2);
}

#[test]
fn a_stopped_connection_whose_replacement_fails_is_given_up() {
    let mut world = World::up(ssh(), 1);
    let old = world.owner(ONE).unwrap();
    world.hear(Event::Connection(old, ConnectionEvent::Stopped(7)));
    world.now = world.link.deadline().unwrap();
    world.hear(Event::DeadlinePassed);
    assert_eq!(world.name(ONE), StateName::Replacing);
    let refused = Failure::new(FailureKind::Refused, "refused");
    world.hear(Event::Connection(world.link.awaited(), ConnectionEvent::Ended(refused)));
    assert!(world.actions.contains(&Action::Terminate(old)), "{:?}", world.actions);
    assert_ne!(world.name(ONE), StateName::Up, "nobody is served");
}

#[test]
fn a_replacement_that_stays_stopped_is_given_up_before_the_old_connection_needs_it() {
    let mut world = World::up(ssh(), 2);
    let old = world.owner(ONE).unwrap();
    world.hear(Event::RestartRequested(ONE));
    world.hear(Event::RestartRequested(Slot(2)));
    let next = world.link.awaited();
    world.settle(|world| {
        world.link.awaiting_port(ONE).is_some() && world.link.awaiting_port(Slot(2)).is_some()
    });
    world.suspend_one(next, true);
    world.now = world.link.deadline().unwrap();
    world.hear(Event::DeadlinePassed);
    assert!(world.actions.contains(&Action::Terminate(next)), "{:?}", world.actions);
    world.die(old);
    world.settle(World::all_up);
}

#[test]
fn the_rest_of_a_tree_gets_the_grace_and_a_command_waits_for_its_end() {
    let mut world = World::up(policy(Kind::Command, OnConflict::Kill), 1);
    let old = world.owner(ONE).unwrap();
    let crash = Failure::new(FailureKind::Killed, "the wrapper was killed");
    world.hear(Event::Connection(old, ConnectionEvent::LeaderEnded(crash.clone())));
    assert_eq!(world.actions, [Action::Terminate(old)]);
    assert_eq!(world.link.deadline(), Some(world.now.after(ssh().stop_grace)));
    assert_eq!(world.name(ONE), StateName::Stopping);
    world.processes.remove(&old);
    world.hear(Event::Connection(old, ConnectionEvent::Ended(crash)));
    assert!(matches!(world.actions[..], [Action::ConfirmPort(..)]), "{:?}", world.actions);
}

#[test]
fn a_failed_restart_leaves_the_old_connection_up() {
    let mut world = World::up(ssh(), 2);
    let old = world.owner(ONE);
    world.hear(Event::RestartRequested(ONE));
    assert_eq!((world.name(ONE), world.name(Slot(2))), (StateName::Replacing, StateName::Up));
    let refused = Failure::new(FailureKind::Refused, "refused");
    world.hear(Event::Connection(world.link.awaited(), ConnectionEvent::Ended(refused.clone())));
    assert!(world.all(StateName::Up));
    assert_eq!(world.link.listening(ONE).map(|(on, _)| on), old);
    assert_eq!(world.actions, [Action::ReportReplacementFailed(ONE, refused)]);
}

#[test]
fn a_forward_that_the_new_connection_refuses_is_moved_back() {
    let mut world = World::up(ssh(), 2);
    let old = world.owner(ONE);
    world.hear(Event::RestartRequested(ONE));
    world.refusing.insert(world.link.awaited());
    world.settle(World::all_up);
    assert_eq!((world.owner(ONE), world.owner(Slot(2)), world.starts), (old, old, 2));
}

/// A tunnel that waits for a port held by a stranger.
fn held(policy: Policy) -> World {
    let mut world = World::new(policy, 1);
    world.squatted.insert(ONE);
    world.hear(Event::StartRequested(ONE));
    let request = world.link.awaiting_port(ONE).unwrap();
    world.hear(Event::Forward(request, ForwardEvent::PortHeld(stranger())));
    world
}

#[test]
fn a_holder_is_ended_as_soon_as_the_policy_says_so_and_spared_as_soon_as_it_does_not() {
    let mut world = held(ssh());
    assert_eq!(world.actions, []);
    let request = world.link.awaiting_port(ONE).unwrap();

    world.hear(Event::PolicyChanged(ONE, policy(Kind::Ssh, OnConflict::Kill)));
    assert_eq!(world.actions, [Action::TerminateHolders(ONE, request)]);
    assert_eq!(world.link.holders(ONE), stranger());

    world.hear(Event::PolicyChanged(ONE, ssh()));
    assert_eq!((&world.actions[..], world.link.deadline()), (&[][..], None), "no SIGKILL follows");
}

#[test]
fn a_spared_holder_leaves_the_tunnel_waiting_with_the_reason_until_the_holder_changes() {
    let mut world = held(policy(Kind::Ssh, OnConflict::Kill));
    let request = world.link.awaiting_port(ONE).unwrap();
    assert_eq!(world.actions, [Action::TerminateHolders(ONE, request)]);
    let reason = Failure::new(FailureKind::LocalPortHeld, "hidden");
    let spared =
        |pid| Event::Forward(request, ForwardEvent::HoldersSpared(vec![occupant(pid)], reason.clone()));
    let before = world.link.clone();
    world.hear(spared(Some(12)));
    assert_eq!(world.link, before, "that was about somebody who is gone");
    world.hear(spared(Some(4711)));
    assert_eq!((world.link.last_failure(ONE), world.link.deadline()), (Some(&reason), None));
    assert_eq!(world.name(ONE), StateName::AwaitingPort);
    let changed = ForwardEvent::PortHeld(vec![occupant(Some(12))]);
    world.hear(Event::Forward(request, changed));
    assert_eq!(world.actions, [Action::TerminateHolders(ONE, request)]);
}

#[test]
fn a_holder_that_survives_is_named_and_left_alone() {
    let mut world = held(policy(Kind::Ssh, OnConflict::Kill));
    let request = world.link.awaiting_port(ONE).unwrap();
    world.now = world.link.deadline().unwrap();
    world.hear(Event::DeadlinePassed);
    assert_eq!(world.actions, [Action::KillHolders(ONE, request)]);
    world.now = world.link.deadline().unwrap();
    world.hear(Event::DeadlinePassed);
    assert_eq!((&world.actions[..], world.link.deadline()), (&[][..], None), "nothing is tried again");
    assert_eq!((world.name(ONE), world.link.holders(ONE)), (StateName::AwaitingPort, &stranger()[..]));
    let failure = world.link.last_failure(ONE).unwrap();
    assert_eq!(failure.kind, FailureKind::LocalPortHeld);
    assert!(failure.message.contains("pid 4711"), "{failure}");
}
