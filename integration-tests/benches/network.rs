//! How long after a change of the network does the login begin that it makes possible or necessary? For the removal of the address of
//! a connection, and for a link that comes up while the login waits for an hour.
//!
//!     cargo bench -p integration-tests --bench network [-- TIMES]
//!
//! As root, in namespaces of its own. The times are from the start of the program `ip`, which takes part of them, to the log line of
//! the login.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use integration_tests::{Daemon, FarSide, Lab, Sshd, ip, kill};
use nix::sys::signal::Signal;
use portward::protocol::StateName;
use tokio::time::Instant;

const TIMES: usize = 31;
const WEB: &str = "
  - {name: web, remote_host: far, remote_port: 127.0.0.1:8000, local_port: '127.0.0.1:9443', restart: {min_delay: 1h, max_delay: 1h}}
";
/// Below the limit of one change a second in the long run.
const REST: Duration = Duration::from_secs(3);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // cargo adds an option of its own.
    let times = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(TIMES);
    let lab = Lab::new();
    let far = FarSide::new(&lab).await;
    far.connect("cable1", 1);
    far.connect("cable2", 2);
    far.ip("address add 10.9.0.1/32 dev lo");
    route();
    ip("route add 10.9.0.1 via 10.2.0.1 metric 20");
    lab.name_far("10.9.0.1");
    let _sshd = Sshd::start_far(&far, "").await;
    let daemon = Daemon::start(&lab, WEB).await;
    daemon.wait_state("web", StateName::Up).await;
    let mut removed = Vec::new();
    for _ in 0..times {
        let (pid, mark) = (daemon.tunnel_pid("web").await, daemon.mark());
        removed.push(login_after(&daemon, "address delete 10.1.0.2/24 dev cable1").await);
        // By the other cable, and then back.
        daemon.wait_up_anew(mark, "web", Some(pid)).await;
        ip("address add 10.1.0.2/24 dev cable1");
        route();
        daemon.restart("web").await;
        tokio::time::sleep(REST).await;
    }
    report("address removed", removed);

    ip("link set cable2 down");
    let mut raised = Vec::new();
    for _ in 0..times {
        let (pid, mark) = (daemon.tunnel_pid("web").await, daemon.mark());
        ip("link set cable1 down");
        kill(pid, Signal::SIGKILL);
        daemon.wait_status(mark, "web", "waiting", |status| status.state == StateName::Backoff).await;
        tokio::time::sleep(REST).await;
        // There is no route yet.
        raised.push(login_after(&daemon, "link set cable1 up").await);
        route();
        daemon.wait_up_anew(mark, "web", Some(pid)).await;
        tokio::time::sleep(REST).await;
    }
    report("link up", raised);
}

fn route() {
    ip("route add 10.9.0.1 via 10.1.0.1 metric 10");
}

/// The time from this change to the next login.
async fn login_after(daemon: &Daemon<'_>, change: &str) -> Duration {
    let mark = daemon.log().mark();
    let changed = Instant::now();
    ip(change);
    daemon.wait_log(mark, "of a start", |line| line.has("event", "starting")).await;
    changed.elapsed()
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
    println!(
        "{what}: median {:.1} ms, p90 {:.1} ms, most {:.1} ms of {}",
        at(50),
        at(90),
        at(100),
        times.len()
    );
}
