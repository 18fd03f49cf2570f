use super::*;
use proptest::prelude::*;
use std::net::IpAddr;
use std::time::Duration;

fn row(address: &str, v6only: bool, state: SocketState) -> SocketRow {
    let local: SocketAddr = address.parse().unwrap();
    SocketRow {
        local,
        remote: SocketAddr::new(local.ip(), 0),
        state,
        inode: 1,
        uid: 1000,
        cookie: 1,
        v6only,
        interface: 0,
        cgroup: None,
    }
}

fn endpoint(address: &str, v6only: bool) -> Endpoint {
    Endpoint { address: address.parse().unwrap(), v6only, protocol: Protocol::Tcp }
}

fn meets(wanted: (&str, bool), there: (&str, bool)) -> bool {
    overlaps(&endpoint(wanted.0, wanted.1), &row(there.0, there.1, SocketState::Listening))
}

#[test]
fn addresses_overlap_as_the_kernel_has_it() {
    // (wanted, v6only, there, v6only, overlap)
    let cases = [
        ("127.0.0.1:80", false, "127.0.0.1:80", false, true),
        ("127.0.0.1:80", false, "127.0.0.1:81", false, false),
        ("127.0.0.1:80", false, "127.0.0.2:80", false, false),
        ("127.0.0.1:80", false, "0.0.0.0:80", false, true),
        ("0.0.0.0:80", false, "127.0.0.1:80", false, true),
        ("127.0.0.1:80", false, "[::]:80", false, true),
        ("127.0.0.1:80", false, "[::]:80", true, false),
        ("127.0.0.1:80", false, "[::1]:80", true, false),
        ("127.0.0.1:80", false, "[::ffff:127.0.0.1]:80", false, true),
        ("127.0.0.1:80", false, "[::ffff:127.0.0.2]:80", false, false),
        ("[::1]:80", true, "[::]:80", false, true),
        ("[::1]:80", true, "[::]:80", true, true),
        ("[::1]:80", true, "0.0.0.0:80", false, false),
        ("[::]:80", true, "0.0.0.0:80", false, false),
        ("[::]:80", false, "0.0.0.0:80", false, true),
        ("[::]:80", false, "127.0.0.1:80", false, true),
        ("[::]:80", true, "[::1]:80", true, true),
        ("[::]:80", true, "[::ffff:127.0.0.1]:80", false, false),
    ];
    for (wanted, wanted_v6only, there, there_v6only, expected) in cases {
        assert_eq!(
            meets((wanted, wanted_v6only), (there, there_v6only)),
            expected,
            "{wanted} (v6only {wanted_v6only}) against {there} (v6only {there_v6only})"
        );
    }
}

/// Found by the differential test: a socket that was bound to `[::]` without v6only and then connected over IPv6.
#[test]
fn a_connection_over_ipv6_may_be_in_the_way_of_the_ipv4_wildcard() {
    let connection = row("[::1]:80", false, SocketState::Connected);
    assert!(overlaps(&endpoint("0.0.0.0:80", false), &connection));
    assert!(overlaps(&endpoint("[::]:80", false), &connection));
    assert!(!overlaps(&endpoint("127.0.0.1:80", false), &connection));
    assert!(!overlaps(&endpoint("0.0.0.0:80", false), &row("[::1]:80", true, SocketState::Bound)));
}

#[test]
fn link_local_sockets_of_two_interfaces_do_not_meet() {
    let wanted = endpoint("[fe80::1%2]:80", true);
    let mut there = row("[fe80::1]:80", true, SocketState::Listening);
    there.interface = 3;
    assert!(!overlaps(&wanted, &there));
    there.interface = 2;
    assert!(overlaps(&wanted, &there));
    there.interface = 0;
    assert!(overlaps(&wanted, &there));
}

#[test]
fn only_listeners_are_taken_from_the_listen_dump() {
    let wanted = endpoint("127.0.0.1:80", false);
    let rows = [
        row("127.0.0.1:80", false, SocketState::Connected),
        row("0.0.0.0:80", false, SocketState::Listening),
    ];
    let held = listeners_on(&wanted, &rows);
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].held.kind, HoldKind::Listener);
    assert_eq!(held[0].held.bound, rows[1].local);
}

