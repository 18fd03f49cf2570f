//! Writes the configuration: whole or not at all, one writer at a time, and with a copy of what was there.
//!
//! What is written goes to a file beside the configuration, is synced, and takes its place by rename, with the same mode and owner.
//! A symbolic link is followed and stays. The copies are in `backups/` beside the file, of which the kernel lets one writer at a
//! time have the lock. Editors know nothing of that: what they save meanwhile is found out just before the rename.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rustix::fs::{self as at, AtFlags, Gid, Mode, OFlags, Uid, XattrFlags};

use super::file::{self, ReadError};
use super::identity;

/// Copies that are kept.
pub const COPIES: usize = 20;

/// The directory of the copies, beside the configuration.
const DIRECTORY: &str = "backups";

/// What stands between the name of the configuration and its extension in the name of a copy: UTC, to the microsecond, so that the
/// names are in the order of time.
const WHEN: &str = "%Y%m%dT%H%M%S%.6fZ";

/// The extended attribute that says who else may read a file.
const ACCESS_LIST: &str = "system.posix_acl_access";

/// Bytes of an extended attribute, and of all names of them (XATTR_SIZE_MAX and XATTR_LIST_MAX of the kernel).
const LARGEST_ATTRIBUTE: usize = 64 * 1024;

/// A writer with a clock that stands still gives up after so many names.
const NAMES: usize = 1000;

/// Why the configuration was not written. It is what it was.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be read.
    #[error("{error}{step}", error = .0, step = after_reading(.0))]
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

/// What to do about a configuration that cannot be read.
fn after_reading(error: &ReadError) -> &'static str {
    if is_missing(error) { ". If there was one, `portward config restore` lists its copies" } else { "" }
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
        Some(Errno::EPERM) if nix::unistd::geteuid().is_root() => {
            format!(". It may be immutable: see `lsattr -d {directory} {}`", path.display())
        }
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
    let place = Place::lock(resolve(path)?)?;
    let old = file::read(&place.file).map_err(StoreError::from)?;
    if !expected(&version(&old)) {
        return Err(StoreError::Changed(path.to_owned()).into());
    }
    let (new, result) = change(&old)?;
    let version = version(&new);
    if new != old {
        place.replace(Some(old.as_bytes()), &new)?;
    }
    Ok(Written { result, version })
}

