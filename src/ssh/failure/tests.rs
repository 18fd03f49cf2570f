use std::os::unix::process::ExitStatusExt;

use proptest::prelude::*;

use super::*;
use crate::config::desired::Environment;
use crate::core::Retry;

pub(super) fn tunnel() -> Ssh {
    Ssh {
        destination: "user@db".to_owned(),
        program: "ssh".into(),
        config_file: Some("/etc/portward/ssh config".into()),
        identity_file: None,
        options: [("Port".to_owned(), "2222".to_owned())].into(),
        env: Environment::default(),
    }
}

fn classified(status: i32, stderr: &str, was_ready: bool) -> Failure {
    let said: Vec<_> = stderr.lines().map(str::to_owned).collect();
    let end = End { status: Some(ExitStatus::from_raw(status << 8)), said: &said, was_ready, by_hand: false };
    let failure = classify(&end, &tunnel());
    assert!(!failure.message.contains('\n'), "{failure}");
    failure
}

/// Of an ssh that never was ready.
fn of(stderr: &str) -> Failure {
    classified(SSH_ERROR, stderr, false)
}

#[test]
fn each_end_that_openssh_tells_of_has_its_class() {
    for (stderr, kind, retry) in [
        ("user@db: Permission denied (publickey).", FailureKind::Auth, Retry::Slow),
        (
            "Received disconnect from 10.0.0.1 port 22:2: Too many authentication failures\nDisconnected from 10.0.0.1 port 22",
            FailureKind::Auth,
            Retry::Slow,
        ),
        (
            "No ED25519 host key is known for db and you have requested strict checking.\nHost key verification failed.",
            FailureKind::HostKey,
            Retry::Slow,
        ),
        ("Host key verification failed.", FailureKind::HostKey, Retry::Slow),
        ("ssh: Could not resolve hostname db: Name or service not known", FailureKind::Dns, Retry::Prompt),
        ("ssh: connect to host db port 22: Connection refused", FailureKind::Refused, Retry::Prompt),
        ("ssh: connect to host db port 22: Connection timed out", FailureKind::Timeout, Retry::Prompt),
        ("ssh: connect to host db port 22: No route to host", FailureKind::Network, Retry::Prompt),
        ("ssh: connect to host db port 22: Permission denied", FailureKind::Network, Retry::Prompt),
        (
            "Connection timed out during banner exchange\nConnection to 127.0.0.1 port 2301 timed out",
            FailureKind::Timeout,
            Retry::Prompt,
        ),
        (
            "kex_exchange_identification: read: Connection reset by peer\nConnection reset by 127.0.0.1 port 2300",
            FailureKind::Network,
            Retry::Prompt,
        ),
        ("Connection closed by 127.0.0.1 port 22", FailureKind::Network, Retry::Prompt),
        (
            "ssh_dispatch_run_fatal: Connection to 127.0.0.1 port 22: Broken pipe",
            FailureKind::Network,
            Retry::Prompt,
        ),
        (
            "Unable to negotiate with 10.0.0.1 port 22: no matching host key type found. Their offer: ssh-rsa,ssh-dss",
            FailureKind::Config,
            Retry::Slow,
        ),
        ("No user exists for uid 4242", FailureKind::Config, Retry::Slow),
        (
            "/etc/ssh/x: line 3: Bad configuration option: foo\n/etc/ssh/x: terminating, 1 bad configuration options",
            FailureKind::Config,
            Retry::Never,
        ),
        ("command-line line 0: unsupported option \"perhaps\".", FailureKind::Config, Retry::Never),
        ("command-line line 0: invalid quotes", FailureKind::Config, Retry::Never),
        ("Can't open user config file /nope: No such file or directory", FailureKind::Config, Retry::Never),
        ("Can't open user config file /nope: Too many open files", FailureKind::Config, Retry::Slow),
        ("Bad owner or permissions on /root/.ssh/config", FailureKind::Config, Retry::Never),
        (
            "unknown option -- Z\nusage: ssh [-46AaCfGgKkMNnqsTtVvXxYy] [-B bind_interface]\n           [-b bind_address]",
            FailureKind::Config,
            Retry::Never,
        ),
        ("vdollar_percent_expand: unknown key %y\npercent_expand: failed", FailureKind::Config, Retry::Never),
        ("", FailureKind::Exited, Retry::Slow),
        ("something new", FailureKind::Exited, Retry::Slow),
    ] {
        let failure = of(stderr);
        assert_eq!((failure.kind, failure.retry), (kind, retry), "{stderr}: {failure}");
    }
}

