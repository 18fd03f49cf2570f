//! `portward doctor`: each problem is created and found, and the fix that is printed for it is run.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use integration_tests::{
    Daemon, Lab, NOBODY, Squat, Squatter, Sshd, kill, process_end, run, stop_signal, within_deadline,
};
use nix::sys::signal::Signal;
use portward::doctor::CHECKS;
use portward::protocol::StateName;
use portward::protocol::doctor::{Finding, Level};
use tokio::process::Command;
use tokio::time::Instant;

const PORT: u16 = 9443;
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
const WEB: &str = "
  - {name: web, remote_host: server, remote_port: 127.0.0.1:8000, local_port: '127.0.0.1:9443'}
";

/// `portward doctor` of the lab's configuration, as the lab's daemon would run.
fn doctor(lab: &Lab, arguments: &[&str]) -> Command {
    lab.portward(&[&["doctor"], arguments].concat())
}

async fn findings(command: &mut Command, code: i32) -> Vec<Finding> {
    serde_json::from_str(&run(command.arg("--json"), code).await).unwrap()
}

/// The only finding of a check.
fn only(findings: &[Finding], check: &str) -> Finding {
    let mut of_check = findings.iter().filter(|finding| finding.check == check);
    let finding = of_check.next().unwrap_or_else(|| panic!("{check} in {findings:#?}")).clone();
    assert_eq!(of_check.next(), None, "{check} has one finding");
    finding
}

/// Runs the first line of the fix of a finding.
async fn fix(lab: &Lab, finding: &Finding) {
    let line = finding.fix.as_ref().expect("a line").lines().next().unwrap();
    // Tests run as root, and sudo may not be here.
    let line = line.strip_prefix("sudo ").unwrap_or(line);
    let mut shell = lab.command("/bin/sh");
    let ran = within_deadline("the line", shell.args(["-c", line]).output()).await.unwrap();
    assert!(ran.status.success(), "{line}: {ran:?}");
}

/// Expects an error of `check`, runs its fix, and expects that the check finds no problem then.
async fn fixed(lab: &Lab, check: &str) -> Finding {
    let error = only(&findings(&mut doctor(lab, &[]), 1).await, check);
    assert_eq!(error.level, Level::Error, "{error:?}");
    fix(lab, &error).await;
    let after = only(&findings(&mut doctor(lab, &[]), 0).await, check);
    assert_eq!(after.level, Level::Ok, "{after:?}");
    error
}

