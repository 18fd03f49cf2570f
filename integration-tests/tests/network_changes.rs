//! When the network of this machine changes, connections that have lost their way are replaced, those that have not are kept, and
//! a login that waited for the network waits no longer.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::fs;
use std::future::pending;

use integration_tests::{Daemon, ECHO_PORT, FarSide, Lab, NumberedStream, Sshd, ip, kill, run, serve_echo};
use nix::sys::signal::Signal;
use portward::protocol::{FailureKind, StateName};
use tokio::time::Instant;

/// The server, whichever cable leads to it.
const SERVER: &str = "10.9.0.1";
/// The server on the first cable.
const SERVER_1: &str = "10.1.0.1";
const CLIENT_1: &str = "10.1.0.2";

const WEB: &str = "
  - {name: web, remote_host: far, remote_port: 127.0.0.1:8000, local_port: '127.0.0.1:9443'}
";

/// A far side with two cables to [`SERVER`], of which the first is preferred.
async fn two_ways(lab: &Lab) -> FarSide<'_> {
    let far = FarSide::new(lab).await;
    far.connect("cable1", 1);
    far.connect("cable2", 2);
    far.ip("address add 10.9.0.1/32 dev lo");
    ip("route add 10.9.0.1 via 10.1.0.1 metric 10");
    ip("route add 10.9.0.1 via 10.2.0.1 metric 20");
    lab.name_far(SERVER);
    far
}

/// Makes these changes, and waits until the server, which logs at DEBUG1, is asked for a sign of life.
async fn is_probed_after(sshd: &Sshd<'_>, changes: &[&str]) {
    let mark = sshd.log().mark();
    for change in changes {
        ip(change);
    }
    sshd.wait_probe(mark).await;
}

#[tokio::test]
async fn a_connection_whose_address_is_removed_is_replaced_at_once() {
    let lab = Lab::new();
    let far = two_ways(&lab).await;
    let _sshd = Sshd::start_far(&far, "").await;
    let daemon = Daemon::start(&lab, WEB).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    let (mark, log) = (daemon.mark(), daemon.log().mark());
    // The routes by that cable go with its only address.
    ip("address delete 10.1.0.2/24 dev cable1");
    daemon.wait_log(log, "of a start", |line| line.has("event", "starting")).await;
    // The probe, which is under way as well, would have been another class.
    let failed = daemon.wait_failure(mark, "web", FailureKind::Network).await.last_error.unwrap();
    assert!(failed.message.contains(CLIENT_1), "{failed}");
    daemon.wait_up_anew(mark, "web", up.pid).await;
    assert_eq!(lab.ssh_starts().len(), 2, "{:#?}", lab.ssh_starts());
}

#[tokio::test]
async fn an_address_that_another_interface_still_has_is_not_gone_and_others_concern_nobody() {
    let lab = Lab::new();
    let far = two_ways(&lab).await;
    let sshd = Sshd::start_far(&far, "LogLevel DEBUG1").await;
    // The address stays when the first of two that are the same goes.
    ip("address add 10.1.0.2/32 dev lo");
    let daemon = Daemon::start(&lab, WEB).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    for change in ["address delete 10.1.0.2/32 dev lo", "address delete 10.2.0.2/24 dev cable2"] {
        is_probed_after(&sshd, &[change]).await;
    }
    let status = daemon.status("web").await;
    assert_eq!((status.state, status.pid, status.last_error), (StateName::Up, up.pid, None));
}

#[tokio::test]
async fn where_another_process_makes_the_connection_it_is_noticed_as_well_that_its_address_is_gone() {
    let lab = Lab::new();
    let far = two_ways(&lab).await;
    let _sshd = Sshd::start_far(&far, "").await;
    connect_by_socat(&lab);
    let daemon = Daemon::start(&lab, WEB).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    let mark = daemon.mark();
    ip("address delete 10.1.0.2/24 dev cable1");
    let failed = daemon.wait_failure(mark, "web", FailureKind::Network).await.last_error.unwrap();
    assert!(failed.message.contains(CLIENT_1), "{failed}");
    daemon.wait_up_anew(mark, "web", up.pid).await;
}

/// Has another process than ssh connect to the server `far`.
fn connect_by_socat(lab: &Lab) {
    let config = fs::read_to_string(lab.path("ssh_config")).unwrap();
    let config = config.replacen("Host far\n", "Host far\n  ProxyCommand socat - TCP:%h:%p\n", 1);
    fs::write(lab.path("ssh_config"), config).unwrap();
}

