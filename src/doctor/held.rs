//! Who has the endpoints that tunnels want.

use rustix::thread::CapabilitySet;

use super::claims::Claim;
use super::finding::{Check, Finding};
use super::judged::Judged;
use super::mend::{Mend, word};
use crate::port::{HeldBy, HoldKind, Holder, PortError, Ports, Protocol, holder};
use crate::tunnel::OnConflict;

/// What the kernel said of one claim.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) claim: Claim,
    pub(super) result: Result<Vec<Held>, PortError>,
}

/// A socket that has a claim's endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) kind: HoldKind,
    /// The kernel's name for the socket.
    pub(super) cookie: u64,
    /// Whose it is; `None` where nobody has it, or it is not known at all.
    pub(super) holder: Option<Holder>,
    /// The daemon itself or a descendant of it.
    pub(super) is_ours: bool,
}

/// Asks the kernel about every claim. `daemon` is the pid of the daemon that runs.
pub(super) fn ask(ports: &Ports, claims: &[Claim], daemon: Option<u32>) -> Vec<Answer> {
    let ask = |claim: &Claim| {
        let result = ports.holders(&[claim.endpoint]).map(|held| {
            let mut seen = Vec::new();
            let new = |held: &&HeldBy| {
                let is_new = held.cookie == 0 || !seen.contains(&held.cookie);
                seen.push(held.cookie);
                is_new
            };
            held.iter().filter(new).map(|held| describe(held, daemon)).collect()
        });
        Answer { claim: claim.clone(), result }
    };
    claims.iter().map(ask).collect()
}

fn describe(held: &HeldBy, daemon: Option<u32>) -> Held {
    let holder = match held.kind {
        HoldKind::Listener | HoldKind::Bound | HoldKind::Connection => Some(holder::describe(held)),
        HoldKind::TimeWait(_) | HoldKind::Unexplained => None,
    };
    let is_ours = holder.as_ref().is_some_and(|holder| {
        let mut pids = holder.pid.iter().chain(&holder.others);
        daemon.is_some_and(|daemon| pids.any(|pid| holder::is_descendant_of(*pid, daemon)))
    });
    Held { kind: held.kind, cookie: held.cookie, holder, is_ours }
}

/// Judges what the kernel said.
pub(super) fn judge(answers: &[Answer], judged: &Judged, mend: Mend) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen: Vec<(&Option<String>, u64)> = Vec::new();
    for Answer { claim, result } in answers {
        match result {
            Ok(held) => {
                for held in held.iter().filter(|held| !held.is_ours) {
                    // A socket may be in the way of several endpoints of one tunnel.
                    let identity = (&claim.tunnel, held.cookie);
                    if held.cookie == 0 || !seen.contains(&identity) {
                        seen.push(identity);
                        findings.push(about(claim, held, judged, mend));
                    }
                }
            }
            Err(PortError::AddressNotAvailable(_)) => findings.push(tell(
                claim,
                Finding::error(
                    Check::Addresses,
                    format!(
                        "{} listens on {}, and no interface here has that address",
                        claim.claimant(),
                        claim.endpoint
                    ),
                    "a socket can be bound to an address of this machine only",
                    "ip -brief address  # lists those it has: take one for `local_port`, or `*:PORT` for all",
                ),
            )),
            // What doctor may not try is told of as a low port, by what the daemon may do.
            Err(PortError::PermissionDenied(_)) => {}
            Err(error) => findings.push(tell(
                claim,
                Finding::error(
                    Check::HeldPorts,
                    format!(
                        "{}: whether {} is free cannot be found out: {error}",
                        claim.claimant(),
                        claim.endpoint
                    ),
                    "portward starts nothing on a port that the kernel has not confirmed unbound",
                    mend.as_root(&format!("portward who {}", claim.endpoint.port())),
                ),
            )),
        }
    }
    let count = answers.len();
    let fine = [
        (Check::Addresses, "this machine has the addresses to listen on".to_owned()),
        (Check::HeldPorts, format!("nobody else has a local port ({count} looked at)")),
        (Check::TimeWait, "no local port is left in TIME_WAIT".to_owned()),
    ];
    for (check, what) in fine {
        if !findings.iter().any(|finding| finding.check == check) {
            findings.push(Finding::ok(check, what));
        }
    }
    findings
}

fn tell(claim: &Claim, finding: Finding) -> Finding {
    finding.of(claim.tunnel.clone()).on([claim.endpoint.port()])
}

