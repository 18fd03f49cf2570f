//! The next step for each kind of holder of a port: one that frees it and is safe. Pure.
//!
//! A command line that looks plausible can cost a machine: `kill 1`, stopping the unit of all containers, or the session of the
//! reader. So every kind of holder has its own row here, and everything that tells a person about a holder asks for it.

mod kind;

use std::fmt;

use jiff::Timestamp;

use self::kind::{Engine, FIRST_PROCESS, Kind, kind};
use super::holder::cgroup::Manager;
use super::{Occupant, OccupantKind, Protocol, SHORT_CONTAINER_ID};
use crate::shell;

/// The next step towards a free port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// What to do, as a clause that follows a colon.
    pub text: String,
    /// A line for a shell that does it, or that finds out more.
    pub command: Option<Command>,
    /// Whether to end the process is all that there is to do, and so `on_conflict: kill` would do.
    pub can_be_killed: bool,
}

/// A line for a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    line: String,
    by: By,
}

/// Who must run a line.
#[derive(Debug, Clone, PartialEq, Eq)]
enum By {
    Anybody,
    Root,
    /// This user, or root.
    Owner(u32),
    /// This user and nobody else.
    User(u32, String),
    /// A line of `systemctl --user`, for the manager of this user.
    Manager(u32),
}

impl Command {
    /// The line for a reader who runs it as the user `uid`.
    pub fn for_reader(&self, uid: u32) -> String {
        let line = &self.line;
        let sudo = if uid == 0 { "" } else { "sudo " };
        match &self.by {
            By::Anybody => line.clone(),
            By::Owner(owner) | By::User(owner, _) | By::Manager(owner) if *owner == uid => line.clone(),
            By::Root | By::Owner(_) => format!("{sudo}{line}"),
            By::User(_, name) if uid == 0 => format!("runuser -u {name} -- {line}"),
            By::User(_, name) => format!("sudo -u {name} {line}"),
            By::Manager(owner) => {
                let rest = line.strip_prefix("systemctl --user").unwrap_or(line);
                format!("{sudo}systemctl --user --machine={owner}@.host{rest}")
            }
        }
    }
}

/// For a reader who is not known.
impl fmt::Display for Command {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sudo = if matches!(self.by, By::Root | By::Owner(_)) { "sudo " } else { "" };
        write!(formatter, "`{sudo}{}`", self.line)
    }
}

/// As a clause, with the line in parentheses.
impl fmt::Display for Advice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)?;
        self.command.as_ref().map_or(Ok(()), |command| write!(formatter, " ({command})"))
    }
}

