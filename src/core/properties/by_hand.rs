//! Tunnels for which a person logs in.

use proptest::prelude::*;
use proptest::sample::Index;

use super::world::{Happening, World, conflicts, happening};
use super::{ONE, counts, policy, ssh};
use crate::core::*;

#[derive(Debug, Clone, Copy)]
enum Step {
    Happens(Happening),
    /// A person comes for one of the tunnels.
    Comes(Index),
    Leaves,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => happening().prop_map(Step::Happens),
        2 => any::<Index>().prop_map(Step::Comes),
        1 => Just(Step::Leaves),
    ];
    prop::collection::vec(step, 0..120)
}

fn come_for_all(world: &mut World) {
    for slot in world.slots.clone() {
        world.hear(Event::PersonCame(slot));
    }
}

/// A link whose tunnels are all up, by one login.
fn up(tunnels: u64) -> World {
    let mut world = World::with(ssh(), tunnels, true);
    come_for_all(&mut world);
    world.settle(World::all_up);
    assert_eq!(world.starts, 1);
    world.hear(Event::PersonLeft);
    assert!(world.all_up());
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn a_connection_is_made_for_a_person_who_is_there_and_one_only(
        on_conflict in conflicts(), tunnels in counts(), steps in steps(),
    ) {
        let mut world = World::with(policy(Kind::Ssh, on_conflict), tunnels, true);
        let mut is_there = false;
        for step in steps {
            let before = world.starts;
            match step {
                Step::Happens(happening) => world.happen(happening),
                Step::Comes(index) => {
                    is_there = true;
                    world.hear(Event::PersonCame(*index.get(&world.slots)));
                }
                Step::Leaves => {
                    is_there = false;
                    world.hear(Event::PersonLeft);
                }
            }
            let starts = world.starts - before;
            prop_assert!(starts <= usize::from(is_there), "{:#?}", world);
            is_there &= starts == 0;
            prop_assert!(world.slots.iter().all(|slot| world.name(*slot) != StateName::Stopped));
            if !is_there && world.processes.is_empty() {
                prop_assert!(world.all(StateName::NeedsAuth), "{:#?}", world);
                prop_assert_eq!(world.link.deadline(), None);
            }
        }
        world.stop_all();
        world.settle(|world| world.all(StateName::NeedsAuth));
        come_for_all(&mut world);
        world.settle(World::all_up);
    }

    #[test]
    fn a_lost_connection_is_not_made_again_and_the_reason_stays(tunnels in counts(), by_network: bool) {
        let mut world = up(tunnels);
        let id = world.owner(ONE).unwrap();
        if by_network {
            world.cut_off.insert(id);
            world.hear(Event::NetworkChanged);
        } else {
            world.die(id);
        }
        world.settle(|world| world.all(StateName::NeedsAuth));
        for slot in &world.slots {
            prop_assert!(world.link.last_failure(*slot).is_some());
        }
        world.hear(Event::NetworkChanged);
        for slot in world.slots.clone() {
            world.hear(Event::StartRequested(slot));
            world.hear(Event::RestartRequested(slot));
        }
        prop_assert!(world.all(StateName::NeedsAuth));
        prop_assert_eq!(world.starts, 1);
    }

    #[test]
    fn what_is_up_keeps_its_connection(tunnels in counts(), index: prop::sample::Index) {
        let mut world = up(tunnels);
        let slot = *index.get(&world.slots);
        let owner = world.owner(slot).unwrap();
        world.lose_listener(slot, owner);
        world.settle(World::all_up);
        world.hear(Event::RestartRequested(slot));
        world.settle(World::all_up);
        // Stopped by a signal for as long as it may be, it is kept still.
        world.suspend_one(owner, true);
        world.now = world.link.deadline().unwrap();
        world.hear(Event::DeadlinePassed);
        prop_assert_eq!(world.link.deadline(), None);
        world.suspend_one(owner, false);
        prop_assert!(world.all_up());
        prop_assert_eq!((world.owner(slot), world.starts), (Some(owner), 1));
    }

    #[test]
    fn a_login_ends_with_the_person_and_one_tunnel_that_is_stopped_leaves_the_others(tunnels in 2u64..4) {
        let mut world = World::with(ssh(), tunnels, true);
        world.hear(Event::PersonCame(ONE));
        world.settle(|world| world.starts == 1);
        world.hear(Event::PersonLeft);
        world.settle(|world| world.all(StateName::NeedsAuth));

        let mut world = up(tunnels);
        let owner = world.owner(ONE);
        world.hear(Event::StopRequested(ONE));
        world.settle(|world| world.name(ONE) == StateName::NeedsAuth);
        prop_assert_eq!(world.owner(Slot(2)), owner);
        world.hear(Event::PersonCame(ONE));
        world.settle(World::all_up);
        prop_assert_eq!((world.owner(ONE), world.starts), (owner, 1));
    }
}

#[test]
fn what_a_server_refuses_is_asked_of_the_same_connection() {
    let mut world = World::with(ssh(), 1, true);
    world.refusing.insert(world.link.awaited());
    world.hear(Event::PersonCame(ONE));
    world.settle(|world| world.name(ONE) == StateName::Backoff);
    world.hear(Event::PersonLeft);
    for _ in 0..5 {
        world.settle(|world| world.name(ONE) != StateName::Backoff);
        world.settle(|world| world.name(ONE) == StateName::Backoff);
    }
    assert_eq!(world.starts, 1);
    world.refusing.clear();
    world.settle(World::all_up);
}

#[test]
fn a_login_that_was_under_way_is_not_taken_over() {
    let link = Link::new(ONE, ssh(), true, crate::clock::Moment::default());
    let left = |is_ready| Left { is_ready, serves: false, was_asked: false };
    assert_eq!(link.roles(&[left(false)]), [None]);
    assert_eq!(link.roles(&[left(true)]), [Some(Role::Active { is_ready: true })]);
}
