//! What the faults have in common: a tunnel that they hit, and its times.

use std::time::Duration;

use integration_tests::{Daemon, ECHO_PORT, Lab, ORIGIN_PORT, Others, fetch, serve_echo, serve_page};
use portward::protocol::{FailureKind, StateName, TunnelStatus};
use tokio::time::Instant;

/// The server of most tests.
pub(crate) const SERVER: &str = "server";

/// Where the tunnel `web` listens.
pub(crate) const PORT: u16 = 9443;

/// The tunnel that the fault hits, with these keys besides, and the others.
pub(crate) fn tunnels(keys: &str) -> String {
    let web = format!(
        "  - {{name: web, remote_host: {SERVER}, remote_port: 127.0.0.1:{ORIGIN_PORT}, \
         local_port: '127.0.0.1:{PORT}'{keys}}}\n"
    );
    web + &Others::tunnels(SERVER)
}

/// Serves what the tunnels lead to, on this machine.
pub(crate) async fn serve() {
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
}

/// Starts the daemon with the tunnel `web` and the others; all are up, and the others have streams.
pub(crate) async fn start<'lab>(lab: &'lab Lab, keys: &str) -> (Daemon<'lab>, TunnelStatus, Others) {
    serve().await;
    let daemon = Daemon::start(lab, &tunnels(keys)).await;
    let others = Others::start(&daemon, SERVER).await;
    let web = daemon.wait_state("web", StateName::Up).await;
    (daemon, web, others)
}

/// As [`start`], but the tunnel `web` is left for the test to start.
pub(crate) async fn start_others<'lab>(lab: &'lab Lab, keys: &str) -> (Daemon<'lab>, Others) {
    serve().await;
    let daemon = Daemon::start(lab, &tunnels(&format!(", enabled: false{keys}"))).await;
    let others = Others::start(&daemon, SERVER).await;
    (daemon, others)
}

/// Measures a fault from its beginning.
pub(crate) struct Fault {
    what: &'static str,
    begun: Instant,
}

impl Fault {
    /// It begins now.
    pub(crate) fn begins(what: &'static str) -> Self {
        Self { what, begun: Instant::now() }
    }

    /// Prints how long it took until `what`.
    pub(crate) fn until(&self, what: &str) -> Duration {
        let passed = self.begun.elapsed();
        println!("figure: {}: {what} after {} ms", self.what, passed.as_millis());
        passed
    }

    /// Waits until the tunnel `web` shows a failure of this class, at or after `mark`.
    pub(crate) async fn is_shown(&self, daemon: &Daemon<'_>, mark: usize, kind: FailureKind) -> TunnelStatus {
        let shown = daemon.wait_failure(mark, "web", kind).await;
        self.until("shown");
        shown
    }

    /// Waits until the tunnel `web` is up with another process than `before`, and carries.
    pub(crate) async fn is_over(
        &self,
        daemon: &Daemon<'_>,
        mark: usize,
        before: &TunnelStatus,
    ) -> TunnelStatus {
        let after = daemon.wait_up_anew(mark, "web", before.pid).await;
        self.until("up again");
        assert_eq!(after.last_error, None, "{}", daemon.report());
        fetch(PORT).await.expect("the tunnel carries again");
        after
    }
}

/// Checks that all is well: the others have lost nothing, and a daemon that ends leaves nothing behind.
pub(crate) async fn is_well(lab: &Lab, daemon: Daemon<'_>, others: Others) {
    let bytes = others.finish(&daemon).await;
    println!("{bytes} bytes through the others");
    let ended = daemon.stop().await;
    assert!(ended.status.success(), "{:?}", ended.status);
    assert_eq!(lab.daemon_processes().len(), 0, "{:?}", lab.daemon_processes());
}
