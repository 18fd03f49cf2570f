//! The pipes that the output of a process goes into. They outlive portward, and a later run of it reads on.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};

use nix::libc;

use super::lines::Pipe;

/// What a process does whose pipe is full, because nobody reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// It waits for room, and what it says is complete. Programs expect that of their output.
    All,
    /// It goes on, and what does not fit is lost: writing fails with EAGAIN. ssh takes no notice of that.
    WhatFits,
}

/// A pipe whose reader may come and go: who writes into it has it open for reading as well, and so is never ended for want of a reader
/// (SIGPIPE).
pub(super) fn lasting_pipe(says: Says) -> io::Result<(io::PipeReader, File)> {
    let (reader, writer) = io::pipe()?;
    let flags = libc::O_CLOEXEC
        | match says {
            Says::All => 0,
            Says::WhatFits => libc::O_NONBLOCK,
        };
    let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let writer = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
    Ok((reader, writer))
}

/// The pipe is opened once more where the process has it: what is in it has stayed there.
pub(super) fn open_again(pid: u32, descriptor: usize, inode: u64) -> Option<Pipe> {
    let path = format!("/proc/{pid}/fd/{descriptor}");
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    // Looked at first: to open a terminal or a device may do something.
    let is_it = |metadata: &fs::Metadata| metadata.file_type().is_fifo() && metadata.ino() == inode;
    fs::metadata(&path).ok().filter(is_it)?;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(&path).ok()?;
    file.metadata().ok().filter(is_it)?;
    Pipe::from_file(file).ok()
}
