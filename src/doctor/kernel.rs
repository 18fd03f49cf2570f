//! What the kernel tells about sockets: proven by asking it about one of our own.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::time::timeout;

use super::finding::{Check, Finding};
use super::machine::Machine;
use super::mend::Mend;
use crate::port::{Endpoint, OccupantKind, PortError, Ports, Protocol, Question};

/// The event comes 11 microseconds after the close at the median.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is asked of the kernel about a socket that was made for it.
#[derive(Debug)]
pub(super) struct Proof {
    /// Whether it tells of the sockets of each protocol.
    pub(super) dumps: Vec<(Protocol, Result<(), PortError>)>,
    /// Whether its event came when the socket was closed.
    pub(super) event: Result<bool, PortError>,
    /// Whether it was shown while it was bound and did not listen.
    pub(super) bound: Result<bool, PortError>,
}

/// A socket that is bound and does not listen.
#[derive(Debug)]
struct Probe {
    /// Closed when dropped.
    _socket: Socket,
    endpoint: Endpoint,
}

impl Probe {
    fn bind() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let address = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("no IPv4 address"))?;
        Ok(Self { _socket: socket, endpoint: Endpoint::new(address.ip(), address.port()) })
    }
}

/// Asks the kernel.
pub(super) async fn prove(ports: &Ports, protocols: &BTreeSet<Protocol>) -> io::Result<Proof> {
    let probe = Probe::bind()?;
    let port = probe.endpoint.port();
    let question = |protocol| Question { ports: vec![port..=port], protocol, connections: true };
    let dump = |protocol: &Protocol| (*protocol, ports.occupants(&question(*protocol)).map(drop));
    let dumps = protocols.iter().map(dump).collect();
    let bound = ports.occupants(&question(Protocol::Tcp)).map(|occupants| {
        occupants.iter().any(|occupant| {
            occupant.kind == OccupantKind::Bound && occupant.address == probe.endpoint.address
        })
    });
    let event = match ports.watch(&[probe.endpoint]) {
        Ok(mut subscription) => {
            drop(probe);
            Ok(timeout(PATIENCE, subscription.changed()).await.is_ok())
        }
        Err(error) => Err(error),
    };
    Ok(Proof { dumps, event, bound })
}

/// Judges what the kernel told.
pub(super) fn judge(proof: &Proof, mend: Mend) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        proof.dumps.iter().map(|(protocol, dump)| judge_dump(*protocol, dump.as_ref().err(), mend)).collect();
    findings.push(judge_event(&proof.event, mend));
    findings.push(judge_bound(&proof.bound));
    findings
}

/// What is told when the kernel cannot be asked at all.
pub(super) fn silent(error: &PortError, mend: Mend) -> Finding {
    judge_dump(Protocol::Tcp, Some(error), mend)
}

/// Judges whether the daemon's ports are those that doctor sees; nothing is told if they are.
pub(super) fn judge_namespace(machine: &Machine, daemon: Option<u32>, mend: Mend) -> Option<Finding> {
    let namespace = |process: &str| fs::read_link(machine.path(format!("/proc/{process}/ns/net"))).ok();
    let pid = daemon?;
    // What cannot be read is not known to be another one.
    let (theirs, ours) = (namespace(&pid.to_string())?, namespace("self")?);
    (theirs != ours).then(|| {
        Finding::warning(
            Check::SockDiag,
            format!(
                "the daemon (pid {pid}) has a network of its own ({}, here {})",
                theirs.display(),
                ours.display()
            ),
            "its ports are not those that were looked at here",
            mend.as_root(&format!("nsenter --net --target {pid} portward doctor")),
        )
    })
}

fn judge_dump(protocol: Protocol, refused: Option<&PortError>, mend: Mend) -> Finding {
    match refused {
        None => Finding::ok(Check::SockDiag, format!("the kernel tells who has a {} port", protocol.name())),
        Some(error) => Finding::error(
            Check::SockDiag,
            format!("the kernel does not tell who has a {} port: {error}", protocol.name()),
            "portward starts nothing whose port it cannot ask about",
            modprobe(mend),
        ),
    }
}

