//! The user's own ssh_config: what in it would defeat a tunnel is overridden, what is legitimate is followed, and nothing of
//! portward's stays behind.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use integration_tests::{Daemon, Lab, ORIGIN_PORT, SSHD_PORT, Squatter, Sshd, fetch, listens_on, serve_page};
use portward::config::{self, desired::Work};
use portward::protocol::{FailureKind, StateName};

const PORT: u16 = 9443;

/// Puts Host blocks before those of the lab: ssh takes the first value that it finds.
fn add_hosts(lab: &Lab, blocks: &str) {
    let path = lab.path("ssh_config");
    let rest = fs::read_to_string(&path).unwrap();
    fs::write(path, format!("{blocks}\n{rest}")).unwrap();
}

fn web(destination: &str, local_port: &str) -> String {
    format!(
        "
  - {{name: web, remote_host: '{destination}', remote_port: 127.0.0.1:8000, local_port: '{local_port}'}}
"
    )
}

/// The lines `starting` that the daemon has logged.
fn starting(daemon: &Daemon<'_>) -> usize {
    daemon.log().all().iter().filter(|line| line.has("event", "starting")).count()
}

/// Starts, restarts and stops the tunnel `web`: two ssh are started, and none is left.
async fn start_restart_stop(lab: &Lab, destination: &str) {
    let daemon = Daemon::start(lab, &web(destination, "9443")).await;
    daemon.wait_state("web", StateName::Up).await;
    fetch(PORT).await.unwrap_or_else(|error| panic!("{destination}: {error}\n{}", daemon.report()));
    assert_eq!(daemon.post("/restart/web?timeout=20s").await.status, 200, "{}", daemon.report());
    fetch(PORT).await.unwrap_or_else(|error| panic!("{destination}: {error}\n{}", daemon.report()));
    assert_eq!(daemon.post("/stop/web?timeout=20s").await.status, 200, "{}", daemon.report());
    assert_eq!((lab.ssh_starts().len(), starting(&daemon)), (2, 2), "{}", daemon.report());
    let left: Vec<String> = lab
        .daemon_processes()
        .iter()
        .filter(|process| process.pid != daemon.pid())
        .map(ToString::to_string)
        .collect();
    assert_eq!(left, Vec::<String>::new(), "{destination}");
}

#[tokio::test]
async fn fork_after_authentication_leaves_no_ssh_behind() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    add_hosts(&lab, "Host forks\n  ForkAfterAuthentication yes\n");
    start_restart_stop(&lab, "forks").await;
}

#[tokio::test]
async fn whatever_else_a_host_block_says_the_tunnel_is_up_and_leaves_nothing() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let ran = lab.path("local-command-ran");
    let blocks = [
        "ForkAfterAuthentication yes\n StdinNull yes".to_owned(),
        "RemoteCommand sleep 1000".to_owned(),
        "SessionType subsystem\n RequestTTY force".to_owned(),
        "Tunnel yes".to_owned(),
        format!("ControlMaster auto\n ControlPersist 10m\n ControlPath {}", lab.path("c-%C").display()),
        "ControlMaster no\n ControlPath none".to_owned(),
        format!("PermitLocalCommand yes\n LocalCommand touch {}", ran.display()),
        "ExitOnForwardFailure yes\n LocalForward 9443 127.0.0.1:1\n RemoteForward 9443 127.0.0.1:1\n DynamicForward 9444"
            .to_owned(),
        "LogLevel QUIET\n UpdateHostKeys ask\n BatchMode no".to_owned(),
        "ForwardAgent yes\n ForwardX11 yes\n AddKeysToAgent ask".to_owned(),
        format!("ProxyUseFdpass no\n ProxyCommand socat - TCP:127.0.0.1:{SSHD_PORT}"),
        "GatewayPorts yes\n StreamLocalBindMask 0000\n EscapeChar none".to_owned(),
        "CanonicalizeHostname yes\n CanonicalDomains example.invalid".to_owned(),
    ];
    let (mut hosts, mut tunnels) = (String::new(), String::from("\n"));
    for (index, block) in blocks.iter().enumerate() {
        writeln!(hosts, "Host h{index}\n {block}").unwrap();
        let port = 9500 + index;
        writeln!(
            tunnels,
            "  - {{name: t{index}, remote_host: h{index}, remote_port: 127.0.0.1:8000, local_port: {port}}}"
        )
        .unwrap();
    }
    add_hosts(&lab, &hosts);
    let daemon = Daemon::start(&lab, &tunnels).await;
    for (index, block) in blocks.iter().enumerate() {
        let status = daemon.wait_state(&format!("t{index}"), StateName::Up).await;
        let port = 9500 + u16::try_from(index).unwrap();
        assert_eq!(listens_on(&status), [format!("127.0.0.1:{port}"), format!("[::1]:{port}")], "{block}");
        fetch(port).await.unwrap_or_else(|error| panic!("{block}: {error}\n{}", daemon.report()));
    }
    assert_eq!((lab.ssh_starts().len(), starting(&daemon)), (blocks.len(), blocks.len()));
    assert!(!ran.exists(), "LocalCommand ran");
    daemon.stop().await;
    // The lab looks for processes that are left.
    let masters = fs::read_dir(lab.path("")).unwrap().filter_map(Result::ok);
    let masters: Vec<_> =
        masters.filter(|entry| entry.file_name().to_string_lossy().starts_with("c-")).collect();
    assert!(masters.is_empty(), "{masters:?}");
}

