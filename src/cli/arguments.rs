//! The arguments as they are written.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use super::help;
use super::place::Place;
use crate::observe::log::LogMode;
use crate::protocol::{Timeout, duration};

/// Keeps SSH tunnels up, and never starts one on a busy port
#[derive(Debug, Parser)]
#[command(
    name = "portward",
    version,
    max_term_width = 100,
    long_about = help::ABOUT,
    after_help = "`portward --help` shows exit codes, environment variables, files and examples.",
    after_long_help = help::AFTER
)]
pub(super) struct Arguments {
    /// The daemon's socket [default: portward.sock in the runtime directory]
    #[arg(long, global = true, env = "PORTWARD_SOCKET", hide_env_values = true, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// The definition of the command line, whole: for its man pages and its reference.
pub fn definition() -> clap::Command {
    let mut portward = Arguments::command().disable_help_subcommand(true);
    portward.build();
    portward
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the daemon in the foreground
    ///
    /// It reads the configuration, applies changes when the file is saved, and ends all tunnels on SIGTERM or SIGINT. When systemd
    /// restarts its service, and when it is killed, they go on, and the next daemon takes them over. SIGHUP reloads, and restores
    /// missing files in the runtime directory.
    Run(RunArguments),
    /// Check a configuration, without a daemon
    ///
    /// A file that a system service reads is checked for the user of that service: `~/` is that user's home directory.
    ///
    /// Exits with 0 if it is valid, and with 1 if it is not; each error is shown with its line and a hint. An `identity_file` that is
    /// missing, or that the daemon cannot read, is a warning on standard error, because it may exist when ssh needs it.
    Check(CheckArguments),
    /// Show or change the configuration, without a daemon
    ///
    /// A change keeps comments, layout and everything else in the file. The result is checked as `portward check` does before it is
    /// written, and a copy of the file as it was is kept in backups/ beside it (the newest 20). A daemon that runs applies the
    /// change at once; `portward status` shows the result.
    ///
    /// What cannot be changed without changing something else, such as a tunnel written in one line as {...} or a file with YAML
    /// anchors, is refused with the reason.
    Config(ConfigArguments),
    /// Show the state of the tunnels, where they listen, and who holds their ports
    Status(StatusArguments),
    /// Start tunnels
    Start(ActArguments),
    /// Stop tunnels, leaving no process behind
    Stop(ActArguments),
    /// Replace the connections of tunnels, make before break
    ///
    /// The new connection is made first, and then takes over the port from the old one. If it cannot be made, the old one stays.
    Restart(ActArguments),
    /// Log in for a tunnel with `interactive: true`, on this terminal
    ///
    /// Shows what ssh says and asks: a password, a one-time code, the passphrase of a key, whether to trust a new host key. What is
    /// typed goes to ssh, is not shown unless it is about a host key, and is kept nowhere. Ctrl-C gives up.
    ///
    /// portward keeps the connection. When it is lost, the tunnel needs a person again.
    Auth(AuthArguments),
    /// Read the configuration now
    ///
    /// portward does this by itself when the file changes. This command prints what was changed, or with --dry-run what would be.
    Reload(ReloadArguments),
    /// Print the recent log lines of a tunnel
    Logs(LogsArguments),
    /// Print every change of a tunnel or of the configuration as it happens
    Events(EventsArguments),
    /// Show who holds ports, without a daemon
    ///
    /// Queries the kernel for the sockets that listen on a port or are bound to it, on any address. If there are none, anything
    /// else that keeps the port from being bound is shown: a connection that uses it as its own, or TIME_WAIT.
    ///
    /// Needs no privilege. For processes of other users, the uid, the user and the systemd unit are shown, but not the pid and
    /// the command line, which the kernel shows to root only.
    ///
    /// Exits with 0 if anything is shown, with 1 if no process holds any of the ports, and with 2 on errors.
    Who(WhoArguments),
    /// Wait until a port is unbound, or until a process listens on it, without a daemon
    ///
    /// Unbound means that no socket on any address of this machine keeps the port from being bound. The kernel reports
    /// when a socket is destroyed, so nothing polls. It does not report when one begins to listen: --bound queries after 2 ms, and
    /// again after delays that grow by half each time, up to one second.
    ///
    /// Exits with 0 on success, with 1 after the timeout (the holder is shown on standard error), and with 2 on errors.
    Wait(WaitArguments),
    /// Check for problems that would make a tunnel fail, and print the fix
    #[command(long_about = help::doctor())]
    Doctor(DoctorArguments),
    /// Print the completions for a shell
    Completions(CompletionsArguments),
    /// Write the man pages into a directory
    #[command(hide = true)]
    ManPages(ManPagesArguments),
}

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    /// The configuration [default: /etc/portward/config.yaml, or $XDG_CONFIG_HOME/portward/config.yaml if not root]
    #[arg(long, env = "PORTWARD_CONFIG", hide_env_values = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Where log lines go
    #[arg(long, value_enum, default_value_t, value_name = "WHERE")]
    pub(super) log: LogMode,
}

