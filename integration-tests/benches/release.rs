//! How long after a port is released does portward know, and start ssh? For every kind of holder, as medians of 100.
//!
//!     cargo bench -p integration-tests --bench release [-- KIND...]
//!
//! As root, in namespaces of its own; KIND is `ports`, `time-wait` or `daemon`, all by default. TIME_WAIT lasts for a minute:
//! its hundred ports wait together. When it truly ends is seen on a hundred more, which are tried without pause.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use integration_tests::{Daemon, Held, Lab, Squat, Sshd, Use, isolated, within_deadline};
use portward::daemon::snapshot::TunnelStatus;
use portward::port::{Endpoint, Ports, Protocol};
use portward::tunnel::StateName;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const ROUNDS: usize = 100;
/// Below the ephemeral range.
const PORT: u16 = 13306;
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Time-outs of TIME_WAIT end together in slots of some seconds: so far apart they are in several.
const BETWEEN_TIME_WAITS: Duration = Duration::from_millis(97);
/// So long before the first TIME_WAIT may end, its end begins to be looked for.
const LOOK_FROM: Duration = Duration::from_secs(58);
/// From a port to its twin.
const TO_TWIN: u16 = 1000;
const TUNNEL: &str = "
  - {name: web, remote_host: server, remote_port: 127.0.0.1:8000, local_port: '127.0.0.1:13306'}
";
const KINDS: [(&str, Use, bool); 8] = [
    ("listener", Use::Listening, false),
    ("group of SO_REUSEPORT", Use::Listening, true),
    ("inherited listener", Use::Inherited, false),
    ("bound, not listening", Use::Bound, false),
    ("outgoing connection", Use::Outgoing, false),
    ("accepted connection", Use::Accepted, false),
    ("UDP", Use::Datagrams, false),
    ("UDP, connected", Use::ConnectedDatagrams, false),
];

fn main() {
    // cargo adds an option of its own.
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |kind: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == kind);
    println!("From the release of the port, in milliseconds, {ROUNDS} times each:");
    println!("{:<34}{:>10}{:>10}{:>10}", "", "median", "min", "max");
    if is_wanted("ports") {
        isolated(async || ports().await);
    }
    if is_wanted("daemon") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(daemon());
    }
    if is_wanted("time-wait") {
        isolated(async || time_wait().await);
    }
}

