//! How ssh's end is classified, and the next step that a person is told: with the real ssh and the real sshd.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use integration_tests::{Daemon, Lab, LogLine, ORIGIN_PORT, Sshd, fetch, serve_page};
use portward::protocol::{FailureKind, StateName, TunnelStatus};
use tokio::net::UnixListener;

const PORT: u16 = 9443;

/// A tunnel `web` with these settings for ssh, in YAML's flow style.
fn web(destination: &str, ssh: &str) -> String {
    format!(
        "
  - name: web
    remote_host: {destination}
    remote_port: 127.0.0.1:8000
    local_port: {PORT}
    ssh: {{{ssh}}}
"
    )
}

/// The message of the latest failure of this class of the tunnel `web`.
async fn failure(daemon: &Daemon<'_>, mark: usize, kind: FailureKind) -> String {
    daemon.wait_failure(mark, "web", kind).await.last_error.unwrap().message
}

/// The commands that a message shows, each between two backticks.
fn commands(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

/// Runs a line as a person pastes it. Nobody is here to say yes to ssh.
async fn paste(lab: &Lab, line: &str) {
    let line = line.replace("StrictHostKeyChecking=ask", "StrictHostKeyChecking=accept-new");
    let output = lab.command("sh").args(["-c", &line]).output().await.unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
}

fn never_failed(daemon: &Daemon<'_>, name: &str) {
    let failed = |status: &TunnelStatus| status.state == StateName::Failed;
    assert!(!daemon.statuses(0, name).iter().any(failed), "{}", daemon.report());
}

#[tokio::test]
async fn whatever_the_banner_says_a_killed_session_is_a_lost_connection() {
    let lab = Lab::new();
    let banner = lab.path("banner");
    fs::write(&banner, "").unwrap();
    let sshd = Sshd::start_with(&lab, &format!("Banner {}\n", banner.display())).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &web("server", "")).await;
    let mut before = daemon.wait_state("web", StateName::Up).await;
    for text in [
        "Enter keyword help for assistance.\n",
        "/etc/ssh/x: terminating, 1 bad configuration options\r\n",
        "command-line: line 0: Bad configuration option: foo\n",
        "user@db: Permission denied (publickey).\n",
        "Host key verification failed.\nkex_exchange_identification: Connection closed by remote host\n",
        "usage: ssh [-46]\n           [-b address]\n",
    ] {
        fs::write(&banner, text).unwrap();
        // The first end makes a connection that has shown this banner, the second one ends that.
        let first = text.lines().next().unwrap();
        let log_mark = daemon.log().mark();
        for _ in 0..2 {
            let mark = daemon.mark();
            sshd.kill_sessions();
            let message = failure(&daemon, mark, FailureKind::Network).await;
            assert!(!message.contains(first.trim_end_matches('.')), "the banner is forgotten: {message}");
            let anew = |status: &TunnelStatus| status.state == StateName::Up && status.pid != before.pid;
            before = daemon.wait_status(mark, "web", "up anew", anew).await;
            let is_banner = |line: &LogLine| line.has("event", "output") && line.has("message", first);
            daemon.wait_log(log_mark, "of the banner", is_banner).await;
        }
    }
    never_failed(&daemon, "web");
    let kinds = daemon.statuses(0, "web").into_iter().filter_map(|status| status.last_error);
    assert!(kinds.map(|error| error.kind).all(|kind| kind == FailureKind::Network), "{}", daemon.report());
    fetch(PORT).await.expect("the tunnel carries data");
}

#[tokio::test]
async fn whatever_the_banner_says_a_refused_login_is_auth() {
    let lab = Lab::new();
    let banner = lab.path("banner");
    fs::write(
        &banner,
        "/etc/ssh/x: terminating, 1 bad configuration options\nCan't open user config file /x: No such file or directory\n",
    )
    .unwrap();
    let _sshd = Sshd::start_with(&lab, &format!("Banner {}\n", banner.display())).await;
    let daemon = Daemon::start(&lab, &web("wrong-key", "")).await;
    let message = failure(&daemon, 0, FailureKind::Auth).await;
    assert!(message.contains("Permission denied (publickey)"), "{message}");
    lab.accept_other_key();
    daemon.wait_state("web", StateName::Up).await;
    never_failed(&daemon, "web");
}

