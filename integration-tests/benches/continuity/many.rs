//! A hundred tunnels to one server: how soon they are up, what memory their ssh take, and a restart of all.

use std::fs;
use std::thread;
use std::time::Duration;

use integration_tests::{Daemon, ECHO_PORT, Lab, kill, within_deadline};
use nix::sys::signal::Signal;
use portward::port::diag::Diag;
use portward::protocol::StateName;
use tokio::time::Instant;

use crate::plain::forwarding;
use crate::side::configure;

const FIRST_PORT: u16 = 10_000;
/// How often all of it is done; the medians are printed.
const ROUNDS: usize = 3;
/// From one look at the kernel's listeners to the next.
const LOOK: Duration = Duration::from_millis(1);

/// Milliseconds until all are up, KiB of memory (PSS) of all ssh, and milliseconds of a restart of all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) up: f64,
    pub(crate) kibibytes: f64,
    pub(crate) restart: f64,
}

/// One ssh with a -L for each.
pub(crate) async fn plain(lab: &Lab, tunnels: u16) -> Vec<Cost> {
    let ports: Vec<u16> = ports(tunnels).collect();
    let mut costs = Vec::new();
    for _ in 0..ROUNDS {
        let mut command = forwarding(lab, "/usr/bin/ssh", &ports, ECHO_PORT);
        let begun = Instant::now();
        let mut ssh = command.spawn().expect("starting ssh");
        let up = listening_since(begun, tunnels).await;
        let kibibytes = pss(ssh.id().unwrap());
        let begun = Instant::now();
        for is_last in [false, true] {
            kill(ssh.id().unwrap(), Signal::SIGTERM);
            within_deadline("the end of ssh", ssh.wait()).await.unwrap();
            if !is_last {
                ssh = command.spawn().expect("starting ssh");
                let restart = listening_since(begun, tunnels).await;
                costs.push(Cost { up, kibibytes, restart });
            }
        }
    }
    costs
}

/// portward, with `keys` for each tunnel.
///
/// # Errors
/// It does not accept them: what it says about the first tunnel.
pub(crate) async fn portward(lab: &Lab, tunnels: u16, keys: &str) -> Result<Vec<Cost>, String> {
    let tunnel = |(index, port): (usize, u16)| {
        format!(
            "  - {{name: t{index}, remote_host: far, remote_port: '127.0.0.1:{ECHO_PORT}', local_port: '127.0.0.1:{port}', {keys}}}\n"
        )
    };
    configure(lab, &ports(tunnels).enumerate().map(tunnel).collect::<String>());
    let check = lab.portward(&["check"]).output().await.expect("running portward check");
    if !check.status.success() {
        let said = String::from_utf8_lossy(&check.stderr).into_owned();
        return Err(said.lines().next().unwrap_or("no reason").to_owned());
    }
    let mut costs = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let daemon = Daemon::start_as_configured(lab).await;
        let up = listening_since(begun, tunnels).await;
        all_up(&daemon, tunnels).await;
        let kibibytes = lab.sshs().into_iter().map(pss).sum();
        let begun = Instant::now();
        let answer = daemon.post("/restart?timeout=120s").await;
        let restart = begun.elapsed().as_secs_f64() * 1e3;
        assert_eq!(answer.status, 200, "{:.300}", answer.body);
        costs.push(Cost { up, kibibytes, restart });
        daemon.stop().await;
    }
    Ok(costs)
}

fn ports(tunnels: u16) -> impl Iterator<Item = u16> {
    FIRST_PORT..FIRST_PORT + tunnels
}

async fn all_up(daemon: &Daemon<'_>, tunnels: u16) {
    for index in 0..tunnels {
        daemon.wait_state(&format!("t{index}"), StateName::Up).await;
    }
}

/// Milliseconds from `begun` until somebody listens on each of the ports.
async fn listening_since(begun: Instant, tunnels: u16) -> f64 {
    // A thread inherits the namespace, and one of the runtime's may have been there before.
    let look = thread::spawn(move || {
        let mut diag = Diag::new().unwrap();
        for port in ports(tunnels) {
            while diag.listener(([127, 0, 0, 1], port).into()).unwrap().is_none() {
                thread::sleep(LOOK);
            }
        }
        begun.elapsed().as_secs_f64() * 1e3
    });
    let joined = tokio::task::spawn_blocking(move || look.join().unwrap());
    within_deadline("listeners on all ports", joined).await.unwrap()
}

/// Proportional set size in KiB.
fn pss(pid: u32) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.split_ascii_whitespace().next().unwrap().parse().unwrap()
}
