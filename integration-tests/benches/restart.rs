//! For how long is the port down during a restart? Measured from outside, by a prober that connects every 100 microseconds,
//! for `portward restart` and for a plain `ssh -L` that is ended and started again.
//!
//!     cargo bench -p integration-tests --bench restart

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use integration_tests::{Daemon, Lab, ORIGIN_PORT, Sshd, kill, serve_page, within_deadline};
use nix::sys::signal::Signal;
use portward::tunnel::StateName;
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Outside the ephemeral range: no prober is ever given it as its own port and connects to itself.
const PORT: u16 = 9443;
const PERIOD: Duration = Duration::from_micros(100);
const PORTWARD_RESTARTS: usize = 50;
const PLAIN_RESTARTS: usize = 20;
const WEB: &str = "
  - {name: web, remote_host: server, remote_port: 127.0.0.1:8000, local_port: '127.0.0.1:9443'}
";

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;

    let ours = portward_restarts(&lab).await;
    let plain = plain_restarts(&lab).await;
    println!("The port is down for, in milliseconds, seen by a connect every {} us:", PERIOD.as_micros());
    println!("{:<22}{:>5}{:>10}{:>10}{:>10}", "", "n", "median", "min", "max");
    print("portward restart", &ours);
    print("plain ssh -L restart", &plain);
    println!("portward keeps it down {:.0} times shorter, at the median", median(&plain) / median(&ours));
}

async fn portward_restarts(lab: &Lab) -> Vec<f64> {
    let daemon = Daemon::start(lab, WEB).await;
    daemon.wait_state("web", StateName::Up).await;
    let prober = Prober::start();
    let mut outages = Vec::new();
    for _ in 0..PORTWARD_RESTARTS {
        prober.next_success().await;
        let from = Instant::now();
        let answer = daemon.post("/restart/web?timeout=20s").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        prober.next_success().await;
        outages.push(prober.longest_outage(from));
    }
    outages
}

async fn plain_restarts(lab: &Lab) -> Vec<f64> {
    let mut ssh = plain_ssh(lab);
    let prober = Prober::start();
    let mut outages = Vec::new();
    for _ in 0..PLAIN_RESTARTS {
        prober.next_success().await;
        let from = Instant::now();
        kill(ssh.id().unwrap(), Signal::SIGTERM);
        within_deadline("the end of ssh", ssh.wait()).await.unwrap();
        ssh = plain_ssh(lab);
        prober.next_success().await;
        outages.push(prober.longest_outage(from));
    }
    outages
}

fn plain_ssh(lab: &Lab) -> Child {
    lab.command("/usr/bin/ssh")
        .arg("-F")
        .arg(lab.path("ssh_config"))
        .args(["-N", "-o", "ExitOnForwardFailure=yes", "-L", "127.0.0.1:9443:127.0.0.1:8000", "server"])
        .spawn()
        .expect("starting ssh")
}

/// One connect: when it was begun, when it was over, and whether it worked.
#[derive(Debug, Clone, Copy)]
struct Probe {
    begun: Instant,
    over: Instant,
    worked: bool,
}

/// A thread that connects to [`PORT`] every [`PERIOD`].
struct Prober {
    probes: Arc<Mutex<Vec<Probe>>>,
    worked: Arc<Notify>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Prober {
    fn start() -> Self {
        let probes = Arc::new(Mutex::new(Vec::new()));
        let worked = Arc::new(Notify::new());
        let end = Arc::new(AtomicBool::new(false));
        let (record, notify, ended) = (Arc::clone(&probes), Arc::clone(&worked), Arc::clone(&end));
        let thread = std::thread::spawn(move || {
            // The kernel may lengthen sleeps by 50 us otherwise.
            nix::sys::prctl::set_timerslack(1).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let mut next = Instant::now();
            while !ended.load(Ordering::Relaxed) {
                let probe = runtime.block_on(probe());
                record.lock().unwrap().push(probe);
                if probe.worked {
                    notify.notify_waiters();
                }
                next = (next + PERIOD).max(Instant::now());
                std::thread::sleep(next - Instant::now());
            }
        });
        Self { probes, worked, end, thread: Some(thread) }
    }

    /// Waits for a connect that works.
    async fn next_success(&self) {
        within_deadline("a connect that works", self.worked.notified()).await;
    }

    /// The longest time in milliseconds, since `from`, from the beginning of a connect that worked to the end of the next one
    /// that did. The port was down for no longer than that, however the probes fell.
    fn longest_outage(&self, from: Instant) -> f64 {
        let probes = self.probes.lock().unwrap();
        let worked: Vec<&Probe> = probes.iter().filter(|probe| probe.worked && probe.begun >= from).collect();
        let longest = worked.windows(2).map(|pair| pair[1].over - pair[0].begun).max().unwrap_or_default();
        longest.as_secs_f64() * 1000.0
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

async fn probe() -> Probe {
    let begun = Instant::now();
    let connected = TcpStream::connect(("127.0.0.1", PORT)).await;
    let over = Instant::now();
    if let Ok(stream) = &connected {
        // Closing with a reset leaves no TIME_WAIT: tens of thousands of those would use up the ephemeral ports.
        stream.set_zero_linger().unwrap();
    }
    Probe { begun, over, worked: connected.is_ok() }
}

fn median(outages: &[f64]) -> f64 {
    let mut sorted = outages.to_vec();
    sorted.sort_by(f64::total_cmp);
    f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2])
}

fn print(what: &str, outages: &[f64]) {
    let min = outages.iter().copied().fold(f64::INFINITY, f64::min);
    let max = outages.iter().copied().fold(0.0, f64::max);
    println!("{what:<22}{:>5}{:>10.2}{min:>10.2}{max:>10.2}", outages.len(), median(outages));
}
