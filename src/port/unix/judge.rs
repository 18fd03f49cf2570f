//! The verdict on a path. Reads /proc and blocks.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;
use nix::sys::socket::{getsockopt, sockopt};
use socket2::{Domain, SockAddr, Socket, Type};

use super::super::endpoint::Protocol;
use super::super::holder::{self, Owned};
use super::super::occupant::{Holder, Occupant, OccupantKind};
use super::file::{At, SocketFile, at};
use super::rows::{Row, rows};
use crate::text;

/// Whether a socket can be bound to a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing is there.
    Unbound,
    /// The file of a socket that nobody has any more.
    Stale(SocketFile),
    /// A socket that somebody has.
    Held(UnixHolder),
    /// It cannot be bound, or it cannot be told: why and what to do, for a person.
    Unusable(String),
}

/// The socket that has a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixHolder {
    /// Its inode; `None` if it is in another network namespace.
    inode: Option<u32>,
    /// The owner of the file.
    uid: u32,
    /// The process that made it, where the kernel tells that of a socket elsewhere.
    pid: Option<u32>,
    /// Whether it listens.
    is_listening: bool,
}

/// The verdict on `path` now. A socket of another network namespace is found by a connection, which its holder may see.
pub fn judge(path: &Path) -> Judgement {
    match try_judge(path) {
        Ok(judgement) => judgement,
        Err(error) => Judgement::Unusable(format!(
            "cannot find out who has {}: {error}; `portward who {}` as root may tell more",
            path.display(),
            path.display()
        )),
    }
}

fn try_judge(path: &Path) -> io::Result<Judgement> {
    let shown = path.display();
    let (file, uid) = match at(path)? {
        At::Socket(file, uid) => (file, uid),
        At::Other(kind) => {
            return Ok(Judgement::Unusable(format!(
                "{shown} is {kind}, not a socket, and portward removes no such thing: move it away, or write another path in \
                 `local_port`"
            )));
        }
        At::Nothing => {
            let directory = path.parent().unwrap_or(Path::new("/"));
            if directory.is_dir() {
                return Ok(Judgement::Unbound);
            }
            let directory = directory.display();
            return Ok(Judgement::Unusable(format!(
                "there is no directory {directory} for the socket {shown}: make it (`mkdir -p {directory}`), and portward finds it \
                 with its next try"
            )));
        }
    };
    if let Some(row) = find(path, file)? {
        let Row { inode, is_listening, .. } = row;
        return Ok(Judgement::Held(UnixHolder { inode: Some(inode), uid, pid: None, is_listening }));
    }
    let elsewhere =
        |pid, is_listening| Ok(Judgement::Held(UnixHolder { inode: None, uid, pid, is_listening }));
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    let Err(error) = socket.connect(&SockAddr::unix(path)?) else {
        let peer = getsockopt(&socket, sockopt::PeerCredentials).ok();
        // 0 stands for a process that is not in this PID namespace.
        let pid = peer.and_then(|peer| u32::try_from(peer.pid()).ok()).filter(|pid| *pid != 0);
        return elsewhere(pid, true);
    };
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Ok(Judgement::Stale(file)),
        Some(libc::ENOENT) => Ok(Judgement::Unbound),
        // Its queue is full, or it is a socket of another type.
        Some(libc::EAGAIN) => elsewhere(None, true),
        Some(libc::EPROTOTYPE) => elsewhere(None, false),
        _ => Ok(Judgement::Unusable(format!(
            "{shown} is the socket of another user, and portward may not ask whether anybody listens on it ({error}): remove it if \
             nobody does (`sudo portward who {shown}` tells), or write another path in `local_port`"
        ))),
    }
}

