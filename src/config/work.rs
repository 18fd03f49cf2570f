//! What a tunnel's entry asks to be run: a forward over ssh, or a command.

use std::path::PathBuf;
use std::time::Duration;

use super::address::{self, Listener};
use super::desired::{CommandTunnel, Forward, ListenedBy, LocalSocket, RemoteListen, Ssh, SshTunnel, Work};
use super::diagnose::{Place, Refusal, quote};
use super::entry::{Context, direction};
use super::environment::{Environment, check_string};
use super::hint::{write, yaml};
use super::located::{Field, Located};
use super::raw::{self, Direction, DirectionMode};
use super::values::{Period, Port, SocketMode};
use super::{meant, paths, ssh};
use crate::port::{PortRange, Protocol};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Of a unix socket: for portward's user alone.
const SOCKET_MODE: u32 = 0o600;

/// The direction of the forward in terms of `direction_mode: default`.
fn effective(raw: &raw::Tunnel, mode: DirectionMode) -> Direction {
    match (direction(raw), mode) {
        (Direction::RemoteToLocal, DirectionMode::SshStandard) => Direction::LocalToRemote,
        (Direction::LocalToRemote, DirectionMode::SshStandard) => Direction::RemoteToLocal,
        (direction, _) => direction,
    }
}

/// Whether an entry without `command` is a -L.
pub(super) fn is_local(raw: &raw::Tunnel, mode: DirectionMode) -> bool {
    effective(raw, mode) == Direction::RemoteToLocal
}

/// Whether an entry without `command` is a -R.
pub(super) fn is_remote(raw: &raw::Tunnel, mode: DirectionMode) -> bool {
    effective(raw, mode) == Direction::LocalToRemote
}

/// Whether an entry is a -L on a unix socket of this machine.
pub(super) fn listens_on_socket(raw: &raw::Tunnel, mode: DirectionMode) -> bool {
    let is_path = raw.local_port.value().is_some_and(|Port(text)| address::is_socket(text));
    is_path && raw.command.is_absent() && is_local(raw, mode)
}

/// `None`: what is written cannot be read, which is reported.
fn environment(raw: &raw::Tunnel) -> Option<Environment> {
    match &raw.env {
        Field::Absent => Some(Environment::default()),
        Field::Wrong => None,
        Field::Right(variables) => Some(variables.value.environment()),
    }
}

/// A destination for ssh.
fn destination(text: &str) -> Result<String, Refusal> {
    meant::destination(text)?;
    ssh::check_destination(text)?;
    Ok(text.to_owned())
}

