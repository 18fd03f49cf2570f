//! Who holds the endpoints that the configuration listens on.

use std::slice;

use jiff::Timestamp;

use super::claims::Claim;
use super::fix::Fix;
use crate::core::OnConflict;
use crate::port::advice::{advice, predicate};
use crate::port::{HeldBy, Kinship, Occupant, OccupantKind, PortError, Ports, Protocol, holder, who};
use crate::process::evictees;
use crate::protocol::doctor::Finding;

/// What the kernel reports about a claim.
#[derive(Debug)]
pub(super) struct Answer {
    claim: Claim,
    result: Result<Vec<Held>, PortError>,
}

/// A socket that holds the endpoint of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    occupant: Occupant,
    /// The kernel's number for the socket.
    cookie: u64,
    /// Why `on_conflict: kill` would not end the process.
    spared: Option<String>,
}

/// The addresses that this machine does not have.
pub(super) fn addresses(answers: &[Answer]) -> Vec<Finding> {
    let is_missing = |answer: &&Answer| matches!(answer.result, Err(PortError::AddressNotAvailable(_)));
    let missing = answers.iter().filter(is_missing).map(|Answer { claim, .. }| {
        let what =
            format!("{} listens on {}, but no interface has that address", claim.claimant(), claim.endpoint);
        let why = "a socket can be bound only to an address of this machine";
        let fix =
            "ip -brief address  # lists the addresses: use one of them in `local_port`, or `*:PORT` for all";
        about(claim, Finding::error(what, why, fix))
    });
    missing.collect()
}

/// Asks the kernel about every claim. Sockets of the process `daemon`, of its descendants and of what it has taken over are left out.
pub(super) fn ask(ports: &Ports, claims: &[Claim], daemon: Option<u32>) -> Vec<Answer> {
    let ask = |claim: &Claim| {
        let result = ports.holders(&[claim.endpoint]);
        let result = result.map(|held| held.iter().filter_map(|held| describe(held, daemon)).collect());
        Answer { claim: claim.clone(), result }
    };
    claims.iter().map(ask).collect()
}

fn describe(held: &HeldBy, daemon: Option<u32>) -> Option<Held> {
    let occupant = who::describe(slice::from_ref(held)).pop()?;
    let is_of = |daemon| {
        occupant.holder.as_ref().is_some_and(|holder| {
            let is_taken_over = holder.supervisor.as_ref().is_some_and(|supervisor| supervisor.pid == daemon)
                || (daemon == std::process::id() && holder.kinship == Kinship::Child);
            is_taken_over || holder.pids().any(|pid| holder::is_descendant_of(pid, daemon))
        })
    };
    if daemon.is_some_and(is_of) {
        return None;
    }
    let spared = match evictees(slice::from_ref(held)) {
        Ok(evictees) if evictees.is_empty() => Some("no process that could be ended has it".to_owned()),
        Ok(_) => None,
        Err(spared) => spared.into_iter().next().map(|spared| spared.reason),
    };
    Some(Held { occupant, cookie: held.cookie, spared })
}

/// The sockets that hold ports: those in TIME_WAIT, or all others.
pub(super) fn findings(answers: &[Answer], is_time_wait: bool, fix: Fix) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen: Vec<(&Option<String>, u64)> = Vec::new();
    for Answer { claim, result } in answers {
        match result {
            Ok(held) => {
                let held =
                    held.iter().filter(|held| is_time_wait == (held.occupant.kind == OccupantKind::TimeWait));
                for held in held {
                    // One socket may hold several endpoints of a tunnel.
                    let identity = (&claim.tunnel, held.cookie);
                    if held.cookie == 0 || !seen.contains(&identity) {
                        seen.push(identity);
                        findings.push(about(claim, finding(claim, held, fix)));
                    }
                }
            }
            // Reported by the checks of addresses and of privileged ports.
            Err(PortError::AddressNotAvailable(_) | PortError::PermissionDenied(_)) => {}
            Err(error) if !is_time_wait => findings.push(about(
                claim,
                Finding::error(
                    format!(
                        "cannot determine whether {} of {} is free: {error}",
                        claim.endpoint,
                        claim.claimant()
                    ),
                    "portward starts nothing on a port that the kernel has not confirmed unbound",
                    fix.as_root(&format!("portward who {}", claim.endpoint.port())),
                ),
            )),
            Err(_) => {}
        }
    }
    findings
}

fn about(claim: &Claim, finding: Finding) -> Finding {
    finding.of(claim.tunnel.clone()).on([claim.endpoint.port()])
}

