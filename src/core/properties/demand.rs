//! Tunnels with `on_demand`: clients come and go.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;

use super::world::{Happening, World, happening};
use super::{ONE, links, ssh};
use crate::clock::Moment;
use crate::core::*;

const ON_DEMAND: Duration = Duration::from_secs(600);

fn sleepy() -> Policy {
    Policy { on_demand: Some(ON_DEMAND), ..ssh() }
}

/// Tunnels of which some sleep, by the bits of a number.
fn sleepy_links() -> impl Strategy<Value = (Policy, u64, u8)> {
    let of_ssh = |(policy, _): &(Policy, u64)| policy.kind == Kind::Ssh;
    (links().prop_filter("a command has no such clients", of_ssh), any::<bool>(), any::<u8>()).prop_map(
        |((policy, tunnels), drains, kept)| {
            let drain = if drains { Duration::from_secs(30) } else { Duration::ZERO };
            (Policy { drain, on_demand: Some(ON_DEMAND), ..policy }, tunnels, kept)
        },
    )
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let index = any::<Index>;
    let one = prop_oneof![
        6 => happening(),
        2 => index().prop_map(Happening::ClientComes),
        2 => index().prop_map(Happening::ClientLeaves),
        4 => index().prop_map(Happening::RelayObeys),
        4 => index().prop_map(Happening::RelayTells),
        1 => (index(), any::<bool>()).prop_map(|(index, sleeps)| {
            Happening::ChangeDemand(index, sleeps.then_some(ON_DEMAND))
        }),
    ];
    prop::collection::vec(one, 0..160)
}

fn world((policy, tunnels, kept): (Policy, u64, u8)) -> World {
    let mut world = World::new(policy, tunnels);
    for (bit, slot) in world.slots.clone().into_iter().enumerate() {
        if kept & (1 << bit) != 0 {
            world.hear(Event::PolicyChanged(slot, Policy { on_demand: None, ..policy }));
        }
    }
    world
}

/// Whether the tunnel is as it should be when nothing has happened for long.
fn rests(world: &World, slot: Slot) -> bool {
    let is_needed = !world.sleeps(slot) || world.clients(slot) > 0;
    world.name(slot) == StateName::Up
        && world.link.is_asleep(slot) != is_needed
        && world.owner(slot).is_some() == is_needed
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn from_any_state_those_with_clients_come_up_and_the_others_sleep_and_all_can_be_stopped(
        links in sleepy_links(), happenings in happenings(), to: Index,
    ) {
        let mut world = world(links);
        for happening in happenings {
            world.happen(happening);
        }
        world.start_all();
        world.settle(|world| {
            let owners: BTreeSet<_> = world.slots.iter().filter_map(|slot| world.owner(*slot)).collect();
            // One that was killed may be there for a while.
            let are_needed = world.processes.len() == owners.len();
            let rest = world.slots.iter().all(|slot| rests(world, *slot));
            rest && are_needed && world.link.deadline().is_none()
        });

        world.happen(Happening::ClientComes(to));
        world.settle(|world| world.slots.iter().all(|slot| rests(world, *slot)));
        world.all_clients_leave();
        world.settle(|world| world.slots.iter().all(|slot| rests(world, *slot)));
        world.stop_all();
        world.settle(|world| world.all(StateName::Stopped));
    }
}

#[test]
fn there_is_no_connection_before_the_first_client_and_none_some_time_after_the_last() {
    let mut world = World::new(sleepy(), 1);
    world.start_all();
    world.settle(|world| world.link.is_asleep(ONE));
    assert_eq!((world.starts, world.name(ONE), world.link.deadline()), (0, StateName::Up, None));

    world.client_comes(ONE);
    world.settle(|world| world.owner(ONE).is_some() && world.relay_is_quiet());
    assert_eq!((world.starts, world.link.deadline()), (1, None), "kept as long as there is a client");
    world.all_clients_leave();
    world.deliver();
    assert_eq!(world.link.deadline(), Some(world.now.after(ON_DEMAND)));
    assert_eq!((world.name(ONE), world.link.is_asleep(ONE)), (StateName::Up, false));
    world.settle(|world| world.link.is_asleep(ONE) && world.processes.is_empty());
    assert_eq!(world.name(ONE), StateName::Up);

    world.client_comes(ONE);
    world.settle(|world| world.owner(ONE).is_some());
    assert_eq!(world.starts, 2);
}

/// A tunnel that is up, with a connection and without clients, and the request by which that is asked once the time is over.
fn at_the_end_of_its_time() -> (World, Request) {
    let mut world = World::new(sleepy(), 1);
    world.start_all();
    world.client_comes(ONE);
    world.settle(|world| world.owner(ONE).is_some() && world.relay_is_quiet());
    world.all_clients_leave();
    world.deliver();
    world.now = world.link.deadline().unwrap();
    world.hear(Event::DeadlinePassed);
    let [Action::AskForClients(ONE, request)] = world.actions[..] else { panic!("{:?}", world.actions) };
    (world, request)
}