#[tokio::test]
async fn a_server_that_ends_the_login_after_a_hostile_banner_is_tried_again() {
    let lab = Lab::new();
    let banner = lab.path("banner");
    fs::write(&banner, "command-line line 0: invalid quotes\n").unwrap();
    let _sshd = Sshd::start_with(&lab, &format!("Banner {}\nMaxAuthTries 1\n", banner.display())).await;
    let daemon = Daemon::start(&lab, &web("wrong-key", "")).await;
    let message = failure(&daemon, 0, FailureKind::Auth).await;
    assert!(message.contains("Too many authentication failures"), "{message}");
    assert!(message.contains("IdentitiesOnly"), "{message}");
    lab.accept_other_key();
    daemon.wait_state("web", StateName::Up).await;
    never_failed(&daemon, "web");
}

#[tokio::test]
async fn a_proxy_command_that_is_missing_is_named_and_found_when_it_is_installed() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &web("server", "options: {ProxyCommand: corkscrew %h %p}")).await;
    let message = failure(&daemon, 0, FailureKind::Network).await;
    assert!(message.contains("corkscrew: not found"), "{message}");
    assert!(message.contains("install the program"), "{message}");
    let config = lab.path("ssh_config").display().to_string();
    lab.install_script("corkscrew", &format!("exec /usr/bin/ssh -F {config} -W \"$1:$2\" server\n"));
    daemon.wait_state("web", StateName::Up).await;
    fetch(PORT).await.expect("the tunnel carries data");
    never_failed(&daemon, "web");
}

#[tokio::test]
async fn what_a_proxy_command_says_is_quoted() {
    let lab = Lab::new();
    for (script, kind, quoted) in [
        (
            "echo An error occurred: the security token is expired >&2; exit 1",
            FailureKind::Network,
            "token is expired",
        ),
        (
            "echo nc: connect to db failed: Connection refused >&2; exit 1",
            FailureKind::Refused,
            "nc: connect to db",
        ),
        (
            "echo visit this: >&2; echo https://login.example/x >&2; echo or not >&2; exec sleep 60",
            FailureKind::Network,
            "https://login.example/x; log in there as user root",
        ),
        ("exit 0", FailureKind::Network, "ended before an ssh server said who it is"),
    ] {
        lab.install_script("carrier", script);
        let ssh = "connect_timeout: 1s, options: {ProxyCommand: carrier}";
        let daemon = Daemon::start(&lab, &web("server", ssh)).await;
        let message = failure(&daemon, 0, kind).await;
        assert!(message.contains(quoted), "{quoted} in {message}");
        never_failed(&daemon, "web");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn the_jump_host_that_refuses_the_login_is_named() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, &web("server", "options: {ProxyJump: wrong-key}")).await;
    let message = failure(&daemon, 0, FailureKind::Auth).await;
    assert!(message.contains("jump host says: root@127.0.0.1: Permission denied (publickey)"), "{message}");
}

#[tokio::test]
async fn the_lines_for_a_changed_host_key_remove_the_old_one_and_accept_the_new_one() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    // Under a name with a port, in a file with a blank in its name.
    let known_hosts = lab.path("known hosts");
    let other = fs::read_to_string(lab.path("other_key.pub")).unwrap();
    fs::write(&known_hosts, format!("[127.0.0.1]:2222 {other}")).unwrap();
    let config = lab.path("own config");
    fs::write(
        &config,
        format!(
            "Host away\n  HostName 127.0.0.1\n  User root\n  IdentityFile {}\n  IdentitiesOnly yes\n  UserKnownHostsFile \"{}\"\n  \
             GlobalKnownHostsFile /dev/null\n",
            lab.path("client_key").display(),
            known_hosts.display()
        ),
    )
    .unwrap();
    let ssh = format!("config_file: '{}', options: {{Port: 2222}}", config.display());
    let daemon = Daemon::start(&lab, &web("away", &ssh)).await;
    let message = failure(&daemon, 0, FailureKind::HostKey).await;
    let commands = commands(&message);
    let [remove, accept] = commands[..] else { panic!("two commands in {message}") };
    assert!(remove.starts_with("ssh-keygen -f '") && remove.ends_with(" -R '[127.0.0.1]:2222'"), "{remove}");
    let fingerprint = lab.command("ssh-keygen").args(["-lf", "host_key.pub"]).output().await.unwrap();
    let fingerprint = String::from_utf8(fingerprint.stdout).unwrap();
    assert!(message.contains(fingerprint.split(' ').nth(1).unwrap()), "{fingerprint} in {message}");
    assert!(message.find("administrator") < message.find(remove), "first compare: {message}");

    paste(&lab, remove).await;
    assert_eq!(fs::read_to_string(&known_hosts).unwrap(), "");
    paste(&lab, accept).await;
    daemon.wait_state("web", StateName::Up).await;
    fetch(PORT).await.expect("the tunnel carries data");
}

