//! How long does it take to learn whether a port is free? In this process, and with the commands that people use.
//!
//!     cargo run --release -p integration-tests --bin verdict-bench
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
const COMMAND_ROUNDS: usize = 15;
const COMMANDS: [(&str, &str); 4] = [
    ("ss -ltnp", "ss -ltnp 'sport = :13306'"),
    ("lsof -ti", "lsof -ti tcp:13306"),
    ("netstat | grep", "netstat -ltnp | grep 13306"),
    ("fuser", "fuser 13306/tcp"),
];

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
        "{name}: median of {IN_PROCESS_ROUNDS} in process, {COMMAND_ROUNDS} as a command, in microseconds"
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

    let ports = Ports::new().unwrap();
    let endpoints = |port| ["127.0.0.1", "::1"].map(|address| Endpoint::new(address.parse().unwrap(), port));
    for (what, port) in [("verdict: held", HELD), ("verdict: unbound", FREE)] {
        let wanted = endpoints(port);
        let verdict = || drop(black_box(ports.verdict(&wanted).unwrap()));
        let took = median(IN_PROCESS_ROUNDS, verdict);
        println!("{what:>24}{:>12.1}", microseconds(took));
    }
    let wanted = endpoints(HELD);
    let all = median(100, || drop(black_box(ports.holders(&wanted).unwrap())));
    println!("{:>24}{:>12.1}", "all holders", microseconds(all));
    let ours = median(IN_PROCESS_ROUNDS, || drop(black_box(ports.verdict(&wanted).unwrap())));
    for (what, line) in COMMANDS {
        let program = line.split(' ').next().unwrap();
        if !succeeds(&format!("command -v {program}")) {
            println!("{what:>24}{:>12}", "absent");
            continue;
        }
        assert!(succeeds(line), "`{line}` does not find the listener");
        let took = median(COMMAND_ROUNDS, || assert!(succeeds(line)));
        println!("{what:>24}{:>12.0}   {:.0} times the verdict", microseconds(took), ratio(took, ours));
    }
    drop((crowd, ends));
}

/// Addresses enough for any number of listeners, of which none is the one asked about.
fn nth(number: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 1, 1], 1000 + number))
}

fn succeeds(line: &str) -> bool {
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

fn median(rounds: usize, mut body: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            body();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[rounds / 2]
}

fn microseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn ratio(long: Duration, short: Duration) -> f64 {
    long.as_secs_f64() / short.as_secs_f64()
}
