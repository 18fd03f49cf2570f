//! portward, or everything, stands still for a while and goes on. Clocks of the kernel go on meanwhile, and all deadlines pass.

use std::time::Duration;

use integration_tests::{Lab, Sshd, fetch, kill, stop_signal};
use nix::sys::signal::Signal;
use portward::protocol::{FailureKind, StateName};

use super::site::{Fault, PORT, is_well, start};

/// In the environment: for how many seconds everything stands still, if not for [`PAUSE`].
const SECONDS: &str = "PORTWARD_PAUSE";

/// Longer than all deadlines of these tests: that of a probe, `stop_grace`, time-outs and waits of the health check,
/// `ServerAliveInterval` times `ServerAliveCountMax`.
pub(crate) const PAUSE: Duration = Duration::from_secs(4);

const KEYS: &str = ", health: {connect: true, every: 1s, timeout: 1s}, ssh: {connect_timeout: 1s, options: \
                    {ServerAliveInterval: 1, ServerAliveCountMax: 2}}";

fn pause() -> Duration {
    let seconds = std::env::var(SECONDS).ok().map(|seconds| seconds.parse().unwrap());
    seconds.map_or(PAUSE, Duration::from_secs)
}

#[tokio::test]
async fn what_ssh_and_commands_carry_goes_on_without_portward_and_what_happened_meanwhile_is_found_when_it_goes_on()
 {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let (daemon, web, others) = start(&lab, "").await;
    let mark = daemon.mark();
    stop_signal(daemon.pid());
    fetch(PORT).await.expect("ssh carries without portward");
    kill(web.pid.unwrap(), Signal::SIGKILL);
    integration_tests::process_end(web.pid.unwrap()).await;
    let fault = Fault::begins("SIGCONT of portward, an ssh having died meanwhile");
    kill(daemon.pid(), Signal::SIGCONT);
    fault.is_shown(&daemon, mark, FailureKind::Killed).await;
    fault.is_over(&daemon, mark, &web).await;
    is_well(&lab, daemon, others).await;
}

#[tokio::test]
async fn a_pause_of_all_processes_costs_no_connection_and_no_byte() {
    let lab = Lab::new();
    let sshd = Sshd::start(&lab).await;
    let (daemon, web, others) = start(&lab, KEYS).await;
    let starts = lab.ssh_starts().len();
    // portward first and last: it does not see the others stop one after the other.
    let listener = sshd.pid().unwrap();
    stop_signal(daemon.pid());
    let of_daemon = lab.daemon_processes().into_iter().filter(|process| process.pid != daemon.pid());
    let all: Vec<u32> = of_daemon
        .chain(lab.sshd_processes())
        .map(|process| process.pid)
        .filter(|pid| *pid != listener)
        .collect();
    for pid in all.iter().chain([&listener]) {
        stop_signal(*pid);
    }
    // The pause is the fault itself, not a wait for something.
    tokio::time::sleep(pause()).await;
    let fault = Fault::begins("the end of a pause of all processes");
    for pid in all.iter().chain([&listener, &daemon.pid()]) {
        kill(*pid, Signal::SIGCONT);
    }
    others.go_on().await;
    fault.until("bytes pass on all streams");
    fetch(PORT).await.expect("the tunnel carries");
    let status = daemon.status("web").await;
    assert_eq!(
        (status.state, status.pid, status.restarts),
        (StateName::Up, web.pid, 0),
        "{}",
        daemon.report()
    );
    assert_eq!(lab.ssh_starts().len(), starts, "{:#?}", lab.ssh_starts());
    is_well(&lab, daemon, others).await;
}
