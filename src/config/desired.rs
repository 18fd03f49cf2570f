//! What the user wants, validated: nothing in here can be wrong any more.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use super::environment::Environment;
use crate::core::{HealthPolicy, Policy};
use crate::port::{Endpoint, PortRange};

/// A whole configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// The tunnels, in the order of the file. Names, hashes and listening endpoints are unique.
    pub tunnels: Vec<Tunnel>,
    /// The other entries of the file, in its order; none if the file is valid.
    pub broken: Vec<Broken>,
    /// `direction_mode: ssh-standard`; what it means for each tunnel is in [`Work`].
    pub ssh_standard: bool,
    /// Where the API listens.
    pub api: Api,
    /// The version of the text that asks for this ([`super::store::version`]).
    pub version: String,
}

/// An entry of the file that is not valid. The others run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Its name, as far as it can be read; no other entry has it.
    pub name: String,
    /// As that of [`Tunnel`], of what can be read; no other entry has it.
    pub hash: String,
    /// As that of [`Tunnel`], of what can be read.
    pub log_id: String,
    /// The texts that can be read.
    pub written: Written,
    /// Whether it needs a person to authenticate.
    pub interactive: bool,
    /// The first problem, with its place in the file and the number of the others.
    pub error: String,
}

/// Where the API listens, beyond the command line's own default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Api {
    /// Path of the unix socket; `None`: the default of [`crate::paths`].
    pub socket: Option<PathBuf>,
    /// TCP address and the file that holds the bearer token: one is never without the other.
    pub tcp: Option<ApiTcp>,
}

/// The API over TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiTcp {
    /// Address and port to listen on.
    pub listen: std::net::SocketAddr,
    /// File with the bearer tokens, one a line.
    pub token_file: PathBuf,
    /// Names by which clients may call this machine, beside its addresses and `localhost`.
    pub hosts: Vec<String>,
    /// Origins (`scheme://host[:port]`) of the pages that may call from a browser.
    pub cors_origins: Vec<String>,
}

/// One tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// Unique name, as written or derived.
    pub name: String,
    /// autossh-tunnel's identity: md5, 32 hex digits, over the texts as written.
    pub hash: String,
    /// autossh-tunnel's older identity: 8 hex digits.
    pub log_id: String,
    /// The texts as written, which autossh-tunnel's clients are shown.
    pub written: Written,
    /// `enabled: false` keeps the tunnel stopped.
    pub enabled: bool,
    /// Needs a person to authenticate: waits in `needs_auth`.
    pub interactive: bool,
    /// What to run. A change of it, and only of it, restarts the tunnel.
    pub work: Work,
    /// Other destinations with the same services, tried in order where that of `work` is not reached; none for a command.
    pub fallback_hosts: Vec<String>,
    /// It uses one connection with others that are the same in [`Ssh`] and in `fallback_hosts`; not for a command.
    pub share: bool,
    /// How long ssh may take to connect (`ssh.connect_timeout`; the whole handshake may take twice as long), or the program until
    /// it listens (`start_timeout`).
    pub timeout: Duration,
    /// How to supervise it.
    pub policy: Policy,
    /// How to check it while it is up; `None`: not at all.
    pub health: Option<Health>,
    /// Program and arguments (never empty) to run when its state has changed. A change of it restarts nothing.
    pub on_change: Option<Vec<String>>,
    /// How clients are treated where portward itself listens.
    pub clients: Clients,
    /// What to do about a port of the server that an earlier connection has left held. A change of it restarts nothing.
    pub remote_port_recovery: RemotePortRecovery,
}

/// What to do about a port of a server that is held there by what an earlier connection of the tunnel has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RemotePortRecovery {
    /// End that process of the server, and take the port.
    #[default]
    Auto,
    /// Nothing: the request is made again until the server has noticed. No command is run there.
    Off,
}

/// The health checks of a tunnel. A change of them restarts nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What to do.
    pub check: Check,
    /// How long one check may take; at most [`HealthPolicy::every`].
    pub timeout: Duration,
    /// When, and what follows.
    pub policy: HealthPolicy,
}

