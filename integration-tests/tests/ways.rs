//! When there is a way to an address, as the kernel has it.

#![allow(clippy::unwrap_used)]

use std::io;
use std::net::IpAddr;

use integration_tests::{become_nobody, ip, isolated, within_deadline};
use portward::network::{Network, Ways};

/// This machine's address and that of a neighbour, of both families.
const ADDRESSES: [(&str, &str); 2] = [("10.1.0.2", "10.1.0.1"), ("fd00:1::2", "fd00:1::1")];

fn exists(from: Option<&str>, to: &str) -> io::Result<bool> {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    Ways::open().unwrap().exists(from.map(address), address(to))
}

/// A cable of which both ends are here.
fn cable() {
    ip("link add here type veth peer name there");
    for name in ["here", "there"] {
        ip(&format!("link set {name} addrgenmode none"));
        ip(&format!("link set {name} up"));
    }
    ip("address add 10.1.0.2/24 dev here");
    ip("address add fd00:1::2/64 dev here nodad");
}

#[test]
fn a_way_ends_with_the_carrier_of_its_link_and_with_its_route() {
    isolated(|| async {
        cable();
        let mut network = Network::watch();
        for (own, other) in ADDRESSES {
            assert!(exists(Some(own), other).unwrap(), "{other}");
            assert!(exists(None, other).unwrap(), "{other}");
        }
        // The kernel reports the carrier when it sees it.
        for (state, expected) in [("down", false), ("up", true)] {
            ip(&format!("link set there {state}"));
            while ADDRESSES.iter().any(|(own, other)| exists(Some(own), other).unwrap() != expected) {
                within_deadline("a report of the carrier", network.changed()).await;
            }
        }
        // An IPv6 address goes with its link.
        ip("link set here down");
        for (_, other) in ADDRESSES {
            assert!(!exists(None, other).unwrap(), "{other}");
        }
        assert!(!exists(Some("10.1.0.2"), "10.1.0.1").unwrap());
    });
}

#[test]
fn there_is_no_way_from_an_address_that_this_machine_does_not_have() {
    isolated(|| async {
        cable();
        assert!(!exists(Some("10.1.0.9"), "10.1.0.1").unwrap());
    });
}

#[test]
fn any_user_learns_of_ways() {
    isolated(|| async {
        cable();
        become_nobody();
        for (own, other) in ADDRESSES {
            assert!(exists(Some(own), other).unwrap(), "{other}");
        }
        assert!(!exists(None, "192.0.2.1").unwrap());
        assert!(!exists(None, "2001:db8::1").unwrap());
    });
}
