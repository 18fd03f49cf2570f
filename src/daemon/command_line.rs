//! How the program of a `command:` tunnel is called.

use std::io;
use std::path::Path;
use std::process::Command;

use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::config::desired::{CommandTunnel, Work};
use crate::tunnel::{Failure, FailureKind};

/// The program with its arguments, its directory and its environment.
pub(super) fn command(tunnel: &CommandTunnel) -> Command {
    let mut command = Command::new(&tunnel.argv[0]);
    command.args(&tunnel.argv[1..]).envs(tunnel.env.iter());
    if let Some(directory) = &tunnel.working_directory {
        command.current_dir(directory);
    }
    command
}

/// Why nothing can run in the directory of `work`, of which the error of the start does not tell; `None`: it is not the
/// directory's fault.
pub(super) fn directory_failure(work: &Work) -> Option<Failure> {
    let Work::Command(CommandTunnel { argv, working_directory: Some(directory), .. }) = work else {
        return None;
    };
    let (what, next) = match enter(directory) {
        Ok(()) => return None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            ("does not exist".to_owned(), "create it, or correct `working_directory`")
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            ("is not a directory".to_owned(), "correct `working_directory`")
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => (
            "may not be entered by the user that portward runs as".to_owned(),
            "allow that on it and on the directories above it, or correct `working_directory`",
        ),
        Err(error) => (
            format!("cannot be entered: {error}"),
            "see what is wrong with it, or correct `working_directory`",
        ),
    };
    let message =
        format!("cannot start {:?}: its working directory {} {what}; {next}", argv[0], directory.display());
    // A directory may be mounted or made at any time.
    Some(Failure::new(FailureKind::Config, message).retried_slowly())
}

/// Whether this process could make it its own directory.
fn enter(directory: &Path) -> io::Result<()> {
    if !directory.metadata()?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(accessat(CWD, directory, Access::EXEC_OK, AtFlags::EACCESS)?)
}