impl Context<'_> {
    /// The work of a tunnel without `command`, and the place of the port that it listens on.
    pub(super) fn ssh(&self, entry: &Located<raw::Tunnel>) -> Option<(Work, Duration, Place)> {
        let raw = &entry.value;
        let destination = self.required(
            entry,
            &raw.remote_host,
            "remote_host",
            "write user@host or a Host alias of ssh_config, or `command:` for a program that binds the port itself",
            |text| self::destination(text),
        );
        let hint = "how long ssh may take is `connect_timeout` under `ssh:`";
        let no_start_timeout =
            self.forbid(&raw.start_timeout, "start_timeout", "is for tunnels with `command`", hint);
        let no_protocol = self.forbid(
            &raw.protocol,
            "protocol",
            "is for tunnels with `command`",
            "remove it: ssh forwards TCP and nothing else",
        );
        let no_working_directory = self.forbid(
            &raw.working_directory,
            "working_directory",
            "is for tunnels with `command`",
            "remove it, and write the paths of ssh's files from `/` on",
        );
        let forward = self.forward(entry);
        let absent = raw::Ssh::default();
        let ssh = match &raw.ssh {
            Field::Absent => &absent,
            Field::Wrong => return None,
            Field::Right(ssh) => &ssh.value,
        };
        let program = self.optional(&ssh.program, "program", |text| paths::program(text, self.directory));
        let config_file = self.optional(&ssh.config_file, "config_file", |text| {
            // To ssh this word is not a file.
            if text == "none" { Ok(PathBuf::from(text)) } else { paths::expand(text, self.directory) }
        });
        let identity_file =
            self.optional(&ssh.identity_file, "identity_file", |text| paths::expand(text, self.directory));
        let connect_timeout = self.optional(&ssh.connect_timeout, "connect_timeout", |Period(timeout)| {
            if timeout.is_zero() || timeout.subsec_nanos() != 0 {
                return Err(Refusal::new("ssh counts in whole seconds").hint("write 1s or more"));
            }
            Ok(*timeout)
        });
        let options = ssh.options.value().map(|options| &options.0[..]).unwrap_or_default();
        let options = options
            .iter()
            .filter_map(|(name, value)| Some((name.value.clone(), value.value()?.clone())))
            .collect();
        no_start_timeout?;
        no_protocol?;
        no_working_directory?;
        let (forward, port) = forward?;
        let ssh = Ssh {
            destination: destination?,
            program: program?.unwrap_or_else(|| PathBuf::from("ssh")),
            config_file: config_file?,
            identity_file: identity_file?,
            options,
            env: environment(raw)?,
        };
        Some((Work::Ssh(SshTunnel { ssh, forward }), connect_timeout?.unwrap_or(CONNECT_TIMEOUT), port))
    }

    /// The other destinations; `None`: one is wrong, which is reported.
    pub(super) fn fallback_hosts(&self, raw: &raw::Tunnel) -> Option<Vec<String>> {
        let hosts = match &raw.fallback_hosts {
            Field::Absent => return Some(Vec::new()),
            Field::Wrong => return None,
            Field::Right(hosts) => &hosts.value,
        };
        let checked: Vec<_> = hosts
            .iter()
            .map(|host| self.optional(host, "fallback_hosts", |text| destination(text)).flatten())
            .collect();
        checked.into_iter().collect()
    }

    /// The forward, and the place of the port that it listens on.
    fn forward(&self, entry: &Located<raw::Tunnel>) -> Option<(Forward, Place)> {
        let raw = &entry.value;
        if matches!(raw.direction, Field::Wrong) {
            return None;
        }
        let direction = effective(raw, self.mode);
        let by = self.listened_by(raw, direction);
        if direction != Direction::LocalToRemote {
            let why = "is for a -R, whose port is the server's";
            self.forbid(&raw.remote_port_recovery, "remote_port_recovery", why, "remove it")?;
        }
        match direction {
            Direction::RemoteToLocal => {
                let target = self.remote_port(entry, address::remote_target);
                if let Some(path) = raw.local_port.get().filter(|port| address::is_socket(&port.value.0)) {
                    let listen = self.local_socket(entry, path.place);
                    let (listen, target) = (listen?, target?.value);
                    by?;
                    self.pair(raw, 1, target.length())?;
                    return Some((Forward::Socket { listen, target }, path.place));
                }
                let listen = self.local_port(entry, |text| address::listen(text, Listener::Ssh));
                let no_mode = self.forbid_mode(raw);
                let (Located { place, value: listen }, target, by) = (listen?, target?.value, by?);
                no_mode?;
                self.pair(raw, listen.ports.length(), target.length())?;
                Some((Forward::Local { listen: listen.endpoints, by, target }, place))
            }
            Direction::LocalToRemote => {
                let target = self.local_port(entry, |text| address::local_target(text, self.directory));
                let listen = self.remote_port(entry, address::remote_listen);
                let no_mode = self.forbid_mode(raw);
                let (target, Located { place, value: listen }) = (target?.value, listen?);
                by?;
                no_mode?;
                let length = match &listen {
                    RemoteListen::Ports { ports, .. } => ports.length(),
                    RemoteListen::Socket(_) => 1,
                };
                self.pair(raw, target.length(), length)?;
                Some((Forward::Remote { listen, target }, place))
            }
            Direction::Dynamic => {
                let no_mode = self.forbid_mode(raw);
                let listen = self.local_port(entry, |text| {
                    if address::is_socket(text) {
                        return Err(Refusal::new(format!("{} is a unix socket", quote(text)))
                            .hint("ssh can be a SOCKS proxy on a port only: write a port, or address:port"));
                    }
                    let listen = address::listen(text, Listener::Ssh)?;
                    if listen.ports.length() == 1 {
                        return Ok(listen.endpoints);
                    }
                    Err(Refusal::new(format!("{} is more than one port", quote(text)))
                        .hint("a SOCKS proxy has one port: its clients choose where it connects to"))
                });
                let hint = "remove it: the clients of a SOCKS proxy choose where it connects to";
                let no_target =
                    self.forbid(&raw.remote_port, "remote_port", "does not apply to `dynamic`", hint);
                let listen = listen?;
                no_target?;
                no_mode?;
                by?;
                Some((Forward::Dynamic { listen: listen.value }, listen.place))
            }
        }
    }

    /// Checks that each port of one side has one on the other. `None`: it is not so, which is reported.
    fn pair(&self, raw: &raw::Tunnel, local: usize, remote: usize) -> Option<()> {
        let field = raw.remote_port.get().filter(|_| local != remote);
        let Some(Located { place, value: Port(written) }) = field else { return Some(()) };
        let count = |length: usize, port: &Field<Port>| match length {
            1 if port.value().is_some_and(|Port(text)| address::is_socket(text)) => "one socket".to_owned(),
            1 => "one port".to_owned(),
            length => format!("{length} ports"),
        };
        let refusal = Refusal::new(format!(
            "`remote_port` is {}, and `local_port` is {}",
            count(remote, &raw.remote_port),
            count(local, &raw.local_port)
        ));
        let first = address::target(written).ok().map(|target| target.ports.first());
        let last = first.and_then(|first| u16::try_from(usize::from(first) + local - 1).ok());
        let meant = first.zip(last).and_then(|(first, last)| PortRange::new(first, last));
        let host = written.rfind(':').map_or("", |colon| &written[..=colon]);
        self.report(
            *place,
            refusal.hint(meant.map_or_else(
                || "write as many ports on either side".to_owned(),
                |ports| {
                    format!(
                        "each port has one on the other side: {}",
                        write(&format!("remote_port: {}", yaml(&format!("{host}{ports}"))))
                    )
                },
            )),
        );
        None
    }

    /// The unix socket of this machine that a -L listens on; `place` is that of its path.
    fn local_socket(&self, entry: &Located<raw::Tunnel>, place: Place) -> Option<LocalSocket> {
        let raw = &entry.value;
        let path = self.local_port(entry, |text| address::local_socket(text, self.directory));
        let mode = self.optional(&raw.socket_mode, "socket_mode", |SocketMode(mode)| Ok(*mode));
        if raw.listener.value() == Some(&raw::Listener::Portward) {
            let refusal = Refusal::new("`local_port`: with `listener: portward` it cannot be a unix socket");
            self.report(place, refusal.hint("write a port, or `listener: ssh`"));
            return None;
        }
        if raw.on_conflict.value() == Some(&raw::OnConflict::Kill) {
            let (why, hint) =
                ("cannot be `kill` for a unix socket", "remove it: the holder is waited for, and named");
            self.forbid(&raw.on_conflict, "on_conflict", why, hint)?;
        }
        Some(LocalSocket { path: path?.value, mode: mode?.unwrap_or(SOCKET_MODE) })
    }

    /// Reports a `socket_mode` where ssh makes no unix socket here.
    fn forbid_mode(&self, raw: &raw::Tunnel) -> Option<()> {
        let why = "is for a -L whose `local_port` is the path of a unix socket";
        self.forbid(&raw.socket_mode, "socket_mode", why, "remove it, or write a path in `local_port`")
    }

    /// Who listens on the local port. `None`: it is wrong, which is reported.
    fn listened_by(&self, raw: &raw::Tunnel, direction: Direction) -> Option<ListenedBy> {
        let by = match raw.listener {
            Field::Wrong => return None,
            Field::Absent | Field::Right(Located { value: raw::Listener::Ssh, .. }) => ListenedBy::Ssh,
            Field::Right(Located { value: raw::Listener::Portward, .. }) => ListenedBy::Portward,
        };
        if by == ListenedBy::Portward {
            let hint = "remove it, or write `listener: ssh`";
            match direction {
                Direction::RemoteToLocal => {}
                Direction::LocalToRemote => {
                    let why = "cannot be `portward` where the server listens";
                    self.forbid(&raw.listener, "listener", why, hint)?;
                }
                Direction::Dynamic => {
                    let why = "cannot be `portward` with `dynamic`: ssh itself is the SOCKS proxy";
                    self.forbid(&raw.listener, "listener", why, hint)?;
                }
            }
        } else {
            let why = "is for tunnels with `listener: portward`";
            let hint = match direction {
                Direction::RemoteToLocal => {
                    "add `listener: portward`, or remove it: ssh makes no client wait"
                }
                Direction::LocalToRemote | Direction::Dynamic => "remove it: ssh makes no client wait",
            };
            self.forbid(&raw.connect_wait, "connect_wait", why, hint)?;
            let hint = match direction {
                Direction::RemoteToLocal => {
                    "add `listener: portward`, or remove it: ssh listens only while it is connected"
                }
                Direction::LocalToRemote | Direction::Dynamic => {
                    "remove it: ssh listens only while it is connected"
                }
            };
            self.forbid(&raw.on_demand, "on_demand", why, hint)?;
            let hint =
                "add `listener: portward`: a port that ssh listens on is open to every user of this machine";
            self.forbid(&raw.allow_users, "allow_users", why, hint)?;
        }
        Some(by)
    }

    /// The work of a tunnel with `command`, and the place of the port that it listens on.
    pub(super) fn command(&self, entry: &Located<raw::Tunnel>) -> Option<(Work, Duration, Place)> {
        let raw = &entry.value;
        let (why, hint) = ("and `command` exclude each other", "keep the one that makes the tunnel");
        let drain = raw.restart.value().map(|restart| restart.drain.clone()).unwrap_or_default();
        let no_ssh = [
            self.forbid(&raw.remote_host, "remote_host", why, hint),
            self.forbid(&raw.remote_port, "remote_port", why, "write the port among the command's arguments"),
            self.forbid(&raw.direction, "direction", why, "a command listens on `local_port`"),
            self.forbid(&raw.ssh, "ssh", why, "write ssh's options among the command's arguments"),
            self.forbid(
                &raw.fallback_hosts,
                "fallback_hosts",
                why,
                "remove it: a command connects as it likes",
            ),
            self.forbid(&raw.standby, "standby", why, "remove it: a second program could not bind the port"),
            self.forbid(&raw.share, "share", why, "remove it: each command is a program of its own"),
            self.forbid(&drain, "drain", why, "remove it: a command is ended before it is started again"),
            self.forbid(&raw.listener, "listener", why, "a command listens itself"),
            self.forbid(&raw.connect_wait, "connect_wait", why, "a command listens itself"),
            self.forbid(&raw.on_demand, "on_demand", why, "a command listens itself"),
            self.forbid(&raw.allow_users, "allow_users", why, "a command listens itself"),
            self.forbid(&raw.socket_mode, "socket_mode", why, "a command makes its sockets itself"),
            self.forbid(
                &raw.remote_port_recovery,
                "remote_port_recovery",
                why,
                "remove it: a command has no port of a server",
            ),
        ];
        let argv = self.argv(&raw.command, "command");
        let working_directory = self.optional(&raw.working_directory, "working_directory", |text| {
            paths::expand(text, self.directory)
        });
        let listen = self.local_port(entry, |text| {
            if address::is_socket(text) {
                return Err(Refusal::new(format!(
                    "{} is a unix socket, and a command binds a port",
                    quote(text)
                ))
                .hint("write the port that the command binds; let a systemd unit run it if it binds none"));
            }
            address::listen(text, Listener::Command)
        });
        let start_timeout = self.optional(&raw.start_timeout, "start_timeout", |Period(timeout)| {
            if timeout.is_zero() {
                return Err(Refusal::new("leaves the command no time").hint("write 1s or more"));
            }
            Ok(*timeout)
        });
        let protocol = self.optional(&raw.protocol, "protocol", |protocol| {
            Ok(match protocol {
                raw::Protocol::Tcp => Protocol::Tcp,
                raw::Protocol::Udp => Protocol::Udp,
            })
        });
        no_ssh.into_iter().collect::<Option<()>>()?;
        let listen = listen?;
        let protocol = protocol?.unwrap_or_default();
        let endpoints = listen.value.endpoints.iter().map(|endpoint| endpoint.over(protocol)).collect();
        let tunnel = CommandTunnel {
            argv: argv?,
            working_directory: working_directory?,
            env: environment(raw)?,
            listen: endpoints,
        };
        Some((Work::Command(tunnel), start_timeout?.unwrap_or(START_TIMEOUT), listen.place))
    }

    /// Program and arguments; the program's path is made absolute.
    pub(super) fn argv(&self, field: &Field<Vec<Field<String>>>, key: &str) -> Option<Vec<String>> {
        let Located { place, value: words } = field.get()?;
        let Some((program, arguments)) = words.split_first() else {
            let refusal = Refusal::new(format!("`{key}`: is an empty list"));
            self.report(
                *place,
                refusal.hint("write the program and its arguments, each an element of the list"),
            );
            return None;
        };
        let program = self.optional(program, key, |text| {
            let path = paths::program(text, self.directory)?;
            // Both parts came from text, so nothing is lost.
            Ok(path.to_string_lossy().into_owned())
        });
        let arguments: Vec<Option<String>> = arguments
            .iter()
            .map(|argument| {
                let checked = self.optional(argument, key, |text| {
                    check_string("an argument", text, 0)?;
                    Ok(text.clone())
                });
                checked.flatten()
            })
            .collect();
        let mut argv = vec![program??];
        argv.extend(arguments.into_iter().collect::<Option<Vec<String>>>()?);
        Some(argv)
    }

    fn local_port<T>(
        &self,
        entry: &Located<raw::Tunnel>,
        convert: impl FnOnce(&str) -> Result<T, Refusal>,
    ) -> Option<Located<T>> {
        let hint = "write the port on this machine";
        self.port(entry, &entry.value.local_port, "local_port", hint, convert)
    }

    fn remote_port<T>(
        &self,
        entry: &Located<raw::Tunnel>,
        convert: impl FnOnce(&str) -> Result<T, Refusal>,
    ) -> Option<Located<T>> {
        let hint = "write the port on the server's side";
        self.port(entry, &entry.value.remote_port, "remote_port", hint, convert)
    }

    fn port<T>(
        &self,
        entry: &Located<raw::Tunnel>,
        field: &Field<Port>,
        key: &str,
        hint: &str,
        convert: impl FnOnce(&str) -> Result<T, Refusal>,
    ) -> Option<Located<T>> {
        let value = self.required(entry, field, key, hint, |port| convert(&port.0))?;
        field.get().map(|port| port.with(value))
    }
}