#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    /// The configuration [default: the one that `portward run` would read]
    #[arg(env = "PORTWARD_CONFIG", hide_env_values = true, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ConfigArguments {
    /// The configuration [default: the one that `portward run` would read]
    #[arg(long, global = true, env = "PORTWARD_CONFIG", hide_env_values = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) action: ConfigAction,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigAction {
    /// Print tunnels, as `portward config set` takes them
    Get {
        /// Only this one: name, hash, or prefix of a hash of 8 digits or more
        #[arg(value_name = "TUNNEL", value_parser = NonEmptyStringValueParser::new())]
        tunnel: Option<String>,
        /// Print the JSON of the API's GET /config
        #[arg(long)]
        json: bool,
    },
    /// Give keys of a tunnel other values
    ///
    /// KEY is any key of a tunnel with one value, such as local_port, enabled or stop_grace; config/config.yaml documents them.
    Set {
        /// Name, hash, or prefix of a hash of 8 digits or more
        #[arg(value_name = "TUNNEL", value_parser = NonEmptyStringValueParser::new())]
        tunnel: String,
        /// Keys and values
        #[arg(value_name = "KEY=VALUE", required = true)]
        values: Vec<Assignment>,
    },
    /// Add a tunnel behind all others
    Add {
        /// Keys and values, for example name=db remote_host=user@host remote_port=3306 local_port=13306
        #[arg(value_name = "KEY=VALUE", required = true)]
        values: Vec<Assignment>,
    },
    /// Remove a tunnel
    Remove {
        /// Name, hash, or prefix of a hash of 8 digits or more
        #[arg(value_name = "TUNNEL", value_parser = NonEmptyStringValueParser::new())]
        tunnel: String,
    },
    /// Put back a copy of the configuration, or list the copies, the newest one last
    Restore {
        /// The name of the copy
        #[arg(value_name = "COPY")]
        copy: Option<String>,
    },
}

/// One port.
fn port(text: &str) -> Result<u16, &'static str> {
    text.parse().ok().filter(|port| *port > 0).ok_or("one port is waited for: a number from 1 to 65535")
}

/// How many lines.
fn count(text: &str) -> Result<u32, &'static str> {
    text.parse().map_err(|_| "write a number, for example 100")
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) key: String,
    pub(super) value: String,
}

impl FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                Ok(Self { key: key.to_owned(), value: value.to_owned() })
            }
            Some(_) | None => Err("write it as KEY=VALUE, for example local_port=13306".to_owned()),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    /// Only these: names, hashes, or prefixes of hashes of 8 digits or more
    #[arg(value_name = "TUNNEL", value_parser = NonEmptyStringValueParser::new())]
    pub(super) tunnels: Vec<String>,
    /// Print the API's JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Update the table whenever something changes
    #[arg(long)]
    pub(super) watch: bool,
}

