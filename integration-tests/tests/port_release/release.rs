//! Waiting until a port is unbound: woken by the kernel, whatever held it.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use portward::port::{Endpoint, HeldBy, HoldKind, Ports, Protocol};
use tokio::sync::Notify;

use crate::namespace::{self, become_nobody, event_sockets};
use crate::squatters::{Connection, Options, at, bind, endpoint, listen, listening_process, reset};

/// The two queries before the wait, and the one after the event, of both families; with some room for a second event.
const FEW_QUERIES: u64 = 10;

/// Waits for `wanted` while `release` runs, which begins when the holders have been told. Returns all that was told.
async fn wait_while(
    ports: &Ports,
    wanted: &[Endpoint],
    release: impl Future<Output = ()>,
) -> Vec<Vec<HeldBy>> {
    wait_while_told(ports, wanted, async |_| release.await).await
}

/// As [`wait_while`]; `release` can wait until holders are told again.
async fn wait_while_told(
    ports: &Ports,
    wanted: &[Endpoint],
    release: impl AsyncFnOnce(&Notify),
) -> Vec<Vec<HeldBy>> {
    let told = RefCell::new(Vec::new());
    let waiting = Notify::new();
    let on_held = |held: &[HeldBy], _| {
        told.borrow_mut().push(held.to_vec());
        waiting.notify_one();
    };
    let release = async {
        waiting.notified().await;
        release(&waiting).await;
    };
    let (unbound, ()) = tokio::join!(ports.unbound(wanted, on_held), release);
    unbound.unwrap();
    told.into_inner()
}

/// Lets every task run that can.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn open_and_close_foreign_listeners(count: u64) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    for _ in 0..count {
        let port = 20_000 + u16::try_from(NEXT.fetch_add(1, Ordering::Relaxed) % 10_000).unwrap();
        drop(listen(([127, 0, 0, 1], port).into(), Options::default()).unwrap());
    }
}

#[test]
fn an_unbound_port_is_not_waited_for() {
    namespace::run(async || {
        let ports = Ports::new().unwrap();
        ports
            .unbound(&[endpoint("127.0.0.1"), endpoint("::1")], |held, _| panic!("held: {held:?}"))
            .await
            .unwrap();
        let counters = ports.counters();
        assert_eq!((counters.queries, counters.trial_binds, counters.events), (0, 2, 0));
    });
}

#[test]
fn the_release_of_a_listener_wakes_the_waiter_and_foreign_ports_do_not() {
    namespace::run(async || {
        let ports = Ports::new().unwrap();
        let listener = listen(at("127.0.0.1"), Options::default()).unwrap();
        let told = wait_while(&ports, &[endpoint("127.0.0.1"), endpoint("::1")], async {
            settle().await;
            let before = ports.counters();
            open_and_close_foreign_listeners(1000);
            settle().await;
            assert_eq!(ports.counters(), before, "nothing happened on the port");
            drop(listener);
        })
        .await;
        assert_eq!(told.len(), 1);
        assert_eq!(told[0][0].kind, HoldKind::Listener);
        let counters = ports.counters();
        assert_eq!((counters.events, counters.overruns), (1, 0));
        assert!(counters.queries <= FEW_QUERIES, "{counters:?}");
    });
}

#[test]
fn kill_9_of_the_holder_wakes_the_waiter() {
    namespace::run(async || {
        let ports = Ports::new().unwrap();
        let mut child = listening_process(at("127.0.0.1"));
        wait_while(&ports, &[endpoint("127.0.0.1")], async { child.kill() }).await;
        assert!(ports.counters().queries <= FEW_QUERIES, "{:?}", ports.counters());
    });
}

#[test]
fn the_release_of_a_bound_socket_wakes_the_waiter() {
    namespace::run(async || {
        let ports = Ports::new().unwrap();
        let squatter = bind(at("127.0.0.1"), Options::default()).unwrap();
        let told = wait_while(&ports, &[endpoint("127.0.0.1")], async { drop(squatter) }).await;
        assert_eq!(told[0][0].kind, HoldKind::Bound);
    });
}

#[test]
fn the_end_of_an_outgoing_connection_wakes_the_waiter() {
    namespace::run(async || {
        let ports = Ports::new().unwrap();
        let Connection { client, server } = Connection::outgoing();
        let address = client.local_addr().unwrap();
        let wanted = Endpoint::new(address.ip(), address.port());
        let told = wait_while(&ports, &[wanted], async { reset(client) }).await;
        assert_eq!(told[0][0].kind, HoldKind::Connection);
        drop(server);
    });
}

/// The kernel says nothing when it ends. A closed connection of which the other side is still open is kept in the same way, and
/// not for a minute.
#[test]
fn the_end_of_a_time_wait_is_waited_for_by_its_deadline() {
    namespace::run(async || {
        std::fs::write("/proc/sys/net/ipv4/tcp_fin_timeout", "2").unwrap();
        let ports = Ports::new().unwrap();
        let connection = Connection::outgoing();
        let wanted = connection.client_endpoint();
        let Connection { client, server } = connection;
        drop(client);
        let told = wait_while(&ports, &[wanted], async {}).await;
        // It may have been told of while it was a connection still.
        let last = told.last().unwrap();
        assert!(matches!(last[0].kind, HoldKind::TimeWait(_)), "{told:?}");
        let counters = ports.counters();
        assert!(counters.queries <= 2 * FEW_QUERIES, "{counters:?}");
        assert!(counters.trial_binds <= 2 * FEW_QUERIES, "{counters:?}");
        drop(server);
    });
}

