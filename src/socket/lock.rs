//! One daemon for each socket: a lock that the kernel lets go of when its holder ends, however it ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

/// The lock; it holds as long as this lives. Its file stays behind: unlinking it would let two daemons lock two files.
#[derive(Debug)]
pub(super) struct Lock {
    file: Flock<File>,
}

/// Why the lock was not taken.
#[derive(Debug)]
pub(super) enum LockError {
    /// Another daemon holds it; its pid, if it has written one.
    Held(Option<u32>),
    /// The file could not be opened, locked or written.
    Io(io::Error),
}

impl From<io::Error> for LockError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Lock {
    /// Takes the lock `path` and writes our pid into it.
    pub(super) fn take(path: &Path) -> Result<Self, LockError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path)?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let read = file.read_to_string(&mut text);
                return Err(LockError::Held(read.ok().and_then(|_| text.trim().parse().ok())));
            }
            Err((_, errno)) => return Err(LockError::Io(errno.into())),
        };
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self { file })
    }

    /// Whether it is the file at `path` that is locked: somebody may have removed it, or put another in its place.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        let there = fs::symlink_metadata(path).map(|there| (there.dev(), there.ino()));
        let locked = self.file.metadata().map(|locked| (locked.dev(), locked.ino()));
        matches!((there, locked), (Ok(there), Ok(locked)) if there == locked)
    }
}