#[test]
fn a_failed_trial_may_be_explained_by_every_socket_at_the_address() {
    let wanted = endpoint("127.0.0.1:80", false);
    let left = Duration::from_secs(12);
    let rows = [
        row("127.0.0.1:80", false, SocketState::Bound),
        row("127.0.0.1:80", false, SocketState::Connected),
        row("127.0.0.1:80", false, SocketState::TimeWait(left)),
        row("127.0.0.1:80", false, SocketState::Handshake),
        row("127.0.0.2:80", false, SocketState::Connected),
    ];
    let obstacles = obstacles(&wanted, &rows);
    let kinds: Vec<_> = obstacles.iter().map(|obstacle| obstacle.held.kind).collect();
    assert_eq!(kinds, [HoldKind::Bound, HoldKind::Connection, HoldKind::TimeWait(left)]);
    assert_eq!(probes(&obstacles), Vec::<Vec<Probe<'_>>>::new(), "they share one address");
}

#[test]
fn sockets_at_several_addresses_are_told_apart_where_only_they_are() {
    let wanted = endpoint("[::]:80", false);
    let rows = [
        row("127.0.0.1:80", false, SocketState::Bound),
        row("127.0.0.1:80", false, SocketState::Connected),
        row("127.0.0.2:80", false, SocketState::Bound),
        row("0.0.0.0:80", false, SocketState::Bound),
        row("[::]:80", true, SocketState::Bound),
    ];
    let obstacles = obstacles(&wanted, &rows);
    let rounds: Vec<Vec<(String, usize)>> = probes(&obstacles)
        .iter()
        .map(|round| round.iter().map(|probe| (probe.endpoint.to_string(), probe.obstacles.len())).collect())
        .collect();
    let expected = [
        [("[2001:db8::1]:80".to_owned(), 1), ("192.0.2.1:80".to_owned(), 1)],
        [("127.0.0.1:80".to_owned(), 2), ("127.0.0.2:80".to_owned(), 1)],
    ];
    assert_eq!(rounds, expected);
}

#[test]
fn a_listener_needs_no_further_proof() {
    let wanted = endpoint("0.0.0.0:80", false);
    let rows =
        [row("127.0.0.1:80", false, SocketState::Listening), row("127.0.0.2:80", false, SocketState::Bound)];
    assert!(probes(&obstacles(&wanted, &rows)).is_empty());
}

#[test]
fn protocols_do_not_meet() {
    let tcp = endpoint("127.0.0.1:53", false);
    assert!(!tcp.overlaps(&tcp.over(Protocol::Udp)));
}

#[test]
fn a_listener_is_looked_up_in_every_family_that_the_endpoint_covers() {
    let found = |address: &str, v6only| {
        lookups(&endpoint(address, v6only)).map(|address| address.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(found("127.0.0.1:80", false), ["127.0.0.1:80"]);
    assert_eq!(found("[::]:80", false), ["0.0.0.0:80", "[::]:80"]);
    assert_eq!(found("[::1]:80", true), ["[::1]:80"]);
    assert_eq!(found("[::ffff:127.0.0.1]:80", false), ["127.0.0.1:80"]);
    assert_eq!(found("[fe80::1%2]:80", true), ["[fe80::1%2]:80"]);
}

fn an_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        Just("0.0.0.0"),
        Just("127.0.0.1"),
        Just("127.0.0.2"),
        Just("::"),
        Just("::1"),
        Just("fe80::1"),
        Just("::ffff:0.0.0.0"),
        Just("::ffff:127.0.0.1"),
    ]
    .prop_map(|address| address.parse().unwrap())
}

fn at(address: IpAddr, v6only: bool) -> Endpoint {
    Endpoint { v6only, ..Endpoint::new(address, 80) }
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: proptest::test_runner::RngSeed::Fixed(7), ..ProptestConfig::default() })]

    #[test]
    fn overlap_is_mutual(one in an_address(), one_only: bool, two in an_address(), two_only: bool) {
        let (one, two) = (at(one, one_only), at(two, two_only));
        prop_assert_eq!(one.overlaps(&two), two.overlaps(&one));
        prop_assert!(one.overlaps(&one));
    }

    #[test]
    fn a_wildcard_meets_whatever_its_family_has(address in an_address(), only: bool) {
        let dual_stack = at("::".parse().unwrap(), false);
        prop_assert!(dual_stack.overlaps(&at(address, only)));
    }

    #[test]
    fn v6only_sockets_never_meet_ipv4(address in an_address(), v4 in any::<u32>()) {
        prop_assume!(address.is_ipv6() && !address.to_string().starts_with("::ffff"));
        prop_assert!(!at(address, true).overlaps(&at(IpAddr::V4(v4.into()), false)));
    }

    #[test]
    fn the_families_asked_for_are_those_that_can_be_in_the_way(
        wanted in an_address(), wanted_only: bool, there in an_address(), there_only: bool
    ) {
        let wanted = at(wanted, wanted_only);
        let there = row(&SocketAddr::new(there, 80).to_string(), there_only, SocketState::Listening);
        let family = if there.local.is_ipv4() { Family::V4 } else { Family::V6 };
        if overlaps(&wanted, &there) {
            prop_assert!(families(&wanted).contains(&family));
        }
    }
}
