//! `portward who` beside `ss`, on a machine full of listeners.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};

use integration_tests::{Choices, NOBODY};
use portward::port::{Occupant, OccupantKind};

use crate::machine::{SHARED, attempt, on_a_machine, run, text};

const PROCESSES: usize = 10;
const LISTENERS: usize = 1000;
/// Some for each port, and all below the range from which the kernel gives ports to clients.
const PORTS: usize = 700;
const FIRST_PORT: usize = 20_000;
/// Sockets that may share a port, or else have it alone.
const DEFINITE: [&str; 4] = ["127.0.0.1", "127.0.0.2", "127.9.9.9", "::1"];
const WILDCARDS: [(&str, bool); 3] = [("0.0.0.0", false), ("::", true), ("::", false)];
/// root and daemon, each of whom runs every other process.
const UIDS: [u32; 2] = [0, 1];

/// Listens as the file tells (address, port, v6only), says so to systemd, and does nothing else.
const LISTENER: &str = "
import os, signal, socket, sys
sockets = []
for line in open(sys.argv[1]):
    address, port, v6only = line.split()
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    listener = socket.socket(family)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6only))
    listener.bind((address, int(port)))
    listener.listen()
    sockets.append(listener)
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])
signal.pause()
";

/// A listener that is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    address: SocketAddr,
    v6only: bool,
}

impl Wanted {
    /// As ss writes it: a dual-stack wildcard has no family.
    fn name(&self) -> String {
        match self.address.ip() {
            IpAddr::V6(ip) if ip.is_unspecified() && !self.v6only => format!("*:{}", self.address.port()),
            _ => self.address.to_string(),
        }
    }
}

/// Listeners that do not get into each other's way, for each process.
fn choose(choices: &mut Choices) -> Vec<Vec<Wanted>> {
    let mut taken: BTreeMap<u16, BTreeSet<&str>> = BTreeMap::new();
    let mut chosen = vec![Vec::new(); PROCESSES];
    while chosen.iter().map(Vec::len).sum::<usize>() < LISTENERS {
        let port = u16::try_from(FIRST_PORT + choices.below(PORTS)).unwrap();
        let on_port = taken.entry(port).or_default();
        let is_wildcard = choices.below(8) == 0;
        let (address, v6only) =
            if is_wildcard { choices.one_of(&WILDCARDS) } else { (choices.one_of(&DEFINITE), true) };
        let has_wildcard = WILDCARDS.iter().any(|(wildcard, _)| on_port.contains(wildcard));
        if has_wildcard || (is_wildcard && !on_port.is_empty()) || !on_port.insert(address) {
            continue;
        }
        let address = SocketAddr::new(address.parse().unwrap(), port);
        chosen[choices.below(PROCESSES)].push(Wanted { address, v6only });
    }
    chosen
}

fn unit(process: usize) -> String {
    format!("holder-{process}.service")
}

/// Starts one unit for each process; returns when all listen.
fn start(chosen: &[Vec<Wanted>]) {
    fs::write("/run/listener.py", LISTENER).unwrap();
    for (process, wanted) in chosen.iter().enumerate() {
        let line = |wanted: &Wanted| {
            format!("{} {} {}\n", wanted.address.ip(), wanted.address.port(), u8::from(wanted.v6only))
        };
        let file = format!("/run/listeners-{process}");
        fs::write(&file, wanted.iter().map(line).collect::<String>()).unwrap();
        run(
            "systemd-run",
            &[
                "--quiet",
                "--service-type=notify",
                &format!("--unit={}", unit(process)),
                &format!("--uid={}", UIDS[process % 2]),
                "/usr/bin/python3",
                "/run/listener.py",
                &file,
            ],
        );
    }
}

/// What `ss -ltnp` shows: the pids of each listener.
fn shown_by_ss() -> BTreeMap<String, BTreeSet<u32>> {
    let table = run("ss", &["-ltnpH"]);
    let row = |line: &str| {
        let local = line.split_ascii_whitespace().nth(3).unwrap().to_owned();
        let pids = line.split("pid=").skip(1);
        let pid = |text: &str| text.split(',').next().unwrap().parse().unwrap();
        (local, pids.map(pid).collect())
    };
    table.lines().map(row).collect()
}

fn name(occupant: &Occupant) -> String {
    Wanted { address: occupant.address, v6only: !occupant.dual_stack }.name()
}

#[test]
fn who_agrees_with_ss_on_a_thousand_listeners_and_tells_an_ordinary_user_their_units() {
    on_a_machine(
        "who::who_agrees_with_ss_on_a_thousand_listeners_and_tells_an_ordinary_user_their_units",
        || {
            let chosen = choose(&mut Choices::of_test());
            start(&chosen);

            let portward = format!("{SHARED}/portward");
            let told: Vec<Occupant> =
                serde_json::from_str(&run(&portward, &["who", "1-65535", "--json"])).unwrap();
            assert!(told.iter().all(|occupant| occupant.kind == OccupantKind::Listener), "{told:?}");
            let pids = |occupant: &Occupant| {
                let holder = occupant.holder.as_ref().unwrap();
                holder.pid.into_iter().chain(holder.others.iter().copied()).collect()
            };
            let by_who: BTreeMap<String, BTreeSet<u32>> =
                told.iter().map(|occupant| (name(occupant), pids(occupant))).collect();
            assert_eq!(by_who.len(), told.len(), "one row for each listener");
            assert!(by_who.len() >= LISTENERS, "{} listeners", by_who.len());
            assert_eq!(by_who, shown_by_ss());

            let id = NOBODY.to_string();
            let as_nobody =
                ["--reuid", &id, "--regid", &id, "--clear-groups", "--bounding-set=-all", &portward, "who"];
            let told = run("setpriv", &[&as_nobody[..], &["1-65535", "--json"]].concat());
            let told: Vec<Occupant> = serde_json::from_str(&told).unwrap();
            let told: BTreeMap<String, &Occupant> =
                told.iter().map(|occupant| (name(occupant), occupant)).collect();
            let mut ports = BTreeSet::new();
            for (process, wanted) in chosen.iter().enumerate() {
                for wanted in wanted {
                    let holder = told[&wanted.name()].holder.as_ref().unwrap();
                    assert_eq!(holder.pid, None, "{wanted:?}: {holder:?}");
                    assert_eq!(holder.uid, UIDS[process % 2], "{wanted:?}: {holder:?}");
                    assert_eq!(holder.unit, Some(unit(process)), "{wanted:?}: {holder:?}");
                    ports.insert(wanted.address.port());
                }
            }
            for port in ports {
                let answer = attempt("setpriv", &[&as_nobody[..], &[&port.to_string()]].concat());
                let said = text(&answer);
                assert_eq!(answer.status.code(), Some(0), "port {port}: {said}");
                assert!(!said.contains("Nobody") && said.contains("holder-"), "port {port}: {said}");
            }
        },
    );
}
