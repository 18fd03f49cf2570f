//! What tunnels that share a connection have to do with each other, and what not.

use proptest::prelude::*;

use super::world::World;
use super::{ONE, policy, ssh};
use crate::core::*;

const TWO: Slot = Slot(2);
const THREE: Slot = Slot(3);

/// Three tunnels, of which the first has moved to a connection of its own.
fn parted(policy: Policy) -> (World, ConnectionId, ConnectionId) {
    let mut world = World::up(policy, 3);
    let old = world.owner(ONE).unwrap();
    world.hear(Event::RestartRequested(ONE));
    world.settle(|world| world.all_up() && world.owner(ONE) != Some(old));
    let new = world.owner(ONE).unwrap();
    (world, old, new)
}

/// The tunnels that something was asked for.
fn concerned(actions: &[Action]) -> Vec<Slot> {
    let slot = |action: &Action| match action {
        Action::ConfirmPort(slot, ..)
        | Action::AbandonPort(slot, _)
        | Action::OpenForward(slot, ..)
        | Action::CloseForward(slot, ..)
        | Action::ReportReplacementFailed(slot, _) => Some(*slot),
        _ => None,
    };
    actions.iter().filter_map(slot).collect()
}

proptest! {
    #[test]
    fn a_restart_moves_the_tunnels_that_it_is_asked_for_and_no_others(restarted in prop::collection::btree_set(0usize..4, 1..4)) {
        let mut world = World::up(ssh(), 4);
        let old = world.owner(ONE);
        let restarted: Vec<_> = restarted.into_iter().map(|index| world.slots[index]).collect();
        for slot in &restarted {
            world.hear(Event::RestartRequested(*slot));
        }
        world.settle(|world| {
            for slot in concerned(&world.actions) {
                assert!(restarted.contains(&slot), "{slot:?} is disturbed: {world:#?}");
            }
            world.all_up() && restarted.iter().all(|slot| world.owner(*slot) != old)
        });
        let stayed = world.slots.iter().filter(|slot| !restarted.contains(slot));
        for slot in stayed {
            prop_assert_eq!(world.owner(*slot), old);
        }
        prop_assert_eq!(world.starts, 2, "one login for all that are restarted");
    }

    #[test]
    fn the_end_of_a_shared_connection_is_one_login(tunnels in 1u64..5, standby: bool) {
        let mut world = World::up(Policy { standby, ..ssh() }, tunnels);
        let before = world.starts;
        let old = world.owner(ONE).unwrap();
        world.die(old);
        world.settle(World::all_up);
        prop_assert_eq!(world.starts, before + 1);
        let owners = world.slots.iter().map(|slot| world.owner(*slot));
        prop_assert!(owners.into_iter().all(|owner| owner == world.owner(ONE)));
    }
}

#[test]
fn those_on_an_old_connection_move_to_the_present_one_when_it_ends_and_nothing_is_started() {
    let (mut world, old, new) = parted(ssh());
    assert_eq!((world.owner(TWO), world.owner(THREE)), (Some(old), Some(old)));
    world.die(old);
    assert_eq!(world.name(ONE), StateName::Up, "the first one is not concerned");
    assert_eq!(world.link.last_failure(ONE), None);
    assert!(world.link.last_failure(TWO).is_some());
    world.settle(World::all_up);
    assert_eq!((world.owner(ONE), world.owner(TWO), world.starts), (Some(new), Some(new), 2));
}

#[test]
fn an_old_connection_that_serves_others_takes_back_what_the_present_one_loses() {
    let (mut world, old, new) = parted(ssh());
    world.die(new);
    assert_eq!((world.name(TWO), world.link.last_failure(TWO)), (StateName::Up, None));
    world.settle(World::all_up);
    assert_eq!((world.owner(ONE), world.starts), (Some(old), 2), "no login");
}

