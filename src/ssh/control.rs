//! The directory of the masters' control sockets, and the event of one being ready.

use std::collections::HashMap;
use std::env;
use std::fs::{self, DirBuilder};
use std::future::pending;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::mkdtemp;
use notify::event::{CreateKind, EventKind, ModifyKind};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::watch::{Subscription, Watcher};

/// Longest path of a control socket: 108 bytes of `sun_path`, less the final zero and the 17 bytes of the suffix that ssh
/// appends while it makes the socket.
const MAX_PATH: usize = 108 - 1 - 17;

/// Longest file name that [`ControlDirectory::socket`] is given: two numbers of 20 digits would be longer, but take
/// longer than the machine lives.
const NAME_ROOM: usize = 20;

/// Name of a private directory; mkdtemp(3) fills in the end.
const PRIVATE: &str = "portward-XXXXXX";

/// Without inotify nothing tells that ssh has made its socket. So while an ssh starts, and only then, its path is looked at
/// after waits that grow from this one
const FIRST_LOOK: Duration = Duration::from_millis(2);
/// up to this one, until the attempt is over.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// The directory for control sockets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// An operation on it failed.
    #[error("cannot {operation} the directory {path:?} for ssh's control sockets: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Others could put sockets there.
    #[error(
        "{path:?} belongs to uid {uid} with mode {mode:o}; ssh's control sockets need a directory of this user with mode \
         700: remove it or name another runtime directory in RUNTIME_DIRECTORY"
    )]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// A unix socket's path has at most 107 bytes.
    #[error(
        "{path:?} is too long a path for ssh's control sockets ({length} bytes, at most {max}): name a shorter runtime \
         directory in RUNTIME_DIRECTORY"
    )]
    TooLong {
        /// The directory.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
        /// The most that it may have.
        max: usize,
    },
    /// The directory is gone and cannot be made again.
    #[error("{cause}; new ones are made in {place:?}")]
    Elsewhere {
        /// The directory used in its place.
        place: PathBuf,
        /// Why it cannot be made where it belongs.
        cause: Box<ControlError>,
    },
}

type Expected = Arc<Mutex<HashMap<PathBuf, oneshot::Sender<()>>>>;

/// The directory of the control sockets: ours alone, watched through inotify.
///
/// Nothing but a master and portward's own connections to it needs the path, so when the directory cannot be kept or made
/// again where it belongs, a private one is made among the temporary files.
#[derive(Debug)]
pub struct ControlDirectory {
    /// Where it belongs.
    path: PathBuf,
    /// Where sockets are made now.
    place: Place,
    /// Private directories that were used before; sockets may still be in there.
    left: Vec<PathBuf>,
    expected: Expected,
    subscription: Subscription,
}

/// A directory, and which one: device and inode.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    path: PathBuf,
    identity: (u64, u64),
}

impl Place {
    fn at(path: &Path) -> Result<Self, ControlError> {
        ControlDirectory::check_safety(path, nix::unistd::geteuid().as_raw())?;
        let metadata = fs::symlink_metadata(path).map_err(|source| failed("examine", path, source))?;
        Ok(Self { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) })
    }

    fn is_intact(&self) -> bool {
        Self::at(&self.path).is_ok_and(|there| there == *self)
    }
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> ControlError {
    ControlError::Io { operation, path: path.to_owned(), source }
}

