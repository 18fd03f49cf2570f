//! For how long is the port down during a restart, when its listener is cancelled behind portward's back, and when ssh is killed?
//! Measured from outside, by a prober that asks the kernel every 50 microseconds, for `portward restart` and for a plain
//! `ssh -L` that is ended and started again.
//!
//!     cargo bench -p integration-tests --bench restart

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::cast_precision_loss)]

mod prober;

use integration_tests::{Daemon, Lab, ORIGIN_PORT, Sshd, kill, serve_page, within_deadline};
use nix::sys::signal::Signal;
use portward::protocol::{Standby, StateName, TunnelStatus};
use prober::{PERIOD, Prober};
use tokio::process::Child;

const PORTWARD_RESTARTS: usize = 100;
const PLAIN_RESTARTS: usize = 20;
const CANCELLED: usize = 50;
const KILLED: usize = 50;
const WEB: &str = "
  - {name: web, remote_host: server, remote_port: 127.0.0.1:8000, local_port: '127.0.0.1:9443'}
";
/// The same, with a second connection that is ready.
const COVERED: &str = "
  - {name: web, remote_host: server, remote_port: 127.0.0.1:8000, local_port: '127.0.0.1:9443', standby: true}
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
    let cancelled = cancelled_listeners(&lab).await;
    let killed = killed_connections(&lab, WEB).await;
    let killed_with_standby = killed_connections(&lab, COVERED).await;
    let plain = plain_restarts(&lab).await;
    println!(
        "The port is down for, in milliseconds, seen by a look at the kernel's listeners every {} us:",
        PERIOD.as_micros()
    );
    println!("{:<22}{:>5}{:>10}{:>10}{:>10}{:>10}", "", "n", "median", "p99", "min", "max");
    report("portward restart", &ours);
    report("plain ssh -L restart", &plain);
    report("listener cancelled", &cancelled);
    report("ssh killed", &killed);
    report("ssh killed, standby", &killed_with_standby);
    println!("portward keeps it down {:.0} times shorter, at the median", median(&plain) / median(&ours));
}

async fn portward_restarts(lab: &Lab) -> Vec<f64> {
    let daemon = Daemon::start(lab, WEB).await;
    daemon.wait_state("web", StateName::Up).await;
    let prober = Prober::start();
    let mut outages = Vec::new();
    for _ in 0..PORTWARD_RESTARTS {
        let before = prober.next_success().await;
        let answer = daemon.post("/restart/web?timeout=20s").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        prober.next_success().await;
        outages.push(prober.outage_since(before));
    }
    outages
}

/// `ssh -O cancel`, as a user may do it: portward has it listen again, on the same connection.
async fn cancelled_listeners(lab: &Lab) -> Vec<f64> {
    let daemon = Daemon::start(lab, WEB).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    let prober = Prober::start();
    let mut outages = Vec::new();
    for _ in 0..CANCELLED {
        let before = prober.next_success().await;
        let control = std::fs::read_dir(daemon.socket().with_extension("ssh")).unwrap();
        let control = control.map(|entry| entry.unwrap().path()).find(|path| path.extension().is_none());
        let mark = daemon.mark();
        let mut ssh = lab.command("/usr/bin/ssh");
        ssh.arg("-S").arg(control.unwrap()).args([
            "-O",
            "cancel",
            "-L",
            "127.0.0.1:9443:127.0.0.1:8000",
            "server",
        ]);
        let output = within_deadline("ssh -O cancel", ssh.output()).await.unwrap();
        assert!(output.status.success(), "{output:?}");
        let back = daemon.wait_status(mark, "web", "up again", |status| status.state == StateName::Up).await;
        assert_eq!(back.pid, up.pid);
        prober.next_success().await;
        outages.push(prober.outage_since(before));
    }
    outages
}

/// `kill -9` of the ssh that listens.
async fn killed_connections(lab: &Lab, tunnels: &str) -> Vec<f64> {
    let daemon = Daemon::start(lab, tunnels).await;
    let prober = Prober::start();
    let (mut outages, mut mark) = (Vec::new(), 0);
    for _ in 0..KILLED {
        let is_covered = |status: &TunnelStatus| {
            let has_standby = status.standby.is_none_or(|standby| standby == Standby::Ready);
            status.state == StateName::Up && status.last_error.is_none() && has_standby
        };
        let up = daemon.wait_status(mark, "web", "up, with all that it needs", is_covered).await;
        let before = prober.next_success().await;
        mark = daemon.mark();
        kill(up.pid.unwrap(), Signal::SIGKILL);
        daemon.wait_up_anew(mark, "web", up.pid).await;
        prober.next_success().await;
        outages.push(prober.outage_since(before));
    }
    outages
}

async fn plain_restarts(lab: &Lab) -> Vec<f64> {
    let mut ssh = plain_ssh(lab);
    let prober = Prober::start();
    let mut outages = Vec::new();
    for _ in 0..PLAIN_RESTARTS {
        let before = prober.next_success().await;
        kill(ssh.id().unwrap(), Signal::SIGTERM);
        within_deadline("the end of ssh", ssh.wait()).await.unwrap();
        ssh = plain_ssh(lab);
        prober.next_success().await;
        outages.push(prober.outage_since(before));
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

fn median(outages: &[f64]) -> f64 {
    quantile(outages, 0.5)
}

/// The smallest of them that is no less than this part of all.
fn quantile(outages: &[f64], part: f64) -> f64 {
    let mut sorted = outages.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (1..=sorted.len()).find(|rank| *rank as f64 >= part * sorted.len() as f64);
    sorted[rank.expect("something was measured") - 1]
}

fn report(what: &str, outages: &[f64]) {
    let [median, p99, min, max] = [0.5, 0.99, 0.0, 1.0].map(|part| quantile(outages, part));
    println!("{what:<22}{:>5}{median:>10.2}{p99:>10.2}{min:>10.2}{max:>10.2}", outages.len());
}
