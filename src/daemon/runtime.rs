//! The runtime directory, looked after while the daemon runs: whoever removes it, or something in it, takes away the API's
//! socket, the lock that keeps a second daemon out, and the place of ssh's control sockets.

use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::future::pending;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Uid;
use tokio::time::{Instant, sleep_until};

use crate::paths;
use crate::socket::{Socket, SocketError};
use crate::ssh::ControlError;
use crate::watch::{Followed, Scope, Watcher, Window};

/// What could not be made again is tried again after waits that grow from this one,
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// up to this one; earlier when something changes in the directory, but never sooner than the first.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Something of the runtime directory is missing.
#[derive(Debug, thiserror::Error)]
pub(super) enum RuntimeError {
    #[error("cannot make the runtime directory {} again: {source}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// The runtime directory.
#[derive(Debug)]
pub(super) struct Runtime {
    directory: PathBuf,
    /// Its permission bits when the daemon started.
    mode: u32,
    /// Its device and inode.
    identity: Option<(u64, u64)>,
    socket: Arc<Socket>,
    followed: Followed,
    /// Open from the first change until it has been quiet for long enough.
    window: Option<Window>,
    retry: Option<Retry>,
}

/// Something is missing still.
#[derive(Debug, Clone, Copy)]
struct Retry {
    failed: Instant,
    wait: Duration,
}

impl Runtime {
    /// Looks after the directory of `socket`, whose path is absolute, and the directory `control` in it.
    pub(super) fn new(watcher: &Watcher, socket: Arc<Socket>, control: &Path) -> Self {
        let path = socket.path().to_owned();
        let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
        let (mode, identity) = fs::metadata(&directory)
            .map_or((0o700, None), |there| (there.permissions().mode() & 0o777, Some(identity(&there))));
        let paths = vec![paths::lock_file(&path), control.to_owned(), path];
        let followed = Followed::new(watcher, paths, Scope::Presence);
        Self { directory, mode, identity, socket, followed, window: None, retry: None }
    }

    /// Where the API's socket is.
    pub(super) fn socket(&self) -> &Path {
        self.socket.path()
    }

    /// Resolves when it may be necessary, or possible again, to [`Self::restore`] something. Cancel-safe.
    pub(super) async fn disturbed(&mut self) {
        loop {
            let due = match (self.window, self.retry) {
                (Some(window), Some(retry)) => Some(window.closes().max(retry.failed + FIRST_RETRY)),
                (Some(window), None) => Some(window.closes()),
                (None, Some(retry)) => Some(retry.failed + retry.wait),
                (None, None) => None,
            };
            let rest = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = self.followed.touched() => {
                    let now = Instant::now();
                    self.window = Some(self.window.map_or(Window::opened(now), |window| window.touched(now)));
                }
                () = rest => {
                    self.window = None;
                    return;
                }
            }
        }
    }

    /// Makes again what is missing; `control` does that for the control sockets, and is told whether no other daemon uses
    /// their directory.
    pub(super) fn restore(
        &mut self,
        control: impl FnOnce(bool) -> Result<(), ControlError>,
    ) -> Result<(), RuntimeError> {
        let restored = self.try_restore(control);
        self.retry = restored.is_err().then(|| Retry {
            failed: Instant::now(),
            wait: self.retry.map_or(FIRST_RETRY, |retry| (retry.wait * 2).min(LAST_RETRY)),
        });
        restored
    }

    fn try_restore(
        &mut self,
        control: impl FnOnce(bool) -> Result<(), ControlError>,
    ) -> Result<(), RuntimeError> {
        // Watched first and looked at then, so that no change falls between the two.
        self.followed.follow();
        let api = self.make_directory().and_then(|()| Ok(self.socket.restore()?));
        if matches!(api, Ok(true)) {
            tracing::warn!(
                event = "runtime",
                "the API's socket was removed and is made again; the tunnels have gone on"
            );
        }
        // Also without the directory: ssh's sockets may be somewhere else.
        let control = control(api.is_ok());
        api?;
        Ok(control?)
    }

    /// Whoever has put another one in its place is unlikely to know its mode.
    fn make_directory(&mut self) -> Result<(), RuntimeError> {
        let path = self.directory.clone();
        let failed = |source| RuntimeError::Directory { path: path.clone(), source };
        let there = match fs::metadata(&path) {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed)?;
                // What is made in it must not be missed.
                self.followed.follow();
                fs::metadata(&path).map_err(failed)?
            }
            Err(error) => return Err(failed(error)),
        };
        let is_new = self.identity != Some(identity(&there));
        if is_new
            && there.uid() == Uid::effective().as_raw()
            && there.permissions().mode() & 0o777 != self.mode
        {
            fs::set_permissions(&path, Permissions::from_mode(self.mode)).map_err(failed)?;
        }
        self.identity = Some(identity(&there));
        Ok(())
    }
}

fn identity(there: &Metadata) -> (u64, u64) {
    (there.dev(), there.ino())
}
