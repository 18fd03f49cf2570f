//! The text of `portward --help` around the list of commands.

/// Above it.
pub(super) const ABOUT: &str = "\
Keeps SSH tunnels up, and any other command that binds a port.

portward starts a tunnel only when the kernel reports that its port is unbound, and replaces a connection by making the new one \
before it ends the old one. `portward run` is the daemon; the other commands connect to it over its socket. \
`portward who`, `portward wait` and `portward doctor` need no daemon.

TUNNEL is a name, a hash, or a prefix of a hash of 8 digits or more, as `portward status --json` shows them.";

/// Below it.
pub(super) const AFTER: &str = "\
EXIT CODES
  0  done
  1  failed; the reason and the next step are on standard error
  2  wrong usage, or no daemon answers on the socket
  `who` exits with 1 if no process holds the ports, `wait` after a timeout, and both with 2 on errors;
  `doctor` exits with 1 when it finds what would make a tunnel fail

ENVIRONMENT
  PORTWARD_CONFIG    configuration, as --config
  PORTWARD_SOCKET    the daemon's socket, as --socket
  PORTWARD_LOG       what `run` logs: error, warn, info (default), debug, trace
  HOME               `~/` in the configuration; if unset, the home directory in the passwd database
  RUNTIME_DIRECTORY  the directory of the socket; set by systemd
  NO_COLOR           no colour, also on a terminal

FILES
  /etc/portward/config.yaml                 configuration, for root
  $XDG_CONFIG_HOME/portward/config.yaml     configuration, for others (~/.config if unset)
  /run/portward/portward.sock               the daemon's socket, for root
  $XDG_RUNTIME_DIR/portward/portward.sock   the daemon's socket, for others

EXAMPLES
  portward check                          is the configuration valid?
  portward doctor                         would anything on this machine make a tunnel fail?
  portward run                            run the daemon, with the default configuration
  portward status --watch                 show the tunnels, and update them
  portward restart database --timeout 10s
  portward logs database -f               follow the output of ssh
  portward who 3306 8000-8010             who holds these ports?
  portward wait 3306 --timeout 10s        wait until the port is unbound
  portward reload --dry-run               what would the edited file change?
  portward status --json | jq '.[] | select(.state != \"up\") | .name'";

/// What `portward doctor --help` says.
pub(super) const DOCTOR: &str = "\
Say what on this machine would make a tunnel fail, and the line that mends it

Needs no daemon and no privilege. Tunnels run as the daemon does: if one runs, doctor judges by its user, its \
capabilities and its environment; else, for root, by what the system's unit would give it; and else by who calls.

What is looked at:
  configuration     the file is there and valid
  file_events       changes of the configuration are noticed: inotify's limits, and network file systems
  sock_diag         the kernel tells who has a port
  destroy_events    the kernel tells when a port is let go
  bound_sockets     the kernel shows sockets that do not listen (Linux 6.8)
  privileges        other users' processes can be named, and ended for `on_conflict: kill`
  ssh               the ssh programs are OpenSSH, and recent enough
  commands          the programs of `command` tunnels are there
  multiplexing      ssh's control sockets have a place
  keys              ssh takes its configuration, and can use its keys
  host_keys         the servers' host keys are known
  directories       nobody else can change what the daemon reads
  addresses         this machine has the addresses to listen on
  ephemeral_ports   no local port is one that the kernel gives away
  privileged_ports  the daemon may bind the low ports
  held_ports        nobody else has a local port
  time_wait         no closed connection keeps a local port
  cgroup            cgroups tell whose a process is
  unit              systemd starts portward, and hides no file from it that a tunnel needs
  journal           the journal takes log lines

Of what is not well it says why that matters, and a line for a shell that mends it; further lines make that last, or are \
another way.

Exits with 1 if a tunnel fails of something, now or when it is next started (an error); with 0 if nothing worse than a warning \
was found; and with 2 on wrong usage.";
