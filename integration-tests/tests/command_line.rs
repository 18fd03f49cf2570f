//! The command line, end to end: the real binary against the real daemon.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs;
use std::process::Stdio;

use integration_tests::{Daemon, Lab, Squatter, Sshd, lines_of};
use portward::protocol::{StateName, TunnelStatus};

const TWO: &str = "
  - {name: web, remote_host: server, remote_port: 127.0.0.1:8000, local_port: 9443}
  - {name: database, remote_host: server, remote_port: 127.0.0.1:7000, local_port: 9444, enabled: false}
";

/// Runs a command, checks its exit code and returns what it printed on both streams.
async fn run(daemon: &Daemon<'_>, arguments: &[&str], code: i32) -> String {
    integration_tests::run(&mut daemon.cli_command(arguments), code).await
}

#[tokio::test]
async fn status_shows_every_tunnel_to_people_and_to_programs() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, TWO).await;
    let web = daemon.wait_state("web", StateName::Up).await;

    let table = run(&daemon, &["status"], 0).await;
    let row = |name: &str| table.lines().find(|line| line.contains(name)).expect(name).to_owned();
    assert!(row("web").contains("up"), "{table}");
    assert!(row("database").contains("stopped"), "{table}");
    assert!(!table.contains('\u{1b}'), "no colour where there is no terminal");

    let statuses: Vec<TunnelStatus> =
        serde_json::from_str(&run(&daemon, &["status", "--json"], 0).await).unwrap();
    assert_eq!(statuses.iter().map(|status| status.name.as_str()).collect::<Vec<_>>(), ["web", "database"]);
    assert_eq!(statuses[0].pid, web.pid);
    let one: Vec<TunnelStatus> =
        serde_json::from_str(&run(&daemon, &["status", "--json", &web.hash[..8]], 0).await).unwrap();
    assert_eq!(one.len(), 1);
    assert_eq!(one[0].name, "web");
}

#[tokio::test]
async fn start_stop_and_restart_exit_0_when_it_is_done() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, TWO).await;
    daemon.wait_state("web", StateName::Up).await;

    run(&daemon, &["start", "database", "--timeout", "20s"], 0).await;
    assert_eq!(daemon.status("database").await.state, StateName::Up);
    let before = daemon.tunnel_pid("web").await;
    run(&daemon, &["restart", "web", "--timeout", "20s"], 0).await;
    assert_ne!(daemon.tunnel_pid("web").await, before);
    run(&daemon, &["stop", "database", "--timeout", "20s"], 0).await;
    let restarted = run(&daemon, &["restart", "--all", "--timeout", "20s"], 0).await;
    assert!(restarted.contains("web") && !restarted.contains("database"), "{restarted}");
    assert_eq!(
        daemon.status("database").await.state,
        StateName::Stopped,
        "it has no connection to be replaced"
    );
    run(&daemon, &["stop", "--all", "--timeout", "20s"], 0).await;
    assert_eq!(daemon.status("web").await.state, StateName::Stopped);
    assert_eq!(daemon.status("database").await.state, StateName::Stopped);
    assert_eq!(lab.daemon_processes().len(), 1, "the daemon alone is left");
}

#[tokio::test]
async fn what_is_not_done_exits_1_and_says_why() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let squatter = Squatter::listen(&lab, "127.0.0.1", 9443).await;
    let daemon = Daemon::start(&lab, TWO).await;
    daemon.wait_holder("web").await;

    let held = run(&daemon, &["restart", "web", "--timeout", "200ms"], 1).await;
    assert!(held.contains(&squatter.pid().to_string()), "it names the holder: {held}");
    let unknown = run(&daemon, &["restart", "wbe"], 1).await;
    assert!(unknown.contains("wbe"), "it names what was asked for: {unknown}");

    let mark = daemon.log().mark();
    fs::write(lab.config_path(), "tunnels:\n  - remote_prot: 1\n").unwrap();
    daemon.wait_log(mark, "about the bad file", |line| line.has("event", "reload")).await;
    let bad = run(&daemon, &["reload"], 1).await;
    assert!(bad.contains("remote_prot") && bad.contains("remote_port"), "{bad}");
    let checked = run(&daemon, &["check", &lab.config_path().display().to_string()], 1).await;
    assert!(checked.contains("remote_prot"), "{checked}");
}

#[tokio::test]
async fn wrong_usage_and_a_missing_daemon_exit_2() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, "").await;
    run(&daemon, &["restart"], 2).await;
    run(&daemon, &["no-such-command"], 2).await;
    lab.write_config(TWO);
    run(&daemon, &["check", &lab.config_path().display().to_string()], 0).await;

    let nowhere = lab.path("nowhere.sock");
    let said = run(&daemon, &["status", "--socket", &nowhere.display().to_string()], 2).await;
    assert!(said.contains("nowhere.sock"), "{said}");
}

#[tokio::test]
async fn logs_and_events_tell_of_a_tunnels_life() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, TWO).await;
    daemon.wait_state("web", StateName::Up).await;
    let mut events = daemon.cli_command(&["events", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let told = lines_of(events.stdout.take().unwrap());
    assert!(told.find(0, |line| line.contains("database")).await.is_some(), "a snapshot comes first");
    let mut log_command = daemon.cli_command(&["logs", "web", "-f"]).stdout(Stdio::piped()).spawn().unwrap();
    let followed = lines_of(log_command.stdout.take().unwrap());
    assert!(followed.find(0, |line| line.contains("up: ")).await.is_some(), "the recent lines come first");

    let (mark, log_mark) = (told.mark(), followed.mark());
    run(&daemon, &["restart", "web", "--timeout", "20s"], 0).await;
    assert!(told.find(mark, |line| line.contains("replacing")).await.is_some(), "{:#?}", told.all());
    assert!(
        followed.find(log_mark, |line| line.contains("starting")).await.is_some(),
        "{:#?}",
        followed.all()
    );

    let all = run(&daemon, &["logs", "web"], 0).await;
    assert_eq!(all.lines().filter(|line| line.contains("starting")).count(), 2, "{all}");
    assert_eq!(run(&daemon, &["logs", "web", "-n", "1"], 0).await.lines().count(), 1);
    events.kill().await.unwrap();
    log_command.kill().await.unwrap();
}

#[tokio::test]
async fn check_starts_no_program_that_the_file_names() {
    let lab = Lab::new();
    lab.write_config(
        "
  - {name: command, command: [touch, ran], local_port: 9443, health: {command: [touch, ran]}}
  - name: ssh
    remote_host: server
    remote_port: 8000
    local_port: 9444
    ssh: {program: /usr/bin/touch, options: {ProxyCommand: touch ran}}
",
    );
    let trace = lab.path("started");
    let mut strace = lab.command("strace");
    strace.args(["-f", "-e", "trace=execve,execveat", "-o"]).arg(&trace).arg(lab.path("bin/portward"));
    let output = strace.arg("check").arg(lab.config_path()).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let trace = fs::read_to_string(trace).unwrap();
    let started: Vec<&str> = trace.lines().filter(|line| line.contains("exec")).collect();
    assert!(matches!(started[..], [own] if own.contains("portward")), "{started:?}");
}
