use super::super::holder::cgroup;
use super::super::{Holder, Kinship, Supervisor};
use super::*;

const ID: &str = "4fa6e0f0c6786287e131c3852c58a2e01cc697a68231826813597e4994f1d6e2";
const ALICE: u32 = 1000;

fn occupant(kind: OccupantKind, protocol: Protocol, holder: Option<Holder>) -> Occupant {
    Occupant {
        port: 9443,
        protocol,
        kind,
        address: ([127, 0, 0, 1], 9443).into(),
        path: None,
        dual_stack: false,
        peer: None,
        time_wait_ms: None,
        until: None,
        holder,
    }
}

/// A process of alice's, in this cgroup.
fn process(pid: u32, command: &str, cgroup: &str) -> Holder {
    Holder {
        pid: Some(pid),
        command: Some(command.to_owned()),
        uid: ALICE,
        user: Some("alice".to_owned()),
        ..made_in(cgroup)
    }
}

/// One of root's that may not be seen, whose socket was made in this cgroup.
fn made_in(cgroup: &str) -> Holder {
    Holder {
        user: Some("root".to_owned()),
        unit: cgroup::unit_in(cgroup).map(str::to_owned),
        container: cgroup::container_in(cgroup).map(str::to_owned),
        cgroup: Some(cgroup.to_owned()),
        ..Holder::default()
    }
}

fn listener(holder: Holder) -> Occupant {
    occupant(OccupantKind::Listener, Protocol::Tcp, Some(holder))
}

fn socket_unit(holder: Holder, unit: &str) -> Holder {
    Holder { socket_unit: Some(unit.to_owned()), ..holder }
}

/// Every kind of holder, each with what it is called here.
pub(crate) fn kinds() -> Vec<(&'static str, Occupant)> {
    let session = "/user.slice/user-1000.slice/session-3.scope";
    let user = "/user.slice/user-1000.slice/user@1000.service";
    let proxy = "/usr/bin/docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 9443";
    let kube = format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope");
    let udp = |holder| occupant(OccupantKind::Bound, Protocol::Udp, Some(holder));
    let tcp = |kind, holder| occupant(kind, Protocol::Tcp, holder);
    let kin = |kinship| Holder { kinship, ..process(812, "portward", session) };
    let supervised_by = |pid| {
        let socket = Some("/run/portward/portward.sock".to_owned());
        let supervisor = Supervisor { pid, command: Some("portward run".to_owned()), socket };
        Holder { supervisor: Some(supervisor), ..kin(Kinship::Portward) }
    };
    let unowned = || Holder { unowned: true, ..Holder::default() };
    vec![
        ("TIME_WAIT", tcp(OccupantKind::TimeWait, None)),
        ("no address", tcp(OccupantKind::NoAddress, None)),
        ("unexplained", tcp(OccupantKind::Unexplained, None)),
        ("unexplained, UDP", occupant(OccupantKind::Unexplained, Protocol::Udp, None)),
        ("closing", tcp(OccupantKind::Connection, Some(Holder { orphaned: true, ..Holder::default() }))),
        ("client", tcp(OccupantKind::Connection, Some(process(812, "firefox", session)))),
        ("hidden client", tcp(OccupantKind::Connection, Some(made_in(session)))),
        ("socket unit", listener(socket_unit(process(1, "/sbin/init", "/init.scope"), "web.socket"))),
        ("socket unit, not told", listener(process(1, "/sbin/init", "/init.scope"))),
        (
            "socket unit and its service",
            listener(socket_unit(
                Holder { others: vec![812], ..process(1, "/sbin/init", "/init.scope") },
                "web.socket",
            )),
        ),
        ("socket unit, hidden", listener(socket_unit(made_in("/system.slice/web.socket"), "web.socket"))),
        (
            "socket unit of a user",
            listener(socket_unit(
                process(700, "systemd --user", &format!("{user}/init.scope")),
                "web.socket",
            )),
        ),
        (
            "socket unit of a user, not told",
            listener(process(700, "systemd --user", &format!("{user}/init.scope"))),
        ),
        ("first process of a container", listener(process(1, "nginx: master process", "/"))),
        ("portward's API", listener(kin(Kinship::Itself))),
        ("tunnel", listener(Holder { tunnel: Some("my db".to_owned()), ..kin(Kinship::Child) })),
        ("child", listener(kin(Kinship::Child))),
        ("other portward", listener(kin(Kinship::Portward))),
        ("portward that runs", listener(supervised_by(812))),
        ("tunnel of a portward that runs", listener(supervised_by(700))),
        ("portward's unit", listener(process(812, "ssh -M -N db", "/system.slice/portward.service"))),
        (
            "portward's unit, hidden",
            listener(made_in("/system.slice/system-portward.slice/portward@alice.service")),
        ),
        ("ancestor", listener(kin(Kinship::Ancestor))),
        ("docker-proxy", listener(process(812, proxy, "/system.slice/docker.service"))),
        ("docker-proxy, UDP", udp(process(812, proxy, "/system.slice/docker.service"))),
        ("dockerd", listener(process(812, "/usr/bin/dockerd -H fd://", "/system.slice/docker.service"))),
        ("docker, hidden", listener(made_in("/system.slice/docker.service"))),
        (
            "rootless docker",
            listener(process(812, "rootlesskit --net=slirp4netns", &format!("{user}/docker.service"))),
        ),
        ("rootlessport", listener(process(812, "containers-rootlessport", &format!("{user}/user.slice")))),
        ("pasta", listener(process(812, "/usr/bin/pasta --config-net -t 9443", session))),
        ("slirp4netns", listener(process(812, "slirp4netns --mtu=65520", session))),
        (
            "conmon",
            listener(process(
                812,
                &format!("/usr/bin/conmon --api-version 1 -c {ID} -u {ID}"),
                &format!("/machine.slice/libpod-conmon-{ID}.scope"),
            )),
        ),
        ("docker container", listener(process(812, "nginx", &format!("/system.slice/docker-{ID}.scope")))),
        ("docker container, cgroupfs", listener(process(812, "nginx", &format!("/docker/{ID}")))),
        (
            "rootless docker container",
            listener(process(812, "nginx", &format!("{user}/user.slice/docker-{ID}.scope"))),
        ),
        (
            "podman container",
            listener(process(812, "nginx", &format!("/machine.slice/libpod-{ID}.scope/container"))),
        ),
        ("pod", listener(process(812, "nginx", &kube))),
        ("other container", listener(process(812, "nginx", &format!("/default/{ID}")))),
        ("ssh -R", listener(process(812, "sshd: alice@pts/0", session))),
        (
            "sshd",
            listener(process(
                812,
                "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100",
                "/system.slice/ssh.service",
            )),
        ),
        (
            "resolver",
            listener(process(812, "/lib/systemd/systemd-resolved", "/system.slice/systemd-resolved.service")),
        ),
        (
            "user manager's unit",
            listener(process(812, "pipewire", "/user.slice/user-1000.slice/user@1000.service")),
        ),
        (
            "in a machine",
            listener(process(
                812,
                "nginx",
                "/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service",
            )),
        ),
        ("in LXC", listener(process(812, "nginx", "/lxc.payload.web/system.slice/nginx.service"))),
        ("service", listener(process(812, "nginx: master process", "/system.slice/nginx.service"))),
        ("hidden service", listener(made_in("/system.slice/nginx.service"))),
        (
            "service of a user",
            listener(process(812, "syncthing", &format!("{user}/app.slice/syncthing.service"))),
        ),
        ("service with a hostile name", listener(process(812, "x", "/system.slice/a;reboot.service"))),
        ("session", listener(process(812, "python3 -m http.server", session))),
        ("app of a desktop", listener(process(812, "code", &format!("{user}/app.slice/app-code-7.scope")))),
        ("two processes", listener(Holder { others: vec![813, 814], ..process(812, "nginx", session) })),
        ("no cgroup", listener(process(812, "nginx", "/"))),
        ("hidden", listener(made_in("/user.slice/user-1000.slice/session-3.scope"))),
        ("hidden, UDP", udp(made_in("/"))),
        ("no process", listener(unowned())),
        ("no process, UDP", udp(unowned())),
    ]
}

