//! What a link does when the network of its machine changes.

use std::time::Duration;

use proptest::prelude::*;

use super::world::{World, address_removed, policy};
use super::{ONE, counts, ssh};
use crate::core::*;

/// The probe's.
const TIMEOUT: Duration = Duration::from_secs(3);

/// All classes of failures that are retried.
fn retried() -> impl Strategy<Value = FailureKind> {
    prop::sample::select(vec![
        FailureKind::Auth,
        FailureKind::HostKey,
        FailureKind::Dns,
        FailureKind::Refused,
        FailureKind::Timeout,
        FailureKind::Network,
        FailureKind::RemotePortHeld,
        FailureKind::LocalPortHeld,
        FailureKind::Killed,
        FailureKind::Exited,
    ])
}

/// A link whose login has failed in this way until it waits for the next one.
fn in_backoff(policy: Policy, kind: FailureKind) -> World {
    let mut world = World::new(policy, 1);
    world.start_all();
    let waits = |world: &World| world.all(StateName::Backoff);
    while !waits(&world) {
        world.settle(|world| waits(world) || world.actions.iter().any(starts));
        if let Some(id) = world.processes.keys().next().copied() {
            world.processes.clear();
            world.hear(Event::Connection(id, ConnectionEvent::Ended(Failure::new(kind, "failed"))));
        }
    }
    world
}

fn starts(action: &Action) -> bool {
    matches!(action, Action::StartConnection(..))
}

proptest! {
    #[test]
    fn what_answers_is_kept_however_often_the_network_changes(
        kind in prop::sample::select(vec![Kind::Ssh, Kind::Command]), changes in 1usize..20, tunnels in counts(),
    ) {
        let tunnels = match kind { Kind::Ssh => tunnels, Kind::Command => 1 };
        let mut world = World::up(policy(kind, OnConflict::Wait), tunnels);
        let before = world.owner(ONE);
        for _ in 0..changes {
            world.hear(Event::NetworkChanged);
            prop_assert!(world.all_up());
            world.settle(|world| world.link.deadline().is_none());
        }
        prop_assert_eq!((world.owner(ONE), world.starts), (before, 1));
        prop_assert_eq!(world.link.last_failure(ONE), None);
    }

    #[test]
    fn a_server_that_does_not_answer_is_given_up_after_the_time_out_and_the_next_login_does_not_wait(
        tunnels in counts(), failures in 0usize..5,
    ) {
        let mut world = World::up(ssh(), tunnels);
        for _ in 0..=failures {
            let old = world.owner(ONE).unwrap();
            world.cut_off.insert(old);
            let changed = world.now;
            world.hear(Event::NetworkChanged);
            prop_assert_eq!(&world.actions, &vec![Action::Probe(old)]);
            // What comes meanwhile asks nobody twice, and gives no more time.
            world.now = changed.after(TIMEOUT / 2);
            world.hear(Event::NetworkChanged);
            prop_assert_eq!(&world.actions, &vec![]);
            prop_assert_eq!(world.link.deadline(), Some(changed.after(TIMEOUT)));
            let before = world.starts;
            world.now = changed.after(TIMEOUT);
            world.hear(Event::DeadlinePassed);
            prop_assert!(world.actions.contains(&Action::Terminate(old)), "{:?}", world.actions);
            let failure = world.link.last_failure(ONE).unwrap();
            prop_assert_eq!(failure.kind, FailureKind::Timeout);
            prop_assert!(failure.message.contains("network changed") && failure.message.contains("not answered"), "{}", failure);
            world.settle(|world| world.starts > before);
            prop_assert_eq!(world.now, changed.after(TIMEOUT), "the next login waits");
            world.settle(World::all_up);
            prop_assert!(world.owner(ONE) > Some(old));
        }
    }

    #[test]
    fn a_connection_whose_address_is_gone_is_replaced_at_once(tunnels in counts(), is_ready: bool, times in 1usize..5) {
        let mut world = World::new(ssh(), tunnels);
        world.start_all();
        for _ in 0..times {
            let begun = |world: &World| world.actions.iter().any(starts);
            world.settle(|world| if is_ready { world.all_up() } else { begun(world) });
            let (old, now) = (*world.processes.keys().next().unwrap(), world.now);
            let before = world.starts;
            world.hear(Event::Connection(old, address_removed()));
            prop_assert!(world.actions.contains(&Action::Terminate(old)), "{:?}", world.actions);
            world.settle(|world| world.starts > before);
            prop_assert_eq!(world.now, now, "the next login waits");
            let failure = world.link.last_failure(ONE).unwrap();
            prop_assert_eq!(failure.kind, FailureKind::Network);
            prop_assert!(failure.message.contains("192.0.2.1"), "{}", failure);
        }
    }

    #[test]
    fn a_login_is_tried_at_once_if_it_failed_for_want_of_a_network_and_its_failures_stay_counted(kind in retried()) {
        let mut world = in_backoff(ssh(), kind);
        let (failures, before) = (world.link.failures, world.starts);
        let (now, until) = (world.now, world.link.deadline());
        world.hear(Event::NetworkChanged);
        prop_assert_eq!(world.link.failures, failures);
        if kind.is_unreachable() {
            world.settle(|world| world.starts > before);
            prop_assert_eq!(world.now, now, "it waits");
            let id = *world.processes.keys().next().unwrap();
            world.processes.clear();
            world.hear(Event::Connection(id, ConnectionEvent::Ended(Failure::new(kind, "failed"))));
            prop_assert_eq!(world.name(ONE), StateName::Backoff);
            prop_assert_eq!(world.link.failures, failures + 1);
        } else {
            prop_assert_eq!(world.name(ONE), StateName::Backoff);
            prop_assert_eq!((world.link.deadline(), world.starts), (until, before));
        }
    }
}

