//! Why the socket cannot be served.

use std::io;
use std::path::PathBuf;

/// Why the daemon's socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
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
    /// Others could put a directory of theirs in place of the socket's.
    #[error(
        "{} belongs to uid {uid} and has mode {mode:04o}, so others could replace {}, the directory of the API's socket: \
         `chmod go-w {}`, or choose another path with --socket",
        directory.display(),
        path.display(),
        directory.display()
    )]
    SharedParent {
        /// The socket's directory.
        path: PathBuf,
        /// The directory or symbolic link on the way to it.
        directory: PathBuf,
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
}