/// One health check. It fits the tunnel: [`Check::Connect`] and [`Check::Http`] need a listener of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// Connect, and stay connected for a moment; a SOCKS proxy answers a greeting.
    Connect,
    /// `GET` of this path, which is valid in a request: success is a status from 200 to 399.
    Http(String),
    /// Program and arguments (never empty): success is exit status 0.
    Command(Vec<String>),
}

impl Tunnel {
    /// The work with the destination of this index: 0 for its own, 1 for the first fallback host.
    pub fn work_at(&self, destination: usize) -> Cow<'_, Work> {
        let host = destination.checked_sub(1).and_then(|index| self.fallback_hosts.get(index));
        match (&self.work, host) {
            (Work::Ssh(tunnel), Some(host)) => {
                let ssh = Ssh { destination: host.clone(), ..tunnel.ssh.clone() };
                Cow::Owned(Work::Ssh(SshTunnel { ssh, forward: tunnel.forward.clone() }))
            }
            (work, _) => Cow::Borrowed(work),
        }
    }
}

/// How clients are treated where portward itself listens. A change of it restarts nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clients {
    /// `connect_wait`: how long a client waits for a connection to the server.
    pub connect_wait: Duration,
    /// `allow_users`: who may be a client; `None`: everybody.
    pub allow_users: Option<AllowedUsers>,
}

/// The users of this machine that may be clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedUsers {
    /// Names of users, or uids.
    pub users: Vec<String>,
    /// Names of groups, or gids.
    pub groups: Vec<String>,
}

/// The texts of a tunnel's entry as written, with autossh-tunnel's defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Written {
    /// `remote_host`; empty for a command.
    pub remote_host: String,
    /// `remote_port`; empty for a command and for `dynamic`.
    pub remote_port: String,
    /// `local_port`.
    pub local_port: String,
    /// `direction`.
    pub direction: String,
}

/// What a tunnel runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Work {
    /// A forward over an ssh connection.
    Ssh(SshTunnel),
    /// A program that binds the port itself.
    Command(CommandTunnel),
}

impl Work {
    /// The local endpoints that must be unbound before the tunnel can listen; none for a remote forward.
    pub fn endpoints(&self) -> &[Endpoint] {
        match self {
            Self::Ssh(tunnel) => match &tunnel.forward {
                Forward::Local { listen, .. } | Forward::Dynamic { listen } => listen,
                Forward::Socket { .. } | Forward::Remote { .. } => &[],
            },
            Self::Command(command) => &command.listen,
        }
    }

    /// The unix socket of this machine that it listens on.
    pub fn socket(&self) -> Option<&LocalSocket> {
        match self {
            Self::Ssh(tunnel) => tunnel.forward.socket(),
            Self::Command(_) => None,
        }
    }

    /// Whether portward itself listens on [`Self::endpoints`].
    pub fn is_held(&self) -> bool {
        match self {
            Self::Ssh(tunnel) => tunnel.forward.is_held(),
            Self::Command(_) => false,
        }
    }
}

/// A forward over an ssh connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SshTunnel {
    /// How to connect.
    pub ssh: Ssh,
    /// What to forward.
    pub forward: Forward,
}

/// How to connect by ssh. Tunnels with `share` that are the same in this, and in their fallback hosts, use one connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ssh {
    /// `user@host` or a `Host` alias; never begins with `-`, holds no white space or control character.
    pub destination: String,
    /// The ssh program; `ssh` is looked up in PATH.
    pub program: PathBuf,
    /// `-F`.
    pub config_file: Option<PathBuf>,
    /// `-i`.
    pub identity_file: Option<PathBuf>,
    /// `-o Name=value`; names are letters and digits only, and none of those that portward itself must set.
    pub options: BTreeMap<String, String>,
    /// Variables that ssh has beyond portward's own.
    pub env: Environment,
}

/// Who listens on the local port of a `-L`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListenedBy {
    /// ssh.
    Ssh,
    /// portward, which relays each client to ssh over a unix socket.
    Portward,
}