/// A connection over the first cable and its stream are still there after there was no way to the server for longer than a probe
/// waits: from `cut` until `restore`.
async fn a_stream_outlives(prepare: fn(&Lab), cut: fn(&FarSide<'_>), restore: fn(&FarSide<'_>)) {
    let lab = Lab::new();
    let far = FarSide::new(&lab).await;
    far.connect("cable1", 1);
    far.connect("cable2", 2);
    lab.name_far(SERVER_1);
    lab.name_server("other", "10.2.0.1");
    prepare(&lab);
    far.spawn(|| async {
        serve_echo(("127.0.0.1", ECHO_PORT)).await;
        pending::<()>().await;
    });
    let _sshd = Sshd::start_far(&far, "").await;
    let tunnels = format!(
        "
  - {{name: web, remote_host: far, remote_port: 127.0.0.1:{ECHO_PORT}, local_port: '127.0.0.1:9443'}}
  - {{name: witness, remote_host: other, remote_port: 127.0.0.1:8000, local_port: '127.0.0.1:9444'}}
"
    );
    let daemon = Daemon::start(&lab, &tunnels).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    daemon.wait_state("witness", StateName::Up).await;
    let stream = NumberedStream::open(9443).await;
    let (mark, begun) = (daemon.mark(), Instant::now());
    // There is a way to the other server, which is silent: this connection is given up, and the time that a probe waits is over then.
    far.ip("route add blackhole 10.2.0.2/32");
    cut(&far);
    let kept = daemon.wait_failure(mark, "web", FailureKind::Network).await;
    let failure = kept.last_error.unwrap();
    assert!(failure.message.contains("ssh is kept") && failure.message.contains("`ip route`"), "{failure}");
    assert_eq!(kept.state, StateName::Up);
    println!("the loss of the way is shown after {:?}", begun.elapsed());
    daemon.wait_failure(mark, "witness", FailureKind::Timeout).await;
    restore(&far);
    let restored = Instant::now();
    daemon.wait_status(mark, "web", "well again", |status| status.last_error.is_none()).await;
    stream.next_bytes().await;
    println!("bytes pass again {:?} after the way is back", restored.elapsed());
    stream.finish().await;
    // Its server has answered by now, or the connection would be given up soon.
    let status = daemon.status("web").await;
    assert_eq!(
        (status.state, status.pid, status.restarts),
        (StateName::Up, up.pid, 0),
        "{}",
        daemon.report()
    );
}

fn as_it_is(_: &Lab) {}

#[tokio::test]
async fn a_link_that_loses_its_carrier_and_gets_it_back_costs_no_connection() {
    a_stream_outlives(as_it_is, |far| far.ip("link set cable1 down"), |far| far.ip("link set cable1 up"))
        .await;
}

#[tokio::test]
async fn a_link_that_is_set_down_and_up_again_costs_no_connection() {
    a_stream_outlives(as_it_is, |_| ip("link set cable1 down"), |_| ip("link set cable1 up")).await;
}

#[tokio::test]
async fn an_address_that_is_removed_and_comes_back_costs_no_connection_if_there_is_no_other_way_meanwhile() {
    a_stream_outlives(
        as_it_is,
        |_| ip("address delete 10.1.0.2/24 dev cable1"),
        |_| ip("address add 10.1.0.2/24 dev cable1"),
    )
    .await;
}

#[tokio::test]
async fn where_another_process_makes_the_connection_it_outlives_the_loss_of_the_way_as_well() {
    a_stream_outlives(
        connect_by_socat,
        |far| far.ip("link set cable1 down"),
        |far| far.ip("link set cable1 up"),
    )
    .await;
}

#[tokio::test]
async fn a_login_that_waits_for_the_network_begins_when_the_link_is_up_again() {
    let lab = Lab::new();
    let far = FarSide::new(&lab).await;
    far.connect("cable1", 1);
    lab.name_far(SERVER_1);
    let _sshd = Sshd::start_far(&far, "").await;
    let patient = WEB.replace('}', ", restart: {min_delay: 1h, max_delay: 1h}}");
    let daemon = Daemon::start(&lab, &patient).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    let mark = daemon.mark();
    ip("link set cable1 down");
    daemon.wait_failure(mark, "web", FailureKind::Network).await;
    kill(up.pid.unwrap(), Signal::SIGKILL);
    // The address is still there, and no route.
    let waits = daemon.wait_status(mark, "web", "waiting", |status| status.state == StateName::Backoff).await;
    assert_eq!(waits.last_error.map(|failure| failure.kind), Some(FailureKind::Network));
    let (mark, log) = (daemon.mark(), daemon.log().mark());
    ip("link set cable1 up");
    daemon.wait_log(log, "of a start", |line| line.has("event", "starting")).await;
    daemon.wait_up_anew(mark, "web", up.pid).await;
    let told = daemon.log().since(log).iter().filter(|line| line.has("event", "network")).count();
    assert_eq!(told, 1, "{}", daemon.report());
}

