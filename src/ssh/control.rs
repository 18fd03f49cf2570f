//! The directory of the masters' control sockets, and the event of one being ready.

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{CreateKind, EventKind, ModifyKind};
use notify::{RecursiveMode, Watcher};
use tokio::sync::oneshot;

/// Longest path of a control socket: 108 bytes of `sun_path`, less the final zero and the 17 bytes of the suffix that ssh
/// appends while it makes the socket.
const MAX_PATH: usize = 108 - 1 - 17;

/// Longest file name that [`ControlDirectory::socket`] is given: two numbers of 20 digits would be longer, but take
/// longer than the machine lives.
const NAME_ROOM: usize = 20;

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
    /// inotify failed.
    #[error("cannot watch {path:?}: {source}")]
    Watch {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: notify::Error,
    },
}

type Expected = Arc<Mutex<HashMap<PathBuf, oneshot::Sender<()>>>>;

/// The directory of the control sockets: ours alone, watched through inotify.
#[derive(Debug)]
pub struct ControlDirectory {
    path: PathBuf,
    expected: Expected,
    /// Ends the watch when dropped.
    _watcher: notify::RecommendedWatcher,
}

impl ControlDirectory {
    /// Makes the directory, or takes over one that is safe; sockets that an earlier run left in it are removed.
    pub fn open(path: &Path) -> Result<Self, ControlError> {
        let failed = |operation| move |source| ControlError::Io { operation, path: path.to_owned(), source };
        Self::check_length(path)?;
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("make")(error)),
        }
        Self::check_safety(path, nix::unistd::geteuid().as_raw())?;
        for entry in fs::read_dir(path).map_err(failed("read"))? {
            let stale = entry.map_err(failed("read"))?.path();
            fs::remove_file(stale).map_err(failed("clear"))?;
        }

        let expected = Expected::default();
        let announced = expected.clone();
        let watch_failed = |source| ControlError::Watch { path: path.to_owned(), source };
        let mut watcher =
            notify::recommended_watcher(move |event| announce(event, &announced)).map_err(watch_failed)?;
        watcher.watch(path, RecursiveMode::NonRecursive).map_err(watch_failed)?;
        Ok(Self { path: path.to_owned(), expected, _watcher: watcher })
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

    /// A place for a control socket; the receiver hears when ssh has made it. `name` has at most 20 bytes.
    pub fn socket(&self, name: &str) -> (ControlSocket, oneshot::Receiver<()>) {
        let path = self.path.join(name);
        let (made, heard) = oneshot::channel();
        lock(&self.expected).insert(path.clone(), made);
        (ControlSocket { path, expected: self.expected.clone() }, heard)
    }
}

impl Drop for ControlDirectory {
    fn drop(&mut self) {
        // A directory that is not empty belongs to somebody who still runs.
        let _ = fs::remove_dir(&self.path);
    }
}

/// ssh makes the socket under another name and links it to its own, so the event comes when it is complete.
fn announce(event: notify::Result<notify::Event>, expected: &Expected) {
    let Ok(event) = event else { return };
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

    #[tokio::test]
    async fn a_linked_socket_is_announced_and_its_place_cleared() {
        let directory = tempfile::tempdir().unwrap();
        let control = ControlDirectory::open(&directory.path().join("ssh")).unwrap();
        let (socket, made) = control.socket("1-1");
        let temporary = socket.path().with_extension("random");
        let _listener = UnixListener::bind(&temporary).unwrap();
        fs::hard_link(&temporary, socket.path()).unwrap();
        made.await.unwrap();
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
        assert!(matches!(ControlDirectory::open(&path), Err(ControlError::Unsafe { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        drop(UnixListener::bind(path.join("1-1")).unwrap());
        let control = ControlDirectory::open(&path).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        drop(control);
        assert!(!path.exists());
    }

    #[test]
    fn a_path_too_long_for_a_unix_socket_is_refused_at_once() {
        let path = Path::new("/tmp").join("x".repeat(80));
        assert!(matches!(ControlDirectory::open(&path), Err(ControlError::TooLong { .. })));
    }
}
