//! The daemon on machines as they are: without HOME, without inotify, and with its runtime directory taken away.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use integration_tests::{
    Daemon, Lab, ORIGIN_PORT, Sshd, fetch, kill, lines_of, process_end, request, serve_page, stop_signal,
    within_deadline,
};
use nix::sys::signal::Signal;
use portward::protocol::doctor::{Finding, Level};
use portward::protocol::{Snapshot, StateName};

const PORT: u16 = 9443;
const WEB: &str = "
  - {name: web, remote_host: server, remote_port: 127.0.0.1:8000, local_port: '127.0.0.1:9443'}
";
const WIKI: &str = "
  - {name: web, remote_host: server, remote_port: 127.0.0.1:8000, local_port: '127.0.0.1:9443'}
  - {name: wiki, enabled: false, remote_host: server, remote_port: 127.0.0.1:8000, local_port: '127.0.0.1:9444'}
";
const SOCKS: &str = "
  - {name: web, remote_host: server, direction: dynamic, local_port: '127.0.0.1:9443'}
";

/// Puts a script in place of the daemon's program: it sets something up and becomes the real one, `$DAEMON`.
fn wrap(lab: &Lab, script: &str) {
    let real = fs::read_link(lab.path("bin/portward")).unwrap();
    fs::remove_file(lab.path("bin/portward")).unwrap();
    lab.install_script("portward", &format!("DAEMON={}\n{script}\n", real.display()));
}

/// Runs lines of a shell to their end.
async fn shell(lab: &Lab, script: &str) -> String {
    let mut shell = lab.command("/bin/sh");
    let output = within_deadline(script, shell.args(["-e", "-c", script]).output()).await.unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn warnings(daemon: &Daemon<'_>) -> Vec<String> {
    let health = daemon.get("/health").await.json();
    serde_json::from_value(health["warnings"].clone()).unwrap()
}

#[tokio::test]
async fn without_home_the_passwd_entry_names_it_for_the_configuration_and_for_children() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    // Root's home directory, in the lab's mount namespace.
    shell(
        &lab,
        "mount -t tmpfs -o mode=700 tmpfs /root; mkdir -m 700 /root/.ssh; cp client_key /root/.ssh/lab",
    )
    .await;
    let told = lab.path("told");
    lab.install_script(
        "tell",
        &format!(
            "echo \"$HOME\" > {}; exec socat TCP-LISTEN:9500,bind=127.0.0.1,reuseaddr,fork PIPE\n",
            told.display()
        ),
    );
    let tunnels = "
  - {name: web, remote_host: wrong-key, remote_port: 127.0.0.1:8000, local_port: '127.0.0.1:9443', ssh: {identity_file: ~/.ssh/lab}}
  - {name: program, command: [tell], local_port: '127.0.0.1:9500'}
";
    for unset in ["env -u HOME", "env HOME=", "env HOME=not/absolute"] {
        let lab_daemon = fs::read_link(lab.path("bin/portward"));
        if let Ok(real) = lab_daemon {
            fs::remove_file(lab.path("bin/portward")).unwrap();
            fs::write(lab.path("real"), real.display().to_string()).unwrap();
        }
        let real = fs::read_to_string(lab.path("real")).unwrap();
        lab.install_script("portward", &format!("exec {unset} {real} \"$@\"\n"));
        let daemon = Daemon::start(&lab, tunnels).await;
        daemon.wait_state("web", StateName::Up).await;
        daemon.wait_state("program", StateName::Up).await;
        fetch(PORT).await.expect("the page comes through the tunnel");
        assert_eq!(fs::read_to_string(&told).unwrap(), "/root\n", "{unset}");
        daemon.stop().await;
    }
}

/// Limits of inotify are those of a user namespace: the daemon gets one of its own, and others are left alone.
#[tokio::test]
async fn a_path_from_its_own_directory_and_blocked_signals_are_no_matter() {
    let lab = Lab::new();
    let config = lab.config_path();
    let directory = config.parent().unwrap().display();
    // `run --log json --config FILE --socket PATH`
    let exec =
        "exec env --block-signal=TERM \"$DAEMON\" \"$1\" \"$2\" \"$3\" \"$4\" config.yaml \"$6\" \"$7\"";
    wrap(&lab, &format!("cd {directory}\n{exec}"));
    let daemon = Daemon::start(&lab, "").await;
    let health = daemon.get("/health").await.json();
    assert_eq!(health["config_path"].as_str(), config.to_str());
    assert!(daemon.stop().await.status.success());
}

