//! What portward advises about real holders, everywhere that it tells of one: status, the API, the log, `who`, `wait`, doctor.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use integration_tests::{Daemon, Lab, Squat, Sshd, Use, listener_called, run, said_by, within_deadline};
use portward::port::{Kinship, OccupantKind};
use portward::protocol::doctor::{Finding, Level};
use portward::protocol::{StateName, TunnelStatus};

const WEB: &str = "
  - {name: web, remote_host: server, remote_port: 127.0.0.1:8000, local_port: '127.0.0.1:9443'}
";
async fn held_ports(lab: &Lab) -> (Finding, Option<i32>) {
    let output = within_deadline("doctor", lab.portward(&["doctor", "--json"]).output()).await.unwrap();
    let findings: Vec<Finding> = serde_json::from_slice(&output.stdout).unwrap();
    let finding = findings.into_iter().find(|finding| finding.check == "held_ports").unwrap();
    (finding, output.status.code())
}

fn is_waiting(status: &TunnelStatus) -> bool {
    status.state == StateName::AwaitingPort && !status.held_by.is_empty()
}

/// Everything that tells of the holder of port 9443 says `right`, and nothing says one of `wrong`.
async fn everybody_says(lab: &Lab, daemon: &Daemon<'_>, right: &str, wrong: &[&str]) {
    daemon.wait_status(0, "web", "waiting for what is known", is_waiting).await;
    let line = daemon.wait_log(0, "that tells of the holder", |line| line.has("event", "held")).await.raw;
    let status = String::from_utf8(daemon.cli(&["status"]).await.stdout).unwrap();
    let start = daemon.post("/start/web?timeout=1ms").await.body;
    let (_, who) = said_by(&mut lab.portward(&["who", "9443"])).await;
    let (_, wait) = said_by(&mut lab.portward(&["wait", "9443", "--timeout", "10ms"])).await;
    let (finding, code) = held_ports(lab).await;
    assert_eq!((finding.level, code), (Level::Error, Some(1)), "{finding:#?}");
    let doctor = finding.fix.unwrap();
    for (place, said) in [
        ("log", line),
        ("status", status),
        ("start", start),
        ("who", who),
        ("wait", wait),
        ("doctor", doctor),
    ] {
        assert!(said.contains(right), "{place}: {right} in {said}");
        for wrong in wrong {
            assert!(!said.contains(wrong), "{place}: {wrong} in {said}");
        }
    }
}

#[tokio::test]
async fn the_port_of_a_container_is_freed_by_stopping_the_container() {
    let lab = Lab::new();
    let mut proxy = listener_called(&lab, "/usr/bin/docker-proxy", 9443).await;
    let daemon = Daemon::start(&lab, WEB).await;
    everybody_says(&lab, &daemon, "docker ps --filter publish=9443/tcp", &["systemctl", "kill "]).await;
    daemon.stop().await;
    proxy.kill().await.unwrap();
}

#[tokio::test]
async fn the_port_of_a_podman_container_is_freed_by_its_id() {
    let lab = Lab::new();
    let id = "4fa6e0f0c6786287e131c3852c58a2e01cc697a68231826813597e4994f1d6e2";
    let mut conmon = listener_called(&lab, &format!("/usr/bin/conmon --api-version 1 -c {id}"), 9443).await;
    let daemon = Daemon::start(&lab, WEB).await;
    everybody_says(&lab, &daemon, "podman stop 4fa6e0f0c678", &["systemctl", "kill "]).await;
    daemon.stop().await;
    conmon.kill().await.unwrap();
}

#[tokio::test]
async fn a_forward_of_an_ssh_client_is_ended_with_its_session_alone() {
    let lab = Lab::new();
    let mut session = listener_called(&lab, "sshd: alice@pts/0", 9443).await;
    let pid = session.id().unwrap();
    let daemon = Daemon::start(&lab, WEB).await;
    everybody_says(&lab, &daemon, &format!("kill {pid}"), &["systemctl", "on_conflict"]).await;
    daemon.stop().await;
    session.kill().await.unwrap();
}

