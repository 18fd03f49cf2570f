//! What may be handed to ssh: destinations and options.

use std::collections::BTreeMap;

use super::address::check_host;
use super::diagnose::{Problems, Refusal, quote};
use super::raw::Ssh;

/// A destination's most characters: a host name has at most 253, and a user before it.
const LONGEST_DESTINATION: usize = 320;

/// Options that portward sets itself or that would take a connection out of its hands, and what to do instead.
const RESERVED_OPTIONS: &[(&str, &str)] = &[
    ("BatchMode", "a tunnel where a person must authenticate has `interactive: true`"),
    ("ClearAllForwardings", "portward asks for the forwards itself"),
    ("ConnectTimeout", "set `ssh.connect_timeout` instead"),
    ("ControlMaster", "portward keeps a control socket of its own for each tunnel"),
    ("ControlPath", "portward keeps a control socket of its own for each tunnel"),
    ("ControlPersist", "portward ends its connections itself"),
    ("DynamicForward", "write a tunnel with `direction: dynamic` instead"),
    ("ForkAfterAuthentication", "portward keeps ssh in the foreground to watch it"),
    ("LocalCommand", "let a systemd unit run what belongs to a tunnel"),
    ("LocalForward", "write a tunnel with `local_port` and `remote_port` instead"),
    ("PermitLocalCommand", "let a systemd unit run what belongs to a tunnel"),
    ("RemoteCommand", "a tunnel runs no command on the server"),
    ("RemoteForward", "write a tunnel with `direction: local_to_remote` instead"),
    ("RequestTTY", "a tunnel has no terminal"),
    ("SessionType", "a tunnel has no session on the server"),
];

/// An ssh destination: what ssh cannot mistake for an option, and no shell for anything but a word.
pub(super) fn check_destination(text: &str) -> Result<(), Refusal> {
    let rest = text.strip_prefix("ssh://").unwrap_or(text);
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    if host.is_empty() {
        return Err(Refusal::new(format!("{} has no host", quote(text)))
            .hint("write user@host or a Host alias of ssh_config"));
    }
    if text.len() > LONGEST_DESTINATION {
        return Err(Refusal::new(format!("longer than {LONGEST_DESTINATION} characters")));
    }
    check_host(text)?;
    check_host(host)?;
    let is_uri = rest.len() < text.len();
    match host.split_once(':') {
        Some((_, port))
            if !is_uri && !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit()) =>
        {
            Err(Refusal::new(format!("{}: ssh does not take a port here", quote(text)))
                .hint(format!("write ssh://{text}, or set `Port: {port}` under `ssh: options:`")))
        }
        _ => Ok(()),
    }
}

/// Reports every option of `ssh` that is not one, or not for the user to set.
pub(super) fn check_options(ssh: &Ssh, problems: &Problems) {
    let Some(options) = ssh.options.value() else { return };
    let mut seen = BTreeMap::new();
    for (name, value) in &options.0 {
        let written = &name.value;
        let reserved = RESERVED_OPTIONS.iter().find(|(option, _)| option.eq_ignore_ascii_case(written));
        if written.is_empty() || !written.bytes().all(|letter| letter.is_ascii_alphanumeric()) {
            let refusal = Refusal::new(format!("{} is not an ssh option", quote(written)));
            problems.report(
                name.place,
                refusal.hint("names of options are letters and digits only: see `man ssh_config`"),
            );
        } else if let Some((option, instead)) = reserved {
            problems
                .report(name.place, Refusal::new(format!("`{option}` is portward's to set")).hint(*instead));
        } else if let Some(line) = seen.insert(written.to_ascii_lowercase(), name.place.line) {
            let refusal = Refusal::new(format!("duplicate option `{written}`: ssh does not mind the case"));
            problems.report(
                name.place,
                refusal.hint(format!("it is there since line {line}: remove one of the two")),
            );
        }
        if let Some(value) = value.get() {
            let refused = if value.value.is_empty() {
                Some(Refusal::new("is empty").hint("give it a value or remove the line"))
            } else if value.value.chars().any(char::is_control) {
                Some(
                    Refusal::new("holds a line end or another control character")
                        .hint("write it on one line"),
                )
            } else {
                None
            };
            if let Some(refusal) = refused {
                problems.report(value.place, refusal.of(written));
            }
        }
    }
}