async fn starts_without_inotify_and_gets_it_back(limit: &str, word: &str) {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    wrap(
        &lab,
        &format!(
            "exec unshare --user --map-root-user /bin/sh -c 'echo 0 > /proc/sys/user/{limit} && exec \"$0\" \"$@\"' \
             $DAEMON \"$@\""
        ),
    );
    let daemon = Daemon::start(&lab, WEB).await;
    let first = daemon.wait_state("web", StateName::Up).await;
    fetch(PORT).await.expect("the page comes through the tunnel");
    let said = daemon.wait_log(0, "about inotify", |line| line.has("event", "watch")).await;
    assert!(said.raw.contains("portward reload") && said.raw.contains(word), "{}", said.raw);
    let warned = warnings(&daemon).await;
    assert!(warned.len() == 1 && warned[0].contains(word), "{warned:?}");

    // The daemon examines itself under that limit, and names it.
    let config = lab.config_path().display().to_string();
    let doctor = daemon.cli(&["doctor", "--json", &config]).await;
    let findings: Vec<Finding> = serde_json::from_slice(&doctor.stdout).unwrap();
    let finding = findings.iter().find(|finding| finding.check == "file_events").unwrap();
    assert_eq!(finding.level, Level::Warning, "{finding:?}");
    assert!(finding.fix.as_ref().unwrap().contains(&format!("sysctl -w user.{limit}=")), "{finding:?}");

    // A restart needs a new control socket.
    let answer = daemon.post("/restart/web").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_ne!(daemon.tunnel_pid("web").await, first.pid.unwrap());

    // A change is taken up by order.
    lab.write_config(WIKI);
    let reloaded = daemon.cli(&["reload"]).await;
    assert!(reloaded.status.success(), "{reloaded:?}");
    daemon.wait_status(0, "wiki", "in the configuration", |_| true).await;
    let status = String::from_utf8(daemon.cli(&["status"]).await.stdout).unwrap();
    assert!(status.contains("warning: ") && status.contains("are not noticed"), "{status}");
    lab.write_config(WEB);
    let mark = daemon.log().mark();
    kill(daemon.pid(), Signal::SIGHUP);
    daemon.wait_log(mark, "of a reload", |line| line.has("event", "reload")).await;

    // The limit is lifted: the next reload by order gets an instance, and then changes are noticed.
    shell(
        &lab,
        &format!("nsenter --user --target {} /bin/sh -c 'echo 100 > /proc/sys/user/{limit}'", daemon.pid()),
    )
    .await;
    let reloaded = daemon.cli(&["reload"]).await;
    assert!(reloaded.status.success(), "{reloaded:?}");
    daemon.wait_log(0, "that changes are noticed", |line| line.raw.contains("are noticed again")).await;
    assert_eq!(warnings(&daemon).await, [] as [String; 0]);
    let mark = daemon.mark();
    lab.write_config(WIKI);
    daemon.wait_status(mark, "wiki", "in the configuration", |_| true).await;
    daemon.stop().await;
}

#[tokio::test]
async fn without_an_inotify_instance_it_runs_and_reloads_by_command() {
    starts_without_inotify_and_gets_it_back("max_inotify_instances", "max_user_instances").await;
}

#[tokio::test]
async fn without_inotify_watches_it_runs_and_reloads_by_command() {
    starts_without_inotify_and_gets_it_back("max_inotify_watches", "max_user_watches").await;
}

#[tokio::test]
async fn one_inotify_instance_is_all_that_it_needs() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    wrap(
        &lab,
        "exec unshare --user --map-root-user /bin/sh -c 'echo 1 > /proc/sys/user/max_inotify_instances && exec \"$0\" \"$@\"' \
         $DAEMON \"$@\"",
    );
    let daemon = Daemon::start(&lab, WEB).await;
    daemon.wait_state("web", StateName::Up).await;
    assert_eq!(warnings(&daemon).await, [] as [String; 0]);
    let mark = daemon.mark();
    lab.write_config(WIKI);
    daemon.wait_status(mark, "wiki", "in the configuration", |_| true).await;
    daemon.stop().await;
}

