//! Why a program cannot be started, and the fix.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::libc;
use rustix::fs::{Access, StatVfsMountFlags, access, statvfs};

use super::{exec, limits};
use crate::core::{Failure, FailureKind};
use crate::text;

/// The kernel looks at this much of a file to find its interpreter.
const HEAD: u64 = 256;

/// A process could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {program:?}: {source}")]
pub struct SpawnError {
    /// The program as given.
    pub program: OsString,
    /// The file that was to be executed, as seen from `directory`.
    file: PathBuf,
    /// The PATH that the program was searched in.
    search_path: OsString,
    /// Where the program was to run, if not where portward does.
    directory: Option<PathBuf>,
    /// The reason.
    pub source: io::Error,
}

/// What is wrong, and whether a retry can help.
struct Cause {
    kind: FailureKind,
    text: String,
    is_for_ever: bool,
}

impl SpawnError {
    pub(super) fn new(command: &Command, file: PathBuf, source: io::Error) -> Self {
        Self {
            program: command.get_program().to_owned(),
            file,
            search_path: exec::search_path(command),
            directory: command.get_current_dir().map(Path::to_owned),
            source,
        }
    }

    /// The failure of a tunnel whose process this was to be. A limit can be lifted, a program installed, a file's mode changed:
    /// only what only the configuration can change is not retried. Reads the head of the file.
    pub fn failure(&self) -> Failure {
        let Cause { kind, text, is_for_ever } = self.cause();
        let program = text::line(&self.program.to_string_lossy()).into_owned();
        let failure = Failure::new(kind, format!("cannot start {program}: {text}"));
        // Class `config` is never retried by itself.
        if kind == FailureKind::Config && !is_for_ever { failure.retried_slowly() } else { failure }
    }

    fn cause(&self) -> Cause {
        if let Some(limit) = limits::explain(&self.source) {
            return Cause { kind: FailureKind::Exited, text: limit, is_for_ever: false };
        }
        let config = |text: String| Cause { kind: FailureKind::Config, text, is_for_ever: false };
        let for_ever = |text: &str| Cause { is_for_ever: true, ..config(text.to_owned()) };
        if let Some(directory) = &self.directory
            && let Some(text) = wrong_directory(directory)
        {
            return config(text);
        }
        if self.source.kind() == io::ErrorKind::InvalidInput {
            return for_ever("it, or one of its arguments, holds a NUL character");
        }
        let file =
            self.directory.as_ref().map_or_else(|| self.file.clone(), |directory| directory.join(&self.file));
        let name = shown(&file);
        config(match self.source.raw_os_error() {
            Some(libc::ENOENT) => self.not_found(&file),
            Some(libc::EACCES | libc::EPERM) => not_permitted(&file),
            Some(libc::ENOEXEC) => not_executable(&file),
            Some(libc::ENOTDIR) => {
                format!(
                    "{} is not a directory, as the path {name} has it; correct the path",
                    first_file(&file)
                )
            }
            Some(libc::ELOOP) => format!(
                "{name} leads in a circle: see `namei -l {name}` for its symbolic links, and whether its #! line names a \
                 script that names it again"
            ),
            Some(libc::ENAMETOOLONG) => return for_ever("the path is longer than a path may be"),
            Some(libc::E2BIG) => {
                return for_ever(
                    "its arguments and its environment are larger than the kernel takes: one argument may have 128 KiB \
                     (see `xargs --show-limits`); put them into a file",
                );
            }
            Some(libc::ETXTBSY) => {
                let text = format!("{name} is just being written; it is tried again when that is done");
                return Cause { kind: FailureKind::Exited, text, is_for_ever: false };
            }
            _ => format!("{}; see whether it starts by hand: {name}", self.source),
        })
    }

    fn not_found(&self, file: &Path) -> String {
        if !self.file.as_os_str().as_bytes().contains(&b'/') {
            return format!(
                "no directory of PATH has such a program: install it, or write its whole path (PATH={})",
                shown(Path::new(&self.search_path))
            );
        }
        let name = shown(file);
        if !file.exists() {
            return match fs::read_link(file) {
                Ok(target) => {
                    format!("{name} is a symbolic link to {}, which does not exist", shown(&target))
                }
                Err(_) => {
                    format!(
                        "there is no file {name}: check the program's path, or install it; it is tried again"
                    )
                }
            };
        }
        match interpreter(&head(file)) {
            Some(interpreter) if interpreter.ends_with(b"\r") => format!(
                "{name} has Windows line ends (CRLF): the kernel looks for an interpreter whose name ends with a carriage \
                 return; `sed -i 's/\\r$//' {name}` removes them"
            ),
            Some(interpreter) => {
                let interpreter = shown(Path::new(OsStr::from_bytes(&interpreter)));
                format!(
                    "{name} is a script for {interpreter}, which does not exist: install it, or correct its first line"
                )
            }
            None => format!(
                "{name} is there, but the loader that it needs is not: it was built for another distribution (musl or glibc) \
                 or architecture; `readelf -l {name} | grep interpreter` names the loader"
            ),
        }
    }
}

