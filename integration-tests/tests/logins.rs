//! Tunnels for which a person logs in, against a real sshd that asks for a password and then for a code.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs;
use std::process::Output;

use integration_tests::{Daemon, Lab, ORIGIN_PORT, Panel, Sshd, Terminal, fetch, kill, serve_page};
use nix::sys::signal::Signal;
use portward::protocol::{FailureKind, StateName};
use serde_json::Value;

const PASSWORD: &str = "first-s3cret";
const CODE: &str = "second-s3cret";

const WEB: &str = "
  - {name: web, remote_host: server, remote_port: '127.0.0.1:8000', local_port: '127.0.0.1:9443', interactive: true}
";

/// A server that asks for a password and then, by PAM, for a code. Nothing of the machine's own PAM is used.
async fn asking_server(lab: &Lab) -> Sshd<'_> {
    let check = lab.path("bin/check");
    lab.install_script(
        "check",
        &format!("case $(tr -d '\\0') in {PASSWORD}|{CODE}) exit 0 ;; esac\nexit 1\n"),
    );
    let pam = format!(
        "auth required pam_exec.so quiet expose_authtok {}\nauth required pam_permit.so\n\
         account required pam_permit.so\nsession required pam_permit.so\n",
        check.display()
    );
    fs::write(lab.path("pam"), pam).unwrap();
    lab.mount_over("pam", "/etc/pam.d/sshd");
    Sshd::start_with(
        lab,
        "UsePAM yes\nPasswordAuthentication yes\nKbdInteractiveAuthentication yes\n\
         AuthenticationMethods password,keyboard-interactive\n",
    )
    .await
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

fn person(daemon: &Daemon<'_>, tunnel: &str) -> Terminal {
    Terminal::start(daemon.cli_command(&["auth", tunnel]))
}