#[tokio::test]
async fn a_healthy_machine_exits_0_with_a_daemon_and_without() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    lab.write_config(WEB);
    let before = findings(&mut doctor(&lab, &[]), 0).await;
    for check in CHECKS {
        assert!(before.iter().any(|finding| finding.check == check.name), "{check:?} in {before:#?}");
    }
    assert!(before.iter().all(|finding| finding.level != Level::Error), "{before:#?}");
    let fine = ["sock_diag", "destroy_events", "ssh", "keys", "host_keys"];
    for check in fine.into_iter().chain(["multiplexing", "ephemeral_ports", "held_ports"]) {
        let Finding { level, why, fix, .. } = only(&before, check);
        assert_eq!((level, why, fix), (Level::Ok, None, None), "{check}");
    }
    assert_eq!(lab.sockets(), [] as [PathBuf; 0], "nothing is left behind");

    let daemon = Daemon::start(&lab, WEB).await;
    daemon.wait_state("web", StateName::Up).await;
    let ssh = daemon.tunnel_pid("web").await;
    let text = run(&mut doctor(&lab, &[]), 0).await;
    let examined = format!("Examined: the running daemon, pid {}, as user root.\n", daemon.pid());
    assert!(text.starts_with(&examined), "{text}");
    assert!(text.contains("ok       held_ports"), "the daemon's own ssh holds the port: {text}");
    assert!(text.ends_with("nothing was found that would make a tunnel fail.\n"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colour where there is no terminal");
    assert_eq!(daemon.tunnel_pid("web").await, ssh, "nothing is disturbed");
    daemon.stop().await;
}

#[tokio::test]
async fn the_holder_of_a_port_is_named_and_ended_by_the_fix() {
    let lab = Lab::new();
    lab.write_config(WEB);
    let squatter = Squatter::listen(&lab, "127.0.0.1", PORT).await;
    let pid = squatter.pid();
    let text = run(&mut doctor(&lab, &[]), 1).await;
    for words in ["tunnel `web`", &format!("pid {pid} (/usr/bin/python3"), "why ", "1 error"] {
        assert!(text.contains(words), "{words} in {text}");
    }
    let held = only(&findings(&mut doctor(&lab, &[]), 1).await, "held_ports");
    assert_eq!((&held.tunnels[..], &held.ports[..]), (&["web".to_owned()][..], &[PORT][..]));
    // Where systemd runs the tests, the squatter is in a unit of its own making; elsewhere its pid is all there is.
    if held.fix.as_ref().unwrap().starts_with("kill ") {
        fix(&lab, &held).await;
        process_end(pid).await;
    } else {
        squatter.leave().await;
    }
    assert_eq!(only(&findings(&mut doctor(&lab, &[]), 0).await, "held_ports").level, Level::Ok);
}

#[tokio::test]
async fn a_key_that_others_may_read_is_found_and_fixed() {
    let lab = Lab::new();
    lab.write_config(WEB);
    let key = lab.path("client_key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let error = fixed(&lab, "keys").await;
    assert_eq!(error.fix.unwrap(), format!("chmod 600 {}", key.display()));
    assert!(error.what.contains("mode 0644"), "{}", error.what);

    fs::remove_file(&key).unwrap();
    fs::remove_file(lab.path("client_key.pub")).unwrap();
    let missing = only(&findings(&mut doctor(&lab, &[]), 1).await, "keys");
    assert!(missing.what.contains("does not exist"), "{}", missing.what);
}

#[tokio::test]
async fn a_key_with_a_passphrase_is_found_and_fixed() {
    let lab = Lab::new();
    lab.write_config(WEB);
    let locked = lab
        .command("ssh-keygen")
        .args(["-q", "-p", "-P", "", "-N", "correct horse", "-f", "client_key"])
        .output();
    let locked = locked.await.unwrap();
    assert!(locked.status.success(), "{locked:?}");
    let mut error = only(&findings(&mut doctor(&lab, &[]), 1).await, "keys");
    assert!(error.what.contains("has a passphrase"), "{}", error.what);
    // Only its owner knows the old one.
    error.fix = error.fix.map(|line| line.replace(" -p ", " -p -P 'correct horse' "));
    fix(&lab, &error).await;
    assert_eq!(only(&findings(&mut doctor(&lab, &[]), 0).await, "keys").level, Level::Ok);
}

#[tokio::test]
async fn no_program_of_a_configuration_that_others_can_write_is_run_as_root() {
    let lab = Lab::new();
    let ran = lab.path("ran");
    let program = lab.path("bin/evil");
    lab.install_script("evil", &format!("touch {}\n", ran.display()));
    let ssh = format!("name: web, ssh: {{program: {}}}", program.display());
    lab.write_config(&WEB.replace("name: web", &ssh));
    fs::set_permissions(lab.config_path(), fs::Permissions::from_mode(0o666)).unwrap();
    let told = findings(&mut doctor(&lab, &[]), 0).await;
    assert!(!ran.exists(), "it was run");
    assert!(only(&told, "ssh").what.starts_with("no ssh was run"));
    fix(&lab, &only(&told, "directories")).await;
    assert!(only(&findings(&mut doctor(&lab, &[]), 1).await, "ssh").what.contains("is not OpenSSH"));
    assert!(ran.exists());
}

#[tokio::test]
async fn an_unknown_host_key_is_found_and_accepted_by_the_fix() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    lab.write_config(&WEB.replace("server", "stranger"));
    let mut error = only(&findings(&mut doctor(&lab, &[]), 1).await, "host_keys");
    assert_eq!((error.level, &error.tunnels[..]), (Level::Error, &["web".to_owned()][..]));
    // Nobody is here to say yes.
    error.fix = error.fix.map(|line| line.replace("Checking=ask", "Checking=accept-new"));
    fix(&lab, &error).await;
    assert_eq!(only(&findings(&mut doctor(&lab, &[]), 0).await, "host_keys").level, Level::Ok);
}

#[tokio::test]
async fn one_line_accepts_the_host_keys_of_all_servers() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let alias = |name: &str| format!("ssh: {{options: {{HostKeyAlias: {name}}}}}, name: {name}");
    let tunnels = [("one", 9001), ("two", 9002), ("three", 9003)].map(|(name, port)| {
        let tunnel = WEB.replace("name: web", &alias(name));
        tunnel.replace("9443", &port.to_string())
    });
    lab.write_config(&tunnels.concat());
    let mut error = only(&findings(&mut doctor(&lab, &[]), 1).await, "host_keys");
    assert_eq!(error.tunnels, ["one", "three", "two"], "{error:?}");
    error.fix = error.fix.map(|line| line.replace("Checking=ask", "Checking=accept-new"));
    fix(&lab, &error).await;
    assert_eq!(only(&findings(&mut doctor(&lab, &[]), 0).await, "host_keys").level, Level::Ok);
}