fn about(claim: &Claim, held: &Held, judged: &Judged, mend: Mend) -> Finding {
    let (endpoint, port, claimant) = (claim.endpoint, claim.endpoint.port(), claim.claimant());
    let wait = format!("portward wait {port}{}", if is_udp(claim) { " --udp" } else { "" });
    let finding = match (held.kind, &held.holder) {
        (HoldKind::TimeWait(left), _) => {
            let seconds = left.as_millis().div_ceil(1000);
            let free = mend.as_root(&format!("ss -K --tcp state time-wait 'sport = :{port}'"));
            Finding::warning(
                Check::TimeWait,
                format!(
                    "{endpoint} of {claimant} is in TIME_WAIT of a closed connection for another {seconds} s"
                ),
                "until that is over the port cannot be bound; the tunnel comes up after it by itself",
                format!("{wait}\n{free}  # frees it at once, if the kernel has CONFIG_INET_DIAG_DESTROY"),
            )
        }
        (HoldKind::Listener | HoldKind::Bound, Some(holder)) => {
            let what = format!("{endpoint} of {claimant} is held by {holder}");
            let line = end(holder, port, mend);
            if claim.on_conflict == OnConflict::Kill && may_kill(judged, holder) {
                let why = "`on_conflict: kill` is set: portward ends that process when the tunnel starts, unless it is pid 1 \
                           or has started portward";
                Finding::warning(Check::HeldPorts, what, why, line)
            } else {
                let why = "the tunnel waits until the port is let go, and comes up by itself then";
                let why =
                    if claim.tunnel.is_some() { why } else { "the daemon cannot start without its API" };
                Finding::error(Check::HeldPorts, what, why, line)
            }
        }
        (HoldKind::Connection, Some(holder)) => Finding::error(
            Check::HeldPorts,
            format!("{endpoint} of {claimant} is the own port of a connection of {holder}"),
            "the port cannot be bound before that connection has ended; the tunnel comes up by itself then",
            format!("{wait}  # until it has ended; reserving the port keeps the next one away"),
        ),
        (HoldKind::Unexplained | HoldKind::Listener | HoldKind::Bound | HoldKind::Connection, _) => {
            Finding::error(
                Check::HeldPorts,
                format!("{endpoint} of {claimant} cannot be bound, and the kernel does not show why"),
                "the tunnel waits until the port is let go, and comes up by itself then",
                wait,
            )
        }
    };
    tell(claim, finding)
}

fn is_udp(claim: &Claim) -> bool {
    claim.endpoint.protocol == Protocol::Udp
}

/// Whether the daemon sees that process and may signal it.
fn may_kill(judged: &Judged, holder: &Holder) -> bool {
    let is_own = holder.uid == judged.uid;
    // The kernel hides a process that has more capabilities, and most of root's have all.
    let sees = judged.may(CapabilitySet::SYS_PTRACE) || is_own && judged.uid != 0;
    sees && (is_own || judged.may(CapabilitySet::KILL))
}