#[test]
fn the_line_that_decides_is_quoted() {
    for (stderr, quoted) in [
        (
            "/etc/ssh/x: line 3: Bad configuration option: foo\n/etc/ssh/x: terminating, 1 bad configuration options",
            "/etc/ssh/x: line 3: Bad configuration option: foo",
        ),
        ("unknown option -- Z\nusage: ssh [-46]\n           [-b bind_address]", "unknown option -- Z"),
        ("vdollar_percent_expand: unknown key %y\npercent_expand: failed", "unknown key %y"),
        (
            "kex_exchange_identification: read: Connection reset by peer\nConnection reset by 127.0.0.1 port 2300",
            "kex_exchange_identification: read",
        ),
        (
            "bind 10.9.9.9: Cannot assign requested address\nssh: connect to host db port 22: failure",
            "bind 10.9.9.9: Cannot assign requested address",
        ),
        (
            "Load key \"/k\": error in libcrypto\nuser@db: Permission denied (publickey).",
            "(after: Load key \"/k\": error in libcrypto)",
        ),
    ] {
        let failure = of(stderr);
        assert!(failure.message.contains(quoted), "{failure}");
    }
    let long = of(&format!("\u{202e}{}", "x".repeat(5000)));
    assert!(long.message.len() < 1000 && !long.message.contains('\u{202e}'), "{long}");
}

/// What a banner may hold, each time the whole of it.
const BANNERS: [&str; 7] = [
    "Enter keyword help for assistance.",
    "/etc/ssh/x: terminating, 1 bad configuration options",
    "command-line line 0: Bad configuration option: foo\n/etc/ssh/x: terminating, 1 bad configuration options",
    "user@db: Permission denied (publickey).",
    "Host key for db has changed and you have requested strict checking.\nHost key verification failed.",
    "kex_exchange_identification: Connection closed by remote host",
    "usage: ssh [-46]\n   Can't open user config file /nope: No such file or directory",
];

#[test]
fn a_banner_neither_hides_nor_makes_an_end() {
    for banner in BANNERS {
        for (last, kind) in [
            ("user@db: Permission denied (publickey).", FailureKind::Auth),
            ("Connection closed by 10.0.0.1 port 22", FailureKind::Network),
            (
                "Received disconnect from 10.0.0.1 port 22:2: Too many authentication failures\n\
                 Disconnected from 10.0.0.1 port 22",
                FailureKind::Auth,
            ),
        ] {
            let failure = of(&format!("{banner}\n{last}"));
            assert_eq!(failure.kind, kind, "{banner}: {failure}");
        }
        // Through a ProxyCommand the line before may be the carrier's or the banner's.
        let carried = of(&format!("{banner}\nConnection closed by UNKNOWN port 65535"));
        assert_ne!(carried.retry, Retry::Never, "{banner}: {carried}");
        // What was read late, after the master was ready.
        let late = classified(SSH_ERROR, banner, true);
        assert!(!matches!(late.kind, FailureKind::Config | FailureKind::Auth), "{banner}: {late}");
    }
}

#[test]
fn what_the_carrier_of_the_connection_says_is_the_cause() {
    let ended = "kex_exchange_identification: Connection closed by remote host\nConnection closed by UNKNOWN port 65535";
    let timed_out = "Connection timed out during banner exchange\nConnection to UNKNOWN port 65535 timed out";
    let link = "A browser window should have opened at the following URL:\n\nhttps://x.example/cli?a=b\n\nOr visit it.";
    for (said, end, kind, retry, quoted) in [
        (
            "sh: 1: corkscrew: not found",
            ended,
            FailureKind::Network,
            Retry::Slow,
            "corkscrew: not found; install",
        ),
        (
            "/bin/bash: line 1: exec: corkscrew: not found",
            ended,
            FailureKind::Network,
            Retry::Slow,
            "corkscrew: not found; install",
        ),
        (
            "An error occurred (ExpiredTokenException) when calling StartSession: The token is expired",
            ended,
            FailureKind::Network,
            Retry::Slow,
            "ExpiredTokenException",
        ),
        (link, timed_out, FailureKind::Network, Retry::Slow, "https://x.example/cli?a=b; log in there"),
        (
            "nc: connect to db port 22 (tcp) failed: Connection refused",
            ended,
            FailureKind::Refused,
            Retry::Prompt,
            "nc: connect to db",
        ),
        (
            "root@jump: Permission denied (publickey).",
            ended,
            FailureKind::Auth,
            Retry::Slow,
            "jump host says: root@jump: Permission denied",
        ),
        (
            "ssh: Could not resolve hostname jump: Name or service not known",
            ended,
            FailureKind::Dns,
            Retry::Prompt,
            "hostname jump",
        ),
        (
            "channel 0: open failed: administratively prohibited: open failed\nstdio forwarding failed",
            ended,
            FailureKind::Network,
            Retry::Slow,
            "AllowTcpForwarding",
        ),
        (
            "channel 0: open failed: connect failed: Connection refused\nstdio forwarding failed",
            ended,
            FailureKind::Refused,
            Retry::Prompt,
            "channel 0",
        ),
        // The ssh of a ProxyJump reads the same files, and may be another one.
        (
            "/root/.ssh/config: terminating, 1 bad configuration options",
            ended,
            FailureKind::Config,
            Retry::Slow,
            "terminating",
        ),
        ("", ended, FailureKind::Network, Retry::Prompt, "kex_exchange_identification"),
        ("", timed_out, FailureKind::Timeout, Retry::Prompt, "banner exchange"),
    ] {
        let failure = of(&format!("{said}\n{end}\nKilled by signal 1."));
        assert_eq!((failure.kind, failure.retry), (kind, retry), "{said}: {failure}");
        assert!(failure.message.contains(quoted), "{quoted}: {failure}");
    }
}