/// The socket that is bound to `file`, which is at `path`.
fn find(path: &Path, file: SocketFile) -> io::Result<Option<Row>> {
    let name = path.as_os_str().as_bytes();
    let is_it = |row: &Row| match row.file {
        // The kernel's device of some file systems (btrfs, overlayfs) is not that of stat(2): then the name decides.
        Some((inode, device)) => {
            inode == low(file.inode)
                && (device == kernel_device(file.device) || row.name.as_deref() == Some(name))
        }
        None => row.name.as_deref() == Some(name),
    };
    let mut found: Vec<Row> = rows()?.into_iter().filter(is_it).collect();
    found.sort_by_key(|row| !row.is_listening);
    Ok(found.into_iter().next())
}

/// The kernel reports the lower half.
fn low(inode: u64) -> u32 {
    u32::try_from(inode & u64::from(u32::MAX)).unwrap_or_default()
}

/// A device number of stat(2) as the kernel has it: 12 bits of the major number before 20 of the minor one.
fn kernel_device(device: u64) -> u32 {
    (libc::major(device) << 20) | libc::minor(device)
}

/// The file at `path`, and the inode of the socket that listens there.
pub fn listening(path: &Path) -> io::Result<Option<(SocketFile, u32)>> {
    let At::Socket(file, _) = at(path)? else { return Ok(None) };
    let row = find(path, file)?.filter(|row| row.is_listening);
    Ok(row.map(|row| (file, row.inode)))
}

/// Who has `path`, in the words of the API.
pub fn occupant(path: &Path, holder: &UnixHolder) -> Occupant {
    let UnixHolder { inode, uid, pid, is_listening } = *holder;
    let described = match inode {
        Some(inode) => holder::describe_all(&[Owned { inode, uid, cgroup: None }]).pop(),
        None => Some(Holder {
            pid,
            uid,
            user: holder::user(uid),
            command: pid.and_then(holder::command),
            ..Holder::default()
        }),
    };
    Occupant {
        port: 0,
        protocol: Protocol::Tcp,
        kind: if is_listening { OccupantKind::Listener } else { OccupantKind::Bound },
        address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        path: Some(text::line(&path.to_string_lossy()).into_owned()),
        dual_stack: false,
        peer: None,
        time_wait_ms: None,
        until: None,
        holder: described,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    #[test]
    fn a_path_is_unbound_stale_held_or_unusable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        assert_eq!(judge(&path), Judgement::Unbound);
        let listener = UnixListener::bind(&path).unwrap();
        let Judgement::Held(holder) = judge(&path) else { panic!("{:?}", judge(&path)) };
        let found = occupant(&path, &holder);
        assert_eq!(found.holder.unwrap().pid, Some(std::process::id()));
        assert_eq!((found.path.as_deref(), found.kind), (path.to_str(), OccupantKind::Listener));
        assert_eq!(listening(&path).unwrap().map(|(_, inode)| Some(inode)), Some(holder.inode));

        // An accepted connection has the name and the file, and holds nothing.
        let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let (_accepted, _) = listener.accept().unwrap();
        drop(listener);
        let Judgement::Stale(file) = judge(&path) else { panic!("{:?}", judge(&path)) };
        assert_eq!(listening(&path).unwrap(), None);
        file.remove(&path).unwrap();

        let _datagrams = UnixDatagram::bind(&path).unwrap();
        assert!(matches!(judge(&path), Judgement::Held(UnixHolder { is_listening: false, .. })));
        // The file of a socket that is in use, under a name that it was not bound to.
        let linked = directory.path().join("linked");
        fs::hard_link(&path, &linked).unwrap();
        assert!(matches!(judge(&linked), Judgement::Held(_)));
        // Its name is taken by another file.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        let unusable = |path: &Path, words: &str| match judge(path) {
            Judgement::Unusable(why) => assert!(why.contains(words), "{why}"),
            other => panic!("{other:?}"),
        };
        unusable(&path, "is a regular file, not a socket");
        unusable(&directory.path().join("no/s"), "there is no directory");
        unusable(&path.join("s"), "cannot find out");
    }

    #[test]
    fn a_device_number_is_put_together_as_the_kernel_does() {
        assert_eq!(kernel_device(libc::makedev(8, 1)), (8 << 20) | 1);
        assert_eq!(kernel_device(libc::makedev(0, 300)), 300);
    }
}
