//! What happens to the network between this machine and the server. That a way which is missing for a while costs no connection is
//! shown by tests/network_changes.rs.

use integration_tests::{
    Daemon, ECHO_PORT, FarSide, Lab, ORIGIN_PORT, Others, Sshd, fetch, ip, kill, run, stop_signal,
};
use integration_tests::{serve_echo, serve_page};
use nix::sys::signal::Signal;
use portward::protocol::{FailureKind, StateName, TunnelStatus};

use super::pauses::PAUSE;
use super::site::{Fault, PORT, is_well};

/// Where the others go.
const OTHER: &str = "other";

/// A server with two cables: by the first one the tunnel `web` goes there, which the fault hits, by the second one the others.
struct TwoCables<'lab> {
    far: &'lab FarSide<'lab>,
    /// Ends when it is dropped.
    sshd: Sshd<'lab>,
    daemon: Daemon<'lab>,
    web: TunnelStatus,
    others: Others,
}

async fn far_side(lab: &Lab) -> FarSide<'_> {
    let far = FarSide::new(lab).await;
    far.connect("cable1", 1);
    far.connect("cable2", 2);
    lab.name_far("10.1.0.1");
    lab.name_server(OTHER, "10.2.0.1");
    far
}

async fn start<'lab>(lab: &'lab Lab, far: &'lab FarSide<'lab>, keys: &str) -> TwoCables<'lab> {
    far.spawn(|| async {
        serve_page(("127.0.0.1", ORIGIN_PORT)).await;
        serve_echo(("127.0.0.1", ECHO_PORT)).await;
        std::future::pending::<()>().await;
    });
    // That of the command.
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    let sshd = Sshd::start_far(far, "LogLevel DEBUG1").await;
    let web = format!(
        "  - {{name: web, remote_host: far, remote_port: 127.0.0.1:{ORIGIN_PORT}, local_port: '127.0.0.1:{PORT}'{keys}}}\n"
    );
    let daemon = Daemon::start(lab, &(web + &Others::tunnels(OTHER))).await;
    let web = daemon.wait_state("web", StateName::Up).await;
    let others = Others::start(&daemon, OTHER).await;
    TwoCables { far, sshd, daemon, web, others }
}

/// Waits until it is shown that ssh has lost the address of the first cable. For a moment there may have been no way at all before.
async fn address_is_gone(daemon: &Daemon<'_>, mark: usize) {
    let is_gone = |status: &TunnelStatus| {
        status.last_error.as_ref().is_some_and(|failure| {
            failure.kind == FailureKind::Network && failure.message.contains("10.1.0.2")
        })
    };
    daemon.wait_status(mark, "web", "without the address", is_gone).await;
}

#[tokio::test]
async fn a_server_that_falls_silent_is_noticed_by_ssh_and_comes_back_with_the_network() {
    let lab = Lab::new();
    let far = far_side(&lab).await;
    let keys = ", ssh: {connect_timeout: 1s, options: {ServerAliveInterval: 1, ServerAliveCountMax: 2}}";
    let TwoCables { far, sshd: _sshd, daemon, web, others } = start(&lab, &far, keys).await;
    let mark = daemon.mark();
    let fault = Fault::begins("a silent loss of all packets, ServerAliveInterval 1, CountMax 2");
    far.ip("route add blackhole 10.1.0.2/32");
    fault.is_shown(&daemon, mark, FailureKind::Timeout).await;
    others.go_on().await;
    let fault = Fault::begins("the end of a silent loss, `connect_timeout` of 1 s, `max_delay` of 500 ms");
    far.ip("route delete blackhole 10.1.0.2/32");
    fault.is_over(&daemon, mark, &web).await;
    is_well(&lab, daemon, others).await;
}

#[tokio::test]
async fn a_change_of_the_own_address_makes_a_new_connection_at_once() {
    let lab = Lab::new();
    let far = far_side(&lab).await;
    let TwoCables { sshd: _sshd, daemon, web, others, .. } = start(&lab, &far, "").await;
    let mark = daemon.mark();
    let fault = Fault::begins("another address");
    ip("address add 10.1.0.9/24 dev cable1");
    // The later one would go with it.
    ip("address replace 10.1.0.9/32 dev lo");
    ip("address delete 10.1.0.2/24 dev cable1");
    ip("address replace 10.1.0.9/24 dev cable1");
    address_is_gone(&daemon, mark).await;
    fault.until("shown");
    fault.is_over(&daemon, mark, &web).await;
    is_well(&lab, daemon, others).await;
}

/// While portward stands still, more changes than the socket has room for: that of the address is not among those that it reads.
#[tokio::test]
async fn a_change_that_is_lost_in_an_overrun_of_rtnetlink_is_found_nevertheless() {
    const LINKS: usize = 400;
    let lab = Lab::new();
    let far = far_side(&lab).await;
    // A second way, by which the first cable's server is reached from another address.
    far.connect("cable3", 3);
    let TwoCables { sshd: _sshd, daemon, web, others, .. } = start(&lab, &far, "").await;
    ip("route add 10.1.0.1/32 via 10.3.0.1 metric 1000");
    let mark = daemon.mark();
    stop_signal(daemon.pid());
    let change = |link| format!("link add d{link} type veth peer name e{link}\nlink delete d{link}\n");
    let storm: String = (0..LINKS).map(change).collect();
    std::fs::write(lab.path("storm"), storm).unwrap();
    run(lab.command("ip").arg("-batch").arg(lab.path("storm")), 0).await;
    ip("address delete 10.1.0.2/24 dev cable1");
    let fault = Fault::begins("an overrun of rtnetlink, from SIGCONT on");
    kill(daemon.pid(), Signal::SIGCONT);
    address_is_gone(&daemon, mark).await;
    fault.until("shown");
    fault.is_over(&daemon, mark, &web).await;
    fetch(PORT).await.expect("the tunnel carries");
    is_well(&lab, daemon, others).await;
}

/// While portward stands still, the server answers, and the time passes that it has for that.
#[tokio::test]
async fn a_server_that_answered_while_portward_stood_still_is_not_taken_for_silent() {
    let lab = Lab::new();
    let far = far_side(&lab).await;
    let TwoCables { sshd, daemon, web, others, .. } = start(&lab, &far, "").await;
    let (starts, log) = (lab.ssh_starts().len(), sshd.log().mark());
    far.ip("route add blackhole 10.1.0.2/32");
    ip("address add 10.9.0.2/32 dev lo");
    sshd.wait_probe(log).await;
    stop_signal(daemon.pid());
    far.ip("route delete blackhole 10.1.0.2/32");
    // On one connection, so that the sign of life came before this.
    fetch(PORT).await.expect("ssh carries without portward");
    // The pause is the fault itself, not a wait for something.
    tokio::time::sleep(PAUSE).await;
    let log = sshd.log().mark();
    kill(daemon.pid(), Signal::SIGCONT);
    ip("address delete 10.9.0.2/32 dev lo");
    sshd.wait_probe(log).await;
    let status = daemon.status("web").await;
    let expected = (StateName::Up, web.pid, 0, None);
    let observed = (status.state, status.pid, status.restarts, status.last_error);
    assert_eq!(observed, expected, "{}", daemon.report());
    assert_eq!(lab.ssh_starts().len(), starts, "{:#?}", lab.ssh_starts());
    is_well(&lab, daemon, others).await;
}
