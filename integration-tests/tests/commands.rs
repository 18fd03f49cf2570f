//! `command:` tunnels as people have them: with an environment and a directory, and with a port other than they say.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use integration_tests::{Daemon, Gate, Lab, LogLine, ORIGIN_PORT, Sshd, fetch, serve_page};
use portward::protocol::{FailureKind, StateName};

/// Writes its directory and some variables to the file `told` of its directory, and listens.
const TELLING: &str = "
      - /usr/bin/python3
      - -c
      - |
        import json, os, signal, socket
        listener = socket.create_server(('127.0.0.1', 9443))
        names = ['TOKEN', 'COUNT', 'FLAG', 'EMPTY', 'SHARED', 'OWN', 'NOTIFY_SOCKET', 'HOME']
        with open('told', 'w') as told:
            json.dump({'cwd': os.getcwd(), **{name: os.environ.get(name) for name in names}}, told)
        print('told', flush=True)
        signal.pause()
    local_port: 9443
";

/// A python program that listens as `script` says, and waits.
fn python(name: &str, script: &str, rest: &str) -> String {
    format!(
        "
  - name: {name}
    command: [/usr/bin/python3, -c, 'import os, signal, socket; {script}; signal.pause()']
    start_timeout: 1s
{rest}"
    )
}

async fn told(daemon: &Daemon<'_>, mark: usize, lab: &Lab, directory: &str) -> serde_json::Value {
    daemon.wait_log(mark, "that says `told`", |line: &LogLine| line.raw.contains("\"told\"")).await;
    serde_json::from_str(&fs::read_to_string(lab.path(directory).join("told")).unwrap()).unwrap()
}

