//! The kind of a holder, according to /proc and the cgroups. Pure.

use super::super::holder::cgroup::{self, Manager};
use super::super::{Holder, Kinship, Occupant, OccupantKind, Supervisor};

/// The pid of the first process of a machine or of a container.
pub(super) const FIRST_PROCESS: u32 = 1;

/// What kind of holder it is, as far as the next step depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'o> {
    /// No process: the kernel remembers a connection.
    TimeWait,
    /// No process: the address is missing.
    NoAddress,
    /// It is not known.
    Unexplained,
    /// The kernel is closing a connection that no process has open any more.
    Closing,
    /// A connection from the port.
    Client(Option<u32>),
    /// A service manager, for a socket unit.
    SocketUnit(Manager, Option<&'o str>),
    /// The first process of a container.
    FirstProcess,
    /// portward's own API.
    Itself,
    /// A tunnel of ours.
    Tunnel(&'o str),
    /// A process that we have started.
    Child,
    /// A tunnel of another portward, which may have ended.
    Portward,
    /// A tunnel of another portward that runs.
    Supervised(&'o Supervisor),
    /// A process that has started us.
    Ancestor,
    /// A program that keeps the port of a container for its engine.
    Published(Engine),
    /// A process in a container, or its monitor.
    Container(Engine, &'o str),
    /// The port that a client of sshd has forwarded to this machine.
    SshSession(u32),
    /// A unit that must keep running.
    Essential(&'o str),
    /// A unit with units of its own inside.
    Nested(&'o str),
    /// A service that may be stopped.
    Service(Manager, &'o str),
    /// A process that may be ended.
    Process,
    /// A hidden process.
    Hidden,
    /// No process at all.
    Unowned,
}

/// What runs containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    Docker,
    /// Docker without root.
    RootlessDocker,
    Podman,
    /// Either, without root.
    Rootless,
    Kubernetes,
    Other,
}

/// The kind of `occupant`.
pub(super) fn kind(occupant: &Occupant) -> Kind<'_> {
    match (occupant.kind, &occupant.holder) {
        (OccupantKind::TimeWait, _) => Kind::TimeWait,
        (OccupantKind::NoAddress, _) => Kind::NoAddress,
        (OccupantKind::Unexplained, _) | (_, None) => Kind::Unexplained,
        (OccupantKind::Connection, Some(holder)) if holder.orphaned => Kind::Closing,
        (OccupantKind::Connection, Some(holder)) => Kind::Client(holder.pid),
        (OccupantKind::Listener | OccupantKind::Bound, Some(holder)) => kind_of_owner(holder),
    }
}

fn kind_of_owner(holder: &Holder) -> Kind<'_> {
    let cgroup = holder.cgroup.as_deref().unwrap_or_default();
    let place = cgroup::place_in(cgroup);
    let is_first = holder.pids().any(|pid| pid == FIRST_PROCESS);
    // A service manager has a unit to itself.
    let manager = place.filter(|place| place.unit == "init.scope").map(|place| place.manager);
    match (manager, &holder.socket_unit) {
        (Some(manager), unit) => return Kind::SocketUnit(manager, unit.as_deref()),
        (None, Some(unit)) if is_first => return Kind::SocketUnit(Manager::System, Some(unit)),
        // Made in the cgroup of a socket unit, and who has it now may not be seen: most likely the manager.
        (None, Some(unit)) if holder.is_hidden() => {
            return Kind::SocketUnit(place.map_or(Manager::System, |place| place.manager), Some(unit));
        }
        (None, _) if is_first => return Kind::FirstProcess,
        (None, _) => {}
    }
    if let (Kinship::Portward | Kinship::Stranger, Some(supervisor)) = (holder.kinship, &holder.supervisor) {
        return Kind::Supervised(supervisor);
    }
    match (holder.kinship, &holder.tunnel) {
        (Kinship::Itself, None) => return Kind::Itself,
        (Kinship::Itself | Kinship::Child, Some(tunnel)) => return Kind::Tunnel(tunnel),
        (Kinship::Child, None) => return Kind::Child,
        (Kinship::Portward, _) => return Kind::Portward,
        (Kinship::Ancestor, _) => return Kind::Ancestor,
        (Kinship::Stranger, _) => {}
    }
    if place.is_some_and(|place| is_of_portward(place.unit)) {
        return Kind::Portward;
    }
    if holder.unowned {
        return Kind::Unowned;
    }
    if let Some(kind) = kind_of_container(holder, cgroup) {
        return kind;
    }
    if let Some(pid) = holder.pid
        && holder.command.as_deref().is_some_and(is_ssh_session)
    {
        return Kind::SshSession(pid);
    }
    match place {
        Some(place) if place.is_nested => Kind::Nested(place.unit),
        Some(place) if is_essential(place.unit) => Kind::Essential(place.unit),
        Some(place) if place.unit.ends_with(".service") => Kind::Service(place.manager, place.unit),
        // A session or another scope is more than that process.
        _ if holder.pid.is_some() => Kind::Process,
        _ => Kind::Hidden,
    }
}

/// Whether the unit is one of portward's.
fn is_of_portward(unit: &str) -> bool {
    unit == "portward.service" || unit.starts_with("portward@")
}

/// Engines, by the program that keeps a port for them. It belongs to the engine's unit, which runs all containers.
fn kind_of_container<'h>(holder: &'h Holder, cgroup: &'h str) -> Option<Kind<'h>> {
    let command = holder.command.as_deref().unwrap_or_default();
    let mut words = command.split(' ');
    let program = words.next().unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or_default();
    let unit = holder.unit.as_deref().unwrap_or_default();
    let is_docker = || matches!(unit, "docker.service" | "snap.docker.dockerd.service");
    match program {
        "docker-proxy" | "dockerd" => return Some(Kind::Published(Engine::Docker)),
        "rootlesskit" => return Some(Kind::Published(Engine::RootlessDocker)),
        "slirp4netns" | "pasta" | "pasta.avx2" => return Some(Kind::Published(Engine::Rootless)),
        "conmon" => {
            let id = words.skip_while(|word| *word != "-c").nth(1);
            let engine = if cgroup.contains("crio") { Engine::Kubernetes } else { Engine::Podman };
            return Some(id.map_or(Kind::Published(engine), |id| Kind::Container(engine, id)));
        }
        _ if program.contains("rootlessport") => return Some(Kind::Published(Engine::Podman)),
        // A process of Docker's unit that may not be seen is most likely a docker-proxy.
        _ if is_docker() => return Some(Kind::Published(Engine::Docker)),
        _ => {}
    }
    let id = holder.container.as_deref()?;
    let engine = if cgroup.contains("kubepods") {
        Engine::Kubernetes
    } else if cgroup.contains("docker") && cgroup.contains("/user.slice/") {
        Engine::RootlessDocker
    } else if cgroup.contains("docker") {
        Engine::Docker
    } else if cgroup.contains("libpod") {
        Engine::Podman
    } else {
        Engine::Other
    };
    Some(Kind::Container(engine, id))
}

/// What sshd calls the process that serves one client.
fn is_ssh_session(command: &str) -> bool {
    ["sshd: ", "sshd-session: "].iter().any(|name| command.starts_with(name))
        && !command.contains("[listener]")
}

/// Whether other services depend on the unit: stopping it cuts the network, the names, the
/// login, the graphical session or all containers of a machine.
fn is_essential(unit: &str) -> bool {
    const UNITS: [&str; 25] = [
        "NetworkManager",
        "containerd",
        "crio",
        "dbus",
        "dbus-broker",
        "display-manager",
        "gdm",
        "gdm3",
        "incus",
        "k3s",
        "k3s-agent",
        "kubelet",
        "libvirtd",
        "lightdm",
        "lxd",
        "networking",
        "podman",
        "rke2-agent",
        "rke2-server",
        "sddm",
        "snap.lxd.daemon",
        "ssh",
        "sshd",
        "virtnetworkd",
        "wpa_supplicant",
    ];
    const TEMPLATES: [&str; 6] = ["getty@", "serial-getty@", "ssh@", "sshd@", "user@", "wpa_supplicant@"];
    let Some(name) = unit.strip_suffix(".service") else { return false };
    UNITS.contains(&name)
        || name.starts_with("systemd-")
        || TEMPLATES.iter().any(|template| name.starts_with(template))
}