#[test]
fn after_each_change_a_probe_is_sent_and_one_at_a_time() {
    let mut world = World::up(ssh(), 1);
    let id = world.owner(ONE).unwrap();
    world.hear(Event::NetworkChanged);
    assert_eq!(world.actions, [Action::Probe(id)]);
    world.hear(Event::NetworkChanged);
    world.hear(Event::NetworkChanged);
    assert_eq!(world.actions, []);
    world.now = world.now.after(TIMEOUT / 2);
    world.hear(Event::Connection(id, ConnectionEvent::Answered));
    assert_eq!(world.actions, [Action::Probe(id)], "the answer may be older than the change");
    assert_eq!(world.link.deadline(), Some(world.now.after(TIMEOUT)));
    world.hear(Event::Connection(id, ConnectionEvent::Answered));
    assert_eq!((&world.actions[..], world.link.deadline()), (&[][..], None));
}

#[test]
fn a_process_that_is_stopped_is_not_probed_and_ends_the_probe_that_is_under_way() {
    let mut world = World::up(ssh(), 1);
    let id = world.owner(ONE).unwrap();
    world.hear(Event::NetworkChanged);
    assert_eq!(world.actions, [Action::Probe(id)]);
    world.hear(Event::Connection(id, ConnectionEvent::Stopped(7)));
    world.hear(Event::NetworkChanged);
    assert_eq!(world.actions, []);
    world.now = world.now.after(TIMEOUT);
    world.hear(Event::DeadlinePassed);
    assert_eq!(world.actions, [], "it has its grace of 5 s");
    world.hear(Event::Connection(id, ConnectionEvent::Continued));
    assert_eq!((world.name(ONE), world.link.deadline()), (StateName::Up, None));
}

#[test]
fn a_spare_is_probed_as_well_and_replaced_when_its_server_is_silent() {
    let mut world = World::up(Policy { standby: true, ..ssh() }, 1);
    let active = world.owner(ONE).unwrap();
    let spare = *world.processes.keys().find(|id| **id != active).unwrap();
    world.cut_off.insert(spare);
    world.hear(Event::NetworkChanged);
    assert_eq!(world.actions, [Action::Probe(active), Action::Probe(spare)]);
    world.settle(|world| world.starts == 3 && world.link.standby() == Some(Standby::Ready));
    assert!(!world.processes.contains_key(&spare), "{world:#?}");
    assert_eq!((world.owner(ONE), world.link.last_failure(ONE)), (Some(active), None));
}