fn wrong_directory(directory: &Path) -> Option<String> {
    let name = shown(directory);
    match fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(format!(
            "its working directory {name} does not exist; create it, or correct `working_directory`"
        )),
        Ok(metadata) if !metadata.is_dir() => {
            Some(format!("its working directory {name} is not a directory; correct `working_directory`"))
        }
        _ if access(directory, Access::EXEC_OK).is_err() => {
            Some(format!("portward's user may not enter its working directory {name}: see `namei -l {name}`"))
        }
        _ => None,
    }
}

/// EACCES has many causes, and the kernel does not say which.
fn not_permitted(file: &Path) -> String {
    let name = shown(file);
    let Ok(metadata) = fs::metadata(file) else {
        return format!(
            "portward's user may not search a directory on the way to {name}: see `namei -l {name}`"
        );
    };
    let kind = metadata.file_type();
    if kind.is_dir() {
        return format!("{name} is a directory: name the program in it");
    }
    if !kind.is_file() {
        let what = if kind.is_fifo() {
            "a named pipe"
        } else if kind.is_socket() {
            "a socket"
        } else {
            "a device"
        };
        return format!("{name} is {what}, and no program");
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o111 == 0 {
        return format!("{name} is not executable (mode {mode:o}): `chmod +x {name}`");
    }
    if statvfs(file).is_ok_and(|system| system.f_flag.contains(StatVfsMountFlags::NOEXEC)) {
        return format!(
            "{name} is on a file system that is mounted noexec (`findmnt -T {name}`): move it, or name its interpreter as \
             the program"
        );
    }
    if access(file, Access::EXEC_OK).is_err() {
        return format!("portward's user may not execute {name} (mode {mode:o}): see `ls -l {name}`");
    }
    match interpreter(&head(file)) {
        Some(interpreter) => {
            let interpreter = shown(Path::new(OsStr::from_bytes(&interpreter)));
            format!(
                "{name} is a script for {interpreter}, which portward's user may not execute: see `ls -l {interpreter}`"
            )
        }
        None => format!(
            "the kernel does not let portward's user execute {name}, though its mode does: see whether AppArmor, SELinux or \
             the sandbox of portward's unit forbids it (`journalctl -k`)"
        ),
    }
}

fn not_executable(file: &Path) -> String {
    let name = shown(file);
    let head = head(file);
    if head.is_empty() {
        return format!("{name} is empty, or cannot be read");
    }
    if head.starts_with(b"\x7fELF") {
        return format!(
            "{name} is a program for another architecture, or damaged: compare `file {name}` with `uname -m`"
        );
    }
    if head.starts_with(b"\xef\xbb\xbf#!") {
        return format!(
            "{name} has a byte order mark before its #! line: `sed -i '1s/^\\xEF\\xBB\\xBF//' {name}` removes it"
        );
    }
    if head.starts_with(b"#!") {
        return format!(
            "{name} names no interpreter in its #! line: write `#!/bin/sh`, or the one that it is for"
        );
    }
    if head.contains(&0) {
        return format!("{name} is no program in a format that this kernel executes: see `file {name}`");
    }
    format!(
        "{name} has no #! line, so that the kernel does not know what runs it: put `#!/bin/sh` into its first line, or name the \
         interpreter as the program ([sh, {name}])"
    )
}

/// The interpreter after `#!`.
fn interpreter(head: &[u8]) -> Option<Vec<u8>> {
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = line.iter().position(|byte| !blank(byte))?;
    let name = line[start..].split(blank).next()?;
    Some(name.to_owned())
}

/// Only of a regular file: opening others may block or have side effects.
fn head(file: &Path) -> Vec<u8> {
    let mut head = Vec::new();
    if fs::metadata(file).is_ok_and(|metadata| metadata.is_file())
        && let Ok(file) = File::open(file)
    {
        // What cannot be read is not there.
        let _ = file.take(HEAD).read_to_end(&mut head);
    }
    head
}

/// The first part of `path` that is no directory, though something follows.
fn first_file(path: &Path) -> String {
    let mut parents: Vec<_> = path.ancestors().skip(1).collect();
    parents.reverse();
    let file =
        parents.into_iter().find(|parent| fs::metadata(parent).is_ok_and(|metadata| !metadata.is_dir()));
    shown(file.unwrap_or(path))
}

fn shown(path: &Path) -> String {
    text::line(&path.to_string_lossy()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Retry;
    use crate::process::spawn;

    fn write(directory: &Path, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let file = directory.join(name);
        // Another process writes it: a file that is open for writing, also in a child that another test has just forked, cannot
        // be executed.
        let source = directory.join(format!("{name}.source"));
        fs::write(&source, content).unwrap();
        let installed =
            Command::new("install").arg(format!("-m{mode:o}")).args([&source, &file]).status().unwrap();
        assert!(installed.success());
        file
    }

    fn failure(command: Command) -> Failure {
        spawn(command).unwrap_err().failure()
    }

    #[tokio::test]
    async fn each_fault_of_a_program_file_is_told_from_the_others_and_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str, content: &[u8], mode| write(directory.path(), name, content, mode);
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let circle = directory.path().join("circle");
        std::os::unix::fs::symlink(&circle, &circle).unwrap();
        let dangling = directory.path().join("dangling");
        std::os::unix::fs::symlink("/no/such/target", &dangling).unwrap();
        let plain = at("plain", b"echo hello\n", 0o755);
        let cases = [
            (PathBuf::from("/no/such/program"), "no file /no/such/program"),
            (PathBuf::from("no-such-program"), "no directory of PATH"),
            (at("crlf", b"#!/bin/sh\r\necho\r\n", 0o755), "CRLF"),
            (at("missing", b"#! /no/such/shell -e\necho\n", 0o755), "a script for /no/such/shell,"),
            (at("mode", b"#!/bin/sh\n", 0o644), "chmod +x"),
            (plain.clone(), "no #! line"),
            (at("empty", b"", 0o755), "is empty"),
            (at("bom", b"\xef\xbb\xbf#!/bin/sh\n", 0o755), "byte order mark"),
            (at("bare", b"#!\n", 0o755), "names no interpreter"),
            (
                at("elf", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xff\xff", 0o755),
                "another architecture",
            ),
            (at("picture", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 0o755), "see `file"),
            (
                at("locked", format!("#!{}\n", directory.path().join("mode").display()).as_bytes(), 0o755),
                "may not execute",
            ),
            (plain.join("program"), "is not a directory"),
            (directory.path().to_owned(), "is a directory"),
            (fifo, "a named pipe"),
            (circle, "circle"),
            (dangling, "symbolic link to /no/such/target"),
        ];
        for (program, wanted) in cases {
            let failure = failure(Command::new(&program));
            assert_eq!((failure.kind, failure.retry), (FailureKind::Config, Retry::Slow), "{failure}");
            assert!(failure.message.contains(wanted), "{program:?}: {failure}");
            assert!(failure.message.contains(&*program.to_string_lossy()), "{failure}");
        }
    }

    #[tokio::test]
    async fn what_only_the_configuration_can_cure_is_not_tried_again() {
        let mut large = Command::new("true");
        large.arg("x".repeat(200_000));
        let mut nul = Command::new("true");
        nul.arg("a\0b");
        for (command, wanted) in [(large, "128 KiB"), (nul, "NUL")] {
            let failure = failure(command);
            assert_eq!((failure.kind, failure.retry), (FailureKind::Config, Retry::Never), "{failure}");
            assert!(failure.message.contains(wanted), "{failure}");
        }
    }

    #[tokio::test]
    async fn a_working_directory_that_is_missing_is_not_taken_for_a_missing_program() {
        let mut command = Command::new("true");
        command.current_dir("/no/such/directory");
        let failure = failure(command);
        assert!(failure.message.contains("working directory /no/such/directory"), "{failure}");
        assert_eq!(failure.retry, Retry::Slow);
    }

    #[test]
    fn a_limit_is_no_fault_of_the_configuration() {
        for errno in [libc::EMFILE, libc::ENFILE, libc::EAGAIN, libc::ENOMEM, libc::ETXTBSY] {
            let source = io::Error::from_raw_os_error(errno);
            let error = SpawnError::new(&Command::new("true"), "/bin/true".into(), source);
            let failure = error.failure();
            assert_eq!((failure.kind, failure.retry), (FailureKind::Exited, Retry::Prompt), "{failure}");
        }
        let limit = limits::explain(&io::Error::from_raw_os_error(libc::EMFILE)).unwrap();
        assert!(limit.contains("RLIMIT_NOFILE"), "{limit}");
    }

    #[test]
    fn what_a_file_says_of_itself_steers_no_terminal() {
        let directory = tempfile::tempdir().unwrap();
        let file = write(directory.path(), "evil", b"#!/no/\x1b[2Jsuch\n", 0o755);
        let failure = failure(Command::new(&file));
        assert!(!failure.message.contains('\u{1b}'), "{failure}");
    }
}
