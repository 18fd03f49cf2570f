//! Who may be a client, by the user who made the socket at the other end of the connection, as the kernel knows it.
//!
//! This keeps other users of the machine from a tunnel. It does not protect against root, against who may act as an allowed
//! user (`su`, `sudo`, a program that relays for others), or against an allowed process that hands its connection on.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::net::SocketAddr;
use std::sync::Arc;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;

use crate::port::{Ports, holder};

/// The users of this machine that may be clients. Nobody else may, and nobody on another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// Names of users, or uids.
    pub users: Vec<String>,
    /// Names of groups, or gids, whose members may be clients.
    pub groups: Vec<String>,
}

/// A client that may not be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    /// Its address.
    pub from: SocketAddr,
    /// Its user; `None` if the client is on another machine, or cannot be asked about.
    pub uid: Option<u32>,
    /// The name of that user.
    pub user: Option<String>,
    /// Its process, if this user may see it and it has not ended.
    pub pid: Option<u32>,
}

/// What becomes of a client.
#[derive(Debug)]
pub(super) enum Judgement {
    Allowed,
    /// It has closed its socket, which therefore has no owner any more.
    Gone,
    /// With the inode of its socket, if that is on this machine.
    Denied(Stranger, Option<u32>),
}

/// Whether `client` may be one. Users and groups are looked up now, on a thread that may block.
pub(super) async fn judge(client: &TcpStream, allowed: Arc<Allowed>, ports: &Ports) -> Judgement {
    let (Ok(ours), Ok(from)) = (client.local_addr(), client.peer_addr()) else { return Judgement::Gone };
    let stranger = |uid, user| Stranger { from, uid, user, pid: None };
    match ports.other_end(ours, from) {
        Ok(Some(row)) if row.inode == 0 => Judgement::Gone,
        Ok(Some(row)) => {
            let (uid, inode) = (row.uid, row.inode);
            let looked_up = spawn_blocking(move || allowed.has(uid).err());
            match looked_up.await {
                Ok(None) => Judgement::Allowed,
                Ok(Some(user)) => Judgement::Denied(stranger(Some(uid), user), Some(inode)),
                // It panicked.
                Err(_) => Judgement::Denied(stranger(Some(uid), None), Some(inode)),
            }
        }
        Ok(None) if ports.is_available(from.ip()) => Judgement::Gone,
        Ok(None) | Err(_) => Judgement::Denied(stranger(None, None), None),
    }
}

impl Stranger {
    /// With the process that has the socket `inode` open. Reads /proc: call it on a thread that may block.
    pub(super) fn with_process(self, inode: Option<u32>) -> Self {
        let pid = inode.and_then(|inode| holder::owners(&BTreeSet::from([inode])).remove(&inode));
        Self { pid, ..self }
    }
}

impl Allowed {
    /// Whether the user `uid` is allowed; the error is the name of a user who is not. May block.
    fn has(&self, uid: u32) -> Result<(), Option<String>> {
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let is_user =
            |name: &String| name.parse() == Ok(uid) || user.as_ref().is_some_and(|user| user.name == *name);
        if self.users.iter().any(is_user) {
            return Ok(());
        }
        let groups = user.as_ref().map(groups).unwrap_or_default();
        let has_group = |name: &String| gid(name).is_some_and(|gid| groups.contains(&gid));
        if self.groups.iter().any(has_group) { Ok(()) } else { Err(user.map(|user| user.name)) }
    }
}

/// The groups of a user, as the user database has them now.
fn groups(user: &User) -> Vec<Gid> {
    let groups = CString::new(user.name.as_str()).ok().and_then(|name| getgrouplist(&name, user.gid).ok());
    groups.unwrap_or_else(|| vec![user.gid])
}

fn gid(name: &str) -> Option<Gid> {
    let named = Group::from_name(name).ok().flatten().map(|group| group.gid);
    named.or_else(|| name.parse().ok().map(Gid::from_raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(users: &[&str], groups: &[&str]) -> Allowed {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Allowed { users: names(users), groups: names(groups) }
    }

    #[test]
    fn users_and_groups_are_meant_by_name_or_number() {
        for by_root in [&["root"][..], &["0"]] {
            assert_eq!(allowed(by_root, &[]).has(0), Ok(()));
            assert_eq!(allowed(&[], by_root).has(0), Ok(()));
        }
        let nobody = User::from_uid(Uid::from_raw(65534)).unwrap().map(|user| user.name);
        assert_eq!(allowed(&["root"], &["root"]).has(65534), Err(nobody));
        assert_eq!(allowed(&["no-such-user"], &["no-such-group"]).has(0), Err(Some("root".to_owned())));
        assert_eq!(allowed(&["root", "3999999999"], &[]).has(3_999_999_999), Ok(()));
        assert_eq!(allowed(&["root"], &["root"]).has(3_999_999_998), Err(None));
    }
}
