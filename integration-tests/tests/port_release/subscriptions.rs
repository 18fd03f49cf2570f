//! Subscriptions: one socket for all, and none when nobody waits.

use portward::port::{Endpoint, Ports};

use crate::namespace::{self, event_sockets};
use crate::squatters::{Options, PORT, at, endpoint, listen};

fn on(port: u16) -> Endpoint {
    Endpoint::new([127, 0, 0, 1].into(), port)
}

/// The runtime drops an aborted task when it runs next.
async fn the_reader_ends() {
    tokio::task::yield_now().await;
}

#[test]
fn one_socket_serves_all_and_is_closed_when_nobody_waits() {
    namespace::run(async || {
        let ports = Ports::new().unwrap();
        assert_eq!(event_sockets().len(), 0);
        let one = ports.watch(&[on(1)]).unwrap();
        let two = ports.clone().watch(&[on(2)]).unwrap();
        assert_eq!(event_sockets().len(), 1);
        drop(one);
        assert_eq!(event_sockets().len(), 1);
        drop(two);
        the_reader_ends().await;
        assert_eq!(event_sockets().len(), 0);
    });
}

#[test]
fn a_wait_that_is_given_up_leaves_no_subscription() {
    namespace::run(async || {
        let ports = Ports::new().unwrap();
        let _listener = listen(at("127.0.0.1"), Options::default()).unwrap();
        let wanted = [endpoint("127.0.0.1")];
        {
            let waiting = ports.unbound(&wanted, |_, _| ());
            tokio::pin!(waiting);
            tokio::select! {
                biased;
                _ = &mut waiting => panic!("the port is held"),
                () = tokio::task::yield_now() => {}
            }
            assert_eq!(event_sockets().len(), 1);
        }
        the_reader_ends().await;
        assert_eq!(event_sockets().len(), 0);
    });
}

#[test]
fn each_subscription_hears_of_its_own_ports() {
    namespace::run(async || {
        let ports = Ports::new().unwrap();
        let first = listen(at("127.0.0.1"), Options::default()).unwrap();
        let second = listen(at("127.0.0.2"), Options::default()).unwrap();
        let other = listen("127.0.0.1:13307".parse().unwrap(), Options::default()).unwrap();
        let mut ours = ports.watch(&[on(PORT)]).unwrap();
        // The filter in force is replaced, and knows the new port as well as the old one.
        let mut theirs = ports.watch(&[on(PORT + 1)]).unwrap();
        drop(other);
        theirs.changed().await;
        drop(first);
        ours.changed().await;
        // A change that nobody asked about yet is remembered, also when somebody else reads it from the socket.
        drop(second);
        tokio::select! {
            biased;
            () = theirs.changed() => panic!("nothing happened on the other port"),
            () = ours.changed() => {}
        }
        assert_eq!(ports.counters().events, 3);
    });
}

#[test]
fn a_port_that_is_watched_no_more_is_heard_of_once_at_most() {
    namespace::run(async || {
        let ports = Ports::new().unwrap();
        let mut ours = ports.watch(&[on(PORT)]).unwrap();
        drop(ports.watch(&[on(PORT + 1)]).unwrap());
        let other = || listen("127.0.0.1:13307".parse().unwrap(), Options::default()).unwrap();
        drop(other());
        while ports.counters().events == 0 {
            tokio::task::yield_now().await;
        }
        drop(other());
        drop(other());
        drop(listen(at("127.0.0.1"), Options::default()).unwrap());
        ours.changed().await;
        assert_eq!(ports.counters().events, 2);
    });
}

#[test]
fn thousands_of_ports_are_watched_and_others_are_not_heard_of() {
    namespace::run(async || {
        let ports = Ports::new().unwrap();
        let listener = listen(at("127.0.0.1"), Options::default()).unwrap();
        let foreign = listen("127.0.0.1:1".parse().unwrap(), Options::default()).unwrap();
        let mut subscription = ports.watch(&(10_000..14_000).map(on).collect::<Vec<_>>()).unwrap();
        drop(foreign);
        drop(listener);
        subscription.changed().await;
        assert_eq!(ports.counters().events, 1);
    });
}