#[test]
fn an_end_after_it_was_ready_is_that_of_a_connection() {
    let lost = "Connection to db closed by remote host.";
    assert_eq!(classified(SSH_ERROR, lost, true).kind, FailureKind::Network);
    let expired = classified(SSH_ERROR, &format!("channel 2: open failed: x\ntoken expired\n{lost}"), true);
    assert!(expired.message.contains("(after: token expired)"), "{expired}");
    assert_eq!(classified(SSH_ERROR, "Timeout, server db not responding.", true).kind, FailureKind::Timeout);
    let silent = classified(0, "", true);
    assert_eq!((silent.kind, silent.retry), (FailureKind::Exited, Retry::Prompt));
    assert!(silent.message.contains("SIGTERM"), "{silent}");
}

#[test]
fn the_status_of_another_program_is_not_taken_for_that_of_ssh() {
    let own = classified(7, "vault: sealed", false);
    assert_eq!((own.kind, own.retry), (FailureKind::Exited, Retry::Slow));
    assert!(own.message.contains("status 7: vault: sealed"), "{own}");
    let done = classified(0, "", false);
    assert_eq!((done.kind, done.retry), (FailureKind::Config, Retry::Slow));
    assert!(done.message.contains("exec ssh \"$@\""), "{done}");
    // A script may hand on what ssh said and end with a status of its own.
    let line = "command-line line 0: invalid quotes";
    assert_eq!(classified(1, line, false).retry, Retry::Slow);
    let quiet = of("");
    assert!(quiet.message.contains("LogLevel"), "{quiet}");
}

#[test]
fn a_signal_is_killed_whatever_was_said() {
    let said = ["Connection refused".to_owned()];
    let end = End { status: Some(ExitStatus::from_raw(9)), said: &said, was_ready: false, by_hand: false };
    assert_eq!(classify(&end, &tunnel()).kind, FailureKind::Killed);
}

#[test]
fn a_changed_host_key_comes_with_the_line_that_removes_the_old_one() {
    let said = "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n\
                The fingerprint for the ED25519 key sent by the remote host is\n\
                SHA256:v2QZaKkTHF+NyKkNI8wOJczvU8KUvexXNRNlnKvhYGk.\n\
                Add correct host key in /my keys/kh to get rid of this message.\n\
                Offending ED25519 key in /my keys/kh:12\n  remove with:\n\
                Host key for [127.0.0.1]:2222 has changed and you have requested strict checking.\n\
                Host key verification failed.";
    let failure = of(said);
    assert_eq!(failure.kind, FailureKind::HostKey);
    for part in [
        "ssh to user@db: Host key for [127.0.0.1]:2222 has changed",
        "fingerprint SHA256:v2QZaKkTHF+NyKkNI8wOJczvU8KUvexXNRNlnKvhYGk is right",
        "in line 12, as user root: `ssh-keygen -f '/my keys/kh' -R '[127.0.0.1]:2222'`",
        "`ssh -S none -o BatchMode=no -o StrictHostKeyChecking=ask -F '/etc/portward/ssh config' -o Port=2222 user@db true`",
    ] {
        assert!(failure.message.contains(part), "{part}: {failure}");
    }
    let command = of(&said.replace("/my keys/kh", "KnownHostsCommand-HOSTNAME"));
    assert!(!command.message.contains("ssh-keygen"), "{command}");
    let address =
        of("Warning: the ED25519 host key for 'db' differs from the key for the IP address '10.0.0.1'\n\
                      Offending key for IP in /kh:3\nExiting, you have requested strict checking.\n\
                      Host key verification failed.");
    assert!(address.message.contains("`ssh-keygen -f /kh -R 10.0.0.1`"), "{address}");
}

