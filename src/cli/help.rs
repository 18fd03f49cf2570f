//! What `portward --help` says around the list of commands.

/// Above it.
pub(super) const ABOUT: &str = "\
Keeps SSH tunnels up, and any other command that binds a port.

portward starts a tunnel only once the kernel says that its port is unbound, and replaces a connection by making the new one \
before it lets go of the old one. `portward run` is the daemon; the other commands ask it over its socket. \
`portward who` and `portward wait` ask the kernel, and need no daemon.

TUNNEL is a name, a hash, or a prefix of a hash of 8 digits or more, as `portward status --json` shows them.";

/// Below it.
pub(super) const AFTER: &str = "\
EXIT CODES
  0  done
  1  not done; standard error says why, and what to do about it
  2  wrong usage, or no daemon answers on the socket
  `who` exits with 1 when nobody holds the ports, `wait` when its time is over, both with 2 on any error

ENVIRONMENT
  PORTWARD_CONFIG    configuration, as --config
  PORTWARD_SOCKET    the daemon's socket, as --socket
  PORTWARD_LOG       what `run` logs: error, warn, info (default), debug, trace
  RUNTIME_DIRECTORY  where the socket is; systemd sets it
  NO_COLOR           no colour on a terminal either

FILES
  /etc/portward/config.yaml                 configuration, for root
  $XDG_CONFIG_HOME/portward/config.yaml     configuration, for others (~/.config if unset)
  /run/portward/portward.sock               the daemon's socket, for root
  $XDG_RUNTIME_DIR/portward/portward.sock   the daemon's socket, for others

EXAMPLES
  portward check                          is the configuration valid?
  portward run                            run the daemon, with the default configuration
  portward status --watch                 see the tunnels change
  portward restart database --timeout 10s
  portward logs database -f               follow what ssh says
  portward who 3306 8000-8010             who holds these ports?
  portward wait 3306 --timeout 10s        go on once the port is unbound
  portward reload --dry-run               what would the edited file change?
  portward status --json | jq '.[] | select(.state != \"up\") | .name'";
