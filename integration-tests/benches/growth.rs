//! What does one more tunnel cost? CPU time and anonymous memory of the daemon for 500, 1,000, 2,000 and 4,000 command tunnels, and
//! the ratio from each number to its double: 2 is linear.
//!
//!     cargo bench -p integration-tests --bench growth [-- NUMBER...]
//!
//! As root, in namespaces of its own. The CPU time is that of the daemon alone (user and system, of /proc/PID/stat), without
//! that of the commands. The memory is RssAnon of /proc/PID/status with all tunnels up, less what the daemon has without tunnels,
//! for each tunnel.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Write as _;
use std::fs;

use integration_tests::{Daemon, Lab};
use portward::protocol::StateName;

const NUMBERS: [u16; 4] = [500, 1000, 2000, 4000];
/// Below the ephemeral range there is room for all of them.
const FIRST_PORT: u16 = 10_000;
/// Ticks of /proc/PID/stat (USER_HZ), as milliseconds for one.
const TICK_MILLISECONDS: f64 = 10.0;
const PHASES: [&str; 5] = ["start", "reload", "status", "restart", "stop"];

/// The cost of each of [`PHASES`] in milliseconds of CPU, and of one tunnel in KiB.
struct Cost {
    tunnels: u16,
    phases: [f64; PHASES.len()],
    kibibytes: f64,
}

fn main() {
    // cargo adds an option of its own.
    let asked: Vec<u16> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let numbers = if asked.is_empty() { NUMBERS.to_vec() } else { asked };
    let empty = in_a_lab(anonymous_without_tunnels);
    let costs: Vec<Cost> =
        numbers.into_iter().map(|tunnels| in_a_lab(move || measure(tunnels, empty))).collect();
    report(&costs);
}

/// Runs `body` on a thread of its own, for a lab takes its thread into namespaces.
fn in_a_lab<F: Future>(body: impl FnOnce() -> F + Send) -> F::Output
where
    F::Output: Send,
{
    let run = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body());
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

async fn anonymous_without_tunnels() -> f64 {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, "").await;
    anonymous_kibibytes(daemon.pid())
}

async fn measure(tunnels: u16, empty: f64) -> Cost {
    let lab = Lab::new();
    let program = env!("CARGO_BIN_EXE_listening-process");
    let mut config = String::new();
    for index in 0..tunnels {
        let port = FIRST_PORT + index;
        writeln!(
            config,
            "  - {{name: t{index}, command: [{program}, '{port}'], local_port: '127.0.0.1:{port}'}}"
        )
        .unwrap();
    }
    let daemon = Daemon::start(&lab, &config).await;
    all_up(&daemon, tunnels).await;
    let mut stopwatch = Stopwatch { pid: daemon.pid(), read: 0.0 };
    let start = stopwatch.lap();
    let kibibytes = (anonymous_kibibytes(daemon.pid()) - empty) / f64::from(tunnels);

    lab.write_config(&format!("{config}# the same\n"));
    let answer = daemon.post("/reload").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let reload = stopwatch.lap();
    daemon.get("/status").await;
    let status = stopwatch.lap();
    let answer = daemon.post("/restart?timeout=120s").await;
    assert_eq!(answer.status, 200, "{:.300}", answer.body);
    let restart = stopwatch.lap();
    let answer = daemon.post("/stop?timeout=120s").await;
    assert_eq!(answer.status, 200, "{:.300}", answer.body);
    let stop = stopwatch.lap();
    daemon.stop().await;
    Cost { tunnels, phases: [start, reload, status, restart, stop], kibibytes }
}

async fn all_up(daemon: &Daemon<'_>, tunnels: u16) {
    for index in 0..tunnels {
        daemon.wait_state(&format!("t{index}"), StateName::Up).await;
    }
}

/// The CPU time of a process, in laps.
struct Stopwatch {
    pid: u32,
    read: f64,
}

impl Stopwatch {
    /// Milliseconds since the last lap; the first one begins with the process.
    fn lap(&mut self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        // utime and stime are the 14th and 15th field, and the name is the second.
        let ticks: f64 =
            fields.split_ascii_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap()).sum();
        let now = ticks * TICK_MILLISECONDS;
        now - std::mem::replace(&mut self.read, now)
    }
}

fn anonymous_kibibytes(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_ascii_whitespace().next().unwrap().parse().unwrap()
}

fn report(costs: &[Cost]) {
    println!(
        "CPU time of the daemon in milliseconds (ratio to the line before), anonymous memory of a tunnel in KiB:"
    );
    print!("{:>8}", "tunnels");
    for phase in PHASES {
        print!("{phase:>17}");
    }
    println!("{:>9}", "memory");
    for (index, cost) in costs.iter().enumerate() {
        print!("{:>8}", cost.tunnels);
        for (phase, cpu) in cost.phases.iter().enumerate() {
            let before = index.checked_sub(1).map(|before| costs[before].phases[phase]);
            let ratio = before.map_or_else(String::new, |before| format!(" ({:.2})", cpu / before));
            print!("{:>17}", format!("{cpu:.0}{ratio}"));
        }
        println!("{:>9.1}", cost.kibibytes);
    }
}
