//! Variants of sshd_config, and servers that are no sshd.

use portward::protocol::FailureKind::{Auth, Network, RemotePortHeld, Timeout};

use crate::row::Pace::{Connected, Prompt, Slow};
use crate::row::{Row, Server, row, server};

/// A port on which nobody listens.
const CLOSED_PORT: u16 = 8001;

pub(crate) fn rows() -> Vec<Row> {
    [harmless(), forbidding(), remote(), refusing(), strange()].concat()
}

/// What a tunnel does not need.
fn harmless() -> Vec<Row> {
    vec![
        server("banner", "Banner {lab}/banner"),
        server("force-command", "ForceCommand /bin/false"),
        server("max-sessions-0", "MaxSessions 0"),
        server("max-sessions-1", "MaxSessions 1"),
        server("permit-tty-no", "PermitTTY no\nX11Forwarding no\nAllowAgentForwarding no"),
        server("client-alive-interval-1", "ClientAliveInterval 1\nClientAliveCountMax 2"),
        // For root without a session nothing changes its root directory.
        server("chroot-directory-bad", "ChrootDirectory /no/such/directory"),
    ]
}

/// What is refused only once a client comes.
fn forbidding() -> Vec<Row> {
    vec![
        server("allow-tcp-forwarding-no", "AllowTcpForwarding no")
            .refuses()
            .says(&["administratively prohibited", "AllowTcpForwarding"]),
        server("allow-tcp-forwarding-remote", "AllowTcpForwarding remote")
            .refuses()
            .says(&["administratively prohibited", "AllowTcpForwarding"]),
        server("permit-open-other", "PermitOpen 127.0.0.1:1")
            .refuses()
            .says(&["administratively prohibited", "PermitOpen"]),
        server("disable-forwarding", "DisableForwarding yes")
            .refuses()
            .says(&["administratively prohibited", "DisableForwarding"]),
        server("allow-tcp-forwarding-no-and-log-level-quiet", "AllowTcpForwarding no")
            .ssh_config("LogLevel QUIET")
            .refuses()
            .says(&["administratively prohibited", "AllowTcpForwarding"]),
        server("authorized-keys-restrict", "AuthorizedKeysFile {lab}/restricted_keys")
            .refuses()
            .says(&["administratively prohibited", "restrict"]),
        row("target-down").target(CLOSED_PORT).refuses().says(&["Connection refused", "8001"]),
    ]
}

/// Where and whether the server listens.
fn remote() -> Vec<Row> {
    vec![
        row("remote-plain").remote(""),
        server("remote-allow-tcp-forwarding-local", "AllowTcpForwarding local")
            .remote("")
            .retried(RemotePortHeld, Connected)
            .says(&["AllowTcpForwarding"]),
        server("remote-permit-listen-other", "PermitListen 13990")
            .remote("")
            .retried(RemotePortHeld, Connected)
            .says(&["PermitListen"]),
        server("remote-permit-listen-any-host", "PermitListen *:*").remote(""),
        server("remote-gateway-ports-yes", "GatewayPorts yes").remote(""),
        server("remote-gateway-ports-clientspecified", "GatewayPorts clientspecified").remote("0.0.0.0:"),
        // It listens on its loopback only, whatever was asked for.
        server("remote-gateway-ports-no", "GatewayPorts no").remote("0.0.0.0:").says(&["GatewayPorts"]),
    ]
}

/// What refuses the login.
fn refusing() -> Vec<Row> {
    vec![
        server(
            "two-methods-one-interactive",
            "AuthenticationMethods publickey,keyboard-interactive\nKbdInteractiveAuthentication yes",
        )
        .retried(Auth, Slow)
        .says(&["keyboard-interactive"])
        .never_says(&["passphrase"]),
        server("password-only", "PubkeyAuthentication no\nPasswordAuthentication yes")
            .retried(Auth, Slow)
            .says(&["password"])
            .never_says(&["passphrase"]),
        server("permit-root-login-no", "PermitRootLogin no")
            .retried(Auth, Slow)
            .says(&["Permission denied (publickey)"]),
        server("deny-users", "DenyUsers root").retried(Auth, Slow).says(&["Permission denied (publickey)"]),
        server("authorized-keys-from-elsewhere", "AuthorizedKeysFile {lab}/keys_from_elsewhere")
            .retried(Auth, Slow)
            .says(&["Permission denied (publickey)"]),
        server("key-type-not-accepted", "PubkeyAcceptedAlgorithms rsa-sha2-256").retried(Auth, Slow),
        server("max-auth-tries-1", "MaxAuthTries 1")
            .ssh_config("IdentityFile {lab}/other_key\nIdentityFile {lab}/client_key")
            .retried(Auth, Slow)
            .says(&["Too many authentication failures"]),
        // The login is slow because ssh waits for a command before it believes the server.
        server("login-grace-time-1", "LoginGraceTime 1")
            .ssh_config("KnownHostsCommand /usr/bin/sleep 2")
            .retried(Network, Prompt),
    ]
}

/// What is no sshd, or has no room.
fn strange() -> Vec<Row> {
    vec![
        row("max-startups-full").server(Server::Full).retried(Network, Prompt),
        row("closes-at-once").server(Server::Closes).retried(Network, Prompt),
        row("says-nothing")
            .server(Server::Silent)
            .settings("connect_timeout: 3s")
            .retried(Timeout, Prompt)
            .says(&["banner exchange"]),
        row("talks-without-end").server(Server::Talks).retried(Network, Prompt).never_says(&["\u{1b}"]),
        row("speaks-http").server(Server::Http).retried(Network, Prompt),
    ]
}