#[test]
fn other_refused_host_keys_have_steps_of_their_own() {
    let failed = "Host key verification failed.";
    for (said, part) in [
        ("ED25519 host key for db was revoked and you have requested strict checking.", "do not accept"),
        ("Host key ED25519 SHA256:x revoked by file /etc/ssh/revoked", "do not accept"),
        (
            "Error checking host key ED25519 SHA256:x in revoked keys file /nope: No such file or directory",
            "RevokedHostKeys",
        ),
        ("Certificate invalid: name is not a listed principal", "host certificate"),
        (
            "Update the SSHFP RR in DNS with the new host key to get rid of this message.",
            "SSHFP record in DNS is of another key",
        ),
        (
            "No ED25519 host key is known for [db]:2222 and you have requested strict checking.",
            "-o Port=2222",
        ),
        ("", "-o Port=2222"),
    ] {
        let failure = of(&format!("{said}\n{failed}"));
        assert_eq!(failure.kind, FailureKind::HostKey);
        assert!(failure.message.contains(part), "{part}: {failure}");
        assert!(!failure.message.contains("ssh-keygen"), "{failure}");
    }
}

#[test]
fn a_refused_login_comes_with_the_step_that_fits() {
    let step =
        |said: &str, methods: &str| of(&format!("{said}\nuser@db: Permission denied ({methods}).")).message;
    for methods in ["keyboard-interactive", "keyboard-interactive,password", "password"] {
        let typed = step("", methods);
        assert!(typed.contains("interactive: true") && !typed.contains("passphrase"), "{typed}");
    }
    for (said, part) in [
        ("", "passphrase"),
        ("Load key \"/k\": invalid format", "no private key that this ssh reads"),
        ("Load key \"/k\": Permission denied", "read the key"),
        ("Permissions 0644 for '/k' are too open.", "mode 600"),
        ("no such identity: /k: No such file or directory", "put the key there"),
        ("Warning: Identity file /k not accessible: No such file or directory.", "put the key there"),
        (
            "sign_and_send_pubkey: signing failed for ED25519 \"k\" from agent: agent refused operation",
            "needs a person",
        ),
    ] {
        let message = step(said, "publickey,password");
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn what_the_server_offers_is_named_only_when_it_is_a_name() {
    let offer = |offer: &str| {
        of(&format!(
            "Unable to negotiate with 10.0.0.1 port 22: no matching host key type found. Their offer: {offer}"
        ))
        .message
    };
    assert!(offer("ssh-rsa,ssh-dss").contains("`options: {HostKeyAlgorithms: +ssh-rsa}`"));
    assert!(!offer("a}; rm -rf,x").contains("options:"));
}

proptest! {
    #[test]
    fn any_end_has_a_class_and_one_line(raw: i32, was_ready: bool, said in proptest::collection::vec("\\PC*", 0..5)) {
        let failure = classify(&End { status: Some(ExitStatus::from_raw(raw)), said: &said, was_ready, by_hand: false }, &tunnel());
        prop_assert!(!failure.message.contains('\n'));
    }

    #[test]
    fn whatever_a_banner_says_what_ssh_says_last_is_what_counts(
        picks in proptest::collection::vec(0..BANNERS.len(), 0..6),
        own in prop::sample::select(vec![
            "user@db: Permission denied (publickey).",
            "Connection closed by 10.0.0.1 port 22",
            "Connection reset by UNKNOWN port 65535",
            "Timeout, server db not responding.",
        ]),
    ) {
        let banner: Vec<&str> = picks.into_iter().map(|pick| BANNERS[pick]).collect();
        let failure = of(&format!("{}\n{own}", banner.join("\n")));
        prop_assert_ne!(failure.retry, Retry::Never);
    }
}

#[test]
fn of_an_ssh_that_another_portward_had_started_its_words_tell_what_its_status_does_not() {
    let classified = |said: &[&str], was_ready| {
        let said: Vec<_> = said.iter().map(|line| (*line).to_owned()).collect();
        classify(&End { status: None, said: &said, was_ready, by_hand: false }, &tunnel())
    };
    let lost = classified(&["client_loop: send disconnect: Broken pipe"], true);
    assert_eq!(lost.kind, FailureKind::Network, "{lost}");
    for was_ready in [true, false] {
        let silent = classified(&[], was_ready);
        assert_eq!(silent.kind, FailureKind::Exited);
        assert!(silent.message.contains("a status that is not known"), "{silent}");
    }
}

#[test]
fn nothing_is_promised_to_who_has_to_log_in() {
    for (line, was_ready) in [
        ("root@db: Permission denied (publickey,password).", false),
        ("root@db: Permission denied (keyboard-interactive).", false),
        ("Connection to db closed by remote host.", true),
        ("client_loop: send disconnect: Broken pipe", true),
        ("something else", true),
    ] {
        let said = [line.to_owned()];
        let end = End { status: Some(ExitStatus::from_raw(255 << 8)), said: &said, was_ready, by_hand: true };
        let message = classify(&end, &tunnel()).message;
        assert!(message.contains("a person has to log in again"), "{message}");
        for wrong in ["connects again", "new one", "interactive: true"] {
            assert!(!message.contains(wrong), "{message}");
        }
    }
}