#[tokio::test]
async fn a_program_that_is_not_openssh_is_an_error() {
    let lab = Lab::new();
    let with = |program: &str| WEB.replace("name: web", &format!("name: web, ssh: {{program: {program}}}"));
    for (program, said) in [("/bin/echo", "is not OpenSSH"), ("/nonexistent/ssh", "/nonexistent/ssh")] {
        lab.write_config(&with(program));
        let error = only(&findings(&mut doctor(&lab, &[]), 1).await, "ssh");
        assert_eq!((error.level, &error.tunnels[..]), (Level::Error, &["web".to_owned()][..]));
        assert!(error.what.contains(said), "{}", error.what);
    }
    lab.write_config("\n  - {name: metrics, command: [no-such-program], local_port: 9090}\n");
    let error = only(&findings(&mut doctor(&lab, &[]), 1).await, "commands");
    assert!(error.what.contains("`no-such-program` of tunnel `metrics`"), "{}", error.what);
}

#[tokio::test]
async fn what_ssh_says_of_its_options_is_told() {
    let lab = Lab::new();
    lab.write_config(&WEB.replace("name: web", "name: web, ssh: {options: {NoSuchOption: x}}"));
    let error = only(&findings(&mut doctor(&lab, &[]), 1).await, "keys");
    assert!(error.what.to_lowercase().contains("nosuchoption"), "{}", error.what);
}

#[tokio::test]
async fn an_invalid_configuration_is_an_error_and_the_machine_is_examined_all_the_same() {
    let lab = Lab::new();
    fs::write(lab.config_path(), "tunels: []\n").unwrap();
    let told = findings(&mut doctor(&lab, &[]), 1).await;
    let error = only(&told, "configuration");
    assert!(error.what.contains("tunels"), "{}", error.what);
    assert_eq!(error.fix.unwrap(), format!("portward check {}", lab.config_path().display()));
    assert_eq!(only(&told, "destroy_events").level, Level::Ok);

    let missing = lab.path("missing.yaml");
    let told = findings(&mut doctor(&lab, &[missing.to_str().unwrap()]), 1).await;
    assert!(only(&told, "configuration").what.contains("missing.yaml"), "the file given comes first");
}