/// Panics if a secret is anywhere where others, or the next one to look, could find it.
async fn assert_secrets_are_nowhere(lab: &Lab, daemon: &Daemon<'_>) {
    let mut places = vec![("log".to_owned(), daemon.report())];
    places.extend(daemon.log().all().into_iter().map(|line| ("log".to_owned(), line.raw)));
    for path in ["/status", "/logs/web", "/config", "/health"] {
        places.push((path.to_owned(), daemon.get(path).await.body));
    }
    for process in lab.daemon_processes() {
        for file in ["environ", "cmdline"] {
            let path = format!("/proc/{}/{file}", process.pid);
            let bytes = fs::read(&path).unwrap_or_default();
            places.push((path, String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    let mut directories = vec![lab.path("run"), lab.path("home"), lab.path("etc")];
    let mut records = 0;
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.is_file() {
                records += 1;
                let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
                places.push((path.display().to_string(), text));
            }
        }
    }
    assert!(records > 0, "the record of the ssh is among them");
    assert!(places.iter().any(|(_, text)| text.contains("PORTWARD_ASKPASS_TOKEN")), "that of ssh is read");
    for (place, text) in places {
        for secret in [PASSWORD, CODE, "s3cret"] {
            assert!(!text.contains(secret), "{secret} in {place}: {text}");
        }
    }
}

#[tokio::test]
async fn a_person_logs_in_on_a_terminal_and_a_crash_of_the_daemon_costs_no_second_login() {
    let lab = Lab::new();
    let _sshd = asking_server(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, WEB).await;
    let waiting = daemon.wait_state("web", StateName::NeedsAuth).await;
    assert_eq!(serde_json::to_value(waiting.status).unwrap(), "STOPPED");
    let started = daemon.cli(&["start", "web"]).await;
    assert_eq!(started.status.code(), Some(1));
    assert!(said(&started).contains("portward auth web"), "{started:?}");
    assert!(said(&daemon.cli(&["status", "web"]).await).contains("portward auth web"));
    let doctor = daemon.cli(&["doctor", "--json"]).await;
    let findings: Vec<Value> = serde_json::from_slice(&doctor.stdout).unwrap();
    let of_web = |finding: &&Value| finding["tunnels"].as_array().unwrap().contains(&Value::from("web"));
    assert_eq!(findings.iter().filter(of_web).collect::<Vec<_>>(), Vec::<&Value>::new());

    let mut terminal = person(&daemon, "web");
    terminal.sees("password:").await;
    assert!(!terminal.echoes());
    // A key too many is taken back, and a wrong code asked for again.
    terminal.types(&format!("{PASSWORD}x\u{7f}\r"));
    terminal.sees("Password:").await;
    terminal.types("wrong-s3cret\r");
    terminal.sees("Password:").await;
    terminal.types(&format!("{CODE}\r"));
    terminal.sees("web is up: it listens on 127.0.0.1:9443").await;
    assert!(terminal.ends().await.success());
    assert!(terminal.echoes(), "the terminal is as it was");
    assert!(!terminal.shown().contains("s3cret"), "{}", terminal.shown());
    fetch(9443).await.unwrap();
    assert_secrets_are_nowhere(&lab, &daemon).await;
    let again = person(&daemon, "web").sees("web is up").await;
    assert!(!again.contains("password"), "{again}");

    let up = daemon.wait_state("web", StateName::Up).await;
    // `doctor` has asked ssh for its version.
    let starts = lab.ssh_starts().len();
    daemon.crash().await;
    fetch(9443).await.unwrap();
    let daemon = Daemon::start_as_configured(&lab).await;
    let adopted = daemon.wait_state("web", StateName::Up).await;
    assert_eq!((adopted.pid, lab.ssh_starts().len()), (up.pid, starts));
    fetch(9443).await.unwrap();
    let restarted = daemon.post("/restart/web").await;
    assert!(restarted.body.contains("portward auth web"), "{restarted:?}");
    assert_eq!(daemon.status("web").await.pid, up.pid);

    // What only changes how it is supervised keeps it.
    lab.write_config(&WEB.replace("interactive: true", "interactive: true, stop_grace: 900ms"));
    assert_eq!(daemon.post("/reload").await.status, 200);
    assert_eq!(daemon.status("web").await.pid, up.pid);

    assert_eq!(daemon.post("/stop/web").await.status, 200);
    let stopped = daemon.wait_state("web", StateName::NeedsAuth).await;
    assert_eq!(stopped.last_error, None);
    daemon.assert_alone();
    daemon.stop().await;
}

#[tokio::test]
async fn the_panel_logs_in_over_tcp_and_a_lost_connection_waits_for_a_person() {
    let lab = Lab::new();
    let sshd = asking_server(&lab).await;
    lab.configure_tcp(WEB);
    let daemon = Daemon::start_as_configured(&lab).await;
    let hash = daemon.status("web").await.hash;
    for query in ["", "?token=wrong"] {
        assert_eq!(Panel::open_over_tcp(&hash, query).await.unwrap_err().0, 401, "{query}");
    }
    let query = format!("?token={}", integration_tests::API_TOKEN);
    assert_eq!(
        integration_tests::request_over_tcp("GET", &format!("/status{query}"), None).await.status,
        401,
        "in a query it counts for the WebSocket only"
    );
    assert_eq!(
        integration_tests::request_over_tcp(
            "POST",
            "/askpass",
            Some(&format!("Bearer {}", integration_tests::API_TOKEN))
        )
        .await
        .status,
        404,
        "nobody asks over TCP"
    );
    let mut panel = Panel::open_over_tcp(&hash, &query).await.unwrap();
    panel.sees("password:").await;
    let second = Panel::open(&daemon, &hash).await.unwrap_err();
    assert_eq!(second, (409, "Session already active for this tunnel".to_owned()));
    for key in PASSWORD.chars() {
        panel.types(&key.to_string()).await;
    }
    panel.types("\r").await;
    panel.sees("Password:").await;
    panel.types(&format!("{CODE}\r")).await;
    let end = panel.ends().await;
    assert_eq!((&end["type"], &end["code"]), (&"status".into(), &"success".into()), "{end}");
    assert_eq!(end.get("exit_code"), None);

    let up = daemon.wait_state("web", StateName::Up).await;
    assert_eq!(serde_json::to_value(up.status).unwrap(), "RUNNING");
    let mark = daemon.mark();
    sshd.kill_sessions();
    let lost = daemon
        .wait_status(mark, "web", "without its connection", |status| status.state == StateName::NeedsAuth)
        .await;
    let failure = lost.last_error.unwrap();
    assert_eq!(failure.kind, FailureKind::Network);
    assert!(failure.message.contains("a person has to log in again"), "{failure}");
    daemon.wait_log(0, "that a person is needed", |line| line.raw.contains("needs a person to log in")).await;
    assert_eq!(lab.ssh_starts().len(), 1);

    let mut panel = Panel::open(&daemon, &hash).await.unwrap();
    for _ in 0..3 {
        panel.sees("password:").await;
        panel.types("wrong\r").await;
    }
    panel.sees("Permission denied").await;
    let end = panel.ends().await;
    assert_eq!((&end["code"], &end["exit_code"]), (&"error".into(), &255.into()), "{end}");
    let refused = daemon.wait_state("web", StateName::NeedsAuth).await;
    assert_eq!(refused.last_error.map(|failure| failure.kind), Some(FailureKind::Auth));
    assert_eq!(lab.ssh_starts().len(), 2, "one attempt for each login");
}

#[tokio::test]
async fn who_leaves_in_the_middle_leaves_nothing_behind() {
    let lab = Lab::new();
    let _sshd = asking_server(&lab).await;
    let daemon = Daemon::start(&lab, WEB).await;
    let hash = daemon.status("web").await.hash;
    let attended = |daemon: &Daemon<'_>| daemon.statuses(0, "web").len();

    let mut panel = Panel::open(&daemon, &hash).await.unwrap();
    panel.sees("password:").await;
    drop(panel);
    daemon.wait_state("web", StateName::NeedsAuth).await;
    daemon.assert_alone();

    // Before ssh is started, nothing but the person is waited for.
    let starts = lab.ssh_starts().len();
    let squatter = std::net::TcpListener::bind(("127.0.0.1", 9443)).unwrap();
    let mut panel = Panel::open(&daemon, &hash).await.unwrap();
    panel.sees("web waits for port 127.0.0.1:9443, which is held by pid").await;
    drop(panel);
    daemon.wait_state("web", StateName::NeedsAuth).await;
    drop(squatter);
    assert_eq!(lab.ssh_starts().len(), starts);

    let mut terminal = person(&daemon, "web");
    terminal.sees("password:").await;
    terminal.types(&format!("{PASSWORD}\r"));
    terminal.sees("Password:").await;
    terminal.types("\u{3}");
    terminal.sees("was given up").await;
    assert_eq!(terminal.ends().await.code(), Some(1));
    assert!(terminal.echoes());
    daemon.wait_state("web", StateName::NeedsAuth).await;
    daemon.assert_alone();

    let mut terminal = person(&daemon, "web");
    terminal.sees("password:").await;
    assert!(!terminal.echoes());
    kill(terminal.pid(), Signal::SIGTERM);
    assert_eq!(terminal.ends().await.code(), Some(1));
    assert!(terminal.echoes(), "also after a signal");
    daemon.wait_state("web", StateName::NeedsAuth).await;
    daemon.assert_alone();

    let before = attended(&daemon);
    let piped = daemon.cli(&["auth", "web"]).await;
    assert!(piped.status.code() == Some(1) && said(&piped).contains("is no terminal"), "{piped:?}");
    assert_eq!(attended(&daemon), before, "nothing was begun");

    // A login that is under way when the daemon is killed has lost its person.
    let mut terminal = person(&daemon, "web");
    terminal.sees("password:").await;
    let login = lab.sshs();
    assert_eq!(login.len(), 1);
    daemon.crash().await;
    assert_eq!(terminal.ends().await.code(), Some(2));
    assert!(terminal.echoes());
    let daemon = Daemon::start_as_configured(&lab).await;
    daemon.wait_state("web", StateName::NeedsAuth).await;
    for pid in login {
        integration_tests::process_end(pid).await;
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_new_host_key_is_shown_a_passphrase_asked_and_one_login_serves_all_that_share_it() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let keygen = |arguments: &[&str]| {
        let output = std::process::Command::new("ssh-keygen").args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let key = lab.path("client_key").display().to_string();
    keygen(&["-q", "-p", "-P", "", "-N", PASSWORD, "-f", &key]);
    let shown = keygen(&["-lf", &lab.path("host_key.pub").display().to_string()]);
    let fingerprint = shown.split(' ').nth(1).unwrap();
    let tunnel = |name: &str, port: u16| {
        format!(
            "  - {{name: {name}, remote_host: stranger, remote_port: '127.0.0.1:8000', local_port: '127.0.0.1:{port}', \
             interactive: true, share: true, ssh: {{options: {{StrictHostKeyChecking: ask}}}}}}\n"
        )
    };
    // The daemon's program is replaced while it runs, as by an upgrade.
    let program = lab.path("bin/portward");
    let of_build = fs::read_link(&program).unwrap();
    fs::remove_file(&program).unwrap();
    assert!(std::process::Command::new("cp").args([&of_build, &program]).status().unwrap().success());
    let daemon = Daemon::start(&lab, &(tunnel("one", 9001) + &tunnel("two", 9002))).await;
    fs::remove_file(&program).unwrap();
    std::os::unix::fs::symlink(of_build, &program).unwrap();
    let mut terminal = person(&daemon, "one");
    let question = terminal.sees("(yes/no/[fingerprint])?").await;
    assert!(question.contains(fingerprint), "{question}");
    terminal.types("perhaps\r");
    terminal.sees("perhaps\r\n").await;
    terminal.sees("Please type 'yes', 'no' or the fingerprint:").await;
    terminal.types("yes\r");
    terminal.sees("yes\r\n").await;
    terminal.sees("Enter passphrase for key").await;
    terminal.types(&format!("{PASSWORD}\r"));
    terminal.sees("one is up").await;
    assert!(terminal.ends().await.success());
    assert!(!terminal.shown().contains(PASSWORD));
    daemon.wait_state("two", StateName::Up).await;
    for port in [9001, 9002] {
        fetch(port).await.unwrap();
    }
    assert_eq!(lab.ssh_starts().len(), 1);

    assert_eq!(daemon.post("/stop/one").await.status, 200);
    daemon.wait_state("one", StateName::NeedsAuth).await;
    fetch(9002).await.unwrap();
    let mut terminal = person(&daemon, "one");
    terminal.sees("one is up").await;
    assert!(terminal.ends().await.success());
    fetch(9001).await.unwrap();
    assert_eq!(lab.ssh_starts().len(), 1, "that connection is there already");
}
