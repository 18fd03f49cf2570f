//! The directory of the masters' control sockets, and the notification that a socket is ready.

use std::collections::HashMap;
use std::env;
use std::fs::{self, DirBuilder};
use std::future::pending;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::mkdtemp;
use notify::event::{CreateKind, EventKind, ModifyKind};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::access::{self, Insecure, Rule};
use crate::shell;
use crate::watch::{Subscription, Watcher};

/// Longest path of a control socket: the 108 bytes of `sun_path`, less the terminating zero and the suffix of 17 bytes that ssh
/// appends while it creates the socket.
const MAX_PATH: usize = 108 - 1 - 17;

/// Longest file name passed to [`ControlDirectory::socket`]: two numbers, which stay far below their 20 digits.
const NAME_ROOM: usize = 20;

/// The extension of the unix sockets on which ssh listens for portward's own listeners; a number of up to three digits follows it for
/// all ports of a range but the first. Shorter than ssh's suffix.
const FORWARD: &str = "fwd";

/// Template of the name of a private directory, for mkdtemp(3).
const PRIVATE: &str = "portward-XXXXXX";

/// The names of what is made to see whether there is room.
const TRIAL: [&str; 3] = ["trial", "trial-link", "trial-record"];

/// Without inotify there is no notification. While an ssh starts, and only then, the path is polled, first after this time,
const FIRST_LOOK: Duration = Duration::from_millis(2);
/// then at intervals that grow to this one, until the attempt is over.
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
    /// Other users could create sockets there.
    #[error(
        "{path:?} belongs to uid {uid} with mode {mode:o}; ssh's control sockets need a directory of this user with mode \
         700: {}", after_unsafe(*uid, path)
    )]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// The path of a unix socket has at most 107 bytes.
    #[error(
        "{path:?} is too long a path for ssh's control sockets ({length} bytes, at most {max}): name a shorter runtime \
         directory in RUNTIME_DIRECTORY"
    )]
    TooLong {
        /// The directory.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
        /// The longest that is accepted.
        max: usize,
    },
    /// The directory is gone and cannot be created again.
    #[error("{cause}; new ones are made in {place:?}")]
    Elsewhere {
        /// The directory that is used instead.
        place: PathBuf,
        /// Why the configured one cannot be created.
        cause: Box<ControlError>,
    },
}

/// What is recorded there is what the next daemon needs to take over what an earlier one has left.
fn after_unsafe(owner: u32, path: &Path) -> String {
    if owner == nix::unistd::geteuid().as_raw() {
        return format!("`chmod 700 {}`", shell::word(&path.to_string_lossy()));
    }
    "name another runtime directory in RUNTIME_DIRECTORY, and end what an earlier portward has left, of which that one does not know"
        .to_owned()
}

type Expected = Arc<Mutex<HashMap<PathBuf, oneshot::Sender<()>>>>;

/// The directory of the control sockets. Only this user can access it; inotify reports new sockets.
///
/// Only the masters and portward itself use the paths. So if the directory is lost and cannot be created again, a private
/// one in the temporary directory takes its place.
#[derive(Debug)]
pub struct ControlDirectory {
    /// The configured path.
    path: PathBuf,
    /// Where sockets are created now.
    place: Place,
    /// Private directories that were used before and may still contain sockets.
    left: Vec<PathBuf>,
    expected: Expected,
    subscription: Subscription,
}

/// A directory with its identity: device and inode.
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

    /// It is the same directory still, and a socket can be made in it.
    fn is_usable(&self) -> bool {
        Self::at(&self.path).is_ok_and(|there| there == *self) && self.try_out().is_ok()
    }

    /// Makes a file and links it, as ssh does with its socket, and one more for the record that is written meanwhile: only that shows
    /// whether the file system is read-only or has no room.
    fn try_out(&self) -> Result<(), ControlError> {
        let [file, link, record] = TRIAL.map(|name| self.path.join(name));
        let made = fs::File::create(&file)
            .and_then(|_| fs::hard_link(&file, &link))
            .and_then(|()| fs::File::create(&record));
        for path in [record, link, file] {
            let _ = fs::remove_file(path);
        }
        made.map(drop).map_err(|source| failed("make a file in", &self.path, source))
    }
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> ControlError {
    ControlError::Io { operation, path: path.to_owned(), source }
}