/// Has the far side lose what it sends to the first cable's address here. Nobody here hears of it.
fn cut_silently(far: &FarSide<'_>) {
    far.ip("route add blackhole 10.1.0.2/32");
}

#[tokio::test]
async fn a_connection_that_was_cut_silently_is_found_by_the_next_change_and_made_anew_on_the_other_way() {
    let lab = Lab::new();
    let far = two_ways(&lab).await;
    let _sshd = Sshd::start_far(&far, "").await;
    let daemon = Daemon::start(&lab, WEB).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    cut_silently(&far);
    let mark = daemon.mark();
    ip("route delete 10.9.0.1 via 10.1.0.1 metric 10");
    let failed = daemon.wait_failure(mark, "web", FailureKind::Timeout).await.last_error.unwrap();
    assert!(failed.message.contains("has not answered within"), "{failed}");
    daemon.wait_up_anew(mark, "web", up.pid).await;
    assert_eq!(lab.ssh_starts().len(), 2, "{:#?}", lab.ssh_starts());
}

#[tokio::test]
async fn a_server_that_forbids_listeners_answers_by_refusing_and_is_missed_when_it_does_not() {
    let lab = Lab::new();
    let far = two_ways(&lab).await;
    let sshd = Sshd::start_far(&far, "LogLevel DEBUG1\nDisableForwarding yes").await;
    let daemon = Daemon::start(&lab, WEB).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    let mark = daemon.mark();
    for change in ["link add more0 type veth peer name more1", "link delete more0"] {
        is_probed_after(&sshd, &[change]).await;
    }
    cut_silently(&far);
    ip("route delete 10.9.0.1 via 10.1.0.1 metric 10");
    daemon.wait_failure(mark, "web", FailureKind::Timeout).await;
    daemon.wait_up_anew(mark, "web", up.pid).await;
    let ended = daemon.stop().await;
    let refusals = ended.log.iter().filter(|line| line.raw.contains("forwarding failed")).count();
    assert_eq!(refusals, 0, "{:#?}", ended.log);
}

#[tokio::test]
async fn what_answers_is_kept_whatever_changes_and_a_burst_of_changes_is_one() {
    const LINKS: usize = 100;
    let lab = Lab::new();
    let sshd = Sshd::start_with(&lab, "LogLevel DEBUG1").await;
    let program = env!("CARGO_BIN_EXE_listening-process");
    let tunnels = format!(
        "
  - {{name: web, remote_host: server, remote_port: 127.0.0.1:8000, local_port: 9443}}
  - {{name: back, remote_host: server, remote_port: 9500, local_port: 127.0.0.1:8000, direction: local_to_remote}}
  - {{name: command, command: [{program}, '9450'], local_port: 9450}}
"
    );
    let daemon = Daemon::start(&lab, &tunnels).await;
    let mut before = Vec::new();
    for name in ["web", "back", "command"] {
        before.push(daemon.wait_state(name, StateName::Up).await.pid);
    }
    let (mark, log) = (daemon.mark(), sshd.log().mark());
    let mut batch = String::new();
    for link in 0..LINKS {
        writeln!(
            batch,
            "link add d{link} type veth peer name e{link}\nlink set d{link} addrgenmode none\nlink set d{link} up\n\
             address add 10.3.0.2/24 dev d{link}\nlink delete d{link}"
        )
        .unwrap();
    }
    fs::write(lab.path("batch"), batch).unwrap();
    let begun = Instant::now();
    run(lab.command("ip").arg("-batch").arg(lab.path("batch")), 0).await;
    for _ in 0..2 {
        is_probed_after(&sshd, &["link add more0 type veth peer name more1", "link delete more0"]).await;
    }
    // In the long run once a second, for each of two, and some at once.
    let most = 2 * (usize::try_from(begun.elapsed().as_secs()).unwrap() + 8);
    let probes = sshd.probes(log);
    assert!((2..=most).contains(&probes), "{probes} probes, where {most} are allowed");
    for (name, pid) in ["web", "back", "command"].into_iter().zip(before) {
        let status = daemon.status(name).await;
        assert_eq!((status.state, status.pid, status.restarts), (StateName::Up, pid, 0));
        assert_eq!(daemon.statuses(mark, name).len(), 0, "nothing happened to {name}");
    }
}
