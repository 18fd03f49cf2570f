//! Writes the configuration: whole or not at all, one writer at a time, and with a copy of what was there.
//!
//! What is written goes to a file beside the configuration, is synced, and takes its place by rename, with the same mode and owner.
//! A symbolic link is followed and stays. The copies are in `backups/` beside the file, of which the kernel lets one writer at a
//! time have the lock. Editors know nothing of that: what they save meanwhile is found out just before the rename.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rustix::fs::{self as at, AtFlags, Gid, Mode, OFlags, Uid};

use super::file::{self, ReadError};
use super::identity;

/// Copies that are kept.
pub const COPIES: usize = 20;

/// The directory of the copies, beside the configuration.
const DIRECTORY: &str = "backups";

/// What stands between the name of the configuration and its extension in the name of a copy: UTC, to the microsecond, so that the
/// names are in the order of time.
const WHEN: &str = "%Y%m%dT%H%M%S%.6fZ";

/// A writer with a clock that stands still gives up after so many names.
const NAMES: usize = 1000;

/// Why the configuration was not written. It is what it was.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It is another one than whoever asks has seen.
    #[error("the configuration {} has changed meanwhile: read it again, and repeat the change", .0.display())]
    Changed(PathBuf),
    /// It cannot be written.
    #[error("cannot {operation} {}: {source}{}", path.display(), next_step(source, path))]
    Write {
        /// What failed.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no such copy.
    #[error("there is no copy {0:?} of the configuration: `portward config restore` lists them")]
    NoCopy(String),
}

/// What to do about it.
fn next_step(error: &io::Error, path: &Path) -> String {
    let directory = path.parent().unwrap_or(path).display();
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EBUSY) => {
            ". It is mounted by itself, as a container's single file is, and cannot be replaced: mount its \
             directory instead, or edit it where it comes from"
                .to_owned()
        }
        Some(Errno::EROFS) => format!(
            ". For this process the directory is read-only: in a service, add `ReadWritePaths={directory}` with \
             `systemctl edit`; in a container, mount it without `:ro`"
        ),
        Some(Errno::EACCES | Errno::EPERM) => {
            format!(
                ". This user may not: compare `id` with `ls -la {directory}`, or use `sudo portward config`"
            )
        }
        Some(Errno::ENOSPC | Errno::EDQUOT) => ". Make room on that file system".to_owned(),
        _ => String::new(),
    }
}

/// What was written.
#[derive(Debug)]
pub struct Written<T> {
    /// What else the change has come to.
    pub result: T,
    /// The version of the file as it is now.
    pub version: String,
}

/// The version of a configuration with this text: 32 hex digits that differ when the text does.
pub fn version(text: &str) -> String {
    identity::digest(text)
}

/// Replaces the content of the configuration `path` by what `change` makes of it, while no other writer does. `expected` says
/// whether the version that is there is the one to be changed. May wait for the disk, and for another writer.
///
/// # Errors
/// Nothing was changed.
pub fn update<T, E: From<StoreError>>(
    path: &Path,
    expected: impl FnOnce(&str) -> bool,
    change: impl FnOnce(&str) -> Result<(String, T), E>,
) -> Result<Written<T>, E> {
    let place = Place::lock(path)?;
    let old = file::read(&place.file).map_err(StoreError::from)?;
    if !expected(&version(&old)) {
        return Err(StoreError::Changed(path.to_owned()).into());
    }
    let (new, result) = change(&old)?;
    let version = version(&new);
    if new != old {
        place.replace(&old, &new)?;
    }
    Ok(Written { result, version })
}

/// The names of the copies of the configuration `path`, the newest one last.
///
/// # Errors
/// The directory cannot be read. That there is none is no error.
pub fn copies(path: &Path) -> Result<Vec<String>, StoreError> {
    let real = resolve(path)?;
    let directory = real.with_file_name(DIRECTORY);
    let listing = match fs::read_dir(&directory) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(StoreError::Write { operation: "read", path: directory, source }),
    };
    let names = listing.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| is_copy(name, &real)).collect();
    names.sort_unstable();
    Ok(names)
}

/// The text of a copy.
///
/// # Errors
/// It is not there, or cannot be read.
pub fn read_copy(path: &Path, name: &str) -> Result<String, StoreError> {
    if !copies(path)?.iter().any(|copy| copy == name) {
        return Err(StoreError::NoCopy(name.to_owned()));
    }
    Ok(file::read(&resolve(path)?.with_file_name(DIRECTORY).join(name))?)
}

fn resolve(path: &Path) -> Result<PathBuf, StoreError> {
    fs::canonicalize(path).map_err(|source| ReadError::Unreadable { path: path.to_owned(), source }.into())
}

/// The name of the configuration, in two parts that the time stands between.
fn parts(real: &Path) -> (String, String) {
    let part = |name: Option<&std::ffi::OsStr>| name.unwrap_or_default().to_string_lossy().into_owned();
    (part(real.file_stem()), part(real.extension()))
}

fn copy_name(real: &Path, when: Timestamp) -> String {
    let (stem, extension) = parts(real);
    format!("{stem}_{}.{extension}", when.strftime(WHEN))
}

/// Whether portward has made this copy of the configuration: nothing else is ever removed.
fn is_copy(name: &str, real: &Path) -> bool {
    let (stem, extension) = parts(real);
    let when = name
        .strip_prefix(&format!("{stem}_"))
        .and_then(|rest| rest.strip_suffix(&format!(".{extension}")))
        .unwrap_or_default();
    when.len() == "20261127T201500.000000Z".len()
        && when.bytes().enumerate().all(|(place, letter)| match place {
            8 => letter == b'T',
            15 => letter == b'.',
            22 => letter == b'Z',
            _ => letter.is_ascii_digit(),
        })
}

