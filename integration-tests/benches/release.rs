//! How long after a port is released does portward know, and start ssh? For every kind of holder, as medians of 100.
//!
//!     cargo bench -p integration-tests --bench release [-- KIND...]
//!
//! As root, in namespaces of its own; KIND is `ports`, `daemon`, `time-wait` or `daemon-time-wait`, all by default (7 minutes).
//! `ports` ends when `Ports::unbound` resolves, `daemon` when the daemon tells the pid of the ssh, or the command, that it has
//! started. TIME_WAIT lasts for a minute: its hundred ports wait together. When it truly ends is seen on a hundred twins, which
//! are tried without pause.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::mpsc;
use std::time::Duration;

use integration_tests::{Daemon, Held, Lab, Squat, Sshd, Use, isolated, within_deadline};
use portward::port::{Endpoint, Ports, Protocol};
use portward::protocol::{StateName, TunnelStatus};
use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const ROUNDS: usize = 100;
/// Below the ephemeral range.
const PORT: u16 = 13306;
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const EVERYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const DUAL_STACK: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// Time-outs of TIME_WAIT end together in slots of some seconds: so far apart they are in several.
const BETWEEN_TIME_WAITS: Duration = Duration::from_millis(97);
/// And so far apart, no two are in one. Half of it makes pairs of tunnels that start at the same moment and share the cores, beside
/// the observer: then the median is 8 ms.
const BETWEEN_TUNNELS: Duration = Duration::from_millis(2060);
/// So long after its beginning, a TIME_WAIT's end begins to be looked for.
const LOOK_FROM: Duration = Duration::from_secs(59);
/// From a port to its twin.
const TO_TWIN: u16 = 1000;
const TUNNELS: &str = "
  - {name: web, remote_host: server, remote_port: 127.0.0.1:8000, local_port: '127.0.0.1:13306'}
  - {name: udp, command: [sleep, infinity], local_port: '127.0.0.1:13306', protocol: udp, stop_grace: 100ms}
";
const KINDS: [(&str, Use, bool, IpAddr); 10] = [
    ("listener", Use::Listening, false, LOCALHOST),
    ("listener on 0.0.0.0", Use::Listening, false, EVERYWHERE),
    ("listener on [::], dual-stack", Use::Listening, false, DUAL_STACK),
    ("group of SO_REUSEPORT", Use::Listening, true, LOCALHOST),
    ("inherited listener", Use::Inherited, false, LOCALHOST),
    ("bound, not listening", Use::Bound, false, LOCALHOST),
    ("outgoing connection", Use::Outgoing, false, LOCALHOST),
    ("accepted connection", Use::Accepted, false, LOCALHOST),
    ("UDP", Use::Datagrams, false, LOCALHOST),
    ("UDP, connected", Use::ConnectedDatagrams, false, LOCALHOST),
];

fn main() {
    // cargo adds an option of its own.
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |kind: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == kind);
    println!("From the release of the port, in milliseconds, {ROUNDS} times each:");
    println!("{:<40}{:>10}{:>10}{:>10}", "", "median", "min", "max");
    if is_wanted("ports") {
        isolated(async || ports().await);
    }
    let in_lab = |body: fn() -> LocalBoxFuture| {
        // A lab is entered by its thread for good.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(body());
        })
        .join()
        .unwrap();
    };
    if is_wanted("daemon") {
        in_lab(|| Box::pin(daemon()));
    }
    if is_wanted("time-wait") {
        isolated(async || time_wait().await);
    }
    if is_wanted("daemon-time-wait") {
        in_lab(|| Box::pin(daemon_time_wait()));
    }
}

type LocalBoxFuture = std::pin::Pin<Box<dyn Future<Output = ()>>>;