#[tokio::test]
async fn an_ssh_that_cannot_be_asked_is_started_as_it_is() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let starts = lab.path("ssh_starts");
    // OpenSSH before 8.7: it knows no ForkAfterAuthentication, and says so.
    let old = format!(
        "case \"$*\" in *ForkAfter*) echo 'command-line: line 0: Bad configuration option' >&2; exit 255;; esac\n\
         if [ \"$1\" = -G ]; then /usr/bin/ssh \"$@\" | grep -v forkafter; exit; fi\n\
         echo \"$$ $*\" >> {starts}\nexec /usr/bin/ssh \"$@\"\n",
        starts = starts.display()
    );
    let silent = format!(
        "[ \"$1\" = -G ] && exit 1\necho \"$$ $*\" >> {}\nexec /usr/bin/ssh \"$@\"\n",
        starts.display()
    );
    for (name, script) in [("old-ssh", old), ("silent-ssh", silent)] {
        lab.install_script(name, &script);
    }
    let tunnels = "
  - {name: old, remote_host: server, remote_port: 127.0.0.1:8000, local_port: 9443, ssh: {program: old-ssh}}
  - {name: silent, remote_host: server, remote_port: 127.0.0.1:8000, local_port: 9444, ssh: {program: silent-ssh}}
";
    let daemon = Daemon::start(&lab, tunnels).await;
    for (name, port) in [("old", PORT), ("silent", PORT + 1)] {
        daemon.wait_state(name, StateName::Up).await;
        fetch(port).await.unwrap();
    }
    assert_eq!(lab.ssh_starts().len(), 2);
}

#[tokio::test]
async fn a_stop_while_ssh_is_asked_starts_none() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let asked = lab.path("asked");
    add_hosts(
        &lab,
        &format!("Match originalhost slow exec \"touch {}; sleep 1000\"\n  User root\n", asked.display()),
    );
    // A remote forward has no port to wait for: its ssh is asked when it is about to be started.
    let tunnels = "
  - {name: web, remote_host: slow, remote_port: 127.0.0.1:8000, local_port: 9443}
  - {name: published, remote_host: slow, direction: local_to_remote, remote_port: 9444, local_port: 8000}
";
    let daemon = Daemon::start(&lab, tunnels).await;
    daemon.wait_state("published", StateName::Connecting).await;
    daemon.wait_state("web", StateName::AwaitingPort).await;
    for name in ["web", "published"] {
        assert_eq!(
            daemon.post(&format!("/stop/{name}?timeout=20s")).await.status,
            200,
            "{}",
            daemon.report()
        );
    }
    assert_eq!((lab.ssh_starts().len(), starting(&daemon)), (0, 0), "{}", daemon.report());
}

#[tokio::test]
async fn a_bare_port_listens_on_the_address_family_that_ssh_listens_on() {
    let lab = Lab::new();
    let _sshd = Sshd::start_with(&lab, "ListenAddress ::1").await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    add_hosts(&lab, "Host four\n  AddressFamily inet\nHost six\n  AddressFamily inet6\n  HostName ::1\n");
    // Whoever holds the port of the other family is not in the way.
    let _bystander = Squatter::listen(&lab, "::1", 9443).await;
    let tunnels = "
  - {name: four, remote_host: four, remote_port: 127.0.0.1:8000, local_port: 9443}
  - {name: six, remote_host: six, remote_port: 127.0.0.1:8000, local_port: 9444}
  - {name: all, remote_host: four, remote_port: 127.0.0.1:8000, local_port: '*:9445'}
  - {name: proxy, remote_host: six, direction: dynamic, local_port: 'localhost:9446'}
  - {name: option, remote_host: server, remote_port: 127.0.0.1:8000, local_port: 9447, ssh: {options: {AddressFamily: inet}}}
  - {name: any, remote_host: four, remote_port: 127.0.0.1:8000, local_port: 9448, ssh: {options: {AddressFamily: any}}}
";
    let daemon = Daemon::start(&lab, tunnels).await;
    for (name, listeners) in [
        ("four", &["127.0.0.1:9443"][..]),
        ("six", &["[::1]:9444"]),
        ("all", &["0.0.0.0:9445"]),
        ("proxy", &["[::1]:9446"]),
        ("option", &["127.0.0.1:9447"]),
        ("any", &["127.0.0.1:9448", "[::1]:9448"]),
    ] {
        assert_eq!(listens_on(&daemon.wait_state(name, StateName::Up).await), listeners, "{name}");
    }
    fetch(PORT).await.unwrap();
    assert_eq!(lab.ssh_starts().len(), 6);
}

