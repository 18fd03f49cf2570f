//! Where the API listens: bound before the daemon says that it is ready.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::Uid;
use tokio::net::TcpListener;

use super::socket::{Socket, UnixDoorway};
use super::token::{TokenError, TokenFile};
use crate::access::{self, Insecure, Rule};
use crate::config::desired::ApiTcp;

/// Why the API cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The socket's directory is not there or cannot be looked at.
    #[error(
        "cannot use {} for the API's socket: {source}: create it with `mkdir -m 700`, or choose a path with --socket",
        path.display()
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could put a socket of theirs in place of ours.
    #[error(
        "the directory {} belongs to uid {uid} and has mode {mode:04o}, so others could put a socket in place of the API's: \
         `chmod 700` a directory of your own, or choose another with --socket",
        path.display()
    )]
    SharedDirectory {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// The lock file cannot be used.
    #[error("cannot lock {}: {source}: see that portward's user may write it", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody answers on the socket already.
    #[error(
        "another portward{} is running on {}: stop it first, or choose another socket with --socket",
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(),
        socket.display()
    )]
    AlreadyRunning {
        /// Its process, if it is known.
        pid: Option<u32>,
        /// The socket.
        socket: PathBuf,
    },
    /// The socket cannot be bound.
    #[error("cannot listen on the API's socket {}: {source}: choose another path with --socket", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The TCP address cannot be bound.
    #[error(
        "cannot listen on {address} (api.listen): {source}: `ss -tlnp` tells who does; choose another port"
    )]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// There is no token to guard TCP with.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// The API's listeners. The socket's file goes when this goes.
#[derive(Debug)]
pub struct Listeners {
    pub(super) unix: UnixDoorway,
    pub(super) tcp: Option<(TcpListener, TokenFile)>,
    pub(super) socket_file: SocketFile,
    /// Goes last: the socket's file is ours as long as we hold its lock.
    pub(super) lock: Arc<Socket>,
}

impl Listeners {
    /// Binds the unix socket, with mode 0600, and TCP if it is asked for.
    ///
    /// Must be called within a tokio runtime. The socket's directory must exist, and only we or root may write in it. A socket
    /// that a dead daemon left behind is replaced; beside it, `portward.lock` keeps a second daemon out.
    pub fn bind(socket: &Path, tcp: Option<&ApiTcp>) -> Result<Self, ApiError> {
        let (socket, unix) = Socket::bind(socket)?;
        let socket = Arc::new(socket);
        let socket_file = SocketFile(Arc::clone(&socket));
        let tcp = tcp.map(|tcp| Ok::<_, ApiError>((bind_tcp(tcp.listen)?, TokenFile::new(&tcp.token_file)?)));
        Ok(Self { unix, tcp: tcp.transpose()?, socket_file, lock: socket })
    }

    /// A handle to make the socket again when its file is gone.
    pub fn socket(&self) -> Arc<Socket> {
        Arc::clone(&self.lock)
    }
}

/// Ends the socket when it goes: its file is removed, and nobody is accepted any more.
#[derive(Debug)]
pub(super) struct SocketFile(Arc<Socket>);

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Whether only `owner` and root may write in the directory of `socket`.
pub(crate) fn check_directory(socket: &Path, owner: Uid) -> Result<(), ApiError> {
    let path = match socket.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let metadata =
        fs::metadata(path).map_err(|source| ApiError::Directory { path: path.to_owned(), source })?;
    access::check(&metadata, Rule::WrittenBy(owner.as_raw()))
        .map_err(|Insecure { uid, mode, .. }| ApiError::SharedDirectory { path: path.to_owned(), uid, mode })
}

fn bind_tcp(address: SocketAddr) -> Result<TcpListener, ApiError> {
    // std sets SO_REUSEADDR: connections of an earlier daemon in TIME_WAIT do not matter.
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    bind().map_err(|source| ApiError::Tcp { address, source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn private_directory() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[tokio::test]
    async fn the_socket_is_for_its_owner_only_and_goes_with_the_listeners() {
        let directory = private_directory();
        let path = directory.path().join("portward.sock");
        let listeners = Listeners::bind(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        drop(listeners);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_second_daemon_is_told_of_the_first() {
        let directory = private_directory();
        let path = directory.path().join("portward.sock");
        let first = Listeners::bind(&path, None).unwrap();
        let error = Listeners::bind(&path, None).unwrap_err();
        let ours = std::process::id();
        assert!(matches!(error, ApiError::AlreadyRunning { pid: Some(pid), .. } if pid == ours), "{error}");
        assert!(path.exists(), "the loser must not take the winner's socket away");
        drop(first);
        Listeners::bind(&path, None).unwrap();
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_daemon_is_replaced() {
        let directory = private_directory();
        let path = directory.path().join("portward.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        Listeners::bind(&path, None).unwrap();
    }

    #[tokio::test]
    async fn what_else_is_in_the_way_is_left_alone() {
        let directory = private_directory();
        let path = directory.path().join("portward.sock");
        let stranger = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(Listeners::bind(&path, None), Err(ApiError::AlreadyRunning { pid: None, .. })));
        drop(stranger);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "notes").unwrap();
        assert!(matches!(Listeners::bind(&path, None), Err(ApiError::Socket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "notes");
    }

    #[tokio::test]
    async fn a_directory_that_others_may_write_is_refused() {
        let directory = private_directory();
        for mode in [0o777, 0o1777, 0o770, 0o702] {
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
            let error = Listeners::bind(&directory.path().join("portward.sock"), None).unwrap_err();
            assert!(matches!(error, ApiError::SharedDirectory { mode: told, .. } if told == mode), "{error}");
        }
        let missing = directory.path().join("missing/portward.sock");
        assert!(matches!(Listeners::bind(&missing, None), Err(ApiError::Directory { .. })));
    }
}