#[test]
fn a_client_that_comes_at_the_last_moment_keeps_the_connection_and_one_that_comes_later_waits_for_the_next() {
    let (mut world, request) = at_the_end_of_its_time();
    assert_eq!((world.serving(ONE), world.name(ONE)), (None, StateName::Up));
    world.client_comes(ONE);
    world.settle(|world| world.relay_is_quiet() && world.serving(ONE).is_some());
    world.hear(Event::NoClients(ONE, request));
    assert_eq!((&world.actions[..], world.starts), (&[][..], 1), "that answer is outdated");

    let (mut world, _) = at_the_end_of_its_time();
    let old = world.owner(ONE).unwrap();
    world.relay_obeys(ONE);
    world.deliver();
    assert!(world.actions.contains(&Action::Terminate(old)), "{:?}", world.actions);
    assert!(world.link.is_asleep(ONE));
    world.client_comes(ONE);
    world.deliver();
    assert_eq!(world.name(ONE), StateName::Connecting);
    assert_eq!(world.starts, 2, "while the old one is being ended");
    world.settle(|world| world.name(ONE) == StateName::Up && world.owner(ONE) > Some(old));
}

#[test]
fn for_nobody_no_login_is_tried_again_and_a_client_waits_for_the_end_of_a_backoff() {
    let mut world = World::new(sleepy(), 1);
    world.start_all();
    world.client_comes(ONE);
    let fail = |world: &mut World| {
        world.settle(|world| !world.processes.is_empty());
        let refused = Failure::new(FailureKind::Refused, "refused");
        let id = world.link.awaited();
        world.processes.remove(&id);
        world.hear(Event::Connection(id, ConnectionEvent::Ended(refused)));
    };
    fail(&mut world);
    world.settle(|world| world.starts == 2);
    assert_eq!(world.now, Moment::default(), "at once after the first failure");
    fail(&mut world);
    assert_eq!((world.name(ONE), world.starts), (StateName::Backoff, 2));
    let due = world.link.deadline().unwrap();
    world.all_clients_leave();
    world.deliver();
    world.client_comes(ONE);
    world.deliver();
    assert_eq!((world.name(ONE), world.link.deadline()), (StateName::Backoff, Some(due)));
    world.all_clients_leave();
    world.deliver();
    world.settle(|world| world.link.is_asleep(ONE));
    assert_eq!((world.now, world.starts, world.link.deadline()), (due, 2, None));
    assert_eq!(world.link.last_failure(ONE).map(|failure| failure.kind), Some(FailureKind::Refused));
}

#[test]
fn neither_a_restart_nor_a_change_of_the_network_wakes_a_tunnel() {
    let mut world = World::new(sleepy(), 2);
    world.start_all();
    world.settle(|world| world.slots.iter().all(|slot| world.link.is_asleep(*slot)));
    for event in [Event::RestartRequested(ONE), Event::StartRequested(ONE), Event::NetworkChanged] {
        world.hear(event);
        assert_eq!(world.actions, []);
    }
    // Neither does the other one, which has a client.
    world.client_comes(Slot(2));
    world.settle(|world| world.owner(Slot(2)).is_some());
    assert!(world.link.is_asleep(ONE) && world.owner(ONE).is_none());
    world.hear(Event::RestartRequested(ONE));
    assert_eq!(world.actions, []);
}

#[test]
fn a_change_of_the_time_counts_at_once_and_neither_the_key_nor_its_removal_restarts_anything() {
    let mut world = World::up(ssh(), 1);
    let change = |world: &mut World, on_demand| {
        world.hear(Event::PolicyChanged(ONE, Policy { on_demand, ..ssh() }));
        assert_eq!(world.actions, []);
    };
    change(&mut world, Some(ON_DEMAND));
    let since = world.now;
    assert_eq!(world.link.deadline(), Some(since.after(ON_DEMAND)));
    change(&mut world, Some(ON_DEMAND / 2));
    assert_eq!(world.link.deadline(), Some(since.after(ON_DEMAND / 2)));
    change(&mut world, None);
    assert_eq!((world.link.deadline(), world.starts), (None, 1));

    world.policy = sleepy();
    change(&mut world, Some(ON_DEMAND));
    world.settle(|world| world.link.is_asleep(ONE) && world.processes.is_empty());
    world.hear(Event::PolicyChanged(ONE, ssh()));
    world.settle(|world| world.owner(ONE).is_some());
}

#[test]
fn a_tunnel_that_has_lost_its_port_while_it_sleeps_waits_for_it() {
    let mut world = World::new(sleepy(), 1);
    world.start_all();
    world.settle(|world| world.link.is_asleep(ONE));
    world.squatted.insert(ONE);
    world.hear(Event::PortLost(ONE));
    let request = world.link.awaiting_port(ONE).unwrap();
    world.hear(Event::Forward(request, ForwardEvent::PortHeld(super::world::stranger())));
    assert_eq!((world.name(ONE), world.link.is_asleep(ONE)), (StateName::AwaitingPort, false));
    world.settle(|world| world.link.is_asleep(ONE));
}