#[tokio::test]
async fn the_line_for_an_unknown_host_key_reaches_the_same_server() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let known_hosts = lab.path("known_hosts_of_its_own");
    // Only with the tunnel's own options does anybody get to this server: the port, the key and the known hosts.
    let ssh = format!(
        "config_file: none, identity_file: '{}', options: {{Port: 2222, UserKnownHostsFile: '{}', HostKeyAlias: the-server, \
         StrictHostKeyChecking: 'yes', GlobalKnownHostsFile: /dev/null}}",
        lab.path("client_key").display(),
        known_hosts.display()
    );
    let daemon = Daemon::start(&lab, &web("root@127.0.0.1", &ssh)).await;
    let message = failure(&daemon, 0, FailureKind::HostKey).await;
    assert!(message.contains("host key is known for the-server"), "{message}");
    let [accept] = commands(&message)[..] else { panic!("one command in {message}") };
    paste(&lab, accept).await;
    assert!(fs::read_to_string(&known_hosts).unwrap().contains("ssh-ed25519"));
    daemon.wait_state("web", StateName::Up).await;
    fetch(PORT).await.expect("the tunnel carries data");
}

#[tokio::test]
async fn nobody_is_told_to_accept_a_revoked_host_key() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let key = fs::read_to_string(lab.path("host_key.pub")).unwrap();
    fs::write(lab.path("known_hosts"), format!("@revoked * {key}")).unwrap();
    let daemon = Daemon::start(&lab, &web("server", "")).await;
    let message = failure(&daemon, 0, FailureKind::HostKey).await;
    assert!(message.contains("was revoked") && message.contains("do not accept"), "{message}");
    assert_eq!(commands(&message), Vec::<&str>::new());
    lab.trust_server("known_hosts");
    daemon.wait_state("web", StateName::Up).await;
}

#[tokio::test]
async fn a_server_that_wants_to_be_typed_to_is_no_matter_of_passphrases() {
    let lab = Lab::new();
    let _sshd = Sshd::start_with(
        &lab,
        "UsePAM yes\nKbdInteractiveAuthentication yes\nAuthenticationMethods publickey,keyboard-interactive\n",
    )
    .await;
    let daemon = Daemon::start(&lab, &web("server", "")).await;
    let message = failure(&daemon, 0, FailureKind::Auth).await;
    assert!(message.contains("Permission denied (keyboard-interactive)"), "{message}");
    assert!(message.contains("interactive: true") && !message.contains("passphrase"), "{message}");
}

#[tokio::test]
async fn an_agent_that_never_answers_is_what_is_told_of() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let path = lab.path("agent");
    let agent = UnixListener::bind(&path).unwrap();
    let hang = tokio::spawn(async move {
        let mut clients = Vec::new();
        while let Ok((client, _)) = agent.accept().await {
            clients.push(client);
        }
    });
    let ssh = format!("connect_timeout: 1s, options: {{IdentityAgent: '{}'}}", path.display());
    let daemon = Daemon::start(&lab, &web("server", &ssh)).await;
    let message = failure(&daemon, 0, FailureKind::Timeout).await;
    assert!(message.contains("asks an agent") && !message.contains("server answers"), "{message}");
    // Without it, ssh takes its key from the file.
    hang.abort();
    daemon.wait_state("web", StateName::Up).await;
}

#[tokio::test]
async fn an_ssh_that_says_nothing_is_to_be_made_to_speak() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, &web("wrong-key", "options: {LogLevel: QUIET}")).await;
    let message = failure(&daemon, 0, FailureKind::Exited).await;
    assert!(message.contains("LogLevel: INFO"), "{message}");
    lab.accept_other_key();
    daemon.wait_state("web", StateName::Up).await;
    never_failed(&daemon, "web");
}