fn finding(claim: &Claim, Held { occupant, spared, .. }: &Held, fix: Fix) -> Finding {
    let port = claim.endpoint.port();
    let udp = if claim.endpoint.protocol == Protocol::Udp { " --udp" } else { "" };
    let wait = format!("portward wait {port}{udp}");
    let what =
        format!("{} of {} {}", claim.endpoint, claim.claimant(), predicate(occupant, Timestamp::now()));
    match occupant.kind {
        OccupantKind::TimeWait => {
            let free = fix.as_root(&format!("ss -K --tcp state time-wait 'sport = :{port}'"));
            let why = "the port cannot be bound until then; the tunnel starts by itself after that";
            let at_once = format!(
                "{free} && portward status  # releases it at once, if the kernel has CONFIG_INET_DIAG_DESTROY"
            );
            Finding::warning(what, why, format!("{wait}\n{at_once}"))
        }
        OccupantKind::Connection => Finding::error(
            what,
            "the port cannot be bound before that connection has ended; the tunnel starts by itself after that",
            format!("{wait}  # until it has ended; reserving the port prevents the next one"),
        ),
        OccupantKind::Listener
        | OccupantKind::Bound
        | OccupantKind::Unexplained
        | OccupantKind::NoAddress => {
            let advice = advice(occupant);
            let line = match advice.command.as_ref().map(|command| command.for_reader(fix.uid)) {
                Some(line) if advice.can_be_killed => line,
                line => format!("{}  # {}", line.unwrap_or(wait), advice.text),
            };
            match (claim.on_conflict, spared) {
                (OnConflict::Kill, None) => {
                    let why = "`on_conflict: kill` is set: portward ends the holder when the tunnel starts";
                    Finding::warning(what, why, line)
                }
                (OnConflict::Kill, Some(reason)) => {
                    Finding::error(what, format!("`on_conflict: kill` ends nobody here: {reason}"), line)
                }
                (OnConflict::Wait, _) if claim.tunnel.is_some() => {
                    let why = "the tunnel waits until the port is released, and starts by itself then";
                    Finding::error(what, why, line)
                }
                (OnConflict::Wait, _) => {
                    Finding::error(what, "the daemon cannot start without its API", line)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use super::super::claims::tests::claim;
    use super::*;
    use crate::port::Holder;
    use crate::protocol::doctor::Level;
    use crate::protocol::tests::listener;

    const FIX: Fix = Fix { uid: 1000 };

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

    fn held(kind: OccupantKind, holder: Option<Holder>) -> Held {
        let occupant = Occupant { port: 9443, kind, holder, ..listener(Holder::default()) };
        Held { occupant, cookie: 7, spared: None }
    }

    fn only(on_conflict: OnConflict, held: Held) -> Finding {
        let claim = Claim { on_conflict, ..claim("web", 9443) };
        let is_time_wait = held.occupant.kind == OccupantKind::TimeWait;
        let answers = [Answer { claim, result: Ok(vec![held]) }];
        assert_eq!(findings(&answers, !is_time_wait, FIX), []);
        findings(&answers, is_time_wait, FIX).swap_remove(0)
    }

    #[test]
    fn the_fix_depends_on_who_started_the_holder() {
        let id = "4fa6e0f0c6786287e131c3852c58a2e01cc697a68231826813597e4994f1d6e2";
        let docker = format!("/system.slice/docker-{id}.scope");
        for (holder, line) in [
            (
                holder(Some(812), "/system.slice/nginx.service"),
                "sudo systemctl stop nginx.service".to_owned(),
            ),
            (holder(Some(812), "/user.slice/user-0.slice/session-1.scope"), "sudo kill 812".to_owned()),
            (holder(None, "/user.slice"), "sudo portward who 9443  # ".to_owned()),
            (holder(Some(812), &docker), format!("sudo docker stop {}  # ", &id[..12])),
        ] {
            let finding = only(OnConflict::Wait, held(OccupantKind::Listener, Some(holder)));
            assert_eq!(finding.level, Level::Error);
            assert_eq!((&finding.tunnels[..], &finding.ports[..]), (&["web".to_owned()][..], &[9443][..]));
            let fix = finding.fix.unwrap();
            assert!(fix.contains(&line), "{line} in {fix}");
        }
    }

    #[test]
    fn a_holder_is_a_warning_only_if_the_daemon_would_end_it() {
        let finding = |on_conflict, spared: Option<&str>| {
            let held = held(OccupantKind::Bound, Some(holder(Some(812), "/")));
            only(on_conflict, Held { spared: spared.map(str::to_owned), ..held })
        };
        assert_eq!(finding(OnConflict::Kill, None).level, Level::Warning);
        assert_eq!(finding(OnConflict::Wait, None).level, Level::Error);
        let spared = finding(OnConflict::Kill, Some("it is pid 1"));
        assert_eq!(spared.level, Level::Error);
        assert!(spared.why.unwrap().ends_with("ends nobody here: it is pid 1"));
    }

    #[test]
    fn time_wait_passes_by_itself() {
        let mut held = held(OccupantKind::TimeWait, None);
        held.occupant.until = Some(Timestamp::now() + Duration::from_millis(41_900));
        let finding = only(OnConflict::Wait, held);
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.what.contains("for another 42 s"), "{finding:?}");
        assert!(finding.fix.unwrap().starts_with("portward wait 9443\nsudo ss -K "));
    }

    #[test]
    fn a_socket_that_holds_two_endpoints_of_a_tunnel_is_reported_once() {
        let one = || held(OccupantKind::Listener, Some(holder(Some(812), "/")));
        let answer = || Answer { claim: claim("web", 9443), result: Ok(vec![one()]) };
        assert_eq!(findings(&[answer(), answer()], false, FIX).len(), 1);
    }

    #[test]
    fn sockets_of_the_daemon_are_left_out() {
        let socket = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        let ports = Ports::new().unwrap();
        let ask = |daemon| ask(&ports, &[claim("web", port)], daemon).swap_remove(0).result.unwrap();
        let ours = std::process::id();
        assert_eq!(ask(Some(ours)), []);
        let held = ask(None).swap_remove(0);
        assert_eq!(held.occupant.holder.unwrap().pid, Some(ours));
        assert!(held.spared.unwrap().contains("portward itself"));
    }

    #[test]
    fn an_endpoint_that_cannot_be_examined_is_an_error() {
        let result = Err(PortError::NotTold(Protocol::Tcp));
        let finding = findings(&[Answer { claim: claim("web", 9443), result }], false, FIX).swap_remove(0);
        assert_eq!(finding.fix.as_deref(), Some("sudo portward who 9443"));
    }
}
