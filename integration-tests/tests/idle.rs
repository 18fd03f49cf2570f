//! Nothing polls: a daemon with nothing to do makes no system call.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::time::Duration;

use integration_tests::{Daemon, Lab, Squatter, Sshd, Trace};
use portward::protocol::StateName;

/// tokio's idle helper threads end by themselves after 10 s: that is the last thing that an idle daemon does.
const HELPER_THREADS_END: Duration = Duration::from_secs(11);

#[tokio::test]
async fn ten_idle_tunnels_make_no_system_call_for_thirty_seconds() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let mut tunnels = String::new();
    for index in 0..10 {
        writeln!(
            tunnels,
            "  - {{name: t{index}, remote_host: server, remote_port: 127.0.0.1:8000, local_port: 944{index}}}"
        )
        .unwrap();
    }
    let daemon = Daemon::start(&lab, &tunnels).await;
    for index in 0..10 {
        daemon.wait_state(&format!("t{index}"), StateName::Up).await;
    }
    tokio::time::sleep(HELPER_THREADS_END).await;
    let calls = Trace::attach(&lab, daemon.pid()).await.calls_during(Duration::from_secs(30)).await;
    assert_eq!(calls, Vec::<String>::new());
}

#[tokio::test]
async fn waiting_for_a_port_makes_no_system_call() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let squatter = Squatter::listen(&lab, "127.0.0.1", 9443).await;
    let tunnels = "
  - {name: web, remote_host: server, remote_port: 127.0.0.1:8000, local_port: 9443}
";
    let daemon = Daemon::start(&lab, tunnels).await;
    daemon.wait_holder("web").await;
    tokio::time::sleep(HELPER_THREADS_END).await;
    let calls = Trace::attach(&lab, daemon.pid()).await.calls_during(Duration::from_secs(5)).await;
    assert_eq!(calls, Vec::<String>::new());
    assert_eq!(lab.ssh_starts().len(), 0);

    squatter.leave().await;
    daemon.wait_state("web", StateName::Up).await;
}