#[tokio::test]
async fn a_wrapper_that_does_not_do_as_ssh_does_is_found_out() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let config = lab.path("ssh_config").display().to_string();
    for (script, kind, told) in [
        ("/usr/bin/ssh \"$@\"\n", FailureKind::Config, "answers on the control socket"),
        ("echo the vault is sealed >&2\nexit 7\n", FailureKind::Exited, "status 7: the vault is sealed"),
        ("exit 0\n", FailureKind::Config, "ended with success"),
        (&format!("exec /usr/bin/ssh -F {config} -N server\n"), FailureKind::Config, "has not the arguments"),
        ("sleep 60\n", FailureKind::Config, "is not ssh but"),
        (
            "exec setpriv --reuid 4242 --clear-groups /usr/bin/ssh \"$@\"\n",
            FailureKind::Config,
            "/etc/passwd",
        ),
    ] {
        lab.install_script("wrapped", script);
        let daemon = Daemon::start(&lab, &web("server", "program: wrapped, connect_timeout: 1s")).await;
        let message = failure(&daemon, 0, kind).await;
        assert!(message.contains(told), "{told} in {message}");
        lab.install_script("wrapped", "exec /usr/bin/ssh \"$@\"\n");
        daemon.wait_state("web", StateName::Up).await;
        never_failed(&daemon, "web");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn only_what_an_edit_alone_can_cure_is_failed() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    fs::write(lab.path("bad_config"), "Host *\n  Compression maybe\n").unwrap();
    fs::write(lab.path("open_config"), "").unwrap();
    fs::set_permissions(lab.path("open_config"), fs::Permissions::from_mode(0o666)).unwrap();
    let tunnels = [
        ("cipher", "options: {Ciphers: nope}", "Bad SSH2 cipher spec"),
        ("value", "options: {StrictHostKeyChecking: perhaps}", "unsupported option"),
        ("port", "options: {Port: abc}", "Bad port"),
        ("quotes", "options: {User: '\"root'}", "invalid quotes"),
        ("garbage", "options: {Port: 22 33}", "extra arguments"),
        ("unknown", "options: {NoSuchOption: 1}", "Bad configuration option"),
        (
            "file",
            &format!("config_file: {}", lab.path("bad_config").display()),
            "bad_config line 2: unsupported option",
        ),
        ("missing", "config_file: /nonexistent/config", "Can't open user config file"),
    ];
    let text = tunnels.iter().enumerate().map(|(index, (name, ssh, _))| {
        web("server", ssh).replace("web", name).replace(&PORT.to_string(), &(9500 + index).to_string())
    });
    let negotiation = web("server", "options: {HostKeyAlgorithms: ssh-rsa}");
    let daemon = Daemon::start(&lab, &(text.collect::<String>() + &negotiation)).await;
    for (name, _, said) in tunnels {
        let status = daemon.wait_failure(0, name, FailureKind::Config).await;
        assert_eq!(status.state, StateName::Failed, "{name}");
        let message = status.last_error.unwrap().message;
        assert!(message.contains(said), "{name}: {said} in {message}");
    }
    // The server may be upgraded.
    let message = failure(&daemon, 0, FailureKind::Config).await;
    assert!(message.contains("HostKeyAlgorithms: +ssh-ed25519"), "{message}");
    never_failed(&daemon, "web");
    let failed = lab.ssh_starts().iter().filter(|line| !line.contains("HostKeyAlgorithms")).count();
    assert_eq!(failed, tunnels.len(), "each was started once");
}

#[tokio::test]
async fn a_broken_key_file_is_named_and_the_right_one_is_taken() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let key = lab.path("key");
    fs::write(&key, "garbage").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let daemon = Daemon::start(&lab, &web("wrong-key", &format!("identity_file: {}", key.display()))).await;
    let message = failure(&daemon, 0, FailureKind::Auth).await;
    assert!(message.contains(&format!("Load key \"{}\": ", key.display())), "{message}");
    fs::copy(lab.path("client_key"), &key).unwrap();
    daemon.wait_state("web", StateName::Up).await;
}

#[tokio::test]
async fn an_identity_file_that_is_missing_is_a_warning_of_check_and_an_error_of_doctor() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let key = lab.path("later");
    lab.write_config(&web("server", &format!("identity_file: {}", key.display())));
    let portward = async |subcommand: &str| {
        let mut command = lab.command(lab.path("bin/portward"));
        command.arg(subcommand).arg(lab.config_path()).args(["--socket", "none"]).env("NO_COLOR", "1");
        let output = command.output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text)
    };
    let warned = format!("warning: tunnel `web`: identity_file {} does not exist", key.display());
    let (code, text) = portward("check").await;
    assert!(code == Some(0) && text.contains("is valid") && text.contains(&warned), "{text}");
    let (code, text) = portward("doctor").await;
    let error = format!("the key {} of tunnel `web` does not exist", key.display());
    assert!(
        code == Some(1) && text.contains(&error) && text.contains("identity_file names this one"),
        "{text}"
    );

    fs::copy(lab.path("client_key"), &key).unwrap();
    let (code, text) = portward("check").await;
    assert!(code == Some(0) && !text.contains("warning"), "{text}");
    let (_, text) = portward("doctor").await;
    assert!(!text.contains("does not exist"), "{text}");
}
