//! The daemon's unix socket: its file, the lock beside it, and how both are made again when somebody removes them.

mod error;
mod lock;

use std::fs;
use std::future::pending;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::stat::{Mode, fchmod};
use nix::unistd::Uid;
use socket2::{Domain, SockAddr, Type};
use tokio::net::{UnixListener, UnixStream, unix};
use tokio::sync::watch;

pub use error::SocketError;

use self::lock::{Lock, LockError};
use crate::access::{self, Insecure, Rule};
use crate::paths;

/// Connections that the kernel queues for us: on a unix socket, connecting fails at once when the queue is full. The kernel takes
/// the lower of this and net.core.somaxconn, whose default is the same.
const BACKLOG: i32 = 4096;

/// The socket as it is served: the latest listener, none once it is closed.
type Served = Option<Arc<UnixListener>>;

/// The daemon's unix socket.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    served: watch::Sender<Served>,
    bound: Mutex<Bound>,
}

/// What makes the socket's path ours.
#[derive(Debug)]
struct Bound {
    /// Device and inode of the socket's file; `None` once it is closed.
    file: Option<(u64, u64)>,
    lock: Lock,
}

impl Socket {
    /// Binds it, with mode 0600. Must be called within a tokio runtime.
    pub fn bind(path: &Path) -> Result<(Self, Doorway), SocketError> {
        check_directory(path, Uid::effective())?;
        let lock = lock(path)?;
        let (listener, file) = bind(path)?;
        let (served, current) = watch::channel(Some(Arc::new(listener)));
        let bound = Mutex::new(Bound { file: Some(file), lock });
        Ok((Self { path: path.to_owned(), served, bound }, Doorway(current)))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the lock file and the socket again if they are not there, or if something else is in their place; `true` if
    /// the socket had to be made. Connections that are open go on. When a daemon that started meanwhile holds the lock, its
    /// socket is left alone.
    pub fn restore(&self) -> Result<bool, SocketError> {
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        if bound.file.is_none() {
            return Ok(false);
        }
        check_directory(&self.path, Uid::effective())?;
        if !bound.lock.is_at(&paths::lock_file(&self.path)) {
            bound.lock = lock(&self.path)?;
        }
        if identity(&self.path) == bound.file {
            return Ok(false);
        }
        let (listener, file) = bind(&self.path)?;
        bound.file = Some(file);
        self.served.send_replace(Some(Arc::new(listener)));
        Ok(true)
    }

    /// Removes the socket's file, and accepts nobody any more. The lock is held until this goes.
    pub fn close(&self) {
        self.served.send_replace(None);
        let file = self.bound.lock().unwrap_or_else(PoisonError::into_inner).file.take();
        // Another daemon's socket may be in its place.
        if file.is_some() && identity(&self.path) == file {
            // Nobody is left to tell; the next daemon finds a stale socket and unlinks it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Where clients come in, whichever listener serves the socket at the time.
#[derive(Debug)]
pub struct Doorway(watch::Receiver<Served>);

impl Doorway {
    /// The listener of now, if there is one.
    pub fn current(&self) -> Option<Arc<UnixListener>> {
        self.0.borrow().clone()
    }

    /// The next client. Cancel-safe.
    pub async fn accept(&self) -> io::Result<(UnixStream, unix::SocketAddr)> {
        let mut served = self.0.clone();
        loop {
            let listener = served.borrow_and_update().clone();
            let next = async {
                match &listener {
                    Some(listener) => listener.accept().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                accepted = next => return accepted,
                Ok(()) = served.changed() => {}
            }
        }
    }
}

/// Whether only `owner` and root may write in the directory of `socket`, and only they can put another one in its place.
pub fn check_directory(socket: &Path, owner: Uid) -> Result<(), SocketError> {
    let path = match socket.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let metadata =
        fs::metadata(path).map_err(|source| SocketError::Directory { path: path.to_owned(), source })?;
    access::check(&metadata, Rule::WrittenBy(owner.as_raw())).map_err(|Insecure { uid, mode, .. }| {
        SocketError::SharedDirectory { path: path.to_owned(), uid, mode }
    })?;
    let shared = access::shared_on_the_way(path, owner.as_raw());
    shared.map_or(Ok(()), |(directory, Insecure { uid, mode, .. })| {
        Err(SocketError::SharedParent { path: path.to_owned(), directory, uid, mode })
    })
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn lock(socket: &Path) -> Result<Lock, SocketError> {
    let path = paths::lock_file(socket);
    Lock::take(&path).map_err(|error| match error {
        LockError::Held(pid) => SocketError::AlreadyRunning { pid, socket: socket.to_owned() },
        LockError::Io(source) => SocketError::Lock { path, source },
    })
}

fn bind(path: &Path) -> Result<(UnixListener, (u64, u64)), SocketError> {
    remove_stale(path)?;
    let failed = |source| SocketError::Socket { path: path.to_owned(), source };
    let listener = bind_unix(path).map_err(failed)?;
    let metadata = fs::symlink_metadata(path).map_err(failed)?;
    Ok((listener, (metadata.dev(), metadata.ino())))
}

/// Removes the socket of a daemon that is dead. We hold the lock, so no other portward can be alive on it; but whatever else
/// answers there is left alone.
fn remove_stale(socket: &Path) -> Result<(), SocketError> {
    let error = |source| SocketError::Socket { path: socket.to_owned(), source };
    let metadata = match fs::symlink_metadata(socket) {
        Ok(metadata) => metadata,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(other) => return Err(error(other)),
    };
    if !metadata.file_type().is_socket() {
        return Err(error(io::Error::new(io::ErrorKind::AlreadyExists, "the path is taken by another file")));
    }
    match connect(socket) {
        Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(socket).map_err(error)
        }
        // It would block: so many wait for who listens there.
        Ok(()) => Err(SocketError::AlreadyRunning { pid: None, socket: socket.to_owned() }),
        Err(full) if full.kind() == io::ErrorKind::WouldBlock => {
            Err(SocketError::AlreadyRunning { pid: None, socket: socket.to_owned() })
        }
        Err(other) => Err(error(other)),
    }
}

fn connect(path: &Path) -> io::Result<()> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.cloexec().nonblocking(), None)?;
    socket.connect(&SockAddr::unix(path)?)
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.cloexec().nonblocking(), None)?;
    // The file that bind makes takes its mode from the socket: at no time may others connect, whatever the umask.
    fchmod(socket.as_fd(), Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    UnixListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn socket_in(directory: &Path) -> (PathBuf, Socket, Doorway) {
        let path = directory.join("portward.sock");
        let (socket, doorway) = Socket::bind(&path).unwrap();
        (path, socket, doorway)
    }

    async fn answers(path: &Path, doorway: &Doorway) {
        let (_client, accepted) = tokio::join!(UnixStream::connect(path), doorway.accept());
        accepted.unwrap();
    }

    #[tokio::test]
    async fn the_socket_is_for_its_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let (path, _socket, _doorway) = socket_in(directory.path());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_second_daemon_is_told_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let (path, first, doorway) = socket_in(directory.path());
        let error = Socket::bind(&path).unwrap_err();
        let ours = std::process::id();
        assert!(
            matches!(error, SocketError::AlreadyRunning { pid: Some(pid), .. } if pid == ours),
            "{error}"
        );
        assert!(path.exists(), "the loser must not take the winner's socket away");
        drop((first, doorway));
        Socket::bind(&path).unwrap();
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_daemon_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("portward.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        Socket::bind(&path).unwrap();
    }

    #[tokio::test]
    async fn what_else_is_in_the_way_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("portward.sock");
        let stranger = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(Socket::bind(&path), Err(SocketError::AlreadyRunning { pid: None, .. })));
        drop(stranger);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "notes").unwrap();
        assert!(matches!(Socket::bind(&path), Err(SocketError::Socket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "notes");
    }

    #[tokio::test]
    async fn a_directory_that_others_may_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o777, 0o1777, 0o770, 0o702] {
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
            let error = Socket::bind(&directory.path().join("portward.sock")).unwrap_err();
            assert!(
                matches!(error, SocketError::SharedDirectory { mode: told, .. } if told == mode),
                "{error}"
            );
        }
        let missing = directory.path().join("missing/portward.sock");
        assert!(matches!(Socket::bind(&missing), Err(SocketError::Directory { .. })));
    }