#[derive(Debug, Args)]
pub(super) struct ActArguments {
    /// Names, hashes, or prefixes of hashes of 8 digits or more
    #[arg(
        value_name = "TUNNEL",
        value_parser = NonEmptyStringValueParser::new(),
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pub(super) tunnels: Vec<String>,
    /// All tunnels that are not interactive; `restart` leaves out those that are stopped as well
    #[arg(long)]
    pub(super) all: bool,
    /// How long to wait until it is done, at most 5m; portward continues afterwards [default: 5s]
    #[arg(long, value_name = "DURATION")]
    pub(super) timeout: Option<Timeout>,
    /// Print the API's JSON, one line for each TUNNEL
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct AuthArguments {
    /// Name, hash, or prefix of a hash of 8 digits or more
    #[arg(value_name = "TUNNEL", value_parser = NonEmptyStringValueParser::new())]
    pub(super) tunnel: String,
}

#[derive(Debug, Args)]
pub(super) struct ReloadArguments {
    /// Only print what would be done
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct LogsArguments {
    /// Name, hash, or prefix of a hash of 8 digits or more
    #[arg(value_name = "TUNNEL", value_parser = NonEmptyStringValueParser::new())]
    pub(super) tunnel: String,
    /// How many of the last lines
    #[arg(short = 'n', long, default_value_t = 100, value_name = "N", value_parser = count)]
    pub(super) lines: u32,
    /// Follow the log
    #[arg(short, long)]
    pub(super) follow: bool,
}

#[derive(Debug, Args)]
pub(super) struct EventsArguments {
    /// One JSON object a line: {"event": "snapshot" | "tunnel" | "removed" | "config", "data": ...}
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct WhoArguments {
    /// Ports, ranges of ports and unix sockets, for example 3306, 8000-8010 and /run/app.sock
    #[arg(value_name = "PORT", required = true)]
    pub(super) places: Vec<Place>,
    /// UDP ports instead of TCP ports
    #[arg(long)]
    pub(super) udp: bool,
    /// Also show connections that use the port as their own, and those in TIME_WAIT
    #[arg(long)]
    pub(super) clients: bool,
    /// Print the JSON of the API's GET /ports/PORT, for all ports in one array
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct WaitArguments {
    /// The port
    #[arg(value_name = "PORT", value_parser = port)]
    pub(super) port: u16,
    /// Until nothing keeps the port from being bound (the default)
    #[arg(long, conflicts_with = "bound")]
    pub(super) unbound: bool,
    /// Until a socket listens on the port, or with --udp is bound to it
    #[arg(long)]
    pub(super) bound: bool,
    /// The UDP port instead of the TCP port
    #[arg(long)]
    pub(super) udp: bool,
    /// How long to wait, for example 250ms, 10s or 2m [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub(super) struct DoctorArguments {
    /// The configuration [default: the one that the daemon reads, or that `portward run` would read]
    #[arg(env = "PORTWARD_CONFIG", hide_env_values = true, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// Print all findings as one JSON array: {check, level: "ok" | "warning" | "error", tunnels, ports, what, why, fix}
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct CompletionsArguments {
    /// The shell
    #[arg(value_enum)]
    pub(super) shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct ManPagesArguments {
    /// The directory
    #[arg(value_name = "DIRECTORY")]
    pub(super) directory: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn tunnels_or_all_must_be_given_and_not_both() {
        assert!(parse("portward restart").is_err());
        assert!(parse("portward restart --all web").is_err());
        let Ok(Arguments { command: Command::Restart(all), .. }) = parse("portward restart --all") else {
            panic!("--all alone is fine");
        };
        assert!(all.all && all.tunnels.is_empty());
    }

    #[test]
    fn a_timeout_is_checked_before_anything_is_asked() {
        let Ok(Arguments { command: Command::Stop(stop), .. }) = parse("portward stop web --timeout 250ms")
        else {
            panic!("250ms is a duration");
        };
        assert_eq!(stop.timeout, Some(Timeout(Duration::from_millis(250))));
        let error = parse("portward stop web --timeout 5").unwrap_err().to_string();
        assert!(error.contains("write it with its unit"), "{error}");
    }

    #[test]
    fn the_socket_may_stand_on_either_side_of_the_command() {
        for line in ["portward --socket /s status", "portward status --socket /s"] {
            assert_eq!(parse(line).unwrap().socket, Some(PathBuf::from("/s")), "{line}");
        }
    }

    #[test]
    fn help_of_doctor_names_every_check() {
        let mut command = Arguments::command();
        let help = command.find_subcommand_mut("doctor").unwrap().render_long_help().to_string();
        for check in crate::doctor::CHECKS {
            assert!(help.contains(&format!("  {} ", check.name)) && help.contains(check.about), "{help}");
        }
    }

    #[test]
    fn long_help_tells_everything_by_itself() {
        let help = Arguments::command().render_long_help().to_string();
        for word in ["EXIT CODES", "ENVIRONMENT", "FILES", "EXAMPLES", "PORTWARD_SOCKET", "PORTWARD_CONFIG"] {
            assert!(help.contains(word), "{word} in\n{help}");
        }
    }
}
