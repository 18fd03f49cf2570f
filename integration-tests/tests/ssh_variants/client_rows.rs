//! Variants of ssh_config and of the tunnel's own `ssh:`.

use portward::protocol::FailureKind::{Auth, Config, Dns, Exited, HostKey, Network, Refused};

use crate::row::Pace::{Prompt, Slow};
use crate::row::{Row, Server, client, row};

pub(crate) fn rows() -> Vec<Row> {
    [processes(), forwards(), connections(), keys(), host_keys(), syntax(), settings()].concat()
}

/// What decides which processes there are.
fn processes() -> Vec<Row> {
    vec![
        row("plain"),
        client("fork-after-authentication", "ForkAfterAuthentication yes"),
        client("control-master", "ControlMaster auto\nControlPath {lab}/run/user-%C\nControlPersist 10m"),
        client("proxy-jump-two-hops", "ProxyJump hop1,hop2"),
        client(
            "proxy-jump-with-control-master",
            "ProxyJump hop1\nHost hop1\nControlMaster auto\nControlPath {lab}/run/hop-%C\nControlPersist 10m",
        ),
        client(
            "proxy-jump-with-fork-after-authentication",
            "ProxyJump hop1\nHost hop1\nForkAfterAuthentication yes",
        ),
        client(
            "proxy-command-with-control-master",
            "ProxyCommand ssh -F {config} -W %h:%p hop1\n\
             Host hop1\nControlMaster auto\nControlPath {lab}/run/own-%C\nControlPersist 10m",
        ),
        client("proxy-command-ssh-w", "ProxyCommand ssh -F {config} -W %h:%p hop1"),
        // Which class it has is a matter of taste; that its own words are told, and that it is tried again, is not.
        client("proxy-command-missing", "ProxyCommand /no/such/corkscrew %h %p")
            .retried(Network, Prompt)
            .says(&["/no/such/corkscrew", "not found"]),
        client(
            "proxy-command-wants-a-login",
            "ProxyCommand sh -c \"echo To sign in, visit https://login.example.com/d/QX7 >&2; exit 1\"",
        )
        .retried(Network, Prompt)
        .says(&["https://login.example.com/d/QX7"]),
        client("proxy-use-fdpass-without-a-descriptor", "ProxyUseFdpass yes\nProxyCommand true")
            .retried(Exited, Prompt)
            .says(&["proxy dialer did not pass back a connection"]),
        client("remote-command", "RemoteCommand sleep 1000"),
        client("request-tty-force", "RequestTTY force"),
        client("session-type-none", "SessionType none"),
        client("session-type-subsystem", "SessionType subsystem"),
        client("stdin-null", "StdinNull yes"),
        client("local-command", "PermitLocalCommand yes\nLocalCommand touch {lab}/run-by-ssh")
            .absent("run-by-ssh"),
        client("known-hosts-command-missing", "KnownHostsCommand /no/such/command"),
        client("match-exec", "Match exec \"false\"\nPort 1\nMatch exec \"true\"\nCompression yes"),
    ]
}

/// What decides where is listened.
fn forwards() -> Vec<Row> {
    vec![
        client("address-family-inet", "AddressFamily inet").listens(&["127.0.0.1"]),
        client("address-family-inet6", "AddressFamily inet6\nHostName ::1")
            .server(Server::Sshd("ListenAddress ::1"))
            .listens(&["[::1]"]),
        client(
            "forwards-of-its-own",
            "LocalForward 13991 127.0.0.1:8000\nRemoteForward 13992 127.0.0.1:8000\nDynamicForward 13993",
        )
        .closed(&[13991, 13992, 13993]),
        client("exit-on-forward-failure", "ExitOnForwardFailure yes\nLocalForward 2222 127.0.0.1:8000"),
        client("gateway-ports", "GatewayPorts yes"),
        client("permit-remote-open", "PermitRemoteOpen none"),
        client("tunnel-device", "Tunnel yes\nTunnelDevice any:any"),
        client("forward-x11-and-agent", "ForwardX11 yes\nForwardX11Trusted yes\nForwardAgent yes"),
    ]
}

/// What decides how the connection is made.
fn connections() -> Vec<Row> {
    vec![
        client("server-alive-interval-0", "ServerAliveInterval 0"),
        client("tcp-keep-alive-no", "TCPKeepAlive no"),
        client("compression", "Compression yes"),
        client("rekey-every-second", "RekeyLimit 16 1"),
        client("log-level-quiet", "LogLevel QUIET"),
        client("log-level-debug3", "LogLevel DEBUG3"),
        client("batch-mode-no", "BatchMode no"),
        client("canonicalize-hostname", "CanonicalizeHostname yes\nCanonicalDomains example.com"),
        client("escape-char", "EscapeChar ~"),
        client("send-env", "SendEnv LANG LC_*\nSetEnv PORTWARD=1"),
        client("visual-host-key", "VisualHostKey yes"),
        client("bind-address-of-another-machine", "BindAddress 192.0.2.1")
            .retried(Network, Prompt)
            .says(&["Cannot assign requested address"]),
        client("host-name-unknown", "HostName nowhere.invalid")
            .retried(Dns, Prompt)
            .says(&["nowhere.invalid"]),
        client("connection-attempts", "ConnectionAttempts 2").server(Server::Nobody).retried(Refused, Prompt),
        client("ciphers-that-the-server-lacks", "Ciphers aes256-ctr")
            .server(Server::Sshd("Ciphers aes128-ctr"))
            .retried(Config, Slow)
            .says(&["no matching cipher found", "aes128-ctr"]),
        client("kex-that-the-server-lacks", "KexAlgorithms ecdh-sha2-nistp256")
            .server(Server::Sshd("KexAlgorithms curve25519-sha256"))
            .retried(Config, Slow)
            .says(&["no matching key exchange method found"]),
        client("host-key-algorithms-that-the-server-lacks", "HostKeyAlgorithms rsa-sha2-512")
            .retried(Config, Slow)
            .says(&["no matching host key type found"]),
    ]
}