/// The next step for `occupant`.
pub fn advice(occupant: &Occupant) -> Advice {
    let (port, protocol) = (occupant.port, occupant.protocol);
    let holder = occupant.holder.as_ref();
    let uid = holder.map_or(0, |holder| holder.uid);
    let user = || {
        let name = holder.and_then(|holder| holder.user.as_deref());
        By::User(uid, name.map_or_else(|| format!("'#{uid}'"), shell::word))
    };
    let pids: Vec<String> =
        holder.iter().flat_map(|holder| holder.pids()).map(|pid| pid.to_string()).collect();
    let kill = || command(By::Owner(uid), format!("kill {}", pids.join(" ")));
    let udp = if protocol == Protocol::Udp { " --udp" } else { "" };
    let asked = occupant.path.as_deref().map_or_else(|| format!("{port}{udp}"), shell::word);
    let who = || command(By::Root, format!("portward who {asked}"));
    match kind(occupant) {
        Kind::TimeWait => only("nothing needs to be done, it ends by itself"),
        Kind::NoAddress => with(
            "add the address to an interface, or take one that is there for `local_port`",
            command(By::Anybody, "ip -brief address"),
        ),
        Kind::Unexplained => with(
            "look for a program that has bound the port and does not listen, which kernels before Linux 6.8 do not show",
            who(),
        ),
        Kind::Closing => only("nothing needs to be done, the kernel gives up within some minutes"),
        Kind::Client(pid) => {
            let text = format!(
                "close that connection; `portward doctor` tells how net.ipv4.ip_local_reserved_ports={port} keeps others off \
                 the port"
            );
            if pid.is_some() { only(text) } else { with(text, who()) }
        }
        Kind::SocketUnit(manager, Some(unit)) => {
            let line = format!("stop {}", shell::word(unit));
            with(
                format!("stop the socket unit {unit}, and then what it has started"),
                systemctl(manager, &line),
            )
        }
        Kind::SocketUnit(manager, None) => {
            let listed = occupant.path.as_deref().map_or_else(|| format!("':{port} '"), shell::word);
            let line = format!("list-sockets --all --no-pager | grep {listed}");
            with(
                "stop the socket unit that the service manager holds the port for",
                systemctl(manager, &line),
            )
        }
        Kind::FirstProcess => with(
            "it is the first process of this container, and the container ends with it: stop the container from outside, or \
             let that process listen elsewhere",
            command(By::Anybody, format!("ps -o pid,args -p {FIRST_PROCESS}")),
        ),
        Kind::Itself => {
            only("it is this portward's own `api.listen`: change that or the tunnel's `local_port`")
        }
        Kind::Tunnel(name) => with(
            format!("stop the tunnel {name}, which has the port"),
            command(By::Anybody, format!("portward stop {}", shell::word(name))),
        ),
        Kind::Child => {
            only("it was started by this portward, for another tunnel: give each a port of its own")
        }
        Kind::Portward => with(
            "another portward has it for its API, or for a tunnel of its own: stop that tunnel alone, `portward stop NAME` as its user",
            command(user(), "portward status"),
        ),
        Kind::Supervised(supervisor) => {
            let socket =
                supervisor.socket.as_deref().map(|socket| format!(" --socket {}", shell::word(socket)));
            let is_itself = holder.is_some_and(|holder| holder.pids().any(|pid| pid == supervisor.pid));
            let what = if is_itself { "its API, or for a tunnel of its own" } else { "a tunnel of its own" };
            with(
                format!(
                    "another portward has it for {what}, {supervisor}: stop that tunnel alone, `portward stop NAME` as its \
                     user and with its socket"
                ),
                command(user(), format!("portward{} status", socket.unwrap_or_default())),
            )
        }
        Kind::Ancestor => {
            only("portward was started from that process and may end with it: let it close the port itself")
        }
        Kind::Published(engine) => published(engine, port, protocol, user()),
        Kind::Container(engine, id) => container(engine, id, user()),
        Kind::SshSession(pid) => with(
            "end the ssh session that has forwarded the port to this machine (`ssh -R`), best at its client",
            command(By::Owner(0), format!("kill {pid}")),
        ),
        Kind::Essential(unit) => with(
            format!(
                "let {unit} use another port, or take another `local_port`: do not stop that unit, others need it"
            ),
            command(By::Anybody, format!("systemctl status {}", shell::word(unit))),
        ),
        Kind::Nested(unit) => with(
            format!("stop what listens from inside {unit}, which manages processes of its own"),
            command(By::Anybody, format!("systemctl status {}", shell::word(unit))),
        ),
        Kind::Service(manager, unit) => Advice {
            can_be_killed: !pids.is_empty(),
            ..with(format!("stop {unit}"), systemctl(manager, &format!("stop {}", shell::word(unit))))
        },
        Kind::Process => {
            let them = if pids.len() == 1 { "that process" } else { "those processes" };
            Advice { can_be_killed: true, ..with(format!("end {them}"), kill()) }
        }
        Kind::Hidden => with("see as root which process that is", who()),
        Kind::Unowned => unowned(protocol),
    }
}