fn judge_event(event: &Result<bool, PortError>, mend: Mend) -> Finding {
    let missing = |how: &str| {
        Finding::warning(
            Check::DestroyEvents,
            format!("the kernel does not tell when a port is let go: {how} (it takes Linux 4.2)"),
            "a tunnel whose port is held does not come up by itself when the holder leaves: it takes a \
             `portward restart`",
            modprobe(mend),
        )
    };
    match event {
        Ok(true) => Finding::ok(Check::DestroyEvents, "the kernel tells at once when a port is let go"),
        Ok(false) => missing("no event came when a socket was closed"),
        Err(error) => missing(&error.to_string()),
    }
}

fn judge_bound(bound: &Result<bool, PortError>) -> Finding {
    match bound {
        Ok(true) => {
            Finding::ok(Check::BoundSockets, "the kernel shows sockets that are bound and do not listen")
        }
        Ok(false) | Err(_) => Finding::warning(
            Check::BoundSockets,
            "the kernel does not show sockets that are bound and do not listen (Linux 6.8 and later do)",
            "that a port is held is known all the same, by a trial bind; but who holds it in this way cannot be told",
            "uname -r  # a newer kernel is all that helps",
        ),
    }
}

fn modprobe(mend: Mend) -> String {
    mend.as_root("modprobe -a inet_diag tcp_diag udp_diag")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::finding::Level;
    use super::super::machine::tests::machine;
    use super::*;
    use crate::port::diag::Diag;

    const MEND: Mend = Mend { uid: 0 };

    fn levels(findings: &[Finding]) -> Vec<(Check, Level)> {
        findings.iter().map(|finding| (finding.check, finding.level)).collect()
    }

    #[tokio::test]
    async fn this_kernel_tells_of_both_protocols_and_of_a_closed_socket() {
        let ports = Ports::new().unwrap();
        let proof = prove(&ports, &[Protocol::Tcp, Protocol::Udp].into()).await.unwrap();
        let findings = judge(&proof, MEND);
        let dumped = (Check::SockDiag, Level::Ok);
        assert_eq!(levels(&findings)[..3], [dumped, dumped, (Check::DestroyEvents, Level::Ok)]);
        assert_eq!(ports.counters().events, 1);
    }

    #[tokio::test]
    async fn an_older_kernel_is_told_from_a_newer_one() {
        // What is asked of 6.8 and later is not asked here, which is how it is on older kernels.
        let older = Ports::with(Diag::new().unwrap().without_bound_sockets());
        let proof = prove(&older, &[Protocol::Tcp].into()).await.unwrap();
        let finding = judge(&proof, MEND).swap_remove(2);
        assert_eq!((finding.check, finding.level), (Check::BoundSockets, Level::Warning));
        assert!(finding.what.contains("6.8"), "{finding:?}");
    }

    #[test]
    fn a_daemon_in_another_network_is_told_of() {
        let (_root, machine) =
            machine(&[("/proc/self/ns/x", ""), ("/proc/7/ns/x", ""), ("/proc/8/ns/x", "")]);
        for (process, namespace) in [("self", "net:[1]"), ("7", "net:[1]"), ("8", "net:[2]")] {
            symlink(namespace, machine.path(format!("/proc/{process}/ns/net"))).unwrap();
        }
        let told = |daemon| judge_namespace(&machine, daemon, MEND).map(|finding| finding.mend.unwrap());
        assert_eq!([told(None), told(Some(7)), told(Some(9))], [None, None, None]);
        assert_eq!(told(Some(8)).unwrap(), "nsenter --net --target 8 portward doctor");
    }

    #[test]
    fn what_is_missing_is_loaded_by_the_line() {
        let error = || PortError::NotTold(Protocol::Udp);
        let findings = judge(
            &Proof {
                dumps: vec![(Protocol::Tcp, Ok(())), (Protocol::Udp, Err(error()))],
                event: Err(error()),
                bound: Err(error()),
            },
            MEND,
        );
        assert_eq!(
            levels(&findings),
            [
                (Check::SockDiag, Level::Ok),
                (Check::SockDiag, Level::Error),
                (Check::DestroyEvents, Level::Warning),
                (Check::BoundSockets, Level::Warning),
            ]
        );
        assert_eq!(findings[1].mend.as_deref(), Some("modprobe -a inet_diag tcp_diag udp_diag"));
        assert_eq!(judge_event(&Ok(false), MEND).level, Level::Warning);
    }
}