#[tokio::test]
async fn a_port_in_the_ephemeral_range_is_reserved_by_the_fix() {
    let lab = Lab::new();
    lab.write_config(&WEB.replace("9443", "40000"));
    // The network namespace is the lab's, and so is this.
    fs::write(RESERVED, "50000-50010").unwrap();
    let warning = only(&findings(&mut doctor(&lab, &[]), 0).await, "ephemeral_ports");
    assert_eq!((warning.level, &warning.ports[..]), (Level::Warning, &[40000][..]));
    fix(&lab, &warning).await;
    assert_eq!(only(&findings(&mut doctor(&lab, &[]), 0).await, "ephemeral_ports").level, Level::Ok);
    let reserved = fs::read_to_string(RESERVED).unwrap();
    assert_eq!(reserved.trim(), "40000,50000-50010", "what was reserved stays reserved");
}

#[tokio::test]
async fn time_wait_is_a_warning_that_says_how_long() {
    let lab = Lab::new();
    lab.write_config(WEB);
    let _held = Squat::time_wait(PORT);
    let told = findings(&mut doctor(&lab, &[]), 0).await;
    let warning = only(&told, "time_wait");
    assert_eq!((warning.level, &warning.ports[..]), (Level::Warning, &[PORT][..]));
    assert!(warning.what.contains(" of tunnel `web` is in TIME_WAIT"), "{}", warning.what);
    assert!(warning.fix.unwrap().starts_with(&format!("portward wait {PORT}\n")));
    assert_eq!(only(&told, "held_ports").level, Level::Ok);
}

#[tokio::test]
async fn a_socket_with_a_name_too_long_has_no_place() {
    let lab = Lab::new();
    lab.write_config(WEB);
    let socket = format!("/tmp/{}/portward.sock", "x".repeat(80));
    let error = only(&findings(&mut doctor(&lab, &["--socket", &socket]), 1).await, "multiplexing");
    assert!(error.what.contains("too long"), "{}", error.what);
}

#[tokio::test]
async fn an_ordinary_user_is_told_what_root_must_do() {
    let lab = Lab::new();
    let own = lab.portward_for_all();
    let config = own.path().join("config.yaml");
    let tunnel = "{name: web, command: [sleep, '1'], local_port: '127.0.0.1:80', on_conflict: kill}";
    fs::write(&config, format!("tunnels:\n  - {tunnel}\n")).unwrap();
    let runtime = own.path().join("run");
    fs::create_dir(&runtime).unwrap();
    std::os::unix::fs::chown(&runtime, Some(NOBODY), Some(NOBODY)).unwrap();
    let as_nobody = |config: &Path| {
        let mut command = lab.command(own.path().join("portward"));
        command.arg("doctor").arg(config).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("XDG_RUNTIME_DIR", &runtime).uid(NOBODY).gid(NOBODY).current_dir("/");
        command
    };

    let told = findings(&mut as_nobody(&config), 1).await;
    let error = only(&told, "privileged_ports");
    assert_eq!((error.level, &error.ports[..]), (Level::Error, &[80][..]));
    assert_eq!(error.fix.as_deref(), Some("sudo sysctl -w net.ipv4.ip_unprivileged_port_start=80"));
    let privileges = only(&told, "privileges");
    assert_eq!((privileges.level, &privileges.tunnels[..]), (Level::Warning, &["web".to_owned()][..]));
    for check in ["sock_diag", "destroy_events", "multiplexing", "directories"] {
        let fine = told.iter().filter(|finding| finding.check == check);
        assert!(fine.clone().all(|finding| finding.level == Level::Ok), "{:?}", fine.collect::<Vec<_>>());
    }
    fix(&lab, &error).await;
    assert_eq!(only(&findings(&mut as_nobody(&config), 0).await, "privileged_ports").level, Level::Ok);

    let _squatter = Squatter::listen(&lab, "127.0.0.1", 80).await;
    let held = only(&findings(&mut as_nobody(&config), 1).await, "held_ports");
    assert!(held.what.contains("of user root"), "{}", held.what);
    assert!(held.fix.unwrap().starts_with("sudo portward who 80"), "its pid is hidden");
}