/// Each kind with its text, and its line for root and for an ordinary user.
#[test]
fn each_kind_of_holder_has_its_advice() {
    let row = |(name, occupant): (&str, Occupant)| {
        let advice = advice(&occupant);
        let line =
            |uid| advice.command.as_ref().map_or_else(|| "-".to_owned(), |command| command.for_reader(uid));
        let or_kill = if advice.can_be_killed { " [or kill]" } else { "" };
        let mut lines = vec![line(0), line(ALICE), line(65534)];
        lines.dedup();
        format!("{name}: {advice}{or_kill}\n    {}\n", lines.join("\n    "))
    };
    insta::assert_snapshot!(kinds().into_iter().map(row).collect::<String>());
}

#[test]
fn no_advice_costs_a_machine_or_a_session() {
    for (name, occupant) in kinds() {
        let advice = advice(&occupant);
        let lines =
            [0, ALICE, 65534].map(|uid| advice.command.as_ref().map(|command| command.for_reader(uid)));
        for line in lines.iter().flatten().chain([&advice.to_string()]) {
            let kills_the_first =
                line.split(['`', ' ', '(']).collect::<Vec<_>>().windows(2).any(|two| two == ["kill", "1"]);
            assert!(!kills_the_first, "{name}: {line}");
            for unit in [".scope", "docker.service", "portward", "user@", "systemd-", "ssh.service", "init"] {
                for verb in ["stop", "restart", "kill"] {
                    assert!(!line.contains(&format!("systemctl {verb} {unit}")), "{name}: {line}");
                }
            }
            assert!(!(line.contains("systemctl stop") && line.contains(".scope")), "{name}: {line}");
            assert!(!line.contains(" ;reboot") && !line.contains("a;reboot.service`"), "{name}: {line}");
        }
    }
}

#[test]
fn what_is_left_of_time_wait_is_told_as_of_now() {
    let now: Timestamp = "2026-11-24T10:03:12Z".parse().unwrap();
    let left = |milliseconds| {
        let until = Some(now + jiff::SignedDuration::from_millis(milliseconds));
        predicate(&Occupant { until, ..occupant(OccupantKind::TimeWait, Protocol::Tcp, None) }, now)
    };
    assert_eq!(left(41_200), "is in TIME_WAIT of a closed connection for another 42 s");
    assert_eq!(left(-3000), "is in TIME_WAIT of a closed connection for another 0 s");
}