#[tokio::test]
async fn the_port_of_the_family_that_ssh_listens_on_is_waited_for() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    add_hosts(&lab, "Host four\n  AddressFamily inet\n");
    let squatter = Squatter::listen(&lab, "127.0.0.1", 9443).await;
    let daemon = Daemon::start(&lab, &web("four", "9443")).await;
    assert_eq!(daemon.wait_holder("web").await.pid, Some(squatter.pid()));
    assert_eq!(lab.ssh_starts().len(), 0);
    squatter.leave().await;
    assert_eq!(listens_on(&daemon.wait_state("web", StateName::Up).await), ["127.0.0.1:9443"]);
    fetch(PORT).await.unwrap();
}

#[tokio::test]
async fn an_address_of_the_other_family_is_an_error_that_names_the_option() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    add_hosts(&lab, "Host four\n  AddressFamily inet\nHost six\n  AddressFamily inet6\n");
    let tunnels = "
  - {name: four, remote_host: four, remote_port: 127.0.0.1:8000, local_port: '[::1]:9443'}
  - {name: six, remote_host: six, remote_port: 127.0.0.1:8000, local_port: '127.0.0.1:9444'}
  - {name: proxy, remote_host: six, direction: dynamic, local_port: '0.0.0.0:9445'}
";
    let daemon = Daemon::start(&lab, tunnels).await;
    for (name, option, port) in [
        ("four", "AddressFamily inet`", "[::1]:9443"),
        ("six", "AddressFamily inet6`", "127.0.0.1:9444"),
        ("proxy", "AddressFamily inet6`", "0.0.0.0:9445"),
    ] {
        let failed = daemon.wait_failure(0, name, FailureKind::Config).await;
        assert_eq!(failed.state, StateName::Failed);
        let message = failed.last_error.unwrap().message;
        assert!(message.contains(option) && message.contains(port), "{message}");
    }
    assert_eq!(lab.ssh_starts().len(), 0, "no login for a port that ssh would refuse");
}

#[tokio::test]
async fn an_edit_of_ssh_config_counts_for_the_next_ssh() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &web("edited", "9443")).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    assert_eq!(listens_on(&up), ["127.0.0.1:9443", "[::1]:9443"]);
    add_hosts(&lab, "Host edited\n  AddressFamily inet\n  ForkAfterAuthentication yes\n");
    assert_eq!(daemon.post("/restart/web?timeout=20s").await.status, 200, "{}", daemon.report());
    assert_eq!(listens_on(&daemon.status("web").await), ["127.0.0.1:9443"]);
    fetch(PORT).await.unwrap();
    // The old connection stays when the new one could not listen.
    add_hosts(&lab, "Host edited\n  NoSuchOption yes\n");
    assert_eq!(daemon.post("/restart/web?timeout=20s").await.status, 502, "{}", daemon.report());
    fetch(PORT).await.unwrap();
}

/// A jump host whose own block makes a master that persists, and a target behind it.
fn add_jumps(lab: &Lab) {
    let control = lab.path("jump-%n");
    add_hosts(
        lab,
        &format!(
            "Host behind\n  ProxyJump bastion\n\
             Host behind-two\n  ProxyJump root@outer:{SSHD_PORT},root@[::1]:{SSHD_PORT}\n\
             Host behind-nested\n  ProxyJump inner\nHost inner\n  ProxyJump bastion\n\
             Host by-command\n  ProxyCommand ssh -F {config} -W %h:%p bastion\n\
             Host by-shell\n  ProxyCommand exec ssh -F {config} -W '[%h]:%p' \"$(echo bastion)\" 2>/dev/null\n\
             Host ::1\n  HostName ::1\n\
             Host bastion outer inner ::1\n  ControlMaster auto\n  ControlPath {control}\n  ControlPersist 10m\n",
            config = lab.path("ssh_config").display(),
            control = control.display(),
        ),
    );
}

