//! Logins and handshakes that failed: the next step.

use super::cause::Cause;
use crate::config::desired::Ssh;
use crate::ssh::by_hand::try_by_hand;

/// Methods of authentication that require a person.
const TYPED: [&str; 2] = ["keyboard-interactive", "password"];

/// The kinds of algorithms as ssh names them (ssherr.c), and the options that allow more of them.
const ALGORITHMS: [(&str, &str); 4] = [
    ("no matching host key type found", "HostKeyAlgorithms"),
    ("no matching key exchange method found", "KexAlgorithms"),
    ("no matching cipher found", "Ciphers"),
    ("no matching MAC found", "MACs"),
];

/// What ssh says of a key or an agent before the server refuses the login, from the start of the line; and the next step.
const TROUBLES: [(&str, &str, &str); 8] = [
    ("Load key \"", "Permission denied", "let the user that portward runs as read the key"),
    (
        "Load key \"",
        "incorrect passphrase",
        "a key with a passphrase needs an agent; make a key without one for portward alone",
    ),
    (
        "Load key \"",
        "",
        "the file is no private key that this ssh reads: see that it is whole, ends with a line end, and is not the .pub",
    ),
    ("Permissions 0", " are too open", "ssh ignores a key that others may read: give the file mode 600"),
    ("no such identity: ", "", "put the key there, or correct identity_file"),
    ("Warning: Identity file ", " not accessible", "put the key there, or correct identity_file"),
    (
        "sign_and_send_pubkey: ",
        "no mutual signature",
        "make a newer key (ssh-keygen -t ed25519), or set PubkeyAcceptedAlgorithms to what the server supports",
    ),
    (
        "sign_and_send_pubkey: ",
        "",
        "the agent or the security key does not sign: one that wants a confirmation, a PIN or a touch needs a person, so use \
         a key that does not",
    ),
];

/// What ssh said of a key before, and the next step after a login that was refused.
pub(super) fn denied<'end>(methods: &str, cause: &Cause<'end>, ssh: &Ssh) -> (Option<&'end str>, String) {
    let trouble = cause.before.iter().rev().find_map(|line| {
        let fits = |(start, part, _): &&(&str, &str, &str)| line.starts_with(start) && line.contains(part);
        TROUBLES.iter().find(fits).map(|(_, _, next)| (line.as_str(), *next))
    });
    let remark = trouble.map(|(line, _)| line);
    if methods.split(',').all(|method| TYPED.contains(&method)) {
        let next = format!(
            "the server asks for what only a person can type ({methods}): set `interactive: true` for the tunnel and log \
             in with `portward auth`, or let the server accept a key alone (AuthenticationMethods in its sshd_config)"
        );
        return (remark, next);
    }
    match trouble {
        Some((_, next)) => (remark, next.to_owned()),
        None => (None, format!("{}; a key with a passphrase needs an agent", try_by_hand(ssh))),
    }
}

/// The next step after the server ended the connection with `code` and `reason`, if that was about the login.
pub(super) fn disconnected(code: &str, reason: &str) -> Option<&'static str> {
    match code {
        _ if reason.starts_with("Too many authentication failures") => Some(
            "the server tries no more keys: offer the right one alone, by `identity_file` and \
             `options: {IdentitiesOnly: yes}` under the tunnel's `ssh:`",
        ),
        // SSH_DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE, SSH_DISCONNECT_ILLEGAL_USER_NAME.
        "14" | "15" => Some("see on the server which users and which methods of authentication it accepts"),
        _ => None,
    }
}

/// The next step when ssh and the server have no algorithm in common.
pub(super) fn negotiation(line: &str) -> String {
    let option = ALGORITHMS.iter().find(|(kind, _)| line.contains(kind)).map(|(_, option)| *option);
    let offer = line.rsplit_once("Their offer: ").and_then(|(_, offer)| offer.split(',').next());
    let is_name = |offer: &&str| {
        !offer.is_empty() && offer.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-@._".contains(&byte))
    };
    match (option, offer.filter(is_name)) {
        (Some(option), Some(offer)) => format!(
            "the server is older or newer than this ssh: upgrade it, or allow what it offers by \
             `options: {{{option}: +{offer}}}` under the tunnel's `ssh:`, which may be less safe"
        ),
        _ => "the server is older or newer than this ssh: upgrade it, or allow what it offers".to_owned(),
    }
}