/// Whether somebody answers on the API's socket, and that is this daemon.
async fn answers(daemon: &Daemon<'_>) -> bool {
    let Ok(stream) = tokio::net::UnixStream::connect(daemon.socket()).await else { return false };
    drop(stream);
    request(daemon.socket(), "GET", "/health", "").await.json()["pid"] == daemon.pid()
}

/// What somebody does to the runtime directory, `$R`.
const DELETIONS: &[(&str, &str)] = &[
    ("removed and made", "rm -rf $R; mkdir $R"),
    ("removed", "rm -rf $R"),
    ("moved away", "mv $R $R.old"),
    ("replaced by one for all", "mv $R $R.old2; mkdir -m 777 $R"),
    ("without the socket", "rm $R/portward.sock"),
    ("without the socket and the lock", "rm $R/portward.sock $R/portward.lock"),
    ("without the control sockets", "rm -rf $R/portward.ssh"),
    ("emptied", "rm -rf $R/*"),
    (
        "a socket replaced by a dead one",
        "python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('$R.dead')\"; mv $R.dead $R/portward.sock",
    ),
    ("mounted over", "mount -t tmpfs -o mode=755 tmpfs $R"),
    ("unmounted", "umount -l $R"),
];

#[tokio::test]
async fn a_runtime_directory_that_is_deleted_comes_back_and_the_tunnels_go_on() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, WEB).await;
    let mut ssh = daemon.wait_state("web", StateName::Up).await.pid.unwrap();
    let run = lab.path("run");
    fs::set_permissions(&run, fs::Permissions::from_mode(0o700)).unwrap();
    for (what, script) in DELETIONS {
        let mark = daemon.log().mark();
        shell(&lab, &format!("R={}; {script}", run.display())).await;
        // Whatever is missing is made within the quiet after the last change; what is there answers at once.
        if !answers(&daemon).await {
            daemon
                .wait_log(mark, "that the socket is made again", |line| {
                    line.has("event", "runtime") && line.raw.contains("made again")
                })
                .await;
        }
        assert!(answers(&daemon).await, "{what}");
        assert_eq!(daemon.tunnel_pid("web").await, ssh, "{what}: the tunnel went on");
        fetch(PORT).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&run) & 0o022, mode(daemon.socket())), (0, 0o600), "{what}");

        // A planned restart takes over from a master whose control socket is gone.
        let restarted = daemon.post("/restart/web?timeout=10s").await;
        assert_eq!(restarted.status, 200, "{what}: {restarted:?}");
        process_end(ssh).await;
        ssh = daemon.tunnel_pid("web").await;

        // And so does one that nobody planned.
        let mark = daemon.mark();
        kill(ssh, Signal::SIGKILL);
        let again = daemon
            .wait_status(mark, "web", "up again", |status| {
                status.state == StateName::Up && status.pid.is_some_and(|pid| pid != ssh)
            })
            .await;
        ssh = again.pid.unwrap();
        fetch(PORT).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(mode(&run.join("portward.ssh")), 0o700, "{what}");
        assert_eq!(warnings(&daemon).await, [] as [String; 0], "{what}");
    }
    daemon.stop().await;
    assert_eq!(lab.sockets(), [] as [std::path::PathBuf; 0]);
}

#[tokio::test]
async fn a_killed_ssh_comes_back_right_after_the_directory_was_deleted() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    for tunnels in [WEB, SOCKS] {
        let daemon = Daemon::start(&lab, tunnels).await;
        let ssh = daemon.wait_state("web", StateName::Up).await.pid.unwrap();
        let run = lab.path("run");
        lab.remove_directory("run");
        fs::create_dir(&run).unwrap();
        let mark = daemon.mark();
        kill(ssh, Signal::SIGKILL);
        daemon
            .wait_status(mark, "web", "up again", |status| {
                status.state == StateName::Up && status.pid.is_some_and(|pid| pid != ssh)
            })
            .await;
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_socks_tunnel_whose_control_socket_is_gone_is_restarted() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, SOCKS).await;
    let ssh = daemon.wait_state("web", StateName::Up).await.pid.unwrap();
    lab.remove_directory("run/portward.ssh");
    let restarted = daemon.post("/restart/web?timeout=20s").await;
    assert_eq!(restarted.status, 200, "{restarted:?}");
    process_end(ssh).await;
    assert_ne!(daemon.tunnel_pid("web").await, ssh);
    daemon.stop().await;
}