impl ControlDirectory {
    /// Makes the directory, or takes over one that is safe; sockets that an earlier run left in it are removed.
    pub fn open(watcher: &Watcher, path: &Path) -> Result<Self, ControlError> {
        Self::check_length(path)?;
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("make", path, error)),
        }
        let place = Place::at(path)?;
        for entry in fs::read_dir(path).map_err(|source| failed("read", path, source))? {
            let stale = entry.map_err(|source| failed("read", path, source))?.path();
            fs::remove_file(stale).map_err(|source| failed("clear", path, source))?;
        }

        let expected = Expected::default();
        let subscription = watcher.subscribe({
            let expected = expected.clone();
            move |event| announce(event, &expected)
        });
        let (path, left) = (path.to_owned(), Vec::new());
        Ok(Self { path, place, left, expected, subscription })
    }

    /// Makes the directory again where it is missing, or a private one elsewhere. The error says why it is not where it
    /// belongs; there is a usable one nevertheless, unless it says that of both.
    ///
    /// A directory that somebody else has put there may be that of another daemon, whose sockets have the same names: it is
    /// taken over only if `is_locked`, which means that no other daemon runs there.
    pub fn restore(&mut self, is_locked: bool) -> Result<(), ControlError> {
        if self.place.path == self.path && self.place.is_intact() {
            return Ok(());
        }
        let cause = match self.make_again(is_locked) {
            Ok(place) => {
                self.enter(place);
                return Ok(());
            }
            Err(cause) => cause,
        };
        if self.place.path == self.path || !self.place.is_intact() {
            let place = private_directory()?;
            self.enter(place);
        }
        Err(ControlError::Elsewhere { place: self.place.path.clone(), cause: Box::new(cause) })
    }

    fn make_again(&self, is_locked: bool) -> Result<Place, ControlError> {
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Ok(()) => Place::at(&self.path),
            Err(error) if is_locked && error.kind() == io::ErrorKind::AlreadyExists => {
                let place = Place::at(&self.path)?;
                self.remove_dead_sockets()?;
                Ok(place)
            }
            Err(error) => Err(failed("make", &self.path, error)),
        }
    }

    /// Sockets whose ssh ended while something was mounted over the directory, say, are nobody's to remove but ours. Those of
    /// masters that run stay.
    fn remove_dead_sockets(&self) -> Result<(), ControlError> {
        for entry in fs::read_dir(&self.path).map_err(|source| failed("read", &self.path, source))? {
            let path = entry.map_err(|source| failed("read", &self.path, source))?.path();
            if try_connect(&path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                fs::remove_file(&path).map_err(|source| failed("clear", &self.path, source))?;
            }
        }
        Ok(())
    }

    fn enter(&mut self, place: Place) {
        let before = std::mem::replace(&mut self.place, place);
        self.subscription.unwatch(&before.path);
        if before.path != self.path {
            self.left.push(before.path);
        }
        // Those that are empty go now, the others with their last user.
        self.left.retain(|path| fs::remove_dir(path).is_err() && path.exists());
    }

    /// Whether the sockets in a directory `path` can have their names: a unix socket's path is short.
    pub fn check_length(path: &Path) -> Result<(), ControlError> {
        let max = MAX_PATH - NAME_ROOM - 1;
        let length = path.as_os_str().len();
        if length > max {
            return Err(ControlError::TooLong { path: path.to_owned(), length, max });
        }
        Ok(())
    }

    /// Whether `path` is a directory that belongs to `owner`, and that nobody else may enter.
    pub fn check_safety(path: &Path, owner: u32) -> Result<(), ControlError> {
        let metadata = fs::symlink_metadata(path).map_err(|source| ControlError::Io {
            operation: "examine",
            path: path.to_owned(),
            source,
        })?;
        let (uid, mode) = (metadata.uid(), metadata.permissions().mode() & 0o777);
        if !metadata.is_dir() || uid != owner || mode & 0o077 != 0 {
            return Err(ControlError::Unsafe { path: path.to_owned(), uid, mode });
        }
        Ok(())
    }

    /// A place for a control socket, and when ssh has made it. `name` has at most 20 bytes.
    pub fn socket(&mut self, name: &str) -> (ControlSocket, SocketMade) {
        // Who cannot have it where it belongs is told by the daemon, which looks after that; if there is no place at all, ssh
        // says so.
        let _ = self.restore(false);
        // Each time, for inotify may be to be had again, or no longer.
        let is_watched = self.subscription.watch(&self.place.path).is_ok();
        let path = self.place.path.join(name);
        // A name is given once: what has it is left from somebody else.
        let _ = fs::remove_file(&path);
        let (made, heard) = oneshot::channel();
        lock(&self.expected).insert(path.clone(), made);
        let made = SocketMade { path: path.clone(), heard, is_watched };
        (ControlSocket { path, expected: self.expected.clone() }, made)
    }
}

impl Drop for ControlDirectory {
    fn drop(&mut self) {
        self.left.push(self.place.path.clone());
        for path in &self.left {
            // A directory that is not empty belongs to somebody who still runs.
            let _ = fs::remove_dir(path);
        }
    }
}

/// Does not wait for a listener that is slow to accept.
fn try_connect(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec().nonblocking(), None)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// A directory of ours alone among the temporary files, where a socket's path still fits.
fn private_directory() -> Result<Place, ControlError> {
    let temporary =
        Some(env::temp_dir().join(PRIVATE)).filter(|path| ControlDirectory::check_length(path).is_ok());
    let template = temporary.unwrap_or_else(|| Path::new("/tmp").join(PRIVATE));
    let path = mkdtemp(&template).map_err(|errno| failed("make", &template, errno.into()))?;
    Place::at(&path)
}

/// When ssh has made its control socket.
#[derive(Debug)]
pub struct SocketMade {
    path: PathBuf,
    heard: oneshot::Receiver<()>,
    is_watched: bool,
}

impl SocketMade {
    /// Waits for the socket; for ever, if ssh never makes it. Where inotify is not to be had it is looked for after waits
    /// that grow, from 2 ms to 1 s.
    pub async fn wait(self) {
        let Self { path, mut heard, is_watched } = self;
        let mut wait = FIRST_LOOK;
        loop {
            let look = async { if is_watched { pending().await } else { sleep(wait).await } };
            tokio::select! {
                made = &mut heard => match made {
                    Ok(()) => return,
                    // The socket's place was given up.
                    Err(_) => return pending().await,
                },
                () = look => wait = (wait * 3 / 2).min(LAST_LOOK),
            }
            if path.exists() {
                return;
            }
        }
    }
}

