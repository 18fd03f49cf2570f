//! The identities of a tunnel: the two hashes of autossh-tunnel, and the derived name if there is none in the file.

use std::collections::{HashMap, HashSet};

use md5::{Digest, Md5};

use super::desired::{Tunnel, Written};
use crate::text;

/// Names are cut to this many characters when derived, and refused beyond it when written.
pub(super) const LONGEST_NAME: usize = 128;

/// autossh-tunnel's identity of a tunnel: md5 of its six texts, 32 hex digits. `name`: as written, if it is.
pub(super) fn hash(name: Option<&str>, written: &Written, interactive: bool) -> String {
    let name = name.unwrap_or("unnamed");
    let Written { remote_host, remote_port, local_port, direction } = written;
    digest(&format!("{name}|{remote_host}|{remote_port}|{local_port}|{direction}|{interactive}"))
}

/// autossh-tunnel's older identity: 8 hex digits.
pub(super) fn log_id(written: &Written) -> String {
    let Written { remote_host, remote_port, local_port, direction } = written;
    let mut digits = digest(&format!("{remote_host}:{remote_port}:{local_port}:{direction}"));
    digits.truncate(8);
    digits
}

/// Whether the file gives the tunnel its name. One that is derived is no part of the hash.
pub(crate) fn is_named(tunnel: &Tunnel) -> bool {
    tunnel.hash != hash(None, &tunnel.written, tunnel.interactive)
}

/// The identity of an entry whose `hash` another one has: the one in this line of the file.
pub(super) fn another_hash(hash: &str, line: usize) -> String {
    digest(&format!("{hash}|{line}"))
}

/// A shorter prefix of a hash names no tunnel.
pub(crate) const SHORTEST_PREFIX: usize = 8;

/// Whether `text` may stand for the tunnels whose hash begins with it.
pub(crate) fn is_hash_prefix(text: &str) -> bool {
    text.len() >= SHORTEST_PREFIX && text.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// md5 of a text, 32 hex digits.
pub(super) fn digest(text: &str) -> String {
    text::hex(&Md5::digest(text))
}

/// The name of a tunnel that has none, before it is made unique: what runs it, and its local port.
pub(super) fn derived_name(runner: &str, local_port: &str) -> String {
    let runner = runner.strip_prefix("ssh://").unwrap_or(runner);
    let host = runner.rsplit_once('@').map_or(runner, |(_, host)| host);
    format!("{host}-{local_port}").chars().take(LONGEST_NAME).collect()
}

/// Makes the names of `unnamed` (hash, derived name) unique among themselves and against `taken`.
///
/// Numbers are assigned in the order of the hashes, so that reordering the file renames nothing.
pub(super) fn make_unique(unnamed: &mut [(&str, &mut String)], mut taken: HashSet<String>) {
    unnamed.sort_by_key(|(hash, _)| *hash);
    let mut numbers: HashMap<String, usize> = HashMap::new();
    for (_, name) in unnamed {
        let derived = std::mem::take(*name);
        let number = numbers.entry(derived.clone()).or_insert(1);
        let mut unique = derived.clone();
        while !taken.insert(unique.clone()) {
            *number += 1;
            unique = format!("{derived}-{number}");
        }
        **name = unique;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(remote_host: &str, remote_port: &str, local_port: &str) -> Written {
        Written {
            remote_host: remote_host.to_owned(),
            remote_port: remote_port.to_owned(),
            local_port: local_port.to_owned(),
            direction: "remote_to_local".to_owned(),
        }
    }

    /// The digits were made with `printf '%s' 'TEXT' | md5sum`.
    #[test]
    fn hashes_are_those_of_autossh_tunnel() {
        let database = written("user@db-server", "3306", "13306");
        // database|user@db-server|3306|13306|remote_to_local|false
        assert_eq!(hash(Some("database"), &database, false), "96eac3f9b42c27781a491626a5e1c7e9");
        // unnamed|user@db-server|3306|13306|remote_to_local|true
        assert_eq!(hash(None, &database, true), "ab7a493b41d61d2d7b835e511dd4ac32");
        // user@db-server:3306:13306:remote_to_local
        assert_eq!(log_id(&database), "b9c38740");
    }

    #[test]
    fn a_derived_name_leaves_out_the_user() {
        assert_eq!(derived_name("user@db-server", "13306"), "db-server-13306");
        assert_eq!(derived_name("ssh://user@db-server:22", "13306"), "db-server:22-13306");
        assert_eq!(derived_name("socat", "80"), "socat-80");
    }

    #[test]
    fn derived_names_do_not_depend_on_the_order() {
        let mut names = ["web-80".to_owned(), "web-80".to_owned(), "web-80".to_owned()];
        let [first, second, third] = &mut names;
        let taken = HashSet::from(["web-80-2".to_owned()]);
        make_unique(&mut [("cc", first), ("aa", second), ("bb", third)], taken);
        assert_eq!(names, ["web-80-4", "web-80", "web-80-3"]);
    }
}
