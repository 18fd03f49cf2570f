//! How the program of a `command:` tunnel is called.

use std::process::Command;

use crate::config::desired::CommandTunnel;

/// The program with its arguments, its directory and its environment.
pub(super) fn command(tunnel: &CommandTunnel) -> Command {
    let mut command = Command::new(&tunnel.argv[0]);
    command.args(&tunnel.argv[1..]).envs(tunnel.env.iter());
    if let Some(directory) = &tunnel.working_directory {
        command.current_dir(directory);
    }
    command
}
