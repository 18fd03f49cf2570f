//! Ports of a server: one that a connection has left held there is taken again, nobody else is ended for it, and who has it and
//! where the server listens is told.
//!
//! A connection is lost by the loss of its address: nothing that this machine sends for it leaves, not even its end, and the server
//! goes on holding the port for it.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use integration_tests::{
    Daemon, FarSide, Lab, Sshd, ip, kill, lines_of, process_end, stop_signal, within_deadline,
};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use portward::protocol::{FailureKind, StateName, TunnelStatus};
use serde_json::Value;
use tokio::process::Child;
use tokio::time::{Instant, sleep};

/// An account whose shell is sh, and one whose shell runs nothing.
const ACCOUNTS: &str = "tun:x:4242:4242::/:/bin/sh\nmute:x:4243:4243::/:/usr/sbin/nologin\n";
const UID: &str = "4242";

/// A far side with two cables to the server, of which the first is preferred, and [`ACCOUNTS`].
async fn two_ways(lab: &Lab) -> FarSide<'_> {
    add_accounts(lab);
    let far = FarSide::new(lab).await;
    far.connect("cable1", 1);
    far.connect("cable2", 2);
    far.ip("address add 10.9.0.1/32 dev lo");
    ip("route add 10.9.0.1 via 10.1.0.1 metric 10");
    ip("route add 10.9.0.1 via 10.2.0.1 metric 20");
    lab.name_far("10.9.0.1");
    far
}