#[tokio::test]
async fn a_jump_host_that_would_become_a_master_leaves_nothing_behind() {
    let lab = Lab::new();
    let _sshd = Sshd::start_with(&lab, "ListenAddress ::1").await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    add_jumps(&lab);
    let names = ["behind", "behind-two", "behind-nested", "by-command", "by-shell"];
    let mut tunnels = String::from("\n");
    for (index, name) in names.iter().enumerate() {
        writeln!(
            tunnels,
            "  - {{name: {name}, remote_host: {name}, remote_port: 127.0.0.1:8000, local_port: {}, ssh: {{connect_timeout: 60s}}}}",
            9443 + index
        )
        .unwrap();
    }
    let daemon = Daemon::start(&lab, &tunnels).await;
    for (port, name) in (PORT..).zip(names) {
        daemon.wait_state(name, StateName::Up).await;
        fetch(port).await.unwrap_or_else(|error| panic!("{name}: {error}\n{}", daemon.report()));
        assert_eq!(
            daemon.post(&format!("/restart/{name}?timeout=20s")).await.status,
            200,
            "{}",
            daemon.report()
        );
        assert_eq!(
            daemon.post(&format!("/stop/{name}?timeout=20s")).await.status,
            200,
            "{}",
            daemon.report()
        );
    }
    assert_eq!(lab.ssh_starts().len(), 2 * names.len());
    for name in ["bastion", "outer", "inner", "::1"] {
        assert!(!lab.path(format!("jump-{name}")).exists(), "{name} has a master");
    }
    // The lab looks for processes that are left.
}

#[tokio::test]
async fn a_master_that_the_user_has_on_a_jump_host_is_used_and_stays() {
    let lab = Lab::new();
    let sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    add_jumps(&lab);
    let config = lab.path("ssh_config");
    let user =
        lab.command("/usr/bin/ssh").arg("-F").arg(&config).args(["-fN", "bastion"]).status().await.unwrap();
    assert!(user.success());
    let logins = || sshd.log().all().iter().filter(|line| line.contains("Accepted publickey")).count();
    assert_eq!(logins(), 1);
    let daemon = Daemon::start(&lab, &web("behind", "9443")).await;
    daemon.wait_state("web", StateName::Up).await;
    fetch(PORT).await.unwrap();
    assert_eq!(logins(), 2, "one login, at the end of the way");
    daemon.stop().await;
    for (request, is_wanted) in [("check", true), ("exit", true), ("check", false)] {
        let mut command = lab.command("/usr/bin/ssh");
        command.arg("-F").arg(&config).args(["-O", request, "bastion"]);
        assert_eq!(command.output().await.unwrap().status.success(), is_wanted, "{request}");
    }
}

