//! The verdict, judged by what bind and listen do next.

use std::net::IpAddr;
use std::time::Duration;

use portward::port::diag::Diag;
use portward::port::wire::Family;
use portward::port::{Endpoint, HeldBy, HoldKind, PortError, Ports, Verdict, holder};

use crate::namespace::{self, become_nobody, ip};
use crate::squatters::{
    Connection, Options, PORT, at, bind, endpoint, listen, listening_process, would_bind_and_listen,
};

fn holders(verdict: Verdict) -> Vec<HeldBy> {
    match verdict {
        Verdict::Held(held) => held,
        Verdict::Unbound => panic!("nobody holds it"),
    }
}

fn kinds(verdict: Verdict) -> Vec<HoldKind> {
    holders(verdict).into_iter().map(|holder| holder.kind).collect()
}

#[test]
fn a_listener_holds_its_port_and_is_named() {
    namespace::run(async || {
        let child = listening_process(at("127.0.0.1"));
        let ports = Ports::new().unwrap();
        let held = holders(ports.verdict(&[endpoint("127.0.0.1")]).unwrap());
        assert_eq!(held.len(), 1);
        assert_eq!(held[0].kind, HoldKind::Listener);
        assert_eq!(held[0].bound, at("127.0.0.1"));
        let holder = holder::describe(&held[0]);
        assert_eq!(holder.pid, Some(child.id()));
        assert_eq!(holder.user.as_deref(), Some("root"));
        assert!(holder.command.unwrap().contains("python3 -c import socket"));
        assert!(holder::pid_owns(child.id(), held[0].inode));
    });
}

#[test]
fn a_bound_socket_that_does_not_listen_holds_its_port() {
    namespace::run(async || {
        let _squatter = bind(at("127.0.0.1"), Options::default()).unwrap();
        let verdict = Ports::new().unwrap().verdict(&[endpoint("127.0.0.1")]).unwrap();
        assert_eq!(kinds(verdict), [HoldKind::Bound]);
    });
}

#[test]
fn a_bound_socket_with_so_reuseaddr_lets_ssh_pass() {
    namespace::run(async || {
        let _squatter = bind(at("127.0.0.1"), Options { reuse_address: true, ..Options::default() }).unwrap();
        let verdict = Ports::new().unwrap().verdict(&[endpoint("127.0.0.1")]).unwrap();
        assert_eq!(verdict, Verdict::Unbound);
        assert!(would_bind_and_listen(&endpoint("127.0.0.1")));
    });
}

#[test]
fn an_outgoing_connection_holds_the_port_that_it_has_as_its_own() {
    namespace::run(async || {
        let connection = Connection::outgoing();
        let wanted = connection.client_endpoint();
        let held = holders(Ports::new().unwrap().verdict(&[wanted]).unwrap());
        assert_eq!(held.len(), 1);
        assert_eq!((held[0].kind, held[0].bound), (HoldKind::Connection, wanted.address));
        assert_eq!(holder::describe(&held[0]).pid, Some(std::process::id()));
    });
}

#[test]
fn time_wait_of_an_outgoing_connection_holds_the_port_and_tells_how_long() {
    namespace::run(async || {
        let connection = Connection::outgoing();
        let wanted = connection.client_endpoint();
        connection.close_client_first();
        let kinds = kinds(Ports::new().unwrap().verdict(&[wanted]).unwrap());
        let [HoldKind::TimeWait(left)] = kinds[..] else { panic!("not TIME_WAIT: {kinds:?}") };
        // The kernel's TCP_TIMEWAIT_LEN is 60 s.
        assert!(left > Duration::from_secs(50) && left <= Duration::from_secs(60), "{left:?} left");
    });
}

#[test]
fn what_a_listener_with_so_reuseaddr_leaves_behind_does_not_hold_the_port() {
    namespace::run(async || {
        let ports = Ports::new().unwrap();
        let connection = Connection::accepted_at(at("127.0.0.1"), true);
        assert_eq!(ports.verdict(&[endpoint("127.0.0.1")]).unwrap(), Verdict::Unbound);
        connection.close_server_first();
        assert_eq!(ports.verdict(&[endpoint("127.0.0.1")]).unwrap(), Verdict::Unbound);
        assert!(would_bind_and_listen(&endpoint("127.0.0.1")));
    });
}

#[test]
fn what_a_listener_without_so_reuseaddr_leaves_behind_holds_the_port() {
    namespace::run(async || {
        let ports = Ports::new().unwrap();
        let connection = Connection::accepted_at(at("127.0.0.1"), false);
        let verdict = ports.verdict(&[endpoint("127.0.0.1")]).unwrap();
        assert_eq!(kinds(verdict), [HoldKind::Connection]);
        connection.close_server_first();
        let kinds = kinds(ports.verdict(&[endpoint("127.0.0.1")]).unwrap());
        assert!(matches!(kinds[..], [HoldKind::TimeWait(_)]), "{kinds:?}");
        assert!(!would_bind_and_listen(&endpoint("127.0.0.1")));
    });
}

