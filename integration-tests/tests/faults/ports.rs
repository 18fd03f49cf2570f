//! A port is taken at the worst moment.

use integration_tests::{Daemon, Lab, Others, Squatter, Sshd, Tripwire, fetch};
use portward::protocol::{FailureKind, StateName};

use super::site::{Fault, PORT, SERVER, is_well, serve};

/// ssh is stopped when it is about to bind: after portward has found the port unbound, and before ssh has it.
#[tokio::test]
async fn a_port_that_is_stolen_between_the_verdict_and_the_bind_is_waited_for_and_its_thief_named() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve().await;
    let ssh = format!(
        "remote_host: {SERVER}, remote_port: 127.0.0.1:8000, ssh: {{connect_timeout: 9s}}, share: true"
    );
    let tunnels = format!(
        "  - {{name: first, {ssh}, local_port: '127.0.0.1:9442', stop_grace: 20s}}\n  \
         - {{name: web, {ssh}, local_port: '127.0.0.1:{PORT}', stop_grace: 20s, enabled: false}}\n"
    );
    let daemon = Daemon::start(&lab, &(tunnels + &Others::tunnels(SERVER))).await;
    let others = Others::start(&daemon, SERVER).await;
    let first = daemon.wait_state("first", StateName::Up).await;
    let tripwire = Tripwire::attach(&lab, first.pid.unwrap(), "socket", None).await;
    let mark = daemon.mark();
    daemon.post("/start/web?timeout=1ms").await;
    tripwire.tripped().await;
    let thief = Squatter::listen(&lab, "127.0.0.1", PORT).await;
    let fault = Fault::begins("the port taken between the verdict and the bind");
    tripwire.release().await;
    let shown = daemon.wait_failure(mark, "web", FailureKind::LocalPortHeld).await;
    fault.until("shown");
    assert_ne!(shown.state, StateName::Failed);
    let holder = daemon.wait_holder("web").await;
    assert_eq!(holder.pid, Some(thief.pid()));
    let fault = Fault::begins("the thief leaves");
    thief.leave().await;
    daemon.wait_status(mark, "web", "up", |status| status.state == StateName::Up).await;
    fault.until("up");
    fetch(PORT).await.expect("the tunnel carries");
    assert_eq!(daemon.status("first").await.pid, first.pid, "{}", daemon.report());
    is_well(&lab, daemon, others).await;
}