#[tokio::test]
async fn paths_with_spaces_and_percent_signs_are_taken_as_they_are() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    add_jumps(&lab);
    for (from, to) in [("ssh_config", "100%h a config"), ("client_key", "100%h a key")] {
        fs::copy(lab.path(from), lab.path(to)).unwrap();
    }
    let ssh = format!(
        "{{config_file: '{}', identity_file: '{}'}}",
        lab.path("100%h a config").display(),
        lab.path("100%h a key").display()
    );
    lab.accept_other_key();
    fs::copy(lab.path("client_key.pub"), lab.path("authorized_keys")).unwrap();
    let tunnels = format!(
        "
  - {{name: web, remote_host: wrong-key, remote_port: 127.0.0.1:8000, local_port: 9443, ssh: {ssh}}}
  - {{name: jump, remote_host: behind, remote_port: 127.0.0.1:8000, local_port: 9444, ssh: {ssh}}}
"
    );
    lab.write_config(&tunnels);
    // Its control sockets lie beside its own socket.
    let directory = lab.path("run/100%h d");
    fs::create_dir(&directory).unwrap();
    let socket = directory.join("s");
    let mut daemon = lab
        .command(lab.path("bin/portward"))
        .args(["run", "--log", "json", "--socket"])
        .arg(&socket)
        .arg("--config")
        .arg(lab.config_path())
        .env("HOME", lab.path("home"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    for port in ["9443", "9444"] {
        let mut wait = lab.command(lab.path("bin/portward"));
        let waited = wait.args(["wait", "--bound", port, "--timeout", "20s"]).output().await.unwrap();
        assert!(waited.status.success(), "{waited:?}");
        fetch(port.parse().unwrap()).await.unwrap();
    }
    integration_tests::kill(daemon.id().unwrap(), nix::sys::signal::Signal::SIGTERM);
    assert!(daemon.wait().await.unwrap().success());
    assert_eq!(lab.sockets(), Vec::<std::path::PathBuf>::new());
}

/// What `ssh -G` says of a destination: user, host and port.
fn ssh_says(destination: &str) -> Option<[String; 3]> {
    let output = Command::new("ssh").args(["-G", "-F", "none", "--", destination]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_default().to_owned()
    };
    output.status.success().then(|| ["user", "hostname", "port"].map(value))
}

fn check_says(destination: &str) -> Option<String> {
    let quoted = serde_json::to_string(destination).unwrap();
    let text = format!("tunnels: [{{remote_host: {quoted}, remote_port: 1, local_port: 2}}]");
    let desired = config::parse(&text, Path::new("/etc/c.yaml")).ok()?;
    let Work::Ssh(tunnel) = &desired.tunnels[0].work else { panic!("an ssh tunnel") };
    Some(tunnel.ssh.destination.clone())
}

#[test]
fn check_takes_the_destinations_that_ssh_takes() {
    for (destination, user, host, port) in [
        ("CORP\\alice@host", "CORP\\alice", "host", "22"),
        ("ssh://CORP%5Calice@host:2222", "CORP\\alice", "host", "2222"),
        ("alice@example.com@host", "alice@example.com", "host", "22"),
        ("root@::1", "root", "::1", "22"),
        ("root@fe80::1%eth0", "root", "fe80::1%eth0", "22"),
        ("root@2001:db8::22", "root", "2001:db8::22", "22"),
        ("ssh://root@host:2222/", "root", "host", "2222"),
        ("DOM+alice@host", "DOM+alice", "host", "22"),
        ("first.last-x_1~@host.example.", "first.last-x_1~", "host.example.", "22"),
        ("ü@höst", "ü", "höst", "22"),
        ("u,v@host", "u,v", "host", "22"),
        ("git%h@host", "git%h", "host", "22"),
    ] {
        assert_eq!(check_says(destination).as_deref(), Some(destination), "{destination}");
        assert_eq!(ssh_says(destination).unwrap(), [user, host, port], "{destination}");
    }
}

#[test]
fn check_refuses_the_destinations_that_ssh_refuses() {
    for destination in [
        "-u@host",
        "u@-host",
        "-oProxyCommand=x",
        "@host",
        "u\\@host",
        "ho\\st",
        "u;x@host",
        "u'x@host",
        "u\"x@host",
        "u`x@host",
        "u|x@host",
        "u(x@host",
        "u{x@host",
        "u<x@host",
        "u&x@host",
        "u@h$x",
        "u@h;x",
        "u@h'x",
        "u@h x",
        "u@h,i",
        "ssh://u@host:0",
        "ssh://u@host:65536",
        "ssh://u@host:port",
        "ssh://u@host/path",
        "ssh://@host",
        "ssh://u@",
        "ssh://u@h..x",
        "ssh://u@[::1]:22",
        "ssh://[::1]",
        "ssh://u@-host",
        "ssh://u%@host",
        "ssh://u%zz@host",
        "ssh://a%22b@host",
        "ssh://u%5C@host",
    ] {
        assert_eq!(check_says(destination), None, "{destination}");
        assert_eq!(ssh_says(destination), None, "{destination}");
    }
}

#[test]
fn check_refuses_what_ssh_takes_and_then_fails_with_or_a_shell_would_see() {
    for (destination, why) in [
        ("root@[::1]", "the name [::1] does not resolve"),
        ("[::1]", "the name [::1] does not resolve"),
        ("root@[::1]:2222", "the name [::1]:2222 does not resolve"),
        ("u@host:22", "the name host:22 does not resolve"),
        ("u@", "there is no host"),
        ("u@h@", "there is no host"),
        ("", "there is no host"),
        ("SSH://u@host", "the user would be SSH://u"),
        ("a$b@host", "a shell of a ProxyCommand with %r would expand $b"),
        ("a b@host", "a shell of a ProxyCommand with %r would see two words"),
        ("ssh://a%20b@host", "a shell of a ProxyCommand with %r would see two words"),
        ("ssh://u;x@host", "ssh drops what follows the semicolon"),
        ("u@h\u{202e}x", "it is not what it looks like"),
    ] {
        assert_eq!(check_says(destination), None, "{destination}: {why}");
        assert!(
            ssh_says(destination).is_some(),
            "{destination}: ssh refuses it by now; move it to the list above"
        );
    }
}