#[test]
fn an_old_connection_ends_with_the_last_tunnel_that_it_serves() {
    let (mut world, old, _) = parted(ssh());
    world.hear(Event::StopRequested(TWO));
    world.settle(|world| world.name(TWO) == StateName::Stopped);
    assert_eq!(world.owner(THREE), Some(old));
    world.hear(Event::RestartRequested(THREE));
    world.settle(|world| {
        world.owner(THREE).is_some_and(|owner| owner > old) && world.name(THREE) == StateName::Up
    });
    assert!(!world.processes.contains_key(&old) || world.actions.contains(&Action::Terminate(old)));
    world.settle(|world| !world.processes.contains_key(&old));
    assert_eq!(world.name(ONE), StateName::Up);
}

#[test]
fn the_present_connection_ends_when_only_those_on_an_old_one_are_left() {
    let (mut world, old, new) = parted(ssh());
    world.hear(Event::StopRequested(ONE));
    world.settle(|world| world.name(ONE) == StateName::Stopped && !world.processes.contains_key(&new));
    assert_eq!((world.owner(TWO), world.owner(THREE), world.starts), (Some(old), Some(old), 2));
    world.hear(Event::StartRequested(ONE));
    world.settle(World::all_up);
    assert_eq!((world.owner(ONE), world.starts), (Some(old), 2));
}

#[test]
fn a_forward_that_is_refused_touches_no_other() {
    let mut world = World::up(ssh(), 3);
    let old = world.owner(ONE);
    world.hear(Event::RestartRequested(ONE));
    world.hear(Event::RestartRequested(TWO));
    let new = world.link.awaited();
    world.settle(|world| world.owner(ONE) == Some(new));
    world.refusing.insert(new);
    world.settle(World::all_up);
    assert_eq!((world.owner(ONE), world.owner(TWO), world.owner(THREE)), (Some(new), old, old));
    let reason = world.link.last_failure(TWO);
    assert_eq!((reason, world.starts), (None, 2), "the old connection took it back");
}

#[test]
fn an_old_connection_that_is_stopped_by_a_signal_is_given_up_for_the_present_one() {
    let (mut world, old, new) = parted(ssh());
    world.suspend_one(old, true);
    assert!(world.link.last_failure(TWO).is_some() && world.link.last_failure(ONE).is_none());
    world.now = world.link.deadline().unwrap();
    world.hear(Event::DeadlinePassed);
    world.settle(World::all_up);
    assert_eq!((world.owner(TWO), world.starts), (Some(new), 2));
}

#[test]
fn what_connections_go_by_is_enough_for_all_of_their_tunnels() {
    let (mut one, mut two) = (ssh(), policy(Kind::Ssh, OnConflict::Kill));
    one.standby = true;
    two.drain = std::time::Duration::from_secs(9);
    two.ready_timeout += std::time::Duration::from_secs(9);
    let mut link = Link::new(ONE, one, false, crate::clock::Moment::default());
    link.add(TWO, two, crate::clock::Moment::default());
    assert_eq!((link.standby(), link.ready_timeout()), (Some(Standby::Absent), two.ready_timeout));
    assert_eq!(link.slots().collect::<Vec<_>>(), [ONE, TWO]);
    link.hear(Event::Removed(ONE), crate::clock::Moment::default());
    assert_eq!((link.standby(), link.slots().len()), (None, 1));
}

#[test]
fn what_is_stopped_while_it_is_being_opened_is_closed_before_it_is_opened_again() {
    let mut world = World::up(ssh(), 2);
    let on = world.owner(ONE).unwrap();
    world.hear(Event::StopRequested(ONE));
    world.settle(|world| world.name(ONE) == StateName::Stopped);
    world.hear(Event::StartRequested(ONE));
    let request = world.link.awaiting_port(ONE).unwrap();
    world.hear(Event::Forward(request, ForwardEvent::PortUnbound));
    assert_eq!(concerned(&world.actions), [ONE], "it is being opened: {:?}", world.actions);
    // By then the file may say that it is to listen elsewhere.
    world.hear(Event::StopRequested(ONE));
    assert_eq!(world.name(ONE), StateName::Stopping);
    world.hear(Event::StartRequested(ONE));
    assert_eq!(world.actions, []);
    world.carry_out(on);
    assert!(
        matches!(world.actions[..], [Action::CloseForward(ONE, _, id)] if id == on),
        "{:?}",
        world.actions
    );
    world.settle(World::all_up);
    assert_eq!((world.owner(ONE), world.starts), (Some(on), 1));
}