/// A forward, with the meaning that ssh gives to `-L`, `-R` and `-D`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Forward {
    /// `-L`: listen here, connect from the server.
    Local {
        /// Where to listen here (never empty): every port of a range at every address, in the order of the ports.
        listen: Vec<Endpoint>,
        /// Who listens there.
        by: ListenedBy,
        /// Where the server connects to: as many ports as there are in `listen`, in the same order.
        target: Target,
    },
    /// `-L` with a unix socket of this machine, on which ssh listens.
    Socket {
        /// Where to listen here.
        listen: LocalSocket,
        /// Where the server connects to: one port, or a unix socket.
        target: Target,
    },
    /// `-R`: listen on the server, connect from here.
    Remote {
        /// Where to listen on the server.
        listen: RemoteListen,
        /// Where ssh connects to from here: as many ports, in the same order.
        target: Target,
    },
    /// `-D`: a SOCKS proxy here.
    Dynamic {
        /// Where ssh listens here (never empty).
        listen: Vec<Endpoint>,
    },
}

impl Forward {
    /// Whether portward listens in place of ssh, which then listens on a unix socket for each port.
    pub fn is_held(&self) -> bool {
        self.held_ports() > 0
    }

    /// The number of ports on which portward listens in place of ssh.
    pub fn held_ports(&self) -> usize {
        match self {
            Self::Local { by: ListenedBy::Portward, target, .. } => target.length(),
            Self::Local { by: ListenedBy::Ssh, .. }
            | Self::Socket { .. }
            | Self::Remote { .. }
            | Self::Dynamic { .. } => 0,
        }
    }

    /// The unix socket of this machine that ssh listens on.
    pub fn socket(&self) -> Option<&LocalSocket> {
        match self {
            Self::Socket { listen, .. } => Some(listen),
            Self::Local { .. } | Self::Remote { .. } | Self::Dynamic { .. } => None,
        }
    }

    /// The local endpoints that ssh itself listens on.
    pub fn listens(&self) -> &[Endpoint] {
        match self {
            Self::Local { listen, by: ListenedBy::Ssh, .. } | Self::Dynamic { listen } => listen,
            Self::Local { by: ListenedBy::Portward, .. } | Self::Socket { .. } | Self::Remote { .. } => &[],
        }
    }
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RemoteListen {
    /// On ports.
    Ports {
        /// Address to bind on the server; `None`: the server's loopback.
        bind: Option<String>,
        /// Ports on the server.
        ports: PortRange,
    },
    /// On a unix socket: a path of the server, absolute, at most 107 bytes long and without control characters.
    Socket(PathBuf),
}

/// A unix socket of this machine to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LocalSocket {
    /// Absolute, at most 107 bytes long and without control characters.
    pub path: PathBuf,
    /// Permission bits of the file: at most 0777, at least 0600.
    pub mode: u32,
}

/// Where a forward leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// To one port, or of a range to the one that corresponds to the port listened on.
    Ports(HostPorts),
    /// To a unix socket: an absolute path, at most 107 bytes long and without control characters.
    Socket(PathBuf),
}

impl Target {
    /// How many different ones there are.
    pub fn length(&self) -> usize {
        match self {
            Self::Ports(target) => target.ports.length(),
            Self::Socket(_) => 1,
        }
    }

    /// The first one, for a message: `db:3306`, or a path.
    pub fn first(&self) -> String {
        match self {
            Self::Ports(HostPorts { host, ports }) => format!("{host}:{}", ports.first()),
            Self::Socket(path) => path.display().to_string(),
        }
    }
}

/// `db:3306`, `db:8000-8010` or a path, for a message.
impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports(target) => target.fmt(formatter),
            Self::Socket(path) => path.display().fmt(formatter),
        }
    }
}

/// A host name or address with a port, or with several that follow one another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPorts {
    /// Name or address, without brackets.
    pub host: String,
    /// Ports.
    pub ports: PortRange,
}

/// `db:3306` or `db:8000-8010`, for a message.
impl fmt::Display for HostPorts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.host, self.ports)
    }
}

/// A program that binds the port itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CommandTunnel {
    /// Program and arguments (never empty); no shell sees them.
    pub argv: Vec<String>,
    /// Where it runs; `None`: where portward does.
    pub working_directory: Option<PathBuf>,
    /// Variables that it has beyond portward's own.
    pub env: Environment,
    /// Endpoints that must be unbound before the start. A bare port means the wildcard addresses here, because what the
    /// program binds is its own affair; the tunnel is up once one listener that overlaps them is the program's.
    pub listen: Vec<Endpoint>,
}
