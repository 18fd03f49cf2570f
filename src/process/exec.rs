//! From a command to the program that the kernel executes: the search in PATH, and what execve(2) is given.
//!
//! execvp(3) passes a file that the kernel cannot execute to /bin/sh, whatever it contains. Programs are therefore executed with
//! execve(2), whose error is reported.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::libc;
use rustix::fs::{Access, access};

/// Where execvp(3) searches if there is no PATH.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// The PATH that the program of `command` is searched in: the one that the program gets.
pub(super) fn search_path(command: &Command) -> OsString {
    let set = command.get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, value)| value);
    set.map(OsStr::to_owned).or_else(|| env::var_os("PATH")).unwrap_or_else(|| DEFAULT_PATH.into())
}

/// The file that `command` is to execute: as written if it is a path, otherwise the first one in PATH that is executable, or
/// else the first one that is there; if there is none, the name alone, which is no path.
pub(crate) fn resolve(command: &Command) -> PathBuf {
    let program = command.get_program();
    if program.as_bytes().contains(&b'/') {
        return program.into();
    }
    let path = search_path(command);
    let candidates =
        || env::split_paths(&path).map(|directory| directory.join(program)).filter(|file| file.is_file());
    candidates()
        .find(|file| access(file, Access::EXEC_OK).is_ok())
        .or_else(|| candidates().next())
        .unwrap_or_else(|| program.into())
}

/// What [`Command`] holds in place of an argument with a NUL character.
const ARGUMENT_WITH_NUL: &str = "<string-with-nul>";

/// What execve(2) is given.
pub(super) struct Image {
    path: CString,
    arguments: Strings,
    environment: Strings,
}

/// Texts, and the pointers to them that end with a null pointer.
struct Strings {
    pointers: Vec<*const libc::c_char>,
    _texts: Vec<CString>,
}

impl Strings {
    fn new(texts: impl Iterator<Item = Vec<u8>>) -> io::Result<Self> {
        let texts = texts.map(CString::new).collect::<Result<Vec<_>, _>>()?;
        let pointers = texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
        Ok(Self { pointers, _texts: texts })
    }
}

impl Image {
    /// The program of `command`, which is the file `path`.
    pub(super) fn of(command: &Command, path: &Path) -> io::Result<Self> {
        if !path.as_os_str().as_bytes().contains(&b'/') {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        if command.get_args().any(|argument| argument == ARGUMENT_WITH_NUL) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let arguments = std::iter::once(command.get_program()).chain(command.get_args());
        let mut environment: BTreeMap<OsString, OsString> = env::vars_os().collect();
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => environment.insert(name.to_owned(), value.to_owned()),
                None => environment.remove(name),
            };
        }
        let assignment =
            |(name, value): (OsString, OsString)| [name.as_bytes(), b"=", value.as_bytes()].concat();
        Ok(Self {
            path: CString::new(path.as_os_str().as_bytes())?,
            arguments: Strings::new(arguments.map(OsStr::as_bytes).map(<[u8]>::to_vec))?,
            environment: Strings::new(environment.into_iter().map(assignment))?,
        })
    }

    /// Returns only if the kernel does not execute it.
    pub(super) fn execute(&self) -> io::Error {
        // SAFETY: the path ends with a zero, and both arrays end with a null pointer; all live as long as `self`.
        unsafe {
            libc::execve(
                self.path.as_ptr(),
                self.arguments.pointers.as_ptr(),
                self.environment.pointers.as_ptr(),
            );
        }
        io::Error::last_os_error()
    }
}