#[test]
fn a_missing_address_is_an_error_and_not_a_verdict() {
    namespace::run(async || {
        ip("address del ::1/128 dev lo");
        let ports = Ports::new().unwrap();
        assert!(!ports.is_available("::1".parse().unwrap()));
        assert!(ports.is_available("127.0.0.1".parse().unwrap()));
        let wanted = endpoint("::1");
        let error = ports.verdict(&[wanted]).unwrap_err();
        assert!(matches!(error, PortError::AddressNotAvailable(endpoint) if endpoint == wanted));
        assert_eq!(
            error.to_string(),
            "[::1]:13306: no interface of this machine has the address; `ip addr` lists those it has"
        );
    });
}

#[test]
fn an_ordinary_user_gets_the_same_verdicts() {
    namespace::run(async || {
        let _listener = listen(at("127.0.0.1"), Options::default()).unwrap();
        let _bound = bind(at("127.0.0.2"), Options::default()).unwrap();
        become_nobody();
        let ports = Ports::new().unwrap();
        let held = holders(ports.verdict(&[endpoint("127.0.0.1")]).unwrap());
        assert_eq!((held[0].kind, held[0].uid), (HoldKind::Listener, 0));
        assert_eq!(kinds(ports.verdict(&[endpoint("127.0.0.2")]).unwrap()), [HoldKind::Bound]);
        assert_eq!(ports.verdict(&[endpoint("127.0.0.3")]).unwrap(), Verdict::Unbound);

        let privileged = Endpoint::new("127.0.0.1".parse().unwrap(), 80);
        let error = ports.verdict(&[privileged]).unwrap_err();
        assert!(matches!(error, PortError::PermissionDenied(endpoint) if endpoint == privileged));
        assert!(error.to_string().contains("AmbientCapabilities=CAP_NET_BIND_SERVICE"), "{error}");
    });
}

#[test]
fn listeners_are_told_by_address_inode_and_uid() {
    namespace::run(async || {
        let one = listen(at("127.0.0.1"), Options::default()).unwrap();
        let other = Endpoint::new("::1".parse().unwrap(), PORT + 1);
        let _two = listen(other.address, Options::default()).unwrap();
        let _foreign = listen("127.0.0.1:13308".parse().unwrap(), Options::default()).unwrap();
        let ports = Ports::new().unwrap();
        let found = ports.listeners(&[endpoint("127.0.0.1")]).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].address, found[0].uid), (at("127.0.0.1"), 0));
        assert!(holder::pid_owns(std::process::id(), found[0].inode));
        let both = ports.listeners(&[endpoint("127.0.0.1"), other]).unwrap();
        let both: Vec<_> = both.iter().map(|found| found.address).collect();
        assert_eq!(both, [at("127.0.0.1"), other.address]);
        drop(one);
        assert_eq!(ports.listeners(&[endpoint("127.0.0.1")]).unwrap(), []);
    });
}

#[test]
fn the_kernel_tells_v6only_and_cgroup_of_a_listener() {
    namespace::run(async || {
        let mut diag = Diag::new().unwrap();
        for v6only in [false, true] {
            let _listener = listen(at("::"), Options { v6only, ..Options::default() }).unwrap();
            let rows = diag.listeners(Family::V6, Some(PORT)).unwrap();
            assert_eq!(rows.len(), 1);
            assert_eq!(rows[0].v6only, v6only);
            assert!(rows[0].cgroup.is_some());
        }
    });
}

/// Every squatter against every endpoint: the verdict must equal what bind and listen then do.
#[test]
fn the_verdict_equals_what_bind_and_listen_do_next() {
    const ADDRESSES: [(&str, bool); 7] = [
        ("127.0.0.1", false),
        ("127.0.0.2", false),
        ("0.0.0.0", false),
        ("::1", true),
        ("::", true),
        ("::", false),
        ("::ffff:127.0.0.1", false),
    ];
    const YES_OR_NO: [bool; 2] = [false, true];
    namespace::run(async || {
        let ports = Ports::new().unwrap();
        let mut cases = 0;
        for (there, v6only) in ADDRESSES {
            for listens in YES_OR_NO {
                for reuse_address in YES_OR_NO {
                    for reuse_port in YES_OR_NO {
                        let options = Options { reuse_address, reuse_port, v6only };
                        let squat = if listens { listen } else { bind };
                        let _squatter = squat(at(there), options).unwrap();
                        for (wanted, v6only) in ADDRESSES {
                            let wanted: IpAddr = wanted.parse().unwrap();
                            let wanted = Endpoint { v6only, ..Endpoint::new(wanted, PORT) };
                            let unbound = ports.verdict(&[wanted]).unwrap() == Verdict::Unbound;
                            assert_eq!(
                                unbound,
                                would_bind_and_listen(&wanted),
                                "{wanted:?} against {there}, listening {listens}, {options:?}"
                            );
                            cases += 1;
                        }
                    }
                }
            }
        }
        assert_eq!(cases, 7 * 8 * 7);
    });
}
