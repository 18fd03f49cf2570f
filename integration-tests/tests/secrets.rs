//! What portward keeps to itself: the token and the values of `env` appear nowhere, and a process that it starts is given its
//! environment, three descriptors, and nothing of what the daemon has open.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use integration_tests::{API_TOKEN, Answer, Daemon, Lab, request_over_tcp};
use portward::protocol::{FailureKind, StateName};

/// The value of a variable.
const SECRET: &str = "s3cret-of-env";

/// One command that is up, one that cannot be started, and an ssh that cannot connect, each with the variable.
const TUNNELS: &str = "
  - name: up
    command: [socat, 'TCP-LISTEN:9443,bind=127.0.0.1,fork', 'TCP:127.0.0.1:8000']
    local_port: 127.0.0.1:9443
    env: {PASSWORD: s3cret-of-env}
  - name: missing
    command: [no-such-program]
    local_port: 127.0.0.1:9444
    env: {PASSWORD: s3cret-of-env}
  - name: refused
    remote_host: server
    remote_port: 8000
    local_port: 127.0.0.1:9445
    env: {PASSWORD: s3cret-of-env}
";

async fn over_tcp(method: &str, path: &str) -> Answer {
    request_over_tcp(method, path, Some(&format!("Bearer {API_TOKEN}"))).await
}

#[tokio::test]
async fn neither_the_token_nor_a_value_of_env_is_in_an_answer_or_in_the_log() {
    let lab = Lab::new();
    lab.configure_tcp(TUNNELS);
    let good = fs::read_to_string(lab.config_path()).unwrap();
    let daemon = Daemon::start_as_configured(&lab).await;
    daemon.wait_state("up", StateName::Up).await;
    daemon.wait_failure(0, "missing", FailureKind::Config).await;
    daemon.wait_failure(0, "refused", FailureKind::Refused).await;
    let mut told = Vec::new();
    for path in [
        "/list",
        "/status",
        "/health",
        "/config",
        "/config/up",
        "/logs",
        "/logs/up",
        "/logs/missing",
        "/logs/refused",
        "/ports/9443",
        "/doctor",
    ] {
        let answer = over_tcp("GET", path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        told.push(answer.body);
    }
    told.push(over_tcp("POST", "/restart/up").await.body);
    // Errors in the file, beside the secret and about it.
    for wrong in [
        good.replacen("    env: {PASSWORD: s3cret-of-env}", "    env: [PASSWORD=s3cret-of-env]", 1),
        good.replacen("    env: {PASSWORD: s3cret-of-env}", "    env: PASSWORD=s3cret-of-env", 1),
        good.replacen(
            "env: {PASSWORD: s3cret-of-env}",
            "wrong: 1\n    env: {NOTIFY_SOCKET: s3cret-of-env}",
            1,
        ),
    ] {
        assert_ne!(wrong, good);
        fs::write(lab.config_path(), wrong).unwrap();
        let answer = over_tcp("POST", "/reload").await;
        assert_eq!(answer.status, 422, "{answer:?}");
        assert!(answer.body.contains("portward check"), "{answer:?}");
        told.push(answer.body);
        told.push(over_tcp("GET", "/health").await.body);
        told.push(over_tcp("GET", "/doctor").await.body);
        let check = daemon.cli_command(&["check"]).arg(lab.config_path()).output().await.unwrap();
        let check = String::from_utf8_lossy(&check.stderr).into_owned();
        assert!(check.contains(SECRET), "whoever can read the file sees the line: {check}");
    }
    for arguments in [&["status"][..], &["status", "--json"], &["doctor"], &["logs", "up"]] {
        let output = daemon.cli(arguments).await;
        told.push(format!(
            "{:?}",
            (output.stdout.escape_ascii().to_string(), output.stderr.escape_ascii().to_string())
        ));
    }
    told.extend(daemon.stop().await.log.into_iter().map(|line| line.raw));
    for text in told {
        assert!(!text.contains(SECRET) && !text.contains(API_TOKEN), "{text}");
    }
}

/// What whoever started the test left open for all of its descendants.
fn inherited() -> Vec<String> {
    const O_CLOEXEC: u32 = 0o2_000_000;
    let is_passed_on = |number: &String| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).map(str::trim);
        flags.is_some_and(|flags| u32::from_str_radix(flags, 8).unwrap() & O_CLOEXEC == 0)
    };
    let numbers = fs::read_dir("/proc/self/fd").unwrap();
    numbers.map(|entry| entry.unwrap().file_name().into_string().unwrap()).filter(is_passed_on).collect()
}

/// Writes what it was given to the file `given`, and listens.
const CURIOUS: &str = "
  - name: curious
    local_port: 127.0.0.1:9443
    working_directory: work
    env: {OWN: mine}
    command:
      - /usr/bin/python3
      - -c
      - |
        import json, os, signal, socket
        given = {number: os.readlink('/proc/self/fd/' + number) for number in os.listdir('/proc/self/fd')
                 if os.path.lexists('/proc/self/fd/' + number)}
        with open('given', 'w') as file:
            json.dump({'descriptors': given, 'environment': dict(os.environ)}, file)
        listener = socket.create_server(('127.0.0.1', 9443))
        signal.pause()
";

#[tokio::test]
async fn a_process_is_given_its_environment_and_three_descriptors_and_nothing_of_the_daemons() {
    let lab = Lab::new();
    lab.configure_tcp(CURIOUS);
    let work = lab.config_path().with_file_name("work");
    fs::create_dir_all(&work).unwrap();
    fs::set_permissions(&work, fs::Permissions::from_mode(0o700)).unwrap();
    let daemon = Daemon::start_as_configured(&lab).await;
    daemon.wait_state("curious", StateName::Up).await;
    let given: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(work.join("given")).unwrap()).unwrap();
    let others = ["0", "1", "2"].map(str::to_owned).into_iter().chain(inherited());
    let others: BTreeSet<String> = others.collect();
    for (number, file) in given["descriptors"].as_object().unwrap() {
        assert!(others.contains(number), "{number} is {file}: {given}");
    }
    assert_eq!(given["descriptors"]["0"], "/dev/null");
    let environment = given["environment"].as_object().unwrap();
    assert_eq!(environment["OWN"], "mine");
    for (name, value) in environment {
        assert_ne!(value, API_TOKEN, "{name}");
        assert!(!["NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"].contains(&name.as_str()), "{name}={value}");
    }
    daemon.stop().await;
}