#[tokio::test]
async fn wrong_usage_exits_2() {
    let lab = Lab::new();
    run(&mut doctor(&lab, &["--no-such-option"]), 2).await;
    run(&mut doctor(&lab, &["a.yaml", "b.yaml"]), 2).await;
}

/// Replaces the program of the daemon with a script that ends in the real one, `$DAEMON`.
fn wrap_daemon(lab: &Lab, script: &str) {
    let program = lab.path("bin/portward");
    let real = fs::read_link(&program).unwrap();
    fs::remove_file(&program).unwrap();
    std::os::unix::fs::symlink(&real, lab.path("bin/real-portward")).unwrap();
    lab.install_script("portward", &format!("DAEMON={}\n{script}\n", real.display()));
}

#[tokio::test]
async fn the_daemon_examines_itself_and_not_the_caller() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    // Each of the two has a file system of its own on /opt, and one has a program in PATH that the other has not.
    let mut mount = lab.command("/bin/sh");
    mount.args(["-e", "-c", "mount -t tmpfs -o mode=755 tmpfs /opt; cp client_key /opt/of-the-caller"]);
    assert!(mount.status().await.unwrap().success());
    let in_daemon = format!(
        "mount -t tmpfs -o mode=755 tmpfs /opt; cp {} /opt/of-the-daemon",
        lab.path("client_key").display()
    );
    let namespace = "exec unshare --mount /bin/sh -e -c";
    wrap_daemon(&lab, &format!("{namespace} '{in_daemon}; exec \"$0\" \"$@\"' \"$DAEMON\" \"$@\""));
    lab.install_script("program-of-the-daemon", "exec sleep 1000\n");
    let tunnels = "
  - {name: caller, remote_host: server, remote_port: 127.0.0.1:8000, local_port: '127.0.0.1:9443', ssh: {identity_file: /opt/of-the-caller}}
  - {name: daemon, remote_host: server, remote_port: 127.0.0.1:8000, local_port: '127.0.0.1:9444', ssh: {identity_file: /opt/of-the-daemon}}
  - {name: program, command: [program-of-the-daemon], local_port: '127.0.0.1:9445', env: {TOKEN: correct-horse}}
";
    let daemon = Daemon::start(&lab, tunnels).await;
    let doctor = || {
        let mut command = lab.command(lab.path("bin/real-portward"));
        command
            .args(["doctor", "--socket"])
            .arg(daemon.socket())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    };
    let found = findings(&mut doctor(), 1).await;
    let keys = only(&found, "keys");
    assert_eq!((keys.level, &keys.tunnels[..]), (Level::Error, &["caller".to_owned()][..]), "{keys:?}");
    assert!(keys.what.contains("/opt/of-the-caller") && keys.what.contains("does not exist"), "{keys:?}");
    assert_eq!(only(&found, "commands").level, Level::Ok, "in the PATH of the daemon");
    let text = run(&mut doctor(), 1).await;
    assert!(
        text.starts_with(&format!("Examined: the running daemon, pid {}, as user root.", daemon.pid())),
        "{text}"
    );
    let report = daemon.get("/doctor").await;
    assert_eq!(report.status, 200, "{report:?}");
    assert!(!report.body.contains("correct-horse") && !report.body.contains("/usr/sbin:"), "{report:?}");

    // Without it the caller is examined, with the opposite result.
    let socket = daemon.socket().display().to_string();
    daemon.stop().await;
    let mut command = lab.command(lab.path("bin/real-portward"));
    command.arg("doctor").arg(lab.config_path()).args(["--socket", &socket]);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let found = findings(&mut command, 1).await;
    assert_eq!(only(&found, "keys").tunnels, ["daemon"]);
    assert_eq!(only(&found, "commands").tunnels, ["program"]);
    let mut command = lab.portward(&["doctor"]);
    let text = run(&mut command, 1).await;
    let examined = format!("Examined: this command, as user root; no daemon is running at {socket}.\n");
    assert!(text.starts_with(&examined), "{text}");
}