#[test]
fn a_spare_that_failed_for_want_of_a_network_is_made_at_once_and_another_one_is_not() {
    for (kind, after) in [(FailureKind::Network, Standby::Connecting), (FailureKind::Auth, Standby::Backoff)]
    {
        let mut world = World::up(Policy { standby: true, ..ssh() }, 1);
        while world.link.standby() != Some(Standby::Backoff) {
            let spare = *world.processes.keys().next_back().unwrap();
            world.processes.remove(&spare);
            world.hear(Event::Connection(spare, ConnectionEvent::Ended(Failure::new(kind, "failed"))));
        }
        world.hear(Event::NetworkChanged);
        assert_eq!(world.link.standby(), Some(after), "{kind}");
    }
}

#[test]
fn a_command_whose_start_timed_out_is_not_started_early() {
    let mut world = in_backoff(policy(Kind::Command, OnConflict::Wait), FailureKind::Timeout);
    let before = (world.link.deadline(), world.starts);
    world.hear(Event::NetworkChanged);
    assert_eq!(
        (world.name(ONE), world.link.deadline(), world.starts),
        (StateName::Backoff, before.0, before.1)
    );
}

#[test]
fn a_server_to_which_there_is_no_way_is_waited_for_and_asked_again_once_there_is_one() {
    let mut world = World::up(ssh(), 2);
    let id = world.owner(ONE).unwrap();
    let lost = world.now;
    world.hear(Event::NetworkChanged);
    world.hear(Event::Connection(id, ConnectionEvent::Unreachable));
    assert_eq!((&world.actions[..], world.link.deadline()), (&[][..], None));
    let failure = world.link.last_failure(ONE).unwrap();
    assert_eq!(failure.kind, FailureKind::Network);
    assert!(
        failure.message.contains("no way to the server") && failure.message.contains("is kept"),
        "{failure}"
    );
    // Neither another change nor an answer from before shows a way.
    world.now = world.now.after(TIMEOUT * 2);
    world.hear(Event::NetworkChanged);
    world.hear(Event::Connection(id, ConnectionEvent::Answered));
    world.hear(Event::Connection(id, ConnectionEvent::Unreachable));
    assert_eq!((&world.actions[..], world.link.deadline()), (&[][..], None));
    // TCP may wait for as long again.
    let missed = world.now.since(lost);
    world.hear(Event::Connection(id, ConnectionEvent::Reachable));
    assert_eq!(world.actions, [Action::Probe(id)]);
    assert_eq!(world.link.deadline(), Some(world.now.after(missed + TIMEOUT)));
    assert_eq!(world.link.last_failure(ONE), None);
    world.hear(Event::Connection(id, ConnectionEvent::Answered));
    assert_eq!((world.all_up(), world.owner(ONE), world.link.deadline()), (true, Some(id), None));
}

#[test]
fn a_server_that_is_silent_although_the_way_is_back_is_given_up_and_no_later_than_tcp_could_have_sent_again()
{
    const MINUTE: Duration = Duration::from_secs(60);
    for (missed, patience) in [(MINUTE, MINUTE + TIMEOUT), (60 * MINUTE, 2 * MINUTE + TIMEOUT)] {
        let mut world = World::up(ssh(), 1);
        let id = world.owner(ONE).unwrap();
        world.cut_off.insert(id);
        world.hear(Event::NetworkChanged);
        world.hear(Event::Connection(id, ConnectionEvent::Unreachable));
        world.now = world.now.after(missed);
        world.hear(Event::Connection(id, ConnectionEvent::Reachable));
        assert_eq!(world.link.deadline(), Some(world.now.after(patience)));
        world.now = world.now.after(patience);
        world.hear(Event::DeadlinePassed);
        assert!(world.actions.contains(&Action::Terminate(id)), "{:?}", world.actions);
    }
}

#[test]
fn a_server_to_which_there_is_no_way_gives_way_to_a_fallback_host_after_the_time_out() {
    let mut world = World::up(Policy { destinations: 2, ..ssh() }, 1);
    let id = world.owner(ONE).unwrap();
    world.cut_off.insert(id);
    let lost = world.now;
    world.hear(Event::NetworkChanged);
    world.hear(Event::Connection(id, ConnectionEvent::Unreachable));
    assert_eq!(world.link.deadline(), Some(lost.after(TIMEOUT)));
    world.settle(World::all_up);
    world.settle(|world| world.starts == 2 && world.all_up());
    assert!(world.owner(ONE) > Some(id));
}