fn add_accounts(lab: &Lab) {
    for (file, more) in [("passwd", ACCOUNTS), ("shadow", "tun:*:19000::::::\nmute:*:19000::::::\n")] {
        let (place, copy) = (Path::new("/etc").join(file), lab.path(file));
        fs::write(&copy, fs::read_to_string(&place).unwrap() + more).unwrap();
        mount(Some(&copy), &place, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    }
    // sshd reads the keys as the user who logs in.
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(lab.path(""), everybody).unwrap();
}

/// A tunnel to the account, whose server listens on 9500.
fn back(account: &str, more: &str) -> String {
    format!(
        "
  - {{name: back, remote_host: {account}@far, direction: local_to_remote, remote_port: 127.0.0.1:9500, local_port: 127.0.0.1:8000{more}}}
"
    )
}

/// The tunnel's connection loses its address, and so its end is kept from the server.
fn cut() {
    ip("address delete 10.1.0.2/24 dev cable1");
}

/// The server's process in the record of the tunnel's ssh, as soon as it is noted there and in no other record.
async fn server_process(lab: &Lab) -> u32 {
    within_deadline("the server's process is noted", async {
        loop {
            if let [(record, _)] = &records(lab)[..]
                && let Some(pid) = record["ssh"]["server"]["pid"].as_u64()
            {
                return u32::try_from(pid).unwrap();
            }
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// The records of ssh with their paths.
fn records(lab: &Lab) -> Vec<(Value, PathBuf)> {
    let files = fs::read_dir(lab.path("run/portward.ssh")).unwrap().flatten().map(|file| file.path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    // One may be replaced just now.
    let read = |path: PathBuf| Some((serde_json::from_slice::<Value>(&fs::read(&path).ok()?).ok()?, path));
    files.filter_map(read).filter(|(record, _)| record["ssh"].is_object()).collect()
}

fn lives(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Another connection of the same account, by which the server listens on another port.
async fn bystander(lab: &Lab) -> Child {
    let child = lab
        .command("ssh")
        .args(["-v", "-N", "-o", "ExitOnForwardFailure=yes", "-R", "9501:127.0.0.1:8000", "-F"])
        .arg(lab.path("ssh_config"))
        .arg("tun@far")
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.expect("starting ssh (package openssh-client)");
    let said = lines_of(child.stderr.take().unwrap());
    let success = said.find(0, |line| line.contains("remote forward success")).await;
    assert!(success.is_some(), "{:#?}", said.all());
    child
}

async fn refused(daemon: &Daemon<'_>, mark: usize) -> String {
    daemon.wait_failure(mark, "back", FailureKind::RemotePortHeld).await.last_error.unwrap().message
}

/// How many there were by the time that at least one is in the log.
async fn recoveries_by_now(daemon: &Daemon<'_>) -> usize {
    daemon.wait_log(0, "the recovery", |line| line.has("event", "remote_port_recovered")).await;
    recoveries(daemon)
}

fn recoveries(daemon: &Daemon<'_>) -> usize {
    daemon.log().all().iter().filter(|line| line.has("event", "remote_port_recovered")).count()
}

#[tokio::test]
async fn a_port_that_a_lost_connection_has_left_held_is_taken_again_and_nobody_else_is_ended() {
    let lab = Lab::new();
    let far = two_ways(&lab).await;
    let _sshd = Sshd::start_far(&far, "").await;
    let daemon = Daemon::start(&lab, &back("tun", "")).await;
    let up = daemon.wait_state("back", StateName::Up).await;
    let old = server_process(&lab).await;
    let mut bystander = bystander(&lab).await;
    // The bystander goes over the same way: it has lost its own connection as well, and its server's process is not ours.
    let (mark, log) = (daemon.mark(), daemon.log().mark());
    cut();
    daemon.wait_log(log, "of a start", |line| line.has("event", "starting")).await;
    let started = Instant::now();
    let recovered =
        daemon.wait_log(log, "of the recovery", |line| line.has("event", "remote_port_recovered")).await;
    daemon.wait_up_anew(mark, "back", up.pid).await;
    println!("up again {:?} after the start of the new ssh", started.elapsed());
    assert!(recovered.raw.contains(&format!("pid {old} ")), "{}", recovered.raw);
    process_end(old).await;
    assert_eq!(recoveries_by_now(&daemon).await, 1);
    let failures = |status: &TunnelStatus| status.last_error.as_ref().map(|failure| failure.kind);
    let seen: BTreeSet<_> =
        daemon.statuses(mark, "back").iter().filter_map(failures).map(FailureKind::as_str).collect();
    assert_eq!(seen, ["network"].into(), "the port was never reported as held");
    let listening = far.command("ss").args(["-Hltn", "sport = :9501"]).output().await.unwrap();
    assert!(!listening.stdout.is_empty(), "the bystander's server listens on");
    assert!(bystander.try_wait().unwrap().is_none());
    assert_eq!(lab.ssh_starts().len(), 2, "one login was enough: {:#?}", lab.ssh_starts());
    assert_ne!(server_process(&lab).await, old);
}

#[tokio::test]
async fn a_process_of_the_server_that_does_not_end_on_sigterm_is_killed() {
    let lab = Lab::new();
    let far = two_ways(&lab).await;
    let _sshd = Sshd::start_far(&far, "").await;
    let daemon = Daemon::start(&lab, &back("tun", "")).await;
    let up = daemon.wait_state("back", StateName::Up).await;
    let old = server_process(&lab).await;
    let mark = daemon.mark();
    stop_signal(old);
    cut();
    daemon.wait_up_anew(mark, "back", up.pid).await;
    process_end(old).await;
    assert_eq!(recoveries_by_now(&daemon).await, 1);
}

#[tokio::test]
async fn tunnels_that_share_a_connection_take_their_ports_again_together() {
    let lab = Lab::new();
    let far = two_ways(&lab).await;
    let _sshd = Sshd::start_far(&far, "").await;
    let tunnel = |n| {
        format!(
            "  - {{name: b{n}, remote_host: root@far, direction: local_to_remote, remote_port: 951{n}, \
             local_port: 127.0.0.1:8000, share: true}}\n"
        )
    };
    let tunnels = [0, 1, 2, 3].map(tunnel).concat();
    let daemon = Daemon::start(&lab, &tunnels).await;
    let up = daemon.wait_state("b0", StateName::Up).await;
    for name in ["b1", "b2", "b3"] {
        daemon.wait_state(name, StateName::Up).await;
    }
    let old = server_process(&lab).await;
    let mark = daemon.mark();
    cut();
    for name in ["b0", "b1", "b2", "b3"] {
        daemon.wait_up_anew(mark, name, up.pid).await;
    }
    process_end(old).await;
    assert_eq!((recoveries_by_now(&daemon).await, lab.ssh_starts().len()), (1, 2), "{}", daemon.report());
}

#[tokio::test]
async fn another_process_of_the_account_keeps_its_port_and_is_named() {
    let lab = Lab::new();
    let far = two_ways(&lab).await;
    let _sshd = Sshd::start_far(&far, "GatewayPorts clientspecified").await;
    let mut command = far.command("setpriv");
    command.args([
        &format!("--reuid={UID}"),
        &format!("--regid={UID}"),
        "--clear-groups",
        "socat",
        "-d",
        "-d",
    ]);
    command.args(["TCP-LISTEN:9500,bind=127.0.0.1,reuseaddr", "-"]).stdin(Stdio::piped());
    let mut holder = command.stderr(Stdio::piped()).spawn().expect("starting socat");
    let said = lines_of(holder.stderr.take().unwrap());
    assert!(said.find(0, |line| line.contains("listening on")).await.is_some(), "{:#?}", said.all());
    let daemon = Daemon::start(&lab, &back("tun", "")).await;
    let message = refused(&daemon, 0).await;
    let expected = format!("held there by pid {} (socat) of user tun", holder.id().unwrap());
    assert!(message.contains(&expected), "{message}");
    // Three are made on a connection.
    daemon
        .wait_log(0, "of a second login", {
            let mut starts = 0;
            move |line| {
                starts += usize::from(line.has("event", "starting"));
                starts == 2
            }
        })
        .await;
    assert!(holder.try_wait().unwrap().is_none(), "it was ended");
    holder.kill().await.unwrap();
    daemon.wait_state("back", StateName::Up).await;
    assert_eq!(recoveries(&daemon), 0);
}

/// The old connection keeps the port, the failure says `words`, and once the server has ended it the tunnel is up again.
async fn stays_held(server: &str, account: &str, more: &str, words: &[&str]) {
    let lab = Lab::new();
    let far = two_ways(&lab).await;
    let sshd = Sshd::start_far(&far, server).await;
    let daemon = Daemon::start(&lab, &back(account, more)).await;
    let up = daemon.wait_state("back", StateName::Up).await;
    let mark = daemon.mark();
    cut();
    let message = refused(&daemon, mark).await;
    for word in words {
        assert!(message.contains(word), "{message}");
    }
    if more.contains("off") {
        let sessions = |line: &&String| line.contains("Starting session");
        assert_eq!(sshd.log().all().iter().find(sessions), None, "nothing is run");
    }
    sshd.kill_far_sessions();
    daemon.wait_up_anew(mark, "back", up.pid).await;
    assert_eq!(daemon.status("back").await.connection_errors, None, "{}", daemon.report());
    assert_eq!(recoveries(&daemon), 0);
}

#[tokio::test]
async fn an_account_without_a_shell_waits_for_its_server_and_says_so() {
    stays_held("", "mute", "", &["has not run a command", "old connection may still hold it"]).await;
}

#[tokio::test]
async fn a_server_that_allows_no_session_is_waited_for_and_no_client_has_failed() {
    stays_held("MaxSessions 0", "tun", "", &["has not run a command"]).await;
}

#[tokio::test]
async fn a_forced_command_is_no_answer() {
    stays_held("ForceCommand echo portward-answer 1; echo own", "tun", "", &["has not run a command"]).await;
}

#[tokio::test]
async fn without_recovery_the_port_is_left_to_the_server_and_nothing_is_run_there() {
    let more = ", remote_port_recovery: 'off'";
    stays_held("", "tun", more, &["`remote_port_recovery: off`", "old connection may still hold it"]).await;
}

/// A daemon and its ssh are killed, and the server goes on holding the port. `change` is made to the record that is left.
async fn killed_both(lab: &Lab, change: impl Fn(&mut Value)) -> u32 {
    let daemon = Daemon::start(lab, &back("root", "")).await;
    daemon.wait_state("back", StateName::Up).await;
    let old = server_process(lab).await;
    daemon.crash().await;
    cut();
    for ssh in lab.sshs() {
        kill(ssh, Signal::SIGKILL);
        process_end(ssh).await;
    }
    for (mut record, path) in records(lab) {
        change(&mut record["ssh"]["server"]);
        fs::write(path, record.to_string()).unwrap();
    }
    assert!(lives(old));
    old
}

#[tokio::test]
async fn after_kill_9_of_the_daemon_and_its_ssh_the_next_daemon_takes_the_port_again() {
    let lab = Lab::new();
    let far = two_ways(&lab).await;
    let _sshd = Sshd::start_far(&far, "").await;
    let old = killed_both(&lab, |_| {}).await;
    let daemon = Daemon::start_as_configured(&lab).await;
    daemon.wait_log(0, "of the recovery", |line| line.has("event", "remote_port_recovered")).await;
    daemon.wait_state("back", StateName::Up).await;
    process_end(old).await;
    assert_eq!(lab.ssh_starts().len(), 2, "{:#?}", lab.ssh_starts());
    daemon.stop().await;
    assert!(!lab.path("run/portward.ssh").exists(), "no file is left");
}

#[tokio::test]
async fn a_process_of_the_server_with_a_recycled_pid_or_of_another_boot_is_not_ended() {
    let changes: [fn(&mut Value); 2] = [
        |server| server["start"] = (server["start"].as_u64().unwrap() + 1).into(),
        |server| server["boot"] = "0a1b2c3d-0000-4000-8000-0123456789ab".into(),
    ];
    for change in changes {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let lab = Lab::new();
                let far = two_ways(&lab).await;
                let sshd = Sshd::start_far(&far, "").await;
                let old = killed_both(&lab, change).await;
                let daemon = Daemon::start_as_configured(&lab).await;
                let message = refused(&daemon, 0).await;
                assert!(message.contains(&format!("pid {old} (sshd) of user root")), "{message}");
                assert!(lives(old));
                sshd.kill_far_sessions();
                daemon.wait_state("back", StateName::Up).await;
                assert_eq!(recoveries(&daemon), 0);
            });
        })
        .join()
        .unwrap();
    }
}

#[tokio::test]
async fn where_the_server_really_listens_is_told_beside_up() {
    let lab = Lab::new();
    let far = two_ways(&lab).await;
    let _sshd = Sshd::start_far(&far, "").await;
    let wide = back("tun", "").replace("127.0.0.1:9500", "0.0.0.0:9500");
    let daemon = Daemon::start(&lab, &wide).await;
    let is_told = |status: &TunnelStatus| {
        status
            .note
            .as_ref()
            .is_some_and(|note| note.contains("listens on 127.0.0.1 and ::1: only clients on the server"))
    };
    let status = daemon.wait_status(0, "back", "told where it listens", is_told).await;
    assert_eq!(status.state, StateName::Up);
    daemon.wait_log(0, "of the warning", |line| line.raw.contains("GatewayPorts clientspecified")).await;
}
