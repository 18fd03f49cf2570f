//! The twenty tunnels, as the driver wants them to be.

use std::path::PathBuf;

use integration_tests::{Lab, ORIGIN_PORT};

/// The first of the ports; each tunnel has ten for itself.
const FIRST_PORT: u16 = 9600;
const PORTS_EACH: u16 = 10;
/// Where a tunnel listens that has been moved, from its own first port.
const MOVED_BY: u16 = 5;
/// The last port of a range, from its first.
pub(crate) const RANGE: u16 = 2;

/// What kind of tunnel it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// With a connection of its own.
    Own,
    /// The same, to a server behind a cable that is cut at times.
    Far,
    /// Sharing its connection with the others of this kind.
    Shared,
    /// With a standby connection.
    Standby,
    /// With `listener: portward`.
    Held,
    /// With `on_demand`.
    OnDemand,
    /// A program that listens.
    Command,
    /// The server listens.
    Remote,
    /// Several ports.
    Range,
    /// A unix socket.
    Socket,
    /// A SOCKS proxy.
    Dynamic,
}

/// One for each tunnel.
const KINDS: [Kind; 20] = [
    Kind::Own,
    Kind::Own,
    Kind::Own,
    Kind::Far,
    Kind::Far,
    Kind::Shared,
    Kind::Shared,
    Kind::Shared,
    Kind::Shared,
    Kind::Standby,
    Kind::Standby,
    Kind::Held,
    Kind::Held,
    Kind::OnDemand,
    Kind::Command,
    Kind::Command,
    Kind::Remote,
    Kind::Range,
    Kind::Socket,
    Kind::Dynamic,
];

impl Kind {
    /// Whether portward itself listens.
    pub(crate) fn is_held(self) -> bool {
        matches!(self, Self::Held | Self::OnDemand)
    }

    /// How many logins one cause may lead to. A server that has not noticed yet that its client is gone refuses a remote forward three
    /// times, and then a new connection is made.
    pub(crate) fn logins(self) -> usize {
        match self {
            Self::Command => 0,
            Self::Standby => 2,
            Self::Remote => 4,
            Self::Own
            | Self::Far
            | Self::Shared
            | Self::Held
            | Self::OnDemand
            | Self::Range
            | Self::Socket
            | Self::Dynamic => 1,
        }
    }
}

/// One tunnel as it should be.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is changed by a step of its own")]
pub(crate) struct Tunnel {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    number: u16,
    /// Whether the file has it.
    pub(crate) is_present: bool,
    /// Whether it was not stopped.
    pub(crate) is_wanted: bool,
    /// Whether it listens on its other port.
    pub(crate) is_moved: bool,
    /// Whether it is supervised in another way, which restarts nothing.
    pub(crate) is_patient: bool,
}

/// All of them, as the file first has them.
pub(crate) fn all() -> Vec<Tunnel> {
    let tunnel = |(number, kind): (u16, Kind)| Tunnel {
        kind,
        name: format!("{}-{number}", format!("{kind:?}").to_lowercase()),
        number,
        is_present: true,
        is_wanted: true,
        is_moved: false,
        is_patient: false,
    };
    (0..).zip(KINDS).map(tunnel).collect()
}

impl Tunnel {
    /// Its first port, here or on the server.
    pub(crate) fn port(&self) -> u16 {
        FIRST_PORT + self.number * PORTS_EACH + if self.is_moved { MOVED_BY } else { 0 }
    }

    /// All ports that are listened on for it, here or on the server, which is the same machine.
    pub(crate) fn ports(&self) -> Vec<u16> {
        match self.kind {
            Kind::Socket => Vec::new(),
            Kind::Range => (self.port()..=self.port() + RANGE).collect(),
            _ => vec![self.port()],
        }
    }

    /// The path of its unix socket.
    pub(crate) fn path(&self, lab: &Lab) -> PathBuf {
        lab.path(format!("{}.sock", self.port()))
    }

    /// Whether a process can take its port, and the daemon waits for that here.
    pub(crate) fn may_be_squatted(&self) -> bool {
        !matches!(self.kind, Kind::Socket | Kind::Remote)
    }

    /// Whether the page comes through it.
    pub(crate) fn leads_to_the_page(&self) -> bool {
        !matches!(self.kind, Kind::Socket | Kind::Command | Kind::Dynamic | Kind::OnDemand)
    }

    /// Its element of the file.
    pub(crate) fn yaml(&self, lab: &Lab) -> String {
        let port = self.port();
        let page = format!("remote_port: \"127.0.0.1:{ORIGIN_PORT}\"");
        let here = format!("local_port: \"127.0.0.1:{port}\"");
        let keys = match self.kind {
            Kind::Own => format!("remote_host: server, {page}, {here}"),
            Kind::Far => format!("remote_host: far, {page}, {here}"),
            Kind::Shared => format!("remote_host: server, {page}, {here}, share: true"),
            Kind::Standby => format!("remote_host: server, {page}, {here}, standby: true"),
            Kind::Held => format!("remote_host: server, {page}, {here}, listener: portward"),
            Kind::OnDemand => {
                format!("remote_host: server, {page}, {here}, listener: portward, on_demand: 1s")
            }
            Kind::Command => {
                format!("{here}, command: [{}, \"{port}\"]", env!("CARGO_BIN_EXE_listening-process"))
            }
            Kind::Remote => format!(
                "remote_host: server, direction: local_to_remote, remote_port: \"127.0.0.1:{port}\", \
                 local_port: \"127.0.0.1:{ORIGIN_PORT}\""
            ),
            Kind::Range => format!(
                "remote_host: server, remote_port: \"127.0.0.1:{ORIGIN_PORT}-{}\", local_port: \"127.0.0.1:{port}-{}\"",
                ORIGIN_PORT + RANGE,
                port + RANGE
            ),
            Kind::Socket => {
                format!("remote_host: server, {page}, local_port: {}", self.path(lab).display())
            }
            Kind::Dynamic => format!("remote_host: server, direction: dynamic, {here}"),
        };
        let grace = if self.is_patient { "600ms" } else { "400ms" };
        format!("  - {{name: {}, stop_grace: {grace}, {keys}}}\n", self.name)
    }
}