/// Somebody has the port at 127.0.0.2 and lets others pass; the wildcard is held at 127.0.0.1 alone.
#[test]
fn only_the_sockets_that_are_in_the_way_of_a_wildcard_are_told() {
    namespace::run(async || {
        let ports = Ports::new().unwrap();
        let harmless = Options { reuse_address: true, ..Options::default() };
        let _passing = bind(at("127.0.0.2"), harmless).unwrap();
        let squatter = bind(at("127.0.0.1"), Options::default()).unwrap();
        let told = wait_while(&ports, &[endpoint("0.0.0.0")], async {
            settle().await;
            drop(squatter);
        })
        .await;
        let bound: Vec<Vec<_>> =
            told.iter().map(|held| held.iter().map(|holder| holder.bound).collect()).collect();
        assert_eq!(bound, [[at("127.0.0.1")]]);
        assert!(ports.counters().trial_binds < 20, "{:?}", ports.counters());
    });
}

#[test]
fn the_release_of_a_udp_port_wakes_the_waiter_and_tcp_does_not() {
    namespace::run(async || {
        let ports = Ports::new().unwrap();
        let squatter = std::net::UdpSocket::bind(at("127.0.0.1")).unwrap();
        let wanted = endpoint("127.0.0.1").over(Protocol::Udp);
        let told = wait_while(&ports, &[wanted], async {
            settle().await;
            drop(listen(at("127.0.0.1"), Options::default()).unwrap());
            settle().await;
            assert_eq!(ports.counters().events, 0);
            drop(squatter);
        })
        .await;
        assert_eq!((told.len(), told[0][0].kind), (1, HoldKind::Bound));
        assert_eq!(ports.counters().events, 1);
    });
}

#[test]
fn a_group_of_so_reuseport_holds_the_port_until_its_last_member_closes() {
    namespace::run(async || {
        let ports = Ports::new().unwrap();
        let options = Options { reuse_port: true, ..Options::default() };
        let one = listen(at("127.0.0.1"), options).unwrap();
        let two = listen(at("127.0.0.1"), options).unwrap();
        let told = wait_while_told(&ports, &[endpoint("127.0.0.1")], async |told| {
            settle().await;
            drop(one);
            // The waiter is told of the change before the second one closes, or this would not end.
            told.notified().await;
            drop(two);
        })
        .await;
        let sizes: Vec<_> = told.iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 1]);
    });
}

#[test]
fn so_many_closes_at_once_that_events_are_lost_still_wake_the_waiter() {
    namespace::run(async || {
        let ports = Ports::new().unwrap();
        let options = Options { reuse_port: true, ..Options::default() };
        let group: Vec<_> = (0..300).map(|_| listen(at("127.0.0.1"), options).unwrap()).collect();
        wait_while(&ports, &[endpoint("127.0.0.1")], async {
            drop(group);
            // The waiter cannot read while this runs: there is one thread.
            while event_sockets()[0].lost == 0 {
                std::thread::yield_now();
            }
        })
        .await;
        let counters = ports.counters();
        assert!(counters.overruns > 0, "{counters:?}");
        assert!(counters.queries <= FEW_QUERIES, "{counters:?}");
    });
}

#[test]
fn the_holders_are_told_again_when_they_change() {
    namespace::run(async || {
        let ports = Ports::new().unwrap();
        let first = listen(at("127.0.0.1"), Options::default()).unwrap();
        let mut second = None;
        let told = wait_while_told(&ports, &[endpoint("127.0.0.1")], async |told| {
            settle().await;
            drop(first);
            second = Some(bind(at("127.0.0.1"), Options::default()).unwrap());
            told.notified().await;
            drop(second.take());
        })
        .await;
        let kinds: Vec<_> = told.iter().map(|held| held[0].kind).collect();
        assert_eq!(kinds, [HoldKind::Listener, HoldKind::Bound]);
    });
}

/// A trial bind of the free address succeeds, and its end is an event on the port that both wait for.
#[test]
fn two_waiters_for_a_half_free_port_do_not_wake_each_other_for_ever() {
    namespace::run(async || {
        let (one, two) = (Ports::new().unwrap(), Ports::new().unwrap());
        let wanted = [endpoint("127.0.0.1"), endpoint("::1")];
        let squatter = bind(at("::1"), Options { v6only: true, ..Options::default() }).unwrap();
        let waiting = async {
            let (first, second) =
                tokio::join!(one.unbound(&wanted, |_, _| ()), two.unbound(&wanted, |_, _| ()));
            first.unwrap();
            second.unwrap();
        };
        let release = async {
            settle().await;
            open_and_close_foreign_listeners(1000);
            settle().await;
            drop(squatter);
        };
        tokio::join!(waiting, release);
        for counters in [one.counters(), two.counters()] {
            assert!(counters.trial_binds < 20, "{counters:?}");
        }
    });
}

#[test]
fn an_ordinary_user_is_woken_as_well() {
    namespace::run(async || {
        let listener = listen(at("127.0.0.1"), Options::default()).unwrap();
        become_nobody();
        let ports = Ports::new().unwrap();
        wait_while(&ports, &[endpoint("127.0.0.1")], async {
            settle().await;
            open_and_close_foreign_listeners(1000);
            drop(listener);
        })
        .await;
        assert_eq!(ports.counters().events, 1);
    });
}