/// The configuration's file, locked. Whoever can write to a directory on the way may replace it meanwhile; so what is written is
/// written to the directory that was opened, and follows no link in it.
struct Place {
    /// No link.
    file: PathBuf,
    directory: OwnedFd,
    copies: Flock<File>,
    /// Mode and owner that it keeps.
    mode: Mode,
    owner: (Uid, Gid),
}

impl Place {
    fn lock(path: &Path) -> Result<Self, StoreError> {
        let file = resolve(path)?;
        let failed = |operation, path: &Path| {
            let path = path.to_owned();
            move |errno: rustix::io::Errno| StoreError::Write { operation, path, source: errno.into() }
        };
        let metadata =
            fs::metadata(&file).map_err(|source| ReadError::Unreadable { path: path.to_owned(), source })?;
        let owner = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
        let parent = file.parent().unwrap_or(Path::new("/"));
        let open = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let directory = at::open(parent, open, Mode::empty()).map_err(failed("open", parent))?;
        let copies = parent.join(DIRECTORY);
        match at::mkdirat(&directory, DIRECTORY, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(failed("make the directory", &copies)(errno)),
        }
        let opened =
            at::openat(&directory, DIRECTORY, open, Mode::empty()).map_err(failed("open", &copies))?;
        let found = at::fstat(&opened).map_err(failed("read", &copies))?;
        // For its owner alone, also if something else has made it: whoever can open it can lock it.
        if (found.st_uid, found.st_gid) != (owner.0.as_raw(), owner.1.as_raw()) {
            at::fchown(&opened, Some(owner.0), Some(owner.1))
                .map_err(failed("give to the owner", &copies))?;
        }
        if found.st_mode & 0o7777 != 0o700 {
            at::fchmod(&opened, Mode::RWXU).map_err(failed("set the mode of", &copies))?;
        }
        let mut opened = File::from(opened);
        let copies = loop {
            match Flock::lock(opened, FlockArg::LockExclusive) {
                Ok(locked) => break locked,
                Err((again, Errno::EINTR)) => opened = again,
                Err((_, errno)) => {
                    return Err(StoreError::Write { operation: "lock", path: copies, source: errno.into() });
                }
            }
        };
        let mode = Mode::from_raw_mode(metadata.mode() & 0o7777);
        Ok(Self { file, directory, copies, mode, owner })
    }

    fn replace(&self, old: &str, new: &str) -> Result<(), StoreError> {
        let name = self.file.file_name().unwrap_or_default();
        // Two writers cannot meet here; what is there was left by one that was killed.
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(".new");
        let _ = at::unlinkat(&self.directory, &temporary, AtFlags::empty());
        let written = self.write(&self.directory, Path::new(&temporary), new, self.mode);
        let path = self.file.with_file_name(&temporary);
        let forget = || {
            let _ = at::unlinkat(&self.directory, &temporary, AtFlags::empty());
        };
        if let Err(source) = written {
            forget();
            return Err(StoreError::Write { operation: "write", path, source });
        }
        let copy = match self.copy(old) {
            Ok(copy) => copy,
            Err(error) => {
                forget();
                return Err(error);
            }
        };
        let replaced = match file::read(&self.file) {
            Ok(now) if now == old => at::renameat(&self.directory, &temporary, &self.directory, name)
                .and_then(|()| at::fsync(&self.directory))
                .map_err(|errno| StoreError::Write {
                    operation: "replace",
                    path: self.file.clone(),
                    source: errno.into(),
                }),
            Ok(_) | Err(_) => Err(StoreError::Changed(self.file.clone())),
        };
        if replaced.is_err() {
            forget();
            let _ = at::unlinkat(&*self.copies, &copy, AtFlags::empty());
        } else {
            self.forget_old_copies(&copy);
        }
        replaced
    }

    /// Writes a new file with this mode and the configuration's owner, and syncs it.
    fn write(
        &self,
        directory: impl std::os::fd::AsFd,
        name: &Path,
        text: &str,
        mode: Mode,
    ) -> io::Result<()> {
        let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(at::openat(directory, name, create, Mode::RUSR | Mode::WUSR)?);
        file.write_all(text.as_bytes())?;
        let found = file.metadata()?;
        if (found.uid(), found.gid()) != (self.owner.0.as_raw(), self.owner.1.as_raw()) {
            at::fchown(&file, Some(self.owner.0), Some(self.owner.1))?;
        }
        // Behind the owner, which takes bits of it away.
        at::fchmod(&file, mode)?;
        file.sync_all()
    }

    /// Keeps a copy of what is there; returns its name.
    fn copy(&self, old: &str) -> Result<String, StoreError> {
        let mode = self.mode & (Mode::RUSR | Mode::WUSR);
        let mut tries = 0;
        loop {
            let name = copy_name(&self.file, Timestamp::now());
            tries += 1;
            match self.write(&*self.copies, Path::new(&name), old, mode) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < NAMES => {}
                Ok(()) => return Ok(name),
                Err(source) => {
                    let path = self.file.with_file_name(DIRECTORY).join(&name);
                    return Err(StoreError::Write { operation: "write", path, source });
                }
            }
        }
    }

    /// Removes the oldest copies, and never `newest`, wherever the clock has put it. That one remains is no failure.
    fn forget_old_copies(&self, newest: &str) {
        let copies = copies(&self.file).unwrap_or_default();
        let too_many = copies.len().saturating_sub(COPIES);
        for name in copies.iter().filter(|name| *name != newest).take(too_many) {
            let _ = at::unlinkat(&*self.copies, name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests;