/// Ends the holder, by whoever started it.
fn end(holder: &Holder, port: u16, mend: Mend) -> String {
    let cgroup = holder.cgroup.as_deref().unwrap_or_default();
    let service = holder.unit.as_deref().filter(|unit| unit.ends_with(".service"));
    match (service, &holder.container, holder.pid) {
        (_, Some(id), _) if cgroup.contains("docker") => mend.as_root(&format!("docker stop {}", word(id))),
        (_, Some(id), _) if cgroup.contains("libpod") => format!("podman stop {}", word(id)),
        (Some(unit), _, _) if cgroup.starts_with("/system.slice/") => {
            mend.as_root(&format!("systemctl stop {}", word(unit)))
        }
        (_, _, Some(pid)) => mend.as_owner(holder.uid, &format!("kill {pid}")),
        (_, _, None) => format!("sudo portward who {port}  # shows the pid to be ended"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use super::super::claims::tests::claim;
    use super::super::finding::Level;
    use super::super::judged::tests::judged;
    use super::*;

    const MEND: Mend = Mend { uid: 1000 };

    fn holder(pid: Option<u32>, cgroup: &str) -> Holder {
        Holder {
            pid,
            command: pid.map(|_| "nginx: master".to_owned()),
            uid: 0,
            user: Some("root".to_owned()),
            unit: holder::cgroup::unit_in(cgroup).map(str::to_owned),
            container: holder::cgroup::container_in(cgroup).map(str::to_owned),
            cgroup: Some(cgroup.to_owned()),
            ..Holder::default()
        }
    }

    fn held(kind: HoldKind, holder: Option<Holder>) -> Held {
        Held { kind, cookie: 7, holder, is_ours: false }
    }

    fn judge_one(on_conflict: OnConflict, held: Held) -> Finding {
        judge_for(&judged(1000, CapabilitySet::empty(), false), on_conflict, held)
    }

    fn judge_for(judged: &Judged, on_conflict: OnConflict, held: Held) -> Finding {
        let claim = Claim { on_conflict, ..claim("web", 9443) };
        let answers = [Answer { claim, result: Ok(vec![held]) }];
        let findings = judge(&answers, judged, MEND);
        findings.into_iter().find(|finding| finding.level != Level::Ok).unwrap()
    }

    #[test]
    fn a_holder_is_ended_by_whoever_started_it() {
        let id = "4fa6e0f0c6786287e131c3852c58a2e01cc697a68231826813597e4994f1d6e2";
        let docker = format!("/system.slice/docker-{id}.scope");
        for (holder, line) in [
            (
                holder(Some(812), "/system.slice/nginx.service"),
                "sudo systemctl stop nginx.service".to_owned(),
            ),
            (holder(Some(812), "/user.slice/user-0.slice/session-1.scope"), "kill 812".to_owned()),
            (holder(None, "/user.slice"), "sudo portward who 9443".to_owned()),
            (holder(Some(812), &docker), format!("sudo docker stop {id}")),
        ] {
            let finding = judge_one(OnConflict::Wait, held(HoldKind::Listener, Some(holder)));
            assert_eq!((finding.check, finding.level), (Check::HeldPorts, Level::Error));
            assert_eq!((&finding.tunnels[..], &finding.ports[..]), (&["web".to_owned()][..], &[9443][..]));
            let mend = finding.mend.unwrap();
            assert!(mend.contains(&line), "{line} in {mend}");
        }
    }

    #[test]
    fn who_is_to_be_killed_is_a_warning_only_if_the_daemon_can_do_it() {
        let of = |uid| Held {
            holder: Some(Holder { uid, ..holder(Some(812), "/") }),
            ..held(HoldKind::Bound, None)
        };
        assert_eq!(judge_one(OnConflict::Kill, of(0)).level, Level::Error);
        assert_eq!(judge_one(OnConflict::Kill, of(1000)).level, Level::Warning);
        assert_eq!(judge_one(OnConflict::Wait, of(1000)).level, Level::Error);
        let root = |capabilities| judge_for(&judged(0, capabilities, true), OnConflict::Kill, of(0)).level;
        assert_eq!(root(CapabilitySet::empty()), Level::Error);
        assert_eq!(root(CapabilitySet::SYS_PTRACE), Level::Warning);
    }

    #[test]
    fn time_wait_passes_by_itself() {
        let finding =
            judge_one(OnConflict::Wait, held(HoldKind::TimeWait(Duration::from_millis(41_200)), None));
        assert_eq!((finding.check, finding.level), (Check::TimeWait, Level::Warning));
        assert!(finding.what.contains("for another 42 s"), "{finding:?}");
        assert!(finding.mend.unwrap().starts_with("portward wait 9443\nsudo ss -K "));
    }

    #[test]
    fn one_socket_in_the_way_of_two_endpoints_is_told_once_and_ours_not_at_all() {
        let one = || held(HoldKind::Listener, Some(holder(Some(812), "/")));
        let ours = Held { is_ours: true, ..held(HoldKind::Listener, Some(holder(Some(1), "/"))) };
        let answers = [
            Answer { claim: claim("web", 9443), result: Ok(vec![one()]) },
            Answer { claim: claim("web", 9443), result: Ok(vec![one()]) },
            Answer { claim: claim("db", 9444), result: Ok(vec![ours]) },
        ];
        let findings = judge(&answers, &judged(0, CapabilitySet::empty(), false), MEND);
        assert_eq!(
            findings.iter().filter(|finding| finding.level == Level::Error).count(),
            1,
            "{findings:?}"
        );
    }

    #[test]
    fn what_this_process_holds_is_the_daemons_if_this_is_the_daemon() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let ports = Ports::new().unwrap();
        let ask = |daemon| {
            let mut answers = ask(&ports, &[claim("web", port)], daemon);
            answers.swap_remove(0).result.unwrap().swap_remove(0)
        };
        let ours = ask(Some(std::process::id()));
        assert!(ours.is_ours && ours.kind == HoldKind::Listener, "{ours:?}");
        assert_eq!(ours.holder.unwrap().pid, Some(std::process::id()));
        assert!(!ask(None).is_ours);
    }

    #[test]
    fn an_address_of_another_machine_is_an_error() {
        // TEST-NET-1 is nobody's (RFC 5737).
        let mut claim = claim("web", 9443);
        claim.endpoint = crate::port::Endpoint::new([192, 0, 2, 1].into(), 9443);
        let answers = ask(&Ports::new().unwrap(), &[claim], None);
        let findings = judge(&answers, &judged(0, CapabilitySet::empty(), false), MEND);
        assert_eq!((findings[0].check, findings[0].level), (Check::Addresses, Level::Error));
        assert!(findings[0].what.contains("192.0.2.1:9443"), "{findings:?}");
    }
}
