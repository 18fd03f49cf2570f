//! `portward doctor`: each cause is made for real and found, and the line that is to mend it is run.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use integration_tests::{Daemon, Lab, NOBODY, Squat, Squatter, Sshd, process_end, run, within_deadline};
use portward::doctor::{Check, Finding, Level};
use portward::protocol::StateName;
use tokio::process::Command;

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

/// The one finding of a check.
fn only(findings: &[Finding], check: Check) -> Finding {
    let mut of_check = findings.iter().filter(|finding| finding.check == check);
    let finding = of_check.next().unwrap_or_else(|| panic!("{check} in {findings:#?}")).clone();
    assert_eq!(of_check.next(), None, "{check} is told once");
    finding
}

/// Runs the first line of what is to mend a finding.
async fn mend(lab: &Lab, finding: &Finding) {
    let line = finding.mend.as_ref().expect("a line").lines().next().unwrap();
    // Tests run as root, and sudo may not be here.
    let line = line.strip_prefix("sudo ").unwrap_or(line);
    let mut shell = lab.command("/bin/sh");
    let ran = within_deadline("the line", shell.args(["-c", line]).output()).await.unwrap();
    assert!(ran.status.success(), "{line}: {ran:?}");
}

/// Examines, expects an error of `check`, mends it by its own line and expects that nothing is left of it.
async fn mended(lab: &Lab, check: Check) -> Finding {
    let error = only(&findings(&mut doctor(lab, &[]), 1).await, check);
    assert_eq!(error.level, Level::Error, "{error:?}");
    mend(lab, &error).await;
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
    for check in Check::ALL {
        assert!(before.iter().any(|finding| finding.check == check), "{check} in {before:#?}");
    }
    assert!(before.iter().all(|finding| finding.level != Level::Error), "{before:#?}");
    let fine = [Check::SockDiag, Check::DestroyEvents, Check::Ssh, Check::Keys, Check::HostKeys];
    for check in fine.into_iter().chain([Check::Multiplexing, Check::EphemeralPorts, Check::HeldPorts]) {
        let Finding { level, why, mend, .. } = only(&before, check);
        assert_eq!((level, why, mend), (Level::Ok, None, None), "{check}");
    }
    assert_eq!(lab.sockets(), [] as [std::path::PathBuf; 0], "nothing is left behind");

    let daemon = Daemon::start(&lab, WEB).await;
    daemon.wait_state("web", StateName::Up).await;
    let ssh = daemon.tunnel_pid("web").await;
    let text = run(&mut doctor(&lab, &[]), 0).await;
    assert!(text.starts_with(&format!("Judged: the daemon (pid {}, user root).", daemon.pid())), "{text}");
    assert!(text.contains("ok       held_ports"), "what its own ssh holds is the daemon's: {text}");
    assert!(text.ends_with("nothing found that would make a tunnel fail.\n"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colour where there is no terminal");
    assert_eq!(daemon.tunnel_pid("web").await, ssh, "nothing is disturbed");
    daemon.stop().await;
}

#[tokio::test]
async fn who_holds_the_port_is_named_and_the_line_ends_it() {
    let lab = Lab::new();
    lab.write_config(WEB);
    let squatter = Squatter::listen(&lab, "127.0.0.1", PORT).await;
    let pid = squatter.pid();
    let text = run(&mut doctor(&lab, &[]), 1).await;
    for words in ["tunnel `web`", &format!("pid {pid} (/usr/bin/python3"), "why ", "1 error"] {
        assert!(text.contains(words), "{words} in {text}");
    }
    let held = only(&findings(&mut doctor(&lab, &[]), 1).await, Check::HeldPorts);
    assert_eq!((&held.tunnels[..], &held.ports[..]), (&["web".to_owned()][..], &[PORT][..]));
    // Where systemd runs the tests, the squatter is in a unit of its own making; elsewhere its pid is all there is.
    if held.mend.as_ref().unwrap().starts_with("kill ") {
        mend(&lab, &held).await;
        process_end(pid).await;
    } else {
        squatter.leave().await;
    }
    assert_eq!(only(&findings(&mut doctor(&lab, &[]), 0).await, Check::HeldPorts).level, Level::Ok);
}

#[tokio::test]
async fn a_key_that_others_may_read_is_found_and_mended() {
    let lab = Lab::new();
    lab.write_config(WEB);
    let key = lab.path("client_key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let error = mended(&lab, Check::Keys).await;
    assert_eq!(error.mend.unwrap(), format!("chmod 600 {}", key.display()));
    assert!(error.what.contains("mode 0644"), "{}", error.what);

    fs::remove_file(&key).unwrap();
    fs::remove_file(lab.path("client_key.pub")).unwrap();
    let missing = only(&findings(&mut doctor(&lab, &[]), 1).await, Check::Keys);
    assert!(missing.what.contains("is not there"), "{}", missing.what);
}

#[tokio::test]
async fn a_key_with_a_passphrase_is_found_and_mended() {
    let lab = Lab::new();
    lab.write_config(WEB);
    let locked = lab
        .command("ssh-keygen")
        .args(["-q", "-p", "-P", "", "-N", "correct horse", "-f", "client_key"])
        .output();
    let locked = locked.await.unwrap();
    assert!(locked.status.success(), "{locked:?}");
    let mut error = only(&findings(&mut doctor(&lab, &[]), 1).await, Check::Keys);
    assert!(error.what.contains("needs a passphrase"), "{}", error.what);
    // Only its owner knows the old one.
    error.mend = error.mend.map(|line| line.replace(" -p ", " -p -P 'correct horse' "));
    mend(&lab, &error).await;
    assert_eq!(only(&findings(&mut doctor(&lab, &[]), 0).await, Check::Keys).level, Level::Ok);
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
    assert!(only(&told, Check::Ssh).what.starts_with("no ssh was asked"));
    mend(&lab, &only(&told, Check::Directories)).await;
    assert!(only(&findings(&mut doctor(&lab, &[]), 1).await, Check::Ssh).what.contains("is not OpenSSH"));
    assert!(ran.exists());
}

#[tokio::test]
async fn an_unknown_host_key_is_found_and_accepted_by_the_line() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    lab.write_config(&WEB.replace("server", "stranger"));
    let mut error = only(&findings(&mut doctor(&lab, &[]), 1).await, Check::HostKeys);
    assert_eq!((error.level, &error.tunnels[..]), (Level::Error, &["web".to_owned()][..]));
    // Nobody is here to say yes.
    error.mend = error.mend.map(|line| line.replace("Checking=ask", "Checking=accept-new"));
    mend(&lab, &error).await;
    assert_eq!(only(&findings(&mut doctor(&lab, &[]), 0).await, Check::HostKeys).level, Level::Ok);
}

#[tokio::test]
async fn a_program_that_is_not_openssh_is_an_error() {
    let lab = Lab::new();
    let with = |program: &str| WEB.replace("name: web", &format!("name: web, ssh: {{program: {program}}}"));
    for (program, said) in [("/bin/echo", "is not OpenSSH"), ("/nonexistent/ssh", "/nonexistent/ssh")] {
        lab.write_config(&with(program));
        let error = only(&findings(&mut doctor(&lab, &[]), 1).await, Check::Ssh);
        assert_eq!((error.level, &error.tunnels[..]), (Level::Error, &["web".to_owned()][..]));
        assert!(error.what.contains(said), "{}", error.what);
    }
    lab.write_config("\n  - {name: metrics, command: [no-such-program], local_port: 9090}\n");
    let error = only(&findings(&mut doctor(&lab, &[]), 1).await, Check::Commands);
    assert!(error.what.contains("`no-such-program` of tunnel `metrics`"), "{}", error.what);
}

#[tokio::test]
async fn what_ssh_says_of_its_options_is_told() {
    let lab = Lab::new();
    lab.write_config(&WEB.replace("name: web", "name: web, ssh: {options: {NoSuchOption: x}}"));
    let error = only(&findings(&mut doctor(&lab, &[]), 1).await, Check::Keys);
    assert!(error.what.to_lowercase().contains("nosuchoption"), "{}", error.what);
}

#[tokio::test]
async fn an_invalid_configuration_is_an_error_and_the_machine_is_examined_all_the_same() {
    let lab = Lab::new();
    fs::write(lab.config_path(), "tunels: []\n").unwrap();
    let told = findings(&mut doctor(&lab, &[]), 1).await;
    let error = only(&told, Check::Configuration);
    assert!(error.what.contains("tunels"), "{}", error.what);
    assert_eq!(error.mend.unwrap(), format!("portward check {}", lab.config_path().display()));
    assert_eq!(only(&told, Check::DestroyEvents).level, Level::Ok);

    let missing = lab.path("missing.yaml");
    let told = findings(&mut doctor(&lab, &[missing.to_str().unwrap()]), 1).await;
    assert!(only(&told, Check::Configuration).what.contains("missing.yaml"), "the file given comes first");
}

#[tokio::test]
async fn a_port_in_the_ephemeral_range_is_reserved_by_the_line() {
    let lab = Lab::new();
    lab.write_config(&WEB.replace("9443", "40000"));
    // The network namespace is the lab's, and so is this.
    fs::write(RESERVED, "50000-50010").unwrap();
    let warning = only(&findings(&mut doctor(&lab, &[]), 0).await, Check::EphemeralPorts);
    assert_eq!((warning.level, &warning.ports[..]), (Level::Warning, &[40000][..]));
    mend(&lab, &warning).await;
    assert_eq!(only(&findings(&mut doctor(&lab, &[]), 0).await, Check::EphemeralPorts).level, Level::Ok);
    let reserved = fs::read_to_string(RESERVED).unwrap();
    assert_eq!(reserved.trim(), "40000,50000-50010", "what was reserved stays reserved");
}

#[tokio::test]
async fn time_wait_is_a_warning_that_says_how_long() {
    let lab = Lab::new();
    lab.write_config(WEB);
    let _held = Squat::time_wait(PORT);
    let told = findings(&mut doctor(&lab, &[]), 0).await;
    let warning = only(&told, Check::TimeWait);
    assert_eq!((warning.level, &warning.ports[..]), (Level::Warning, &[PORT][..]));
    assert!(warning.what.contains(" of tunnel `web` is in TIME_WAIT"), "{}", warning.what);
    assert!(warning.mend.unwrap().starts_with(&format!("portward wait {PORT}\n")));
    assert_eq!(only(&told, Check::HeldPorts).level, Level::Ok);
}

#[tokio::test]
async fn a_socket_with_a_name_too_long_has_no_place() {
    let lab = Lab::new();
    lab.write_config(WEB);
    let socket = format!("/tmp/{}/portward.sock", "x".repeat(80));
    let error = only(&findings(&mut doctor(&lab, &["--socket", &socket]), 1).await, Check::Multiplexing);
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
    let error = only(&told, Check::PrivilegedPorts);
    assert_eq!((error.level, &error.ports[..]), (Level::Error, &[80][..]));
    assert_eq!(error.mend.as_deref(), Some("sudo sysctl -w net.ipv4.ip_unprivileged_port_start=80"));
    let privileges = only(&told, Check::Privileges);
    assert_eq!((privileges.level, &privileges.tunnels[..]), (Level::Warning, &["web".to_owned()][..]));
    for check in [Check::SockDiag, Check::DestroyEvents, Check::Multiplexing, Check::Directories] {
        let fine = told.iter().filter(|finding| finding.check == check);
        assert!(fine.clone().all(|finding| finding.level == Level::Ok), "{:?}", fine.collect::<Vec<_>>());
    }
    mend(&lab, &error).await;
    assert_eq!(only(&findings(&mut as_nobody(&config), 0).await, Check::PrivilegedPorts).level, Level::Ok);

    let _squatter = Squatter::listen(&lab, "127.0.0.1", 80).await;
    let held = only(&findings(&mut as_nobody(&config), 1).await, Check::HeldPorts);
    assert!(held.what.contains("of user root"), "{}", held.what);
    assert!(held.mend.unwrap().starts_with("sudo portward who 80"), "its pid is hidden");
}

#[tokio::test]
async fn wrong_usage_exits_2() {
    let lab = Lab::new();
    run(&mut doctor(&lab, &["--no-such-option"]), 2).await;
    run(&mut doctor(&lab, &["a.yaml", "b.yaml"]), 2).await;
}