#[tokio::test]
async fn a_command_has_its_directory_and_its_environment_and_a_change_of_them_restarts_it_alone() {
    let lab = Lab::new();
    for directory in ["etc/work", "elsewhere"] {
        fs::create_dir_all(lab.path(directory)).unwrap();
    }
    let other = "
  - name: other
    command: [socat, 'TCP-LISTEN:9444,bind=127.0.0.1', 'TCP:127.0.0.1:8000']
    local_port: 9444
";
    let config = |directory: &str, token: &str| {
        let tunnels = format!(
            "  - name: telling\n    working_directory: {directory}\n    env: {{TOKEN: {token}, COUNT: 0x10, FLAG: true, \
             EMPTY: \"\", OWN: mine}}\n    command:{TELLING}{other}"
        );
        lab.config(&tunnels).replace("defaults:\n", "defaults:\n  env: {SHARED: all, OWN: theirs}\n")
    };
    fs::write(lab.config_path(), config("work", "first")).unwrap();
    let daemon = Daemon::start_as_configured(&lab).await;
    daemon.wait_state("telling", StateName::Up).await;
    let before = told(&daemon, 0, &lab, "etc/work").await;
    assert_eq!(before["cwd"], lab.path("etc/work").canonicalize().unwrap().to_str().unwrap());
    assert_eq!(before["HOME"], lab.path("home").to_str().unwrap(), "the rest is portward's own environment");
    for (name, value) in [
        ("TOKEN", "first"),
        ("COUNT", "0x10"),
        ("FLAG", "true"),
        ("EMPTY", ""),
        ("SHARED", "all"),
        ("OWN", "mine"),
    ] {
        assert_eq!(before[name], value, "{name}");
    }
    assert_eq!(before["NOTIFY_SOCKET"], serde_json::Value::Null, "that is portward's alone");

    let untouched = daemon.wait_state("other", StateName::Up).await.pid;
    for (directory, token, lies_in) in
        [("work", "second", "etc/work"), ("../elsewhere", "second", "elsewhere")]
    {
        let (mark, log) = (daemon.mark(), daemon.log().mark());
        let pid = daemon.tunnel_pid("telling").await;
        fs::write(lab.config_path(), config(directory, token)).unwrap();
        daemon.wait_up_anew(mark, "telling", Some(pid)).await;
        let after = told(&daemon, log, &lab, lies_in).await;
        assert_eq!(after["TOKEN"], token);
        assert_eq!(after["cwd"], lab.path(lies_in).canonicalize().unwrap().to_str().unwrap());
    }
    assert_eq!(daemon.status("other").await.pid, untouched, "the other tunnel runs on");
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_named_and_the_command_starts_once_it_is() {
    let lab = Lab::new();
    let directory = lab.path("later");
    let tunnel = format!(
        "
  - name: telling
    working_directory: {}
    restart: {{min_delay: 20ms}}
    command:{TELLING}",
        directory.display()
    );
    let daemon = Daemon::start(&lab, &tunnel).await;
    let failed = daemon.wait_failure(0, "telling", FailureKind::Config).await;
    let message = failed.last_error.unwrap().message;
    let expected = format!("its working directory {} does not exist", directory.display());
    assert!(message.starts_with("cannot start ") && message.contains(&expected), "{message}");
    assert_ne!(failed.state, StateName::Failed, "the directory may come");

    // A file of that name is another fault.
    let mark = daemon.mark();
    fs::write(&directory, "").unwrap();
    daemon
        .wait_status(mark, "telling", "failing because of the file", |status| {
            status.last_error.as_ref().is_some_and(|error| error.message.contains("is not a directory"))
        })
        .await;
    fs::remove_file(&directory).unwrap();
    fs::create_dir(&directory).unwrap();
    daemon.wait_state("telling", StateName::Up).await;
}

#[tokio::test]
async fn the_program_is_looked_up_in_the_path_of_its_own_environment() {
    let lab = Lab::new();
    fs::create_dir(lab.path("tools")).unwrap();
    lab.install_script("serve", "exec socat TCP-LISTEN:9443,bind=127.0.0.1,fork TCP:127.0.0.1:8000\n");
    fs::rename(lab.path("bin/serve"), lab.path("tools/serve")).unwrap();
    let tunnel = format!(
        "
  - name: tool
    command: [serve]
    env: {{PATH: '{}:/usr/bin:/bin'}}
    local_port: 9443
",
        lab.path("tools").display()
    );
    let daemon = Daemon::start(&lab, &tunnel).await;
    daemon.wait_state("tool", StateName::Up).await;
}

/// A service has no SSH_AUTH_SOCK: with it in `env`, the keys of an agent do.
#[tokio::test]
async fn ssh_reaches_the_agent_that_its_environment_names() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let agent = lab.path("agent.sock");
    let mut agent_command = lab.command("ssh-agent");
    agent_command.arg("-D").arg("-a").arg(&agent).stdout(std::process::Stdio::null());
    let mut running = agent_command.spawn().unwrap();
    let added = async {
        // ssh-agent says nothing when its socket is there.
        loop {
            let mut add = lab.command("ssh-add");
            add.env("SSH_AUTH_SOCK", &agent).arg("-q").arg(lab.path("client_key"));
            if add.stderr(std::process::Stdio::null()).status().await.unwrap().success() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    integration_tests::within_deadline("the agent", added).await;
    fs::rename(lab.path("client_key"), lab.path("no_key_of_a_file")).unwrap();
    let tunnel = |env: &str| {
        format!(
            "
  - name: web
    remote_host: server
    remote_port: 127.0.0.1:8000
    local_port: 9443
    ssh: {{options: {{IdentitiesOnly: no}}}}
{env}"
        )
    };
    let daemon = Daemon::start(&lab, &tunnel("")).await;
    daemon.wait_failure(0, "web", FailureKind::Auth).await;
    lab.write_config(&tunnel(&format!("    env: {{SSH_AUTH_SOCK: {}}}\n", agent.display())));
    daemon.wait_state("web", StateName::Up).await;
    fetch(9443).await.expect("the page comes through the tunnel");
    running.kill().await.unwrap();
}

#[tokio::test]
async fn a_command_that_listens_elsewhere_is_told_where_it_does() {
    let lab = Lab::new();
    let cases = [
        (
            "other-port",
            "a = socket.create_server((\"127.0.0.1\", 8081))",
            "    local_port: 8080\n",
            "the command listens on TCP 127.0.0.1:8081 and not on TCP port 8080: write `local_port: 8081` if that is \
             meant, or correct the command",
        ),
        (
            "udp-instead",
            "a = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); a.bind((\"127.0.0.1\", 8090))",
            "    local_port: 8090\n",
            "the command is bound to UDP 127.0.0.1:8090 and not on TCP port 8090: write `protocol: udp` if UDP is meant, \
             or correct the command",
        ),
        (
            "tcp-instead",
            "a = socket.create_server((\"127.0.0.1\", 8100))",
            "    local_port: 8100\n    protocol: udp\n",
            "the command listens on TCP 127.0.0.1:8100 and not on UDP port 8100: remove `protocol: udp` if TCP is meant, \
             or correct the command",
        ),
        (
            "other-address",
            "a = socket.create_server((\"127.0.0.1\", 8110))",
            "    local_port: 127.0.0.2:8110\n",
            "the command listens on TCP 127.0.0.1:8110 and not on TCP 127.0.0.2:8110: write `local_port: 127.0.0.1:8110` \
             if that is meant, or correct the command",
        ),
        (
            "ipv6-only",
            "a = socket.create_server((\"::1\", 8120), family=socket.AF_INET6)",
            "    local_port: 127.0.0.1:8120\n",
            "the command listens on TCP [::1]:8120 and not on TCP 127.0.0.1:8120: write `local_port: \"[::1]:8120\"` if \
             that is meant, or correct the command",
        ),
        (
            "unix-socket",
            "a = socket.socket(socket.AF_UNIX); a.bind(\"@SOCKET@\"); a.listen()",
            "    local_port: 8130\n",
            "the command listens on the unix socket @SOCKET@ and not on TCP port 8130: have it listen on the port",
        ),
        (
            "several",
            "a = socket.create_server((\"127.0.0.1\", 8141)); b = socket.create_server((\"127.0.0.1\", 8142))",
            "    local_port: 8140\n",
            "the command listens on TCP 127.0.0.1:8141, 127.0.0.1:8142 and not on TCP port 8140: correct `local_port` or \
             the command",
        ),
        (
            "nothing",
            "a = 1",
            "    local_port: 8160\n",
            "the command did not listen on its port within 1 s; see its output with `portward logs`, or raise \
             start_timeout",
        ),
    ];
    let socket = lab.path("a.sock").display().to_string();
    let tunnels: String = cases
        .iter()
        .map(|(name, script, rest, _)| python(name, &script.replace("@SOCKET@", &socket), rest))
        .collect();
    let daemon = Daemon::start(&lab, &tunnels).await;
    for (name, _, _, expected) in cases {
        let failed = daemon.wait_failure(0, name, FailureKind::Timeout).await;
        assert_eq!(failed.last_error.unwrap().message, expected.replace("@SOCKET@", &socket), "{name}");
        assert_ne!(failed.state, StateName::Failed, "{name}");
    }
}

#[tokio::test]
async fn a_port_that_the_kernel_chose_is_told_from_one_that_was_meant() {
    let lab = Lab::new();
    let tunnel = python("any-port", "a = socket.create_server((\"127.0.0.1\", 0))", "    local_port: 8080\n");
    let daemon = Daemon::start(&lab, &tunnel).await;
    let message = daemon.wait_failure(0, "any-port", FailureKind::Timeout).await.last_error.unwrap().message;
    assert!(message.starts_with("the command listens on TCP 127.0.0.1:"), "{message}");
    assert!(
        message.ends_with(
            " and not on TCP port 8080: that looks like a port of the kernel's choice, so tell the command which one to take"
        ),
        "{message}"
    );
}

/// The listener is a child's in a session of its own, as `sh -c 'server &'` and wrappers have it.
#[tokio::test]
async fn a_listener_of_a_child_is_the_commands_too() {
    let lab = Lab::new();
    let tunnel = "
  - name: wrapped
    command: [sh, -c, 'setsid socat TCP-LISTEN:8081,bind=127.0.0.1,fork TCP:127.0.0.1:8000 & wait']
    local_port: 8080
    start_timeout: 1s
";
    let daemon = Daemon::start(&lab, tunnel).await;
    let message = daemon.wait_failure(0, "wrapped", FailureKind::Timeout).await.last_error.unwrap().message;
    assert!(
        message.starts_with("the command listens on TCP 127.0.0.1:8081 and not on TCP port 8080"),
        "{message}"
    );
    let answer = daemon.post("/stop/wrapped?timeout=20s").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    daemon.assert_alone();
}

#[tokio::test]
async fn a_command_in_a_network_namespace_of_its_own_is_told_so() {
    let lab = Lab::new();
    let tunnel = "
  - name: apart
    command: [unshare, --net, socat, 'TCP-LISTEN:8080,fork', 'TCP:127.0.0.1:8000']
    local_port: 8080
    start_timeout: 1s
";
    let daemon = Daemon::start(&lab, tunnel).await;
    let failed = daemon.wait_failure(0, "apart", FailureKind::Timeout).await;
    let message = failed.last_error.unwrap().message;
    assert!(
        message.contains(
            "is in a network namespace of its own, so it cannot listen on port 8080 of this machine"
        ),
        "{message}"
    );
}

/// What people write who come from a container's entry point.
#[tokio::test]
async fn the_right_port_in_the_wrong_hands_is_told() {
    let lab = Lab::new();
    let gate = Gate::new(&lab);
    let tunnel = format!(
        "
  - name: client
    command: [sh, -c, 'read line < {}; sleep 1000']
    local_port: 8080
    start_timeout: 2s
",
        gate.path().display()
    );
    let daemon = Daemon::start(&lab, &tunnel).await;
    daemon.wait_state("client", StateName::Connecting).await;
    // Taken after the port was confirmed: the command runs.
    let _gate = gate.reached().await;
    let _listener = std::net::TcpListener::bind("127.0.0.1:8080").unwrap();
    let failed = daemon.wait_failure(0, "client", FailureKind::Timeout).await;
    let message = failed.last_error.unwrap().message;
    assert!(message.contains(&format!("{}", std::process::id())), "{message}");
    assert!(message.contains("which is no process of the command"), "{message}");
}