fn squat(r#use: Use, reuse_port: bool) -> Squat {
    Squat { r#use, address: LOCALHOST, v6only: false, reuse_address: false, reuse_port }
}

/// Two members for a group, else one.
fn squatters(r#use: Use, is_group: bool) -> Vec<Held> {
    let count = if is_group { 2 } else { 1 };
    (0..count).map(|_| squat(r#use, is_group).make(PORT).unwrap()).collect()
}

/// Resets connections, so that no TIME_WAIT is left.
fn release(held: Vec<Held>) {
    held.into_iter().for_each(Held::reset);
}

/// Until `Ports::unbound` resolves.
async fn ports() {
    let ports = Ports::new().unwrap();
    for (name, r#use, is_group) in KINDS {
        let is_udp = Use::UDP.contains(&r#use);
        let protocol = if is_udp { Protocol::Udp } else { Protocol::Tcp };
        let wanted = [Endpoint::new(LOCALHOST, PORT).over(protocol)];
        let mut latencies = Vec::new();
        for _ in 0..ROUNDS {
            let held = squatters(r#use, is_group);
            let waiting = Notify::new();
            let releasing = async {
                waiting.notified().await;
                let released = Instant::now();
                release(held);
                released
            };
            let unbound = async {
                ports.unbound(&wanted, |_| waiting.notify_one()).await.unwrap();
                Instant::now()
            };
            let (unbound, released) = tokio::join!(unbound, releasing);
            latencies.push(milliseconds(released, unbound));
        }
        print(&format!("unbound: {name}"), latencies);
    }
}

/// Until the daemon logs that it starts ssh.
async fn daemon() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, TUNNEL).await;
    daemon.wait_state("web", StateName::Up).await;
    for (name, r#use, is_group) in KINDS {
        if Use::UDP.contains(&r#use) {
            continue;
        }
        let mut latencies = Vec::new();
        for _ in 0..ROUNDS {
            let mark = daemon.mark();
            daemon.post("/stop/web").await;
            let stopped = |status: &TunnelStatus| status.state == StateName::Stopped;
            daemon.wait_status(mark, "web", "stopped", stopped).await;
            let held = squatters(r#use, is_group);
            let (mark, log_mark) = (daemon.mark(), daemon.log().mark());
            daemon.post("/start/web?timeout=1ms").await;
            let waits =
                |status: &TunnelStatus| status.state == StateName::AwaitingPort && status.holder.is_some();
            daemon.wait_status(mark, "web", "waiting for its port", waits).await;
            let released = Instant::now();
            release(held);
            daemon.wait_log(log_mark, "of a start", |line| line.has("event", "starting")).await;
            latencies.push(milliseconds(released, Instant::now()));
            let mark = daemon.mark();
            let up = |status: &TunnelStatus| status.state == StateName::Up;
            daemon.wait_status(mark.saturating_sub(1), "web", "up", up).await;
        }
        print(&format!("ssh starting: {name}"), latencies);
    }
    within_deadline("the daemon's end", daemon.stop()).await;
}

/// Until `Ports::unbound` resolves, from when TIME_WAIT ends on a twin: another port, in TIME_WAIT since the same moment, on which
/// nobody waits.
async fn time_wait() {
    let ports = Ports::new().unwrap();
    let mut waiters = JoinSet::new();
    let begun = Instant::now();
    for port in (PORT..).take(ROUNDS) {
        let squat = squat(Use::OutgoingTimeWait, false);
        drop((squat.make(port).unwrap(), squat.make(port + TO_TWIN).unwrap()));
        let ports = ports.clone();
        waiters.spawn(async move {
            let wanted = [Endpoint::new(LOCALHOST, port)];
            ports.unbound(&wanted, |_| ()).await.unwrap();
            (port, Instant::now())
        });
        sleep(BETWEEN_TIME_WAITS).await;
    }
    // Another thread looks, because this one must not be kept from waking.
    let observer = std::thread::spawn(move || observe_twins(begun + LOOK_FROM));
    let mut unbound = BTreeMap::new();
    while let Some(waiter) = waiters.join_next().await {
        let (port, at) = waiter.unwrap();
        unbound.insert(port, at);
    }
    let ended = observer.join().unwrap();
    let latencies = unbound.iter().map(|(port, at)| milliseconds(ended[port], *at)).collect();
    print("unbound: TIME_WAIT, of its end", latencies);
    let counters = ports.counters();
    println!("for {ROUNDS} ports: {} queries, {} trial binds", counters.queries, counters.trial_binds);
}

/// When each port's twin could be bound, tried without pause.
fn observe_twins(from: Instant) -> BTreeMap<u16, Instant> {
    std::thread::sleep(from - Instant::now());
    let squat = Squat { reuse_address: true, ..squat(Use::Bound, false) };
    let mut ended = BTreeMap::new();
    while ended.len() < ROUNDS {
        for port in (PORT..).take(ROUNDS) {
            if !ended.contains_key(&port) && squat.make(port + TO_TWIN).is_ok() {
                ended.insert(port, Instant::now());
            }
        }
    }
    ended
}

/// Below zero when the observer was the later one to see it.
fn milliseconds(from: Instant, to: Instant) -> f64 {
    let late = to.saturating_duration_since(from).as_secs_f64();
    let early = from.saturating_duration_since(to).as_secs_f64();
    (late - early) * 1e3
}

fn print(what: &str, mut latencies: Vec<f64>) {
    latencies.sort_unstable_by(f64::total_cmp);
    let (least, median, most) =
        (latencies[0], latencies[latencies.len() / 2], latencies[latencies.len() - 1]);
    println!("{what:<34}{median:>10.2}{least:>10.2}{most:>10.2}");
}
