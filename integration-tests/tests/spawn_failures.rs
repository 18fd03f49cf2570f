//! What keeps a process from being started is said, and the tunnel comes up by itself when that has passed.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use integration_tests::{Daemon, Lab, kill, lines_of, within_deadline};
use nix::sys::signal::Signal;
use portward::protocol::{FailureKind, StateName};

/// More than the limits of these tests allow.
const TUNNELS: u16 = 50;

fn many() -> String {
    let mut tunnels = String::new();
    for index in 0..TUNNELS {
        let port = 9500 + index;
        writeln!(
            tunnels,
            "  - {{name: t{index}, command: [socat, 'TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr', STDOUT], local_port: {port}}}"
        )
        .unwrap();
    }
    tunnels
}

/// In place of `portward`: the real one, started by the words of `prefix`.
fn wrap_portward(lab: &Lab, prefix: &str) {
    let real = fs::read_link(lab.path("bin/portward")).unwrap();
    fs::remove_file(lab.path("bin/portward")).unwrap();
    lab.install_script("portward", &format!("exec {prefix} {} \"$@\"\n", real.display()));
}

#[tokio::test]
async fn commands_that_lack_files_to_open_come_up_when_there_is_room() {
    let lab = Lab::new();
    wrap_portward(&lab, "prlimit --nofile=64:64");
    let daemon = Daemon::start(&lab, &many()).await;
    let limited = daemon.wait_log(0, "that names the limit", |line| line.raw.contains("RLIMIT_NOFILE")).await;
    assert!(limited.has("error_kind", "exited"), "{}", limited.raw);
    // One after the other makes room, until each has been up.
    let mut open: BTreeSet<String> = (0..TUNNELS).map(|index| format!("t{index}")).collect();
    let mut next = 0;
    while !open.is_empty() {
        let status = daemon.next_status(next).await;
        next += 1;
        assert_ne!(status.state, StateName::Failed, "{status:?}");
        if status.state == StateName::Up && open.remove(&status.name) && !open.is_empty() {
            let stopped = daemon.post(&format!("/stop/{}?timeout=20s", status.name)).await;
            assert_eq!(stopped.status, 200, "{stopped:?}");
        }
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_low_soft_limit_limits_the_commands_and_not_portward() {
    let lab = Lab::new();
    wrap_portward(&lab, "prlimit --nofile=64:4096");
    let script = "ulimit -Sn; exec socat TCP-LISTEN:9443,bind=127.0.0.1,reuseaddr STDOUT";
    let limit = format!("  - {{name: limit, command: [sh, -c, '{script}'], local_port: 9443}}\n");
    let daemon = Daemon::start(&lab, &(many() + &limit)).await;
    for index in 0..TUNNELS {
        daemon.wait_state(&format!("t{index}"), StateName::Up).await;
    }
    let said = daemon.wait_log(0, "of the command", |line| line.has("event", "output")).await;
    assert!(said.has("message", "64"), "{}", said.raw);
    assert!(!daemon.log().all().iter().any(|line| line.has("event", "failure")), "{}", daemon.report());
    daemon.stop().await;
}

#[tokio::test]
async fn fifty_commands_come_up_when_the_limit_of_processes_is_lifted() {
    let lab = Lab::new();
    // The kernel counts a user's processes, whatever else he runs: this is nobody else's uid.
    let uid = 61_000 + std::process::id() % 4_000;
    lab.write_config(&many());
    fs::set_permissions(lab.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    nix::unistd::chown(&lab.path("run"), Some(uid.into()), Some(uid.into())).unwrap();
    let program = lab.portward_for_all();
    let mut daemon = lab.command("setpriv");
    daemon.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups"]);
    daemon.args(["prlimit", "--nproc=25:4096"]).arg(program.path().join("portward"));
    daemon.args(["run", "--log", "json", "--config"]).arg(lab.config_path());
    daemon.arg("--socket").arg(lab.path("run/portward.sock"));
    let mut daemon = daemon.stderr(Stdio::piped()).spawn().unwrap();
    let pid = daemon.id().unwrap();
    let log = lines_of(daemon.stderr.take().unwrap());
    let limited = log.find(0, |line| line.contains("RLIMIT_NPROC")).await;
    assert!(limited.is_some(), "{:#?}", log.all());
    let mut lift = Command::new("setpriv");
    lift.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups"]);
    let lifted = lift.args(["prlimit", "--pid", &pid.to_string(), "--nproc=4096:4096"]).status();
    assert!(lifted.expect("starting setpriv (package util-linux)").success());
    let mut up = BTreeSet::new();
    let mut next = 0;
    while up.len() < usize::from(TUNNELS) {
        let found = log.find(next, |line| line.contains("\"state\":\"up\"")).await;
        let line = found.unwrap_or_else(|| panic!("{} are up: {:#?}", up.len(), log.since(next)));
        next += log.since(next).iter().position(|other| *other == line).unwrap() + 1;
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        up.insert(
            line.to_string().split("\"tunnel\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned(),
        );
    }
    assert!(!log.all().iter().any(|line| line.contains("\"state\":\"failed\"")), "{:#?}", log.all());
    kill(pid, Signal::SIGTERM);
    assert!(within_deadline("the end of the daemon", daemon.wait()).await.unwrap().success());
}

/// A tunnel that runs `program`, with no words behind it.
fn tunnel(program: &str) -> String {
    format!("\n  - {{name: relay, command: ['{program}'], local_port: 9443}}\n")
}

const SERVER: &str = "exec socat TCP-LISTEN:9443,bind=127.0.0.1,reuseaddr STDOUT\n";

#[tokio::test]
async fn a_program_that_is_missing_is_config_and_comes_up_when_it_is_installed() {
    let lab = Lab::new();
    for program in ["late-server".to_owned(), lab.path("bin/later-server").display().to_string()] {
        let daemon = Daemon::start(&lab, &tunnel(&program)).await;
        let failed = daemon.wait_failure(0, "relay", FailureKind::Config).await;
        assert_eq!(failed.state, StateName::Backoff);
        assert!(failed.last_error.unwrap().message.contains(&program));
        lab.install_script(program.rsplit('/').next().unwrap(), SERVER);
        daemon.wait_state("relay", StateName::Up).await;
        daemon.stop().await;
    }
}

/// `bad` is the content of the program and its mode, `wanted` a part of what is said of it.
async fn comes_up_when_mended(name: &str, bad: &[u8], mode: u32, wanted: &str) {
    let lab = Lab::new();
    let program = lab.path("bin").join(name);
    fs::write(lab.path("source"), bad).unwrap();
    let install =
        Command::new("install").arg(format!("-m{mode:o}")).args([&lab.path("source"), &program]).status();
    assert!(install.unwrap().success());
    let daemon = Daemon::start(&lab, &tunnel(&program.display().to_string())).await;
    let failed = daemon.wait_failure(0, "relay", FailureKind::Config).await;
    assert_eq!(failed.state, StateName::Backoff, "{failed:?}");
    let message = failed.last_error.unwrap().message;
    assert!(message.contains(wanted), "{message}");
    assert!(message.contains(&*program.to_string_lossy()), "{message}");
    lab.install_script(name, SERVER);
    daemon.wait_state("relay", StateName::Up).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_script_with_windows_line_ends_is_told_from_a_missing_one() {
    comes_up_when_mended("crlf", b"#!/bin/sh\r\nexec true\r\n", 0o755, "CRLF").await;
}

#[tokio::test]
async fn a_script_whose_interpreter_is_missing_names_it() {
    comes_up_when_mended(
        "missing",
        b"#!/opt/no/such/python3 -u\n",
        0o755,
        "/opt/no/such/python3, which does not exist",
    )
    .await;
}

#[tokio::test]
async fn a_file_that_is_not_executable_says_so() {
    comes_up_when_mended("mode", b"#!/bin/sh\nexec true\n", 0o644, "chmod +x").await;
}

#[tokio::test]
async fn a_text_without_an_interpreter_is_not_run_by_a_shell() {
    comes_up_when_mended("text", b"touch /tmp/portward-ran-a-text\n", 0o755, "has no #! line").await;
    assert!(!fs::exists("/tmp/portward-ran-a-text").unwrap());
}

#[tokio::test]
async fn a_program_of_another_architecture_says_so() {
    comes_up_when_mended(
        "foreign",
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xff\xff",
        0o755,
        "architecture",
    )
    .await;
}

#[tokio::test]
async fn a_directory_in_place_of_a_program_says_so() {
    let lab = Lab::new();
    let program = lab.path("bin/directory");
    fs::create_dir(&program).unwrap();
    let daemon = Daemon::start(&lab, &tunnel(&program.display().to_string())).await;
    let failed = daemon.wait_failure(0, "relay", FailureKind::Config).await;
    assert!(failed.last_error.unwrap().message.contains("is a directory"));
    fs::remove_dir(&program).unwrap();
    lab.install_script("directory", SERVER);
    daemon.wait_state("relay", StateName::Up).await;
}