#[tokio::test]
async fn a_second_daemon_in_the_new_directory_keeps_it_until_it_ends() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, WEB).await;
    let ssh = daemon.wait_state("web", StateName::Up).await.pid.unwrap();
    // The first one sleeps while the second one starts.
    stop_signal(daemon.pid());
    let run = lab.path("run");
    lab.remove_directory("run");
    fs::create_dir(&run).unwrap();
    fs::write(
        lab.path("etc/second.yaml"),
        lab.config(&WEB.replace("name: web", "name: web, enabled: false")),
    )
    .unwrap();
    let mut second = lab.command(lab.path("bin/portward"));
    second.args(["run", "--log", "json", "--config"]).arg(lab.path("etc/second.yaml"));
    second.arg("--socket").arg(daemon.socket()).stderr(Stdio::piped());
    let mut second = second.spawn().unwrap();
    let pid = second.id().unwrap();
    let said = lines_of(second.stderr.take().unwrap());
    said.find(0, |line| line.contains("configuration in force")).await.expect("it starts");
    let mark = daemon.log().mark();
    kill(daemon.pid(), Signal::SIGCONT);
    let told = daemon.wait_log(mark, "about the other one", |line| line.has("event", "runtime")).await;
    assert!(told.raw.contains(&format!("another portward (pid {pid})")), "{}", told.raw);
    let health = request(daemon.socket(), "GET", "/health", "").await.json();
    assert_eq!(health["pid"], pid, "the second one's socket is left alone");

    // Without an API the first one keeps its tunnel, and starts it again.
    kill(ssh, Signal::SIGKILL);
    daemon
        .wait_status(0, "web", "up again", |status| {
            status.state == StateName::Up && status.pid.is_some_and(|pid| pid != ssh)
        })
        .await;

    kill(pid, Signal::SIGTERM);
    second.wait().await.unwrap();
    daemon.wait_log(mark, "that the socket is made again", |line| line.raw.contains("made again")).await;
    assert!(answers(&daemon).await);
    daemon.wait_log(mark, "that all is well", |line| line.raw.contains("complete again")).await;
    daemon.stop().await;
    assert_eq!(lab.sockets(), [] as [std::path::PathBuf; 0]);
}

#[tokio::test]
async fn what_cannot_be_made_again_is_told_and_the_tunnels_are_kept_up_from_elsewhere() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, WEB).await;
    let ssh = daemon.wait_state("web", StateName::Up).await.pid.unwrap();
    let run = lab.path("run");
    let mark = daemon.log().mark();
    lab.remove_directory("run");
    fs::write(&run, "a file").unwrap();
    let told = daemon.wait_log(mark, "about the directory", |line| line.has("event", "runtime")).await;
    assert!(
        told.raw.contains("the tunnels keep running") && told.raw.contains("tries again by itself"),
        "{}",
        told.raw
    );
    kill(ssh, Signal::SIGKILL);
    daemon
        .wait_status(0, "web", "up again", |status| {
            status.state == StateName::Up && status.pid.is_some_and(|pid| pid != ssh)
        })
        .await;
    fs::remove_file(&run).unwrap();
    daemon.wait_log(mark, "that all is well", |line| line.raw.contains("complete again")).await;
    assert!(answers(&daemon).await);
    daemon.stop().await;
}

#[test]
fn a_snapshot_of_an_older_daemon_has_no_warnings() {
    let snapshot: Snapshot =
        serde_json::from_str(r#"{"tunnels": [], "config_path": "/c.yaml", "config_error": null}"#).unwrap();
    assert_eq!(snapshot.warnings, [] as [String; 0]);
}