/// The sentence's part about `occupant`, as it follows "the port ...".
pub fn predicate(occupant: &Occupant, now: Timestamp) -> String {
    match (occupant.kind, &occupant.holder) {
        (OccupantKind::TimeWait, _) => {
            let left = occupant.until.map(|until| until.duration_since(now).as_millis().max(0));
            let left = left.map(|left| format!(" for another {} s", (left + 999) / 1000));
            format!("is in TIME_WAIT of a closed connection{}", left.unwrap_or_default())
        }
        (OccupantKind::NoAddress, _) => {
            format!("cannot be bound, for this machine has no address {}", occupant.address.ip())
        }
        (OccupantKind::Connection, Some(holder)) if !holder.orphaned => {
            format!("is the own port of a connection of {holder}")
        }
        (_, Some(holder)) => format!("is held by {holder}"),
        (_, None) => "cannot be bound, and the kernel does not show which socket is in the way".to_owned(),
    }
}

/// The containers of `engine` that publish the port.
fn published(engine: Engine, port: u16, protocol: Protocol, user: By) -> Advice {
    let docker = format!("docker ps --filter publish={port}/{protocol}");
    let podman = format!("podman ps --format '{{{{.Names}}}} {{{{.Ports}}}}' | grep ':{port}->'");
    let (text, command) = match engine {
        Engine::Docker => {
            ("stop the container that publishes the port, and not Docker itself", command(By::Root, docker))
        }
        Engine::RootlessDocker => {
            ("stop the container that publishes the port, and not Docker itself", command(user, docker))
        }
        Engine::Podman => ("stop the container that publishes the port", command(user, podman)),
        Engine::Rootless => (
            "stop the container that publishes the port, with `podman` or `docker` of the same user",
            command(user, podman),
        ),
        Engine::Kubernetes | Engine::Other => {
            ("stop the container that has the port", command(By::Root, "crictl ps"))
        }
    };
    with(text, command)
}

fn container(engine: Engine, id: &str, user: By) -> Advice {
    let short = id.get(..SHORT_CONTAINER_ID).unwrap_or(id);
    let word = shell::word(short);
    match engine {
        Engine::Docker => {
            with(format!("stop the container {short}"), command(By::Root, format!("docker stop {word}")))
        }
        Engine::RootlessDocker => {
            with(format!("stop the container {short}"), command(user, format!("docker stop {word}")))
        }
        Engine::Podman | Engine::Rootless => {
            with(format!("stop the container {short}"), command(user, format!("podman stop {word}")))
        }
        Engine::Kubernetes => with(
            format!("delete or move the pod of the container {short}, which Kubernetes would start again"),
            command(By::Root, format!("crictl ps --id {word}")),
        ),
        Engine::Other => only(format!("stop the container {short} with the program that manages it")),
    }
}

/// A socket of the kernel's, or of a process that is shown elsewhere only.
fn unowned(protocol: Protocol) -> Advice {
    match protocol {
        Protocol::Udp => with(
            "it belongs to the kernel, for a network device such as VXLAN or WireGuard, or to a process outside this container: \
             remove the device, or look on the host",
            command(By::Anybody, "ip -details link"),
        ),
        Protocol::Tcp => with(
            "it belongs to the kernel, for an NFS, iSCSI or SMB server for example, or to a process outside this container: \
             stop that server, or look on the host",
            command(By::Root, "ss -tlnpe"),
        ),
    }
}

fn command(by: By, line: impl Into<String>) -> Command {
    Command { line: line.into(), by }
}

/// A line of systemctl. What only reads may be read by anybody.
fn systemctl(manager: Manager, line: &str) -> Command {
    let reads = line.starts_with("list-sockets");
    match manager {
        Manager::System => command(if reads { By::Anybody } else { By::Root }, format!("systemctl {line}")),
        Manager::User(uid) => command(By::Manager(uid), format!("systemctl --user {line}")),
    }
}

fn with(text: impl Into<String>, command: Command) -> Advice {
    Advice { command: Some(command), ..only(text) }
}

fn only(text: impl Into<String>) -> Advice {
    Advice { text: text.into(), command: None, can_be_killed: false }
}

#[cfg(test)]
pub(crate) mod tests;
