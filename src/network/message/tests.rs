use proptest::prelude::*;

use super::*;

const RTM_NEWLINK: u16 = 16;
/// IFA_ADDRESS and IFA_LOCAL
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;

/// A message of the kernel.
fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + payload.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend([0; 10]);
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// `struct ifaddrmsg` and attributes.
fn address(family: i32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut payload = vec![u8::try_from(family).unwrap(), 24, 0, 0, 3, 0, 0, 0];
    for (kind, value) in attributes {
        payload.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
        payload.extend(kind.to_ne_bytes());
        payload.extend(*value);
        payload.resize(payload.len().next_multiple_of(4), 0);
    }
    payload
}

fn v4(attributes: &[(u16, &[u8])]) -> Vec<u8> {
    message(RTM_DELADDR, &address(nix::libc::AF_INET, attributes))
}

fn changes(datagram: &[u8]) -> BTreeSet<Change> {
    Announced::default().changes(datagram)
}

fn removed_are(addresses: &[&str], datagram: &[u8]) {
    let removed = addresses.iter().map(|address| Change::AddressRemoved(address.parse().unwrap()));
    let wanted: BTreeSet<_> = removed.chain([Change::NetworkChanged]).collect();
    assert_eq!(changes(datagram), wanted);
}

#[test]
fn the_own_address_is_the_one_that_was_removed_and_not_the_peers() {
    removed_are(&["10.1.0.2"], &v4(&[(ADDRESS, &[10, 1, 0, 2]), (LOCAL, &[10, 1, 0, 2])]));
    removed_are(&["10.1.0.2"], &v4(&[(ADDRESS, &[10, 9, 9, 9]), (LOCAL, &[10, 1, 0, 2])]));
    let v6 = |attributes: &[(u16, &[u8])]| message(RTM_DELADDR, &address(nix::libc::AF_INET6, attributes));
    let (own, peer) = ("2001:db8::2", "2001:db8::9");
    let octets = |address: &str| address.parse::<std::net::Ipv6Addr>().unwrap().octets();
    removed_are(&[own], &v6(&[(ADDRESS, &octets(own))]));
    removed_are(&[own], &v6(&[(LOCAL, &octets(own)), (ADDRESS, &octets(peer))]));
}

#[test]
fn all_messages_of_a_datagram_are_read_and_others_than_of_a_removed_address_are_a_change_of_the_network() {
    let both =
        [v4(&[(LOCAL, &[10, 1, 0, 2])]), message(RTM_NEWLINK, &[7; 33]), v4(&[(LOCAL, &[10, 2, 0, 2])])];
    removed_are(&["10.1.0.2", "10.2.0.2"], &both.concat());
    removed_are(&[], &message(RTM_NEWLINK, &[]));
    removed_are(&[], &message(RTM_NEWROUTE, &route(0)));
    removed_are(&[], &[1]);
    assert_eq!(changes(&[]), BTreeSet::new());
}

/// `struct rtmsg`.
fn route(flags: u32) -> Vec<u8> {
    [&[10, 128, 0, 0, 254, 2, 0, 1], &flags.to_ne_bytes()[..]].concat()
}

#[test]
fn what_the_kernel_remembers_of_one_destination_is_no_change() {
    const RTM_F_CLONED: u32 = 0x200;
    for kind in [RTM_NEWROUTE, RTM_DELROUTE] {
        assert_eq!(changes(&message(kind, &route(RTM_F_CLONED))), BTreeSet::new());
    }
}

#[test]
fn an_address_that_is_announced_again_is_no_change_unless_messages_were_lost() {
    let announce = |flags: u8| {
        let mut payload = address(nix::libc::AF_INET6, &[(ADDRESS, &[1; 16])]);
        payload[2] = flags;
        message(RTM_NEWADDR, &payload)
    };
    let (tentative, settled) = (announce(0x40), announce(0));
    let removed = message(RTM_DELADDR, &address(nix::libc::AF_INET6, &[(ADDRESS, &[1; 16])]));
    let mut announced = Announced::default();
    let mut is_change = |datagram: &[u8]| announced.changes(datagram).contains(&Change::NetworkChanged);
    assert!(is_change(&tentative) && is_change(&settled), "new, and usable");
    assert!(!is_change(&settled) && !is_change(&settled), "prolonged");
    assert!(is_change(&removed) && is_change(&settled), "removed and new again");
    assert!(!is_change(&settled), "prolonged");
    announced.forget();
    assert!(announced.changes(&settled).contains(&Change::NetworkChanged));
}

proptest! {
    #[test]
    fn mangled_bytes_are_a_change_of_the_network(
        at in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>(), more: Vec<u8>,
    ) {
        let mut datagram = [
            v4(&[(ADDRESS, &[10, 1, 0, 2]), (LOCAL, &[10, 1, 0, 2]), (3, b"eth0\0"), (6, &[0; 16]), (8, &[0; 4])]),
            message(RTM_DELADDR, &address(nix::libc::AF_INET6, &[(ADDRESS, &[1; 16])])),
        ]
        .concat();
        let at = at.index(datagram.len());
        datagram[at] = byte;
        datagram.truncate(cut.index(datagram.len() + 1));
        datagram.extend(more);
        prop_assert!(datagram.is_empty() || changes(&datagram).contains(&Change::NetworkChanged));
    }
}