/// ssh makes the socket under another name and links it to its own, so the event comes when it is complete.
fn announce(event: &notify::Event, expected: &Expected) {
    match event.kind {
        EventKind::Create(CreateKind::Any | CreateKind::File | CreateKind::Other)
        | EventKind::Modify(ModifyKind::Name(_)) => {}
        _ if event.need_rescan() => {
            // Events were lost: look at what is there.
            let mut expected = lock(expected);
            let made: Vec<_> = expected.keys().filter(|path| path.exists()).cloned().collect();
            for path in made {
                if let Some(made) = expected.remove(&path) {
                    let _ = made.send(());
                }
            }
            return;
        }
        _ => return,
    }
    for path in &event.paths {
        if let Some(made) = lock(expected).remove(path) {
            // A receiver that is gone has given up on this socket.
            let _ = made.send(());
        }
    }
}

/// One control socket's place; dropping it removes the socket that a killed ssh leaves behind.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    expected: Expected,
}

impl ControlSocket {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        lock(&self.expected).remove(&self.path);
        // An ssh that ended by itself has removed it.
        let _ = fs::remove_file(&self.path);
    }
}

fn lock(expected: &Expected) -> std::sync::MutexGuard<'_, HashMap<PathBuf, oneshot::Sender<()>>> {
    expected.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn open(path: &Path) -> Result<ControlDirectory, ControlError> {
        ControlDirectory::open(&Watcher::default(), path)
    }

    /// Makes a socket as ssh does.
    fn make(path: &Path) {
        let temporary = path.with_extension("random");
        let _listener = UnixListener::bind(&temporary).unwrap();
        fs::hard_link(&temporary, path).unwrap();
        fs::remove_file(&temporary).unwrap();
    }

    #[tokio::test]
    async fn a_linked_socket_is_announced_and_its_place_cleared() {
        let directory = tempfile::tempdir().unwrap();
        let mut control = ControlDirectory::open(&Watcher::default(), &directory.path().join("ssh")).unwrap();
        let (socket, made) = control.socket("1-1");
        make(socket.path());
        made.wait().await;
        let path = socket.path().to_owned();
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_open_to_others_is_refused_and_a_stale_socket_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ssh");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(open(&path), Err(ControlError::Unsafe { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        drop(UnixListener::bind(path.join("1-1")).unwrap());
        let control = open(&path).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        drop(control);
        assert!(!path.exists());
    }

    #[test]
    fn a_path_too_long_for_a_unix_socket_is_refused_at_once() {
        let path = Path::new("/tmp").join("x".repeat(80));
        assert!(matches!(open(&path), Err(ControlError::TooLong { .. })));
    }

    #[tokio::test]
    async fn a_directory_that_is_removed_is_made_again_for_the_next_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ssh");
        let mut control = open(&path).unwrap();
        let (before, _made) = control.socket("1-1");
        fs::remove_dir_all(&path).unwrap();
        let (socket, made) = control.socket("1-2");
        assert_eq!(socket.path(), path.join("1-2"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        make(socket.path());
        made.wait().await;
        drop((before, socket, control));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn sockets_go_elsewhere_while_the_directory_belongs_to_somebody_else_and_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ssh");
        let mut control = open(&path).unwrap();
        fs::rename(&path, directory.path().join("old")).unwrap();
        let other = open(&path).unwrap();
        assert!(matches!(control.restore(false), Err(ControlError::Elsewhere { .. })));
        let (socket, made) = control.socket("1-1");
        let private = socket.path().parent().unwrap().to_owned();
        assert!(!private.starts_with(directory.path()), "{private:?}");
        assert_eq!(fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o700);
        make(socket.path());
        made.wait().await;

        drop(other);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        let (dead, alive) = (path.join("1-90"), path.join("1-91"));
        drop(UnixListener::bind(&dead).unwrap());
        let _master = UnixListener::bind(&alive).unwrap();
        assert!(control.restore(false).is_err(), "it may belong to a daemon that runs");
        control.restore(true).unwrap();
        assert!(!dead.exists() && alive.exists());
        fs::remove_file(&alive).unwrap();
        assert!(private.exists(), "a socket is in there");
        let (later, _made) = control.socket("1-2");
        assert_eq!(later.path(), path.join("1-2"));
        drop((socket, later, control));
        assert!(!private.exists() && !path.exists());
    }

    #[tokio::test]
    async fn without_inotify_the_socket_is_looked_for() {
        let directory = tempfile::tempdir().unwrap();
        let mut control = open(&directory.path().join("ssh")).unwrap();
        let (socket, made) = control.socket("1-1");
        let made = SocketMade { is_watched: false, ..made };
        let path = socket.path().to_owned();
        // Nobody announces it.
        let _unheard = lock(&control.expected).remove(&path);
        let waiting = tokio::spawn(made.wait());
        make(&path);
        waiting.await.unwrap();
    }
}