#[tokio::test]
async fn a_daemon_that_does_not_answer_is_an_error() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, WEB).await;
    daemon.wait_state("web", StateName::Up).await;
    let pid = daemon.pid();
    stop_signal(pid);
    let found = findings(&mut doctor(&lab, &[]), 1).await;
    kill(pid, Signal::SIGCONT);
    let silent = only(&found, "daemon");
    assert_eq!(silent.level, Level::Error);
    assert!(silent.what.contains("does not answer") && silent.fix.is_some(), "{silent:?}");
    assert_eq!(only(&found, "held_ports").level, Level::Ok, "the ssh of the daemon holds the port");
    assert_eq!(only(&findings(&mut doctor(&lab, &[]), 0).await, "daemon").level, Level::Ok);
    daemon.stop().await;
}

#[tokio::test]
async fn a_file_that_the_daemon_does_not_read_is_examined_by_the_command() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, "").await;
    let other = lab.path("other.yaml");
    fs::write(&other, "tunnels: [{name: x, command: [no-such-program], local_port: 9090}]\n").unwrap();
    let text = run(&mut doctor(&lab, &[other.to_str().unwrap()]), 1).await;
    let (pid, config) = (daemon.pid(), lab.config_path());
    let reason = format!("the running daemon, pid {pid}, reads {}", config.display());
    assert!(text.starts_with(&format!("Examined: this command, as user root; {reason}.\n")), "{text}");
    assert!(text.contains("`no-such-program` of tunnel `x`"), "{text}");
    // Another path to the same file is the file of the daemon.
    let link = lab.path("link.yaml");
    std::os::unix::fs::symlink(&config, &link).unwrap();
    let text = run(&mut doctor(&lab, &[link.to_str().unwrap()]), 0).await;
    assert!(text.starts_with(&format!("Examined: the running daemon, pid {pid},")), "{text}");
    daemon.stop().await;
}

#[tokio::test]
async fn an_examination_that_hangs_leaves_the_daemon_alone() {
    let lab = Lab::new();
    let slow = lab.path("bin/slow-ssh");
    lab.install_script("slow-ssh", "exec sleep 1000\n");
    let tunnel = format!(
        "{{name: slow, remote_host: server, remote_port: 80, local_port: '127.0.0.1:9443', ssh: {{program: {}}}}}",
        slow.display()
    );
    let daemon = Daemon::start(&lab, &format!("\n  - {tunnel}\n")).await;
    let (found, health) = tokio::join!(async { findings(&mut doctor(&lab, &[]), 1).await }, async {
        within_deadline("GET /health", daemon.get("/health")).await
    });
    assert_eq!(health.status, 200);
    assert!(only(&found, "ssh").what.contains("did not end within"), "{found:?}");
    assert_eq!(only(&found, "daemon").level, Level::Ok, "it examined itself");
    daemon.stop().await;
}

#[tokio::test]
async fn a_daemon_that_examines_itself_ends_without_delay() {
    let lab = Lab::new();
    let gate = lab.path("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = format!("[ \"$1\" = -V ] && echo > {}; exec sleep 1000\n", gate.display());
    lab.install_script("slow-ssh", &script);
    let program = lab.path("bin/slow-ssh");
    let tunnel = format!("ssh: {{program: {}}}, name: web", program.display());
    let daemon = Daemon::start(&lab, &WEB.replace("name: web", &tunnel)).await;
    let socket = daemon.socket().to_owned();
    let mut examining = doctor(&lab, &[]).stdout(Stdio::null()).spawn().unwrap();
    let opened = tokio::task::spawn_blocking(move || fs::read(gate));
    within_deadline("the examination", opened).await.unwrap().unwrap();
    let began = Instant::now();
    daemon.stop().await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    within_deadline("portward doctor", examining.wait()).await.unwrap();
    assert!(!socket.exists());
}