/// What decides with which key, and as whom.
fn keys() -> Vec<Row> {
    vec![
        client("identity-missing", "IdentityFile /no/such/key").retried(Auth, Slow).says(&["/no/such/key"]),
        client("identity-readable-by-others", "IdentityFile {lab}/mode_644")
            .retried(Auth, Slow)
            .says(&["mode_644", "ermissions"])
            .never_says(&["passphrase"]),
        client("identity-broken", "IdentityFile {lab}/broken_key")
            .retried(Auth, Slow)
            .says(&["Load key", "broken_key"]),
        client("identity-with-spaces", "IdentityFile \"{lab}/my keys/client key\""),
        client("identity-that-the-server-does-not-know", "IdentityFile {lab}/other_key")
            .retried(Auth, Slow)
            .says(&["Permission denied (publickey)"]),
        client("log-level-quiet-and-a-wrong-key", "LogLevel QUIET\nIdentityFile {lab}/other_key")
            .retried(Auth, Slow)
            .says(&["Permission denied (publickey)"]),
        client("certificate-missing", "CertificateFile /no/such/certificate"),
        client("identity-agent-missing", "IdentityAgent /no/such/agent"),
        client("pkcs11-provider-missing", "PKCS11Provider /no/such/library.so"),
        client("user-with-a-backslash", "User CORP\\alice").retried(Auth, Slow).says(&["CORP", "alice"]),
        client("pubkey-authentication-no", "PubkeyAuthentication no").retried(Auth, Slow),
        row("user-with-a-backslash-in-the-destination")
            .user("CORP\\alice@")
            .retried(Auth, Slow)
            .says(&["CORP", "alice"]),
        client("signature-algorithm-for-no-key", "PubkeyAcceptedAlgorithms rsa-sha2-256").retried(Auth, Slow),
    ]
}

/// What decides whom to believe.
fn host_keys() -> Vec<Row> {
    vec![
        client(
            "host-key-unknown-and-ask",
            "StrictHostKeyChecking ask\nUserKnownHostsFile {lab}/no_known_hosts",
        )
        .retried(HostKey, Slow)
        .never_says(&["ssh-keygen -R"]),
        client("host-key-accept-new", "StrictHostKeyChecking accept-new\nUserKnownHostsFile {lab}/new_hosts"),
        client("host-key-checking-off", "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null"),
        client(
            "host-key-changed-and-checking-off",
            "StrictHostKeyChecking no\nUserKnownHostsFile {lab}/changed_hosts",
        ),
        client("host-key-changed", "UserKnownHostsFile {lab}/changed_hosts")
            .retried(HostKey, Slow)
            .says(&["ssh-keygen", "-R", "changed_hosts", "server"])
            .never_says(&["accept it once"]),
        client("host-key-changed-on-a-port", "# no HostKeyAlias\nUserKnownHostsFile {lab}/changed_hosts")
            .retried(HostKey, Slow)
            .says(&["ssh-keygen", "-R", "[127.0.0.1]:2222"])
            .never_says(&["accept it once"]),
        client("host-key-alias", "HostKeyAlias elsewhere\nUserKnownHostsFile {lab}/elsewhere_hosts"),
        client("known-hosts-none", "UserKnownHostsFile none").retried(HostKey, Slow),
    ]
}

/// What ssh does not understand.
fn syntax() -> Vec<Row> {
    vec![
        client("bad-option", "Frobnicate yes").failed().says(&["Bad configuration option: frobnicate"]),
        client("bad-value", "Compression perhaps").failed().says(&["unsupported option", "perhaps"]),
        client("bad-time", "ServerAliveInterval ten").failed().says(&["invalid time value"]),
        client("bad-quotes", "IdentityFile \"{lab}/client_key").failed().says(&["invalid quotes"]),
        client("bad-cipher", "Ciphers nope-cbc").failed().says(&["nope-cbc"]),
        client("ignore-unknown", "IgnoreUnknown UseKeychain,AddKeysTo*\nUseKeychain yes"),
        client("byte-order-mark", "\u{feff}Compression yes").failed().never_says(&["\u{feff}"]),
        client("line-ends-of-windows", "Compression yes\r\nTCPKeepAlive no\r"),
        client("include-missing", "Include {lab}/no-such-file"),
    ]
}

/// The tunnel's own `ssh:`.
fn settings() -> Vec<Row> {
    vec![
        client("own-port", "Port 1").settings("connect_timeout: 60s, options: {Port: 2222}"),
        client("own-identity-with-a-percent-sign", "# no IdentityFile")
            .settings("connect_timeout: 60s, identity_file: \"{lab}/100%h key\""),
        row("own-bad-option").settings("options: {Frobnicate: 'yes'}").failed().says(&["robnicate"]),
        row("own-bad-value").settings("options: {Compression: perhaps}").failed().says(&["perhaps"]),
        client(
            "own-port-and-unknown-key",
            "Port 1\nUserKnownHostsFile {lab}/no_known_hosts\n# no HostKeyAlias",
        )
        .settings("connect_timeout: 60s, options: {Port: 2222}")
        .retried(HostKey, Slow)
        .says(&["2222"]),
    ]
}