impl ControlDirectory {
    /// Creates the directory, or uses an existing one that is safe. What an earlier run left in it stays.
    pub fn open(watcher: &Watcher, path: &Path) -> Result<Self, ControlError> {
        Self::check_length(path)?;
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("make", path, error)),
        }
        let place = Place::at(path)?;
        let expected = Expected::default();
        let subscription = watcher.subscribe({
            let expected = expected.clone();
            move |event| announce(event, &expected)
        });
        let (path, left) = (path.to_owned(), Vec::new());
        Ok(Self { path, place, left, expected, subscription })
    }

    /// Removes the files of the directory that nobody has any more.
    pub fn clear(&self, is_left: impl Fn(&Path) -> bool) -> Result<(), ControlError> {
        let path = &self.place.path;
        for entry in fs::read_dir(path).map_err(|source| failed("read", path, source))? {
            let file = entry.map_err(|source| failed("read", path, source))?.path();
            if is_left(&file) {
                fs::remove_file(file).map_err(|source| failed("clear", path, source))?;
            }
        }
        Ok(())
    }

    /// Where sockets are made now.
    pub fn directory(&self) -> &Path {
        &self.place.path
    }

    /// Creates the directory again if it is missing, or a private one instead. [`ControlError::Elsewhere`] says why the configured one
    /// cannot be used; after any other error there is no usable directory.
    ///
    /// An existing directory may belong to another daemon, whose sockets have the same names. It is used only if `is_locked`,
    /// which means that no other daemon runs there.
    pub fn restore(&mut self, is_locked: bool) -> Result<(), ControlError> {
        if self.place.path == self.path && self.place.is_usable() {
            return Ok(());
        }
        let cause = match self.make_again(is_locked) {
            Ok(place) => {
                self.enter(place);
                return Ok(());
            }
            Err(cause) => cause,
        };
        if self.place.path == self.path || !self.place.is_usable() {
            let place = private_directory()?;
            self.enter(place);
        }
        Err(ControlError::Elsewhere { place: self.place.path.clone(), cause: Box::new(cause) })
    }

    fn make_again(&self, is_locked: bool) -> Result<Place, ControlError> {
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Ok(()) => Place::at(&self.path),
            // It is ours still, and of no use.
            Err(_) if self.place.path == self.path && self.place == Place::at(&self.path)? => {
                self.place.try_out()?;
                Ok(self.place.clone())
            }
            Err(error) if is_locked && error.kind() == io::ErrorKind::AlreadyExists => {
                let place = Place::at(&self.path)?;
                place.try_out()?;
                self.remove_dead_sockets()?;
                Ok(place)
            }
            Err(error) => Err(failed("make", &self.path, error)),
        }
    }

    /// Removes sockets whose ssh has ended, for example while something was mounted over the directory. Sockets of running masters
    /// stay.
    fn remove_dead_sockets(&self) -> Result<(), ControlError> {
        for entry in fs::read_dir(&self.path).map_err(|source| failed("read", &self.path, source))? {
            let path = entry.map_err(|source| failed("read", &self.path, source))?.path();
            // The ssh of a forward's socket would take that for a client, and a record is no socket. Both go with the control socket.
            if path.extension().is_some() {
                continue;
            }
            if try_connect(&path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                fs::remove_file(&path).map_err(|source| failed("clear", &self.path, source))?;
            }
        }
        Ok(())
    }

    fn enter(&mut self, place: Place) {
        let before = std::mem::replace(&mut self.place, place);
        // Not locked below: what announces sockets locks it, and to watch no more waits for that.
        let expected: Vec<PathBuf> = lock(&self.expected).keys().cloned().collect();
        let is_expected = |path: &Path| expected.iter().any(|socket| socket.starts_with(path));
        // What is watched may be another directory that was at this path.
        self.subscription.unwatch(&self.place.path);
        if is_expected(&self.place.path) {
            let _ = self.subscription.watch(&self.place.path);
        }
        if before.path != self.place.path && !is_expected(&before.path) {
            self.subscription.unwatch(&before.path);
        }
        if before.path != self.path {
            self.left.push(before.path);
        }
        // Empty ones are removed now, the others later. In some, an ssh that was just started will make its socket.
        self.left.retain(|path| {
            if is_expected(path) {
                return true;
            }
            self.subscription.unwatch(path);
            fs::remove_dir(path).is_err() && path.exists()
        });
    }

    /// Checks that the paths of sockets in the directory `path` are short enough.
    pub fn check_length(path: &Path) -> Result<(), ControlError> {
        let max = MAX_PATH - NAME_ROOM - 1;
        let length = path.as_os_str().len();
        if length > max {
            return Err(ControlError::TooLong { path: path.to_owned(), length, max });
        }
        Ok(())
    }

    /// Checks that `path` is a directory that belongs to `owner`, and that nobody else can access.
    pub fn check_safety(path: &Path, owner: u32) -> Result<(), ControlError> {
        let metadata = fs::symlink_metadata(path).map_err(|source| failed("examine", path, source))?;
        if !metadata.is_dir() {
            return Err(failed("use", path, io::ErrorKind::NotADirectory.into()));
        }
        access::check(&metadata, Rule::PrivateTo(owner))
            .map_err(|Insecure { uid, mode, .. }| ControlError::Unsafe { path: path.to_owned(), uid, mode })
    }

    /// The control socket of an ssh that an earlier run started, at the path that it has.
    pub fn inherit(&mut self, path: PathBuf) -> (ControlSocket, SocketMade) {
        let is_watched =
            self.subscription.watches(&self.place.path) || self.subscription.watch(&self.place.path).is_ok();
        self.expect(path, is_watched)
    }

    /// Reserves the path of a control socket. `name` has at most 20 bytes.
    pub fn socket(&mut self, name: &str) -> (ControlSocket, SocketMade) {
        // The daemon calls this as well and reports its errors. If there is no directory at all, ssh reports that.
        let _ = self.restore(false);
        // inotify may have become available.
        let is_watched =
            self.subscription.watches(&self.place.path) || self.subscription.watch(&self.place.path).is_ok();
        let path = self.place.path.join(name);
        // Names are unique, so existing files belong to nobody.
        let _ = fs::remove_file(&path);
        self.expect(path, is_watched)
    }

    fn expect(&self, path: PathBuf, is_watched: bool) -> (ControlSocket, SocketMade) {
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
            // Fails if the directory is not empty: then it is still in use.
            let _ = fs::remove_dir(path);
        }
    }
}

