//! How long does it take to learn whether a port is free, and who has it? In this process, and with the commands that people
//! use, `portward who` among them.
//!
//!     cargo bench -p integration-tests --bench verdict
//!
//! As root, in a network namespace of its own, with 10 and with 16,000 sockets. A program that is not installed is left out.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::hint::black_box;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use integration_tests::isolated;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use portward::port::{Endpoint, Ports};
use tokio::time::Instant;

const HELD: u16 = 13306;
const FREE: u16 = 13307;
const IN_PROCESS_ROUNDS: usize = 2000;
const COMMAND_ROUNDS: usize = 51;
/// The first one is what starting any command costs.
const COMMANDS: [(&str, &[&str]); 6] = [
    ("(an empty command)", &["true"]),
    ("portward who", &[env!("CARGO_BIN_EXE_portward-under-test"), "who", "13306"]),
    ("ss -ltnp", &["ss", "-ltnp", "sport = :13306"]),
    ("lsof -ti", &["lsof", "-ti", "tcp:13306"]),
    ("netstat | grep", &["sh", "-c", "netstat -ltnp | grep 13306"]),
    ("fuser", &["fuser", "13306/tcp"]),
];
const OURS: usize = 1;

fn main() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    for (name, listeners, connections) in
        [("10 sockets", 10, 0), ("16,000 listeners", 16_000, 0), ("16,000 ends of connections", 1, 8000)]
    {
        isolated(async || measure(name, listeners, connections));
    }
}

fn measure(name: &str, listeners: u16, connections: u16) {
    println!(
        "{name}: medians in microseconds, of {IN_PROCESS_ROUNDS} in this process and {COMMAND_ROUNDS} as a command"
    );
    let _held = TcpListener::bind(("127.0.0.1", HELD)).unwrap();
    let crowd: Vec<_> = (1..listeners).map(|number| TcpListener::bind(nth(number)).unwrap()).collect();
    let hub = TcpListener::bind("127.0.0.9:80").unwrap();
    let ends: Vec<_> = (0..connections)
        .map(|_| {
            let client = TcpStream::connect("127.0.0.9:80").unwrap();
            (client, hub.accept().unwrap())
        })
        .collect();
    in_process();
    as_commands();
    drop((crowd, ends));
}

fn in_process() {
    let ports = Ports::new().unwrap();
    let endpoints = |port| ["127.0.0.1", "::1"].map(|address| Endpoint::new(address.parse().unwrap(), port));
    for (what, port) in [("verdict: held", HELD), ("verdict: unbound", FREE)] {
        let wanted = endpoints(port);
        let times = (0..IN_PROCESS_ROUNDS).map(|_| time(|| drop(black_box(ports.verdict(&wanted).unwrap()))));
        println!("{what:>24}{:>12.1}", median(times.collect()));
    }
    let wanted = endpoints(HELD);
    let times = (0..IN_PROCESS_ROUNDS).map(|_| time(|| drop(black_box(ports.holders(&wanted).unwrap()))));
    println!("{:>24}{:>12.1}", "all holders", median(times.collect()));
}

fn as_commands() {
    let installed =
        |program: &str| Command::new(program).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let present = COMMANDS.map(|(_, words)| installed(words[0]));
    let mut times = COMMANDS.map(|_| Vec::new());
    // Taken in turns, so that a busy moment of the machine meets all of them.
    for _ in 0..COMMAND_ROUNDS {
        for (index, (_, words)) in COMMANDS.iter().enumerate().filter(|(index, _)| present[*index]) {
            times[index].push(time(|| assert!(succeeds(words), "{words:?} does not find the listener")));
        }
    }
    let medians = times.map(|times| if times.is_empty() { f64::NAN } else { median(times) });
    for ((what, _), took) in COMMANDS.iter().zip(medians) {
        if took.is_nan() {
            println!("{what:>24}{:>12}", "absent");
        } else {
            println!("{what:>24}{took:>12.0}   {:.2} times portward who", took / medians[OURS]);
        }
    }
}

/// Addresses enough for any number of listeners, of which none is the one asked about.
fn nth(number: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 1, 1], 1000 + number))
}

fn succeeds(words: &[&str]) -> bool {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

fn time(body: impl FnOnce()) -> Duration {
    let start = Instant::now();
    body();
    start.elapsed()
}

/// In microseconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}
