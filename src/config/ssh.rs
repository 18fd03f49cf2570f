//! What may be handed to ssh: destinations and options.

use std::borrow::Cow;
use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

use super::address::{check_host, is_never_in_destination};
use super::diagnose::{Problems, Refusal, quote};
use super::raw::Ssh;
use super::ssh_options::SSH_OPTIONS;

/// Maximum length of a destination: a host name has at most 253 characters, and may have a user before it.
const LONGEST_DESTINATION: usize = 320;

/// An ssh destination, by ssh's own rules (ssh.c, `valid_hostname` and `valid_ruser`; misc.c, `parse_uri`) and stricter where a
/// shell would see it: a ProxyCommand may hold `%r` and `%h`.
pub(super) fn check_destination(text: &str) -> Result<(), Refusal> {
    if text.len() > LONGEST_DESTINATION {
        return Err(Refusal::new(format!("longer than {LONGEST_DESTINATION} characters")));
    }
    match text.strip_prefix("ssh://") {
        Some(rest) => check_uri(text, rest),
        None => check_user_and_host(text),
    }
}

fn check_user_and_host(text: &str) -> Result<(), Refusal> {
    let (user, host) = text.rsplit_once('@').map_or((None, text), |(user, host)| (Some(user), host));
    check_parts(text, user, host)?;
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let user = user.map_or_else(String::new, |user| format!("{user}@"));
        return Err(Refusal::new(format!("{}: ssh does not take brackets here", quote(text)))
            .hint(format!("write {user}{address}; a port goes under `ssh: options:` as `Port:`")));
    }
    match host.rsplit_once(':') {
        Some((name, port))
            if !name.contains(':')
                && !port.is_empty()
                && port.bytes().all(|digit| digit.is_ascii_digit()) =>
        {
            Err(Refusal::new(format!("{}: ssh does not take a port here", quote(text)))
                .hint(format!("write ssh://{text}, or set `Port: {port}` under `ssh: options:`")))
        }
        Some((name, port)) if name.ends_with(']') => {
            let user = user.map_or_else(String::new, |user| format!("{user}@"));
            let address = name.trim_start_matches('[').trim_end_matches(']');
            Err(Refusal::new(format!("{}: ssh does not take a port here", quote(text)))
                .hint(format!("write {user}{address}, and set `Port: {port}` under `ssh: options:`")))
        }
        _ => Ok(()),
    }
}

/// `ssh://[user@]host[:port][/]`
fn check_uri(text: &str, rest: &str) -> Result<(), Refusal> {
    let (user, rest) = rest.split_once('@').map_or((None, rest), |(user, rest)| (Some(user), rest));
    let decoded = match user.map(percent_decoded) {
        Some(None) => {
            return Err(Refusal::new(format!("{} is not a URI", quote(text)))
                .hint("write % as %25, or write user@host without ssh://"));
        }
        Some(decoded) => decoded,
        None => None,
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.starts_with('[') {
        return Err(Refusal::new(format!("{}: ssh does not take an IPv6 address in a URI", quote(text)))
            .hint("write user@address without brackets, and set `Port:` under `ssh: options:`"));
    }
    let (host, port) = rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
    check_parts(text, decoded.as_deref(), host)?;
    let is_name = host.starts_with(|letter: char| letter.is_ascii_alphanumeric() || letter == '_')
        && host.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-".contains(letter))
        && !host.contains("..");
    if !is_name {
        return Err(Refusal::new(format!("{}: {} is not a host name", quote(text), quote(host)))
            .hint("ssh takes letters, digits, dots, dashes and underscores in a URI, and no path"));
    }
    match port.map(str::parse::<u16>) {
        None | Some(Ok(1..)) => Ok(()),
        Some(Ok(0) | Err(_)) => Err(Refusal::new(format!("{} has no valid port", quote(text)))
            .hint("write ssh://user@host:port with a port from 1 to 65535, or without one")),
    }
}

fn check_parts(text: &str, user: Option<&str>, host: &str) -> Result<(), Refusal> {
    if host.is_empty() {
        return Err(Refusal::new(format!("{} has no host", quote(text)))
            .hint("write user@host or a Host alias of ssh_config"));
    }
    if let Some(user) = user {
        check_user(text, user)?;
    }
    check_host(host)
}

/// A backslash is part of names such as `CORP\alice`; at the end it would escape what follows.
fn check_user(text: &str, user: &str) -> Result<(), Refusal> {
    let refusal = || Refusal::new(format!("{}: {} is not a user name", quote(text), quote(user)));
    if user.is_empty() || user.starts_with('-') || user.contains("://") || user.ends_with('\\') {
        return Err(refusal().hint("write user@host"));
    }
    match user.chars().find(|letter| !"\\,".contains(*letter) && is_never_in_destination(*letter)) {
        Some(letter) => Err(refusal().hint(format!("take out the character {letter:?}"))),
        None => Ok(()),
    }
}

/// Decodes `%41` and the like. `None` if two hexadecimal digits do not follow each `%`, or if the result is not UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let is_code = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    let is_encoded = text.split('%').skip(1).all(is_code);
    is_encoded.then(|| percent_decode_str(text).decode_utf8().ok().map(Cow::into_owned)).flatten()
}

/// Reports every unknown option of `ssh`, and those that portward sets itself.
pub(super) fn check_options(ssh: &Ssh, problems: &Problems) {
    let Some(options) = ssh.options.value() else { return };
    let mut seen = BTreeMap::new();
    for (name, value) in &options.0 {
        let written = &name.value;
        let reserved = SSH_OPTIONS
            .iter()
            .find(|option| option.is_reserved() && option.name.eq_ignore_ascii_case(written));
        if written.is_empty() || !written.bytes().all(|letter| letter.is_ascii_alphanumeric()) {
            let refusal = Refusal::new(format!("{} is not an ssh option", quote(written)));
            problems.report(
                name.place,
                refusal.hint("names of options are letters and digits only: see `man ssh_config`"),
            );
        } else if let Some(option) = reserved {
            let refusal = Refusal::new(format!("`{}` is portward's to set", option.name));
            problems.report(name.place, refusal.hint(option.why));
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