/// Two members for a group, else one.
fn squatters(r#use: Use, reuse_port: bool, address: IpAddr) -> Vec<Held> {
    let squat = Squat { r#use, address, v6only: false, reuse_address: false, reuse_port };
    let count = if reuse_port { 2 } else { 1 };
    (0..count).map(|_| squat.make(PORT).unwrap()).collect()
}

/// Resets connections, so that no TIME_WAIT is left.
fn release(held: Vec<Held>) {
    held.into_iter().for_each(Held::reset);
}

/// Until `Ports::unbound` resolves.
async fn ports() {
    let ports = Ports::new().unwrap();
    for (name, r#use, is_group, address) in KINDS {
        let is_udp = Use::UDP.contains(&r#use);
        let protocol = if is_udp { Protocol::Udp } else { Protocol::Tcp };
        let wanted = [Endpoint::new(LOCALHOST, PORT).over(protocol)];
        let mut latencies = Vec::new();
        for _ in 0..ROUNDS {
            let held = squatters(r#use, is_group, address);
            let waiting = Notify::new();
            let releasing = async {
                waiting.notified().await;
                let released = Instant::now();
                release(held);
                released
            };
            let unbound = async {
                ports.unbound(&wanted, |_, _| waiting.notify_one()).await.unwrap();
                Instant::now()
            };
            let (unbound, released) = tokio::join!(unbound, releasing);
            latencies.push(milliseconds(released, unbound));
        }
        print(&format!("unbound: {name}"), latencies);
    }
}

/// Until ssh runs, or for UDP the command.
async fn daemon() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, TUNNELS).await;
    for tunnel in ["web", "udp"] {
        daemon.post(&format!("/stop/{tunnel}")).await;
    }
    for (name, r#use, is_group, address) in KINDS {
        let tunnel = if Use::UDP.contains(&r#use) { "udp" } else { "web" };
        let mut latencies = Vec::new();
        for _ in 0..ROUNDS {
            let held = squatters(r#use, is_group, address);
            let mark = daemon.mark();
            daemon.post(&format!("/start/{tunnel}?timeout=1ms")).await;
            let waits =
                |status: &TunnelStatus| status.state == StateName::AwaitingPort && status.holder.is_some();
            daemon.wait_status(mark, tunnel, "waiting for its port", waits).await;
            let mark = daemon.mark();
            let released = Instant::now();
            release(held);
            daemon.wait_status(mark, tunnel, "started", started).await;
            latencies.push(milliseconds(released, Instant::now()));
            let mark = daemon.mark();
            daemon.post(&format!("/stop/{tunnel}")).await;
            let stopped = |status: &TunnelStatus| status.state == StateName::Stopped;
            daemon.wait_status(mark, tunnel, "stopped", stopped).await;
        }
        print(&format!("started: {name}"), latencies);
    }
    within_deadline("the daemon's end", daemon.stop()).await;
}

/// Its process runs.
fn started(status: &TunnelStatus) -> bool {
    status.state != StateName::AwaitingPort && status.pid.is_some()
}

/// Until `Ports::unbound` resolves, from when TIME_WAIT ends on a twin: another port, in TIME_WAIT since the same moment, on which
/// nobody waits.
async fn time_wait() {
    let ports = Ports::new().unwrap();
    let mut waiters = JoinSet::new();
    let twins = Twins::observe();
    for port in (PORT..).take(ROUNDS) {
        twins.begin(port);
        let ports = ports.clone();
        waiters.spawn(async move {
            let wanted = [Endpoint::new(LOCALHOST, port)];
            ports.unbound(&wanted, |_, _| ()).await.unwrap();
            (port, Instant::now())
        });
        sleep(BETWEEN_TIME_WAITS).await;
    }
    let mut unbound = BTreeMap::new();
    while let Some(waiter) = waiters.join_next().await {
        let (port, at) = waiter.unwrap();
        unbound.insert(port, at);
    }
    print("unbound: TIME_WAIT, of its end", twins.latencies(&unbound));
    let counters = ports.counters();
    println!("for {ROUNDS} ports: {} queries, {} trial binds", counters.queries, counters.trial_binds);
}

/// Until ssh runs: a tunnel for each of a hundred ports.
async fn daemon_time_wait() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let tunnels: Vec<String> = (PORT..)
        .take(ROUNDS)
        .map(|port| {
            format!(
                "  - {{name: t{port}, remote_host: server, remote_port: 127.0.0.1:8000, local_port: '127.0.0.1:{port}', \
                 enabled: false}}\n"
            )
        })
        .collect();
    let daemon = Daemon::start(&lab, &tunnels.concat()).await;
    let mark = daemon.mark();
    let twins = Twins::observe();
    let begin = async {
        for port in (PORT..).take(ROUNDS) {
            twins.begin(port);
            daemon.post(&format!("/start/t{port}?timeout=1ms")).await;
            sleep(BETWEEN_TUNNELS).await;
        }
    };
    let starts = async {
        let mut starts = BTreeMap::new();
        let mut from = mark;
        while starts.len() < ROUNDS {
            let next = daemon.next_status(from).await;
            from += 1;
            let port = next.name[1..].parse().unwrap();
            if started(&next) {
                starts.entry(port).or_insert_with(Instant::now);
            }
        }
        starts
    };
    let ((), starts) = tokio::join!(begin, starts);
    print("started: TIME_WAIT, of its end", twins.latencies(&starts));
    within_deadline("the daemon's end", daemon.stop()).await;
}

/// Ports in TIME_WAIT, each with a twin on which a thread sees the end of it. It is another thread, because this one must not be
/// kept from waking.
struct Twins {
    begun: mpsc::Sender<(u16, Instant)>,
    observer: std::thread::JoinHandle<BTreeMap<u16, Instant>>,
}

impl Twins {
    fn observe() -> Self {
        let (begun, beginnings) = mpsc::channel();
        Self { begun, observer: std::thread::spawn(move || observe(&beginnings)) }
    }

    /// Brings a port and its twin into TIME_WAIT, on one CPU: there its timers are, and each CPU has its own time.
    fn begin(&self, port: u16) {
        let all = sched_getaffinity(None).unwrap();
        let mut one = CpuSet::new();
        one.set((0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap());
        sched_setaffinity(None, &one).unwrap();
        let squat = Squat {
            r#use: Use::OutgoingTimeWait,
            address: LOCALHOST,
            v6only: false,
            reuse_address: false,
            reuse_port: false,
        };
        drop((squat.make(port).unwrap(), squat.make(port + TO_TWIN).unwrap()));
        sched_setaffinity(None, &all).unwrap();
        self.begun.send((port, Instant::now())).unwrap();
    }

    /// From the end of TIME_WAIT to what was seen of each port.
    fn latencies(self, seen: &BTreeMap<u16, Instant>) -> Vec<f64> {
        drop(self.begun);
        let ended = self.observer.join().unwrap();
        seen.iter().map(|(port, at)| milliseconds(ended[port], *at)).collect()
    }
}

/// When each port's twin could be bound, tried without pause; but whoever else has something to do comes first.
fn observe(beginnings: &mpsc::Receiver<(u16, Instant)>) -> BTreeMap<u16, Instant> {
    let squat = Squat {
        r#use: Use::Bound,
        address: LOCALHOST,
        v6only: false,
        reuse_address: true,
        reuse_port: false,
    };
    setpriority_process(None, 19).unwrap();
    let mut waiting: BTreeMap<u16, Instant> = BTreeMap::new();
    let mut ended = BTreeMap::new();
    while ended.len() < ROUNDS {
        let due = waiting.values().any(|begun| begun.elapsed() >= LOOK_FROM);
        // Sleeps only while nothing is due.
        let next =
            if due { beginnings.try_recv().ok() } else { beginnings.recv_timeout(BETWEEN_TIME_WAITS).ok() };
        waiting.extend(next);
        waiting.retain(|port, begun| {
            let is_over = begun.elapsed() >= LOOK_FROM && squat.make(port + TO_TWIN).is_ok();
            if is_over {
                ended.insert(*port, Instant::now());
            }
            !is_over
        });
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
    println!("{what:<40}{median:>10.2}{least:>10.2}{most:>10.2}");
}
