//! The file of a unix socket. Nothing here follows a symbolic link.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::libc;

/// Which file it is. Another one under the same name is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketFile {
    /// Device, as stat(2) has it.
    pub(super) device: u64,
    /// Inode of the file, which is not that of the socket.
    pub(super) inode: u64,
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Nothing.
    Nothing,
    /// The file of a socket, and its owner.
    Socket(SocketFile, u32),
    /// Something else, in words: `a directory`.
    Other(&'static str),
}

/// What is at `path`.
pub fn at(path: &Path) -> io::Result<At> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(kind(&metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(At::Nothing),
        Err(error) => Err(error),
    }
}

fn kind(metadata: &Metadata) -> At {
    let kind = metadata.file_type();
    if kind.is_socket() {
        At::Socket(SocketFile::of(metadata), metadata.uid())
    } else if kind.is_dir() {
        At::Other("a directory")
    } else if kind.is_symlink() {
        At::Other("a symbolic link")
    } else if kind.is_file() {
        At::Other("a regular file")
    } else {
        At::Other("a special file")
    }
}

impl SocketFile {
    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    /// Whether this file is at `path`.
    pub fn is_at(self, path: &Path) -> bool {
        matches!(at(path), Ok(At::Socket(file, _)) if file == self)
    }

    /// Removes this file, if it still is at `path`. A file that takes its place between the look and the removal, some
    /// microseconds, would be removed instead: the kernel removes names, not files.
    pub fn remove(self, path: &Path) -> io::Result<()> {
        if self.is_at(path) { fs::remove_file(path) } else { Ok(()) }
    }

    /// Gives this file the permission bits `mode`, if it still is at `path`.
    pub fn set_mode(self, path: &Path, mode: u32) -> io::Result<()> {
        let file: File =
            OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)?;
        let metadata = file.metadata()?;
        if Self::of(&metadata) != self {
            return Err(io::Error::new(io::ErrorKind::NotFound, "another file has taken its place"));
        }
        if metadata.permissions().mode() & 0o777 == mode {
            return Ok(());
        }
        // The descriptor stands for the file itself, whatever is at the path by now.
        fs::set_permissions(format!("/proc/self/fd/{}", file.as_raw_fd()), fs::Permissions::from_mode(mode))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_the_very_file_is_removed_and_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        assert_eq!(at(&path).unwrap(), At::Nothing);
        let _first = UnixListener::bind(&path).unwrap();
        let At::Socket(first, _) = at(&path).unwrap() else { panic!("no socket") };
        first.set_mode(&path, 0o640).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        fs::rename(&path, directory.path().join("moved")).unwrap();
        let _second = UnixListener::bind(&path).unwrap();
        assert!(!first.is_at(&path) && first.set_mode(&path, 0o600).is_err());
        first.remove(&path).unwrap();
        let At::Socket(second, _) = at(&path).unwrap() else { panic!("another one was removed") };
        second.remove(&path).unwrap();
        assert_eq!(at(&path).unwrap(), At::Nothing);
        std::os::unix::fs::symlink(directory.path().join("moved"), &path).unwrap();
        assert_eq!(at(&path).unwrap(), At::Other("a symbolic link"));
        assert!(first.set_mode(&path, 0o600).is_err());
        assert_eq!(at(directory.path()).unwrap(), At::Other("a directory"));
    }
}