/// Connects without waiting for a listener that is slow to accept.
fn try_connect(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec().nonblocking(), None)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// Creates a private directory in the temporary directory, or in /tmp if the path would be too long.
fn private_directory() -> Result<Place, ControlError> {
    let temporary =
        Some(env::temp_dir().join(PRIVATE)).filter(|path| ControlDirectory::check_length(path).is_ok());
    let template = temporary.unwrap_or_else(|| Path::new("/tmp").join(PRIVATE));
    let path = mkdtemp(&template).map_err(|errno| failed("make", &template, errno.into()))?;
    Place::at(&path)
}

/// Resolves when ssh has created its control socket.
#[derive(Debug)]
pub struct SocketMade {
    path: PathBuf,
    heard: oneshot::Receiver<()>,
    is_watched: bool,
}

impl SocketMade {
    /// Waits for the socket, without a time limit. Where inotify is not available, the path is polled at intervals that grow from
    /// 2 ms to 1 s.
    pub async fn wait(self) {
        let Self { path, mut heard, is_watched } = self;
        if path.exists() {
            return;
        }
        let mut wait = FIRST_LOOK;
        loop {
            let look = async { if is_watched { pending().await } else { sleep(wait).await } };
            tokio::select! {
                made = &mut heard => match made {
                    Ok(()) => return,
                    // The socket was dropped.
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

/// Notifies the waiter of a new socket. ssh creates the socket under a temporary name and links it when it is complete.
fn announce(event: &notify::Event, expected: &Expected) {
    match event.kind {
        EventKind::Create(CreateKind::Any | CreateKind::File | CreateKind::Other)
        | EventKind::Modify(ModifyKind::Name(_)) => {}
        _ if event.need_rescan() => {
            // Events were lost: check all paths.
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
            // An error means that nobody waits for this socket any more.
            let _ = made.send(());
        }
    }
}

/// The path of one control socket. Dropping it removes the socket file that a killed ssh leaves behind.
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

    /// Places in the same directory for unix sockets on which the same ssh listens for portward's own listener, one for each port. `name`
    /// is that of [`forward_paths`].
    pub fn forward_sockets(&self, name: &str, ports: usize) -> ForwardSockets {
        let paths = forward_paths(&self.path, name, ports);
        for path in &paths {
            // ssh does not listen where a file is, and an existing one belongs to nobody: names are unique.
            let _ = fs::remove_file(path);
        }
        ForwardSockets(paths)
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        lock(&self.expected).remove(&self.path);
        // Fails if ssh has removed the file itself.
        let _ = fs::remove_file(&self.path);
    }
}

/// Where an ssh with the control socket `control` listens for portward's own listener, for each of so many ports. `name` is unique,
/// and has at most 20 bytes.
pub fn forward_paths(control: &Path, name: &str, ports: usize) -> Vec<PathBuf> {
    let path = |number| match number {
        0 => control.with_file_name(name).with_extension(FORWARD),
        number => control.with_file_name(name).with_extension(format!("{FORWARD}{number}")),
    };
    (0..ports).map(path).collect()
}

/// The paths of such unix sockets. Dropping it removes the files that ssh leaves behind.
#[derive(Debug)]
pub struct ForwardSockets(Vec<PathBuf>);

impl ForwardSockets {
    /// The paths.
    pub fn paths(&self) -> &[PathBuf] {
        &self.0
    }
}

impl Drop for ForwardSockets {
    fn drop(&mut self) {
        for path in &self.0 {
            // Fails if ssh never listened there.
            let _ = fs::remove_file(path);
        }
    }
}

fn lock(expected: &Expected) -> std::sync::MutexGuard<'_, HashMap<PathBuf, oneshot::Sender<()>>> {
    expected.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
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
    fn a_directory_open_to_others_is_refused_and_what_is_left_is_removed_when_nobody_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ssh");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let refused = open(&path).unwrap_err();
        assert!(matches!(refused, ControlError::Unsafe { .. }), "{refused}");
        assert!(refused.to_string().ends_with(&format!("`chmod 700 {}`", path.display())), "{refused}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        drop(UnixListener::bind(path.join("1-1")).unwrap());
        fs::write(path.join("1-2.json"), "").unwrap();
        let control = open(&path).unwrap();
        control.clear(|file| file.extension().is_some()).unwrap();
        assert!(path.join("1-1").exists() && !path.join("1-2.json").exists());
        control.clear(|_| true).unwrap();
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
