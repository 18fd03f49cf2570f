//! Where a command of a tunnel waits until the test lets it go on.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::lab::Lab;
use crate::record::within_deadline;

/// A named pipe: opening it for reading waits until the test has opened it, and reading it until the test drops that.
#[derive(Debug)]
pub struct Gate(PathBuf);

impl Gate {
    /// A gate that is shut.
    pub fn new(lab: &Lab) -> Self {
        let path = lab.path("gate");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        Self(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Waits until the command is at the gate, and holds it there until what is returned is dropped.
    pub async fn reached(self) -> File {
        let opened = tokio::task::spawn_blocking(move || OpenOptions::new().write(true).open(self.0));
        within_deadline("the command at its gate", opened).await.unwrap().unwrap()
    }
}
