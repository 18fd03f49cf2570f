//! A link that takes over what another one had.

use proptest::prelude::*;
use proptest::sample::Index;

use super::world::{Process, World, happenings};
use super::{all_links, counts, ssh};
use crate::core::*;

/// The successor of a world whose link is gone: it takes over the processes that answer or are logging in, and the others end.
fn successor(world: &World) -> World {
    let mut next = World::new(world.policy, u64::try_from(world.slots.len()).unwrap());
    (next.now, next.starts) = (world.now, world.starts);
    next.squatted.clone_from(&world.squatted);
    let goes_on = |process: &&Process| {
        !process.is_hung && !process.is_headless && (process.is_ready || process.is_starting())
    };
    let left: Vec<_> = world.processes.values().filter(goes_on).cloned().collect();
    let listens = |process: &Process| !process.listening.is_empty();
    let seen = |process: &Process| Left {
        is_ready: process.is_ready && (next.kind == Kind::Ssh || listens(process)),
        serves: listens(process),
        was_asked: listens(process),
    };
    let roles = next.link.roles(&left.iter().map(seen).collect::<Vec<_>>());
    for (process, role) in left.into_iter().zip(roles) {
        let Some(role) = role else { continue };
        let id = next.link.inherit(role, 0, next.now);
        for slot in next.slots.clone() {
            let is_served = process.listening.contains(&slot);
            if is_served || matches!(role, Role::Active { .. }) {
                assert_eq!(next.link.take_up(slot, id, is_served, next.now).is_some(), is_served);
            }
        }
        next.processes.insert(id, process.inherited());
    }
    next
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_up_is_taken_over_without_a_start_and_nobody_moves(
        tunnels in counts(), standby: bool, restarted in any::<Option<Index>>(),
    ) {
        let mut world = World::up(Policy { standby, ..ssh() }, tunnels);
        if let Some(index) = restarted {
            let slot = *index.get(&world.slots);
            let before = world.owner(slot);
            world.hear(Event::RestartRequested(slot));
            world.settle(|world| world.all_up() && world.owner(slot) != before);
        }
        let listening = |world: &World| {
            world.processes.values().map(|process| process.listening.clone()).collect::<Vec<_>>()
        };
        let mut next = successor(&world);
        next.start_all();
        next.settle(World::all_up);
        prop_assert_eq!((next.starts, listening(&next)), (world.starts, listening(&world)));
    }

    #[test]
    fn from_whatever_is_left_the_tunnels_come_up_and_can_be_stopped(
        (policy, tunnels) in all_links(), before in happenings(), after in happenings(),
    ) {
        let mut world = World::new(policy, tunnels);
        for happening in before {
            world.happen(happening);
        }
        let mut next = successor(&world);
        next.start_all();
        for happening in after {
            next.happen(happening);
        }
        next.start_all();
        next.settle(|world| world.all_up() && world.link.deadline().is_none());
        next.stop_all();
        next.settle(|world| world.all(StateName::Stopped));
    }
}