    #[tokio::test]
    async fn a_directory_that_others_may_replace_is_refused() {
        let top = tempfile::tempdir().unwrap();
        let directory = top.path().join("run");
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = Socket::bind(&directory.join("portward.sock")).unwrap_err();
        assert!(matches!(error, SocketError::SharedParent { mode: 0o777, .. }), "{error}");
        assert!(error.to_string().contains(&format!("chmod go-w {}", top.path().display())), "{error}");
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        Socket::bind(&directory.join("portward.sock")).unwrap();
    }

    #[tokio::test]
    async fn a_socket_whose_file_is_removed_is_made_again_with_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let (path, socket, doorway) = socket_in(directory.path());
        assert!(!socket.restore().unwrap(), "nothing was missing");
        fs::remove_file(&path).unwrap();
        assert!(socket.restore().unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        answers(&path, &doorway).await;
        socket.close();
        assert!(!path.exists());
        assert!(!socket.restore().unwrap(), "it is closed");
    }

    #[tokio::test]
    async fn an_accept_that_waits_goes_over_to_the_new_listener() {
        let directory = tempfile::tempdir().unwrap();
        let (path, socket, doorway) = socket_in(directory.path());
        let accepted = tokio::spawn(async move { doorway.accept().await });
        tokio::task::yield_now().await;
        fs::remove_file(&path).unwrap();
        socket.restore().unwrap();
        let _client = UnixStream::connect(&path).await.unwrap();
        accepted.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_lock_that_is_removed_is_taken_again_before_a_second_daemon_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let (path, socket, _doorway) = socket_in(directory.path());
        fs::remove_file(paths::lock_file(&path)).unwrap();
        // The socket still answers.
        assert!(matches!(Socket::bind(&path), Err(SocketError::AlreadyRunning { pid: None, .. })));
        socket.restore().unwrap();
        let ours = std::process::id();
        assert!(
            matches!(Socket::bind(&path), Err(SocketError::AlreadyRunning { pid: Some(pid), .. }) if pid == ours)
        );
    }

    #[tokio::test]
    async fn the_socket_of_a_second_daemon_in_a_new_directory_is_left_alone_until_it_goes() {
        let directory = tempfile::tempdir().unwrap();
        let (path, first, _) = socket_in(directory.path());
        fs::remove_file(&path).unwrap();
        fs::remove_file(paths::lock_file(&path)).unwrap();
        let (_, second, doorway) = socket_in(directory.path());
        assert!(matches!(first.restore(), Err(SocketError::AlreadyRunning { pid: Some(_), .. })));
        first.close();
        answers(&path, &doorway).await;
        drop((second, doorway));
    }
}
