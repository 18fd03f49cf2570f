//! Host keys that ssh does not accept: the reason, and the next step.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::cause::Cause;
use crate::config::desired::Ssh;
use crate::shell::word;
use crate::ssh::by_hand::{accepting_line, user};
use crate::text;

/// The most specific line of ssh, and the next step.
pub(super) fn explain<'end>(cause: &Cause<'end>, ssh: &Ssh) -> (&'end str, String) {
    let said = cause.before;
    let find = |start: &str, part: &str| {
        let fits = |line: &&String| line.starts_with(start) && line.contains(part);
        said.iter().rev().find(fits).map(String::as_str)
    };
    if let Some(line) = find("Host key for ", CHANGED) {
        let name = line.trim_start_matches("Host key for ").split(CHANGED).next().unwrap_or_default();
        let place = find("Offending ", " key in ").and_then(|line| line.split_once(" key in "));
        return (line, changed(name, place.map(|(_, place)| place), fingerprint(said), ssh));
    }
    if let Some(line) = find("Warning: the ", " differs from the key for the IP address '") {
        let address = line.rsplit('\'').nth(1).unwrap_or_default();
        let place = find("Offending key for IP in ", ":")
            .map(|line| line.trim_start_matches("Offending key for IP in "));
        return (line, changed(address, place, None, ssh));
    }
    let revoked = find("", " was revoked and you have requested strict checking");
    if let Some(line) = revoked.or_else(|| find("Host key ", " revoked by file ")) {
        let next = "do not accept this key: ask the server's administrator for the new one";
        return (line, next.to_owned());
    }
    if let Some(line) = find("Error checking host key ", " in revoked keys file ") {
        let next = "ssh accepts no key while it cannot read the file that RevokedHostKeys names: put the file there, \
                    readable for the user that portward runs as";
        return (line, next.to_owned());
    }
    if let Some(line) = find("Certificate invalid: ", "") {
        let next = "the server's host certificate is not valid for this name: its administrator has to issue another one, \
                    or HostKeyAlias must be the name in it";
        return (line, next.to_owned());
    }
    if let Some(line) = find("host key ", " not permitted by HostkeyAlgorithms") {
        return (
            line,
            "allow the algorithm with HostKeyAlgorithms, or let the server have another key".to_owned(),
        );
    }
    if let Some(line) = find("Update the SSHFP RR in DNS ", "") {
        let next = "the SSHFP record in DNS is of another key: ask the server's administrator which one is right, and have \
                    the record updated";
        return (line, next.to_owned());
    }
    let line = find("No ", " host key is known for ").unwrap_or(cause.line);
    (
        line,
        format!(
            "ask the server's administrator for the fingerprint of its key, compare it, and accept the key as user {}: `{}`",
            user(),
            accepting_line(ssh)
        ),
    )
}

const CHANGED: &str = " has changed and you have requested strict checking";

/// `place` is the file and the line of the old key, as `FILE:LINE`.
fn changed(name: &str, place: Option<&str>, fingerprint: Option<&str>, ssh: &Ssh) -> String {
    let fingerprint = fingerprint.unwrap_or("of the new key");
    let ask = format!(
        "it was installed anew, or another machine answers in its place: ask the server's administrator whether the \
         fingerprint {fingerprint} is right"
    );
    let accept = format!("accept the new one as user {}: `{}`", user(), accepting_line(ssh));
    match place.and_then(|place| place.rsplit_once(':')).filter(|(file, _)| file.starts_with('/')) {
        Some((file, line)) => format!(
            "{ask}; only then remove the old key, which is in line {line}, as user {}: `ssh-keygen -f {} -R {}`, and {accept}",
            owner(file),
            word(&text::line(file)),
            word(&text::line(name))
        ),
        // From KnownHostsCommand, say.
        None => format!("{ask}; only then replace the old key where ssh finds it, or {accept}"),
    }
}

/// Who may change the file: ssh's own user, unless it is of all users.
fn owner(file: &str) -> String {
    let is_ours = fs::metadata(file).is_ok_and(|metadata| metadata.uid() == nix::unistd::geteuid().as_raw());
    if is_ours { user() } else { "root".to_owned() }
}

/// The fingerprint of the key that the server has shown.
fn fingerprint(said: &[String]) -> Option<&str> {
    let index = said.iter().rposition(|line| line.starts_with("The fingerprint for the "))?;
    let fingerprint = said.get(index + 1)?.trim_end_matches('.');
    let is_hash =
        |rest: &str| rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/:=".contains(&byte));
    is_hash(fingerprint).then_some(fingerprint)
}