/// Puts a copy of the configuration `path` in its place, if `check` has nothing against its text; what was there is kept as a copy as
/// well, be it text or not. It may be gone.
///
/// # Errors
/// Nothing was changed.
pub fn restore<T, E: From<StoreError>>(
    path: &Path,
    name: &str,
    check: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, E> {
    let text = read_copy(path, name)?;
    let place = Place::lock(resolve_missing(path)?)?;
    let old = present(file::bytes(&place.file)).map_err(StoreError::from)?;
    let result = check(&text)?;
    if old.as_deref() != Some(text.as_bytes()) {
        place.replace(old.as_deref(), &text)?;
    }
    Ok(result)
}

/// The names of the copies of the configuration `path`, the newest one last.
///
/// # Errors
/// The directory cannot be read. That there is none is no error.
pub fn copies(path: &Path) -> Result<Vec<String>, StoreError> {
    let real = resolve_missing(path)?;
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
    Ok(file::read(&path_of_copy(path, name)?)?)
}

/// Where a copy is.
pub fn path_of_copy(path: &Path, name: &str) -> Result<PathBuf, StoreError> {
    Ok(resolve_missing(path)?.with_file_name(DIRECTORY).join(name))
}

fn resolve(path: &Path) -> Result<PathBuf, StoreError> {
    fs::canonicalize(path).map_err(|source| ReadError::Unreadable { path: path.to_owned(), source }.into())
}

/// The same, of a file that may be gone.
fn resolve_missing(path: &Path) -> Result<PathBuf, StoreError> {
    match (resolve(path), path.parent(), path.file_name()) {
        (Err(StoreError::Read(error)), Some(parent), Some(name))
            if is_missing(&error) && !path.is_symlink() =>
        {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(resolve(parent)?.join(name))
        }
        (resolved, ..) => resolved,
    }
}

fn is_missing(error: &ReadError) -> bool {
    matches!(error, ReadError::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

/// What is there; `None`: nothing is.
fn present<T>(read: Result<T, ReadError>) -> Result<Option<T>, ReadError> {
    match read {
        Err(error) if is_missing(&error) => Ok(None),
        read => read.map(Some),
    }
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
    /// A file that is gone is taken to have been as its newest copy is.
    fn lock(file: PathBuf) -> Result<Self, StoreError> {
        let failed = |operation, path: &Path| {
            let path = path.to_owned();
            move |errno: rustix::io::Errno| StoreError::Write { operation, path, source: errno.into() }
        };
        let of = |path: &Path| {
            let metadata = fs::metadata(path);
            metadata.map_err(|source| ReadError::Unreadable { path: path.to_owned(), source })
        };
        let metadata = match (present(of(&file))?, copies(&file)?.last()) {
            (None, Some(copy)) => of(&path_of_copy(&file, copy)?)?,
            (Some(metadata), _) => metadata,
            (None, None) => of(&file)?,
        };
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

    fn replace(&self, old: Option<&[u8]>, new: &str) -> Result<(), StoreError> {
        let name = self.file.file_name().unwrap_or_default();
        // Two writers cannot meet here; what is there was left by one that was killed.
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(".new");
        let _ = at::unlinkat(&self.directory, &temporary, AtFlags::empty());
        let written = self.write(&self.directory, Path::new(&temporary), new.as_bytes(), self.mode);
        let written = written.and_then(|file| {
            self.keep_attributes(&file)?;
            file.sync_all()
        });
        let path = self.file.with_file_name(&temporary);
        let forget = || {
            let _ = at::unlinkat(&self.directory, &temporary, AtFlags::empty());
        };
        if let Err(source) = written {
            forget();
            return Err(StoreError::Write { operation: "write", path, source });
        }
        let copy = match old.map(|old| self.copy(old)).transpose() {
            Ok(copy) => copy,
            Err(error) => {
                forget();
                return Err(error);
            }
        };
        let replaced = match present(file::bytes(&self.file)) {
            Ok(now) if now.as_deref() == old => {
                at::renameat(&self.directory, &temporary, &self.directory, name)
                    .and_then(|()| at::fsync(&self.directory))
                    .map_err(|errno| StoreError::Write {
                        operation: "replace",
                        path: self.file.clone(),
                        source: errno.into(),
                    })
            }
            Ok(_) | Err(_) => Err(StoreError::Changed(self.file.clone())),
        };
        if replaced.is_err() {
            forget();
            let _ = copy.map(|copy| at::unlinkat(&*self.copies, &copy, AtFlags::empty()));
        } else if let Some(copy) = copy {
            self.forget_old_copies(&copy);
        }
        replaced
    }

    /// Writes a new file with this mode and the configuration's owner.
    fn write(&self, directory: impl AsFd, name: &Path, content: &[u8], mode: Mode) -> io::Result<File> {
        let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(at::openat(directory, name, create, Mode::RUSR | Mode::WUSR)?);
        file.write_all(content)?;
        let found = file.metadata()?;
        if (found.uid(), found.gid()) != (self.owner.0.as_raw(), self.owner.1.as_raw()) {
            at::fchown(&file, Some(self.owner.0), Some(self.owner.1))?;
        }
        // Behind the owner, which takes bits of it away.
        at::fchmod(&file, mode)?;
        Ok(file)
    }

    /// Gives `file` the extended attributes of the configuration. Its access control list decides who may read it, so nothing is
    /// written without; others the file system may refuse.
    fn keep_attributes(&self, file: &File) -> io::Result<()> {
        let mut names = vec![0; LARGEST_ATTRIBUTE];
        // There are none where there is no such thing, and of a file that is gone.
        let length = at::listxattr(&self.file, &mut names[..]).unwrap_or(0);
        let mut value = vec![0; LARGEST_ATTRIBUTE];
        let mut is_listed = false;
        for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let read = at::getxattr(&self.file, name, &mut value[..]);
            let kept =
                read.and_then(|length| at::fsetxattr(file, name, &value[..length], XattrFlags::empty()));
            if name == ACCESS_LIST.as_bytes() {
                is_listed = true;
                kept?;
            }
        }
        // It may have one by default, of its directory.
        if !is_listed {
            match at::fremovexattr(file, ACCESS_LIST) {
                Ok(()) | Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Keeps a copy of what is there; returns its name.
    fn copy(&self, old: &[u8]) -> Result<String, StoreError> {
        let mode = self.mode & (Mode::RUSR | Mode::WUSR);
        let mut tries = 0;
        loop {
            let name = copy_name(&self.file, Timestamp::now());
            tries += 1;
            let written = self.write(&*self.copies, Path::new(&name), old, mode);
            match written.and_then(|file| file.sync_all()) {
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
