//! The text of `portward --help` around the list of commands.

use crate::doctor::CHECKS;

/// Above it.
pub(super) const ABOUT: &str = "\
Keeps SSH tunnels up, and any other command that binds a port.

portward starts a tunnel only when the kernel reports that its port is unbound, and replaces a connection by making the new one \
before it ends the old one. `portward run` is the daemon; the other commands connect to it over its socket. \
`portward who`, `portward wait`, `portward config` and `portward doctor` need no daemon.

TUNNEL is a name, a hash, or a prefix of a hash of 8 digits or more, as `portward status --json` shows them.";

/// Below it.
pub(super) const AFTER: &str = "\
EXIT CODES
  0  done
  1  failed; the reason and the next step are on standard error
  2  wrong usage, or no daemon answers on the socket
  `who` exits with 1 if no process holds the ports, `wait` after a timeout, and both with 2 on errors;
  `doctor` exits with 1 when it finds a problem that would make a tunnel fail

ENVIRONMENT
  PORTWARD_CONFIG    configuration, as --config
  PORTWARD_SOCKET    the daemon's socket, as --socket
  PORTWARD_LOG       what `run` logs: error, warn, info (default), debug, trace
  HOME               `~/` in the configuration; if unset, the home directory in the passwd database
  RUNTIME_DIRECTORY  the directory of the socket; set by systemd
  NO_COLOR           no colour, also on a terminal

FILES
  /etc/portward/config.yaml                 configuration, for root; backups/ beside it has copies of it as it was
  $XDG_CONFIG_HOME/portward/config.yaml     configuration, for others (~/.config if unset)
  /run/portward/portward.sock               the daemon's socket, for root
  $XDG_RUNTIME_DIR/portward/portward.sock   the daemon's socket, for others (/tmp/portward-UID/portward.sock if unset)

EXAMPLES
  portward check                          is the configuration valid?
  portward doctor                         is there a problem that would make a tunnel fail?
  portward run                            run the daemon, with the default configuration
  portward config set database local_port=13307
  portward status --watch                 show the tunnels, and update them
  portward restart database --timeout 10s
  portward logs database -f               follow the output of ssh
  portward auth database                  log in for a tunnel that needs a person
  portward who 3306 8000-8010             who holds these ports?
  portward wait 3306 --timeout 10s        wait until the port is unbound
  portward reload --dry-run               what would the edited file change?
  portward status --json | jq '.[] | select(.state != \"up\") | .name'";

/// What `portward doctor --help` says.
pub(super) fn doctor() -> String {
    let checks: Vec<String> =
        CHECKS.iter().map(|check| format!("  {:<16}  {}", check.name, check.about)).collect();
    format!(
        "Check for problems that would make a tunnel fail, and print the fix

If the daemon is running, it runs the checks in its own process, with its user, capabilities, environment and files. \
Otherwise this command runs them in its own process. The first line of the output says which process was examined. \
With a FILE that the daemon does not read, this command runs the checks.

Each check makes sure of one thing:
{}

For each problem it prints why it matters, and a shell command that solves it; further commands make that permanent, or are \
another way.

Exits with 1 if a problem makes a tunnel or the service fail, now or at its next start (an error); with 0 if there are only \
warnings or no problems; and with 2 on wrong usage.",
        checks.join("\n")
    )
}