#[tokio::test]
async fn a_tunnel_of_ours_that_has_the_port_is_named() {
    let lab = Lab::new();
    let other = format!(
        "{WEB}  - {{name: my db, local_port: 9444, command: [/usr/bin/python3, -c, \"import socket, signal; \
         a = socket.create_server(('127.0.0.1', 9443)); b = socket.create_server(('127.0.0.1', 9444)); \
         signal.pause()\"]}}\n"
    );
    let daemon = Daemon::start(&lab, &other.replace("name: web,", "name: web, enabled: false,")).await;
    daemon.wait_state("my db", StateName::Up).await;
    lab.write_config(&other);
    let waiting = daemon.wait_status(0, "web", "waiting for what is known", is_waiting).await;
    let holder = waiting.holder.unwrap();
    assert_eq!((holder.kinship, holder.tunnel.as_deref()), (Kinship::Child, Some("my db")));
    let status = String::from_utf8(daemon.cli(&["status", "web"]).await.stdout).unwrap();
    assert!(status.contains("`portward stop 'my db'`"), "{status}");
    // Who is not the daemon knows as much as that it is a portward's.
    let (_, who) = said_by(&mut lab.portward(&["who", "9443"])).await;
    assert!(who.contains("another portward has it") && !who.contains("kill"), "{who}");
    daemon.cli(&["stop", "my db"]).await;
    daemon.wait_status(0, "web", "on its way", |status| status.state == StateName::Connecting).await;
    daemon.stop().await;
}

#[tokio::test]
async fn what_is_left_of_time_wait_counts_down_without_any_event() {
    let lab = Lab::new();
    let _held = Squat::time_wait(9443);
    let daemon = Daemon::start(&lab, WEB).await;
    let waiting = daemon.wait_status(0, "web", "waiting for what is known", is_waiting).await;
    let [occupant] = &waiting.held_by[..] else { panic!("{waiting:?}") };
    assert_eq!((occupant.kind, &occupant.holder), (OccupantKind::TimeWait, &None));
    let left = occupant.until.unwrap().duration_since(jiff::Timestamp::now()).as_secs();
    assert!((50..=61).contains(&left), "{left} s");

    let seconds = async || {
        let status = String::from_utf8(daemon.cli(&["status"]).await.stdout).unwrap();
        let rest = status
            .split("TIME_WAIT of a closed connection for another ")
            .nth(1)
            .unwrap_or_else(|| panic!("{status}"));
        rest.split(' ').next().unwrap().parse::<u32>().unwrap()
    };
    let first = seconds().await;
    let mark = daemon.mark();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert!(seconds().await < first);
    assert_eq!(daemon.statuses(mark, "web"), []);
    daemon.stop().await;
}

#[tokio::test]
async fn what_on_conflict_kill_would_spare_doctor_calls_an_error() {
    let lab = Lab::new();
    lab.write_config(&WEB.replace("name: web,", "name: web, on_conflict: kill,"));
    // It would be ended,
    let mut squatter = listener_called(&lab, "squatter", 9443).await;
    let (finding, code) = held_ports(&lab).await;
    assert_eq!((finding.level, code), (Level::Warning, Some(0)), "{finding:#?}");
    squatter.kill().await.unwrap();
    // and what doctor, and so the daemon, was started from would not.
    let listener = std::net::TcpListener::bind(("127.0.0.1", 9443)).unwrap();
    let (finding, code) = held_ports(&lab).await;
    assert_eq!((finding.level, code), (Level::Error, Some(1)), "{finding:#?}");
    assert!(finding.why.unwrap().contains("a process that started portward"));
    drop(listener);
    // Nor would a client,
    let server = std::net::TcpListener::bind(("127.0.0.1", 9500)).unwrap();
    let address = "127.0.0.1".parse().unwrap();
    let squat =
        Squat { r#use: Use::Outgoing, address, v6only: false, reuse_address: false, reuse_port: false };
    let client = squat.make(9443).unwrap();
    let (finding, code) = held_ports(&lab).await;
    assert_eq!((finding.level, code), (Level::Error, Some(1)), "{finding:#?}");
    client.reset();
    drop(server);
    let (finding, code) = held_ports(&lab).await;
    assert_eq!((finding.level, code), (Level::Ok, Some(0)), "{finding:#?}");
}

/// In a pid namespace of its own portward sees nobody outside, and sudo would not help.
#[tokio::test]
async fn a_holder_outside_the_container_is_not_hidden_by_a_lack_of_privilege() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let mut squatter = listener_called(&lab, "squatter", 9443).await;
    let program = lab.path("bin/portward");
    let mut inside = lab.command("unshare");
    inside.args(["--pid", "--fork", "--mount-proc"]).arg(program).args(["who", "9443"]);
    let said = run(&mut inside, 0).await;
    assert!(said.contains("a process outside this container"), "{said}");
    assert!(
        !said.contains("sudo portward") && !said.contains("hidden") && !said.contains("Nobody"),
        "{said}"
    );
    squatter.kill().await.unwrap();
}
