//! Who has the endpoints that tunnels want.

use jiff::Timestamp;
use rustix::thread::CapabilitySet;

use super::claims::Claim;
use super::finding::{Check, Finding};
use super::judged::{By, Judged};
use super::mend::Mend;
use crate::core::OnConflict;
use crate::port::advice::{advice, predicate};
use crate::port::{HeldBy, Holder, Occupant, OccupantKind, PortError, Ports, Protocol, holder, who};
use crate::process::{self, Bar, Suspect};

/// What the kernel said of one claim.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) claim: Claim,
    pub(super) result: Result<Vec<Held>, PortError>,
}

/// A socket that has a claim's endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    /// What it is, and whose.
    pub(super) occupant: Occupant,
    /// The kernel's name for the socket.
    pub(super) cookie: u64,
    /// The daemon itself or a descendant of it.
    pub(super) is_ours: bool,
    /// Why `on_conflict: kill` would spare it.
    pub(super) bar: Option<Bar>,
}

/// Asks the kernel about every claim.
pub(super) fn ask(ports: &Ports, claims: &[Claim], judged: &Judged) -> Vec<Answer> {
    let ask = |claim: &Claim| {
        let result = ports.holders(&[claim.endpoint]).map(|held| {
            let mut seen = Vec::new();
            let new = |held: &&HeldBy| {
                let is_new = held.cookie == 0 || !seen.contains(&held.cookie);
                seen.push(held.cookie);
                is_new
            };
            held.iter().filter(new).filter_map(|held| describe(held, judged)).collect()
        });
        Answer { claim: claim.clone(), result }
    };
    claims.iter().map(ask).collect()
}

fn describe(held: &HeldBy, judged: &Judged) -> Option<Held> {
    let occupant = who::describe(std::slice::from_ref(held)).pop()?;
    let pids: Vec<u32> = occupant.holder.iter().flat_map(Holder::pids).collect();
    let is_ours =
        judged.pid().is_some_and(|daemon| pids.iter().any(|pid| holder::is_descendant_of(*pid, daemon)));
    let bar = bar(&occupant, &pids, judged);
    Some(Held { occupant, cookie: held.cookie, is_ours, bar })
}

/// Why the daemon would spare the processes `pids`, which have the socket.
fn bar(occupant: &Occupant, pids: &[u32], judged: &Judged) -> Option<Bar> {
    let viewpoint = match judged.by {
        By::Daemon { pid } => Some(pid),
        // Its one ancestor will be pid 1.
        By::Unit => None,
        By::Ourselves => Some(std::process::id()),
    };
    let uids: Vec<(u32, Option<u32>)> = pids.iter().map(|pid| (*pid, holder::uid_of(*pid))).collect();
    let suspect = |&(pid, uid): &(u32, Option<u32>)| Suspect {
        pid,
        is_ancestor: viewpoint.is_some_and(|viewpoint| holder::is_descendant_of(viewpoint, pid)),
        may_be_signalled: uid.is_some_and(|uid| uid == judged.uid) || judged.may(CapabilitySet::KILL),
    };
    // The kernel hides a process that has more capabilities, and most of root's have all.
    let sees = |&(_, uid): &(u32, Option<u32>)| {
        judged.may(CapabilitySet::SYS_PTRACE) || judged.uid != 0 && uid == Some(judged.uid)
    };
    let suspects: Vec<Suspect> = uids.iter().map(suspect).collect();
    let bar = process::bar(occupant, &suspects);
    let is_barred_anyway = matches!(bar, Some(Bar::Client | Bar::Nobody));
    if is_barred_anyway || uids.iter().all(sees) { bar } else { Some(Bar::Unseen) }
}

/// Judges what the kernel said.
pub(super) fn judge(answers: &[Answer], mend: Mend) -> Vec<Finding> {
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
                        findings.push(about(claim, held, mend));
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

fn about(claim: &Claim, held: &Held, mend: Mend) -> Finding {
    let (endpoint, port, claimant) = (claim.endpoint, claim.endpoint.port(), claim.claimant());
    let wait = format!("portward wait {port}{}", if is_udp(claim) { " --udp" } else { "" });
    let occupant = &held.occupant;
    let advice = advice(occupant);
    let what = format!("{endpoint} of {claimant} {}", predicate(occupant, Timestamp::now()));
    let line = advice.command.as_ref().map(|command| command.for_reader(mend.uid));
    let finding = match occupant.kind {
        OccupantKind::TimeWait => {
            let free = mend.as_root(&format!("ss -K --tcp state time-wait 'sport = :{port}'"));
            Finding::warning(
                Check::TimeWait,
                what,
                "until that is over the port cannot be bound; the tunnel comes up after it by itself",
                format!(
                    "{wait}\n{free} && portward status  # frees it at once, if the kernel has CONFIG_INET_DIAG_DESTROY"
                ),
            )
        }
        OccupantKind::Connection => Finding::error(
            Check::HeldPorts,
            what,
            "the port cannot be bound before that connection has ended; the tunnel comes up by itself then",
            format!("{wait}  # until it has ended; reserving the port keeps the next one away"),
        ),
        OccupantKind::Listener
        | OccupantKind::Bound
        | OccupantKind::Unexplained
        | OccupantKind::NoAddress => {
            let line = match line {
                Some(line) if advice.can_be_killed => line,
                line => format!("{}  # {}", line.unwrap_or(wait), advice.text),
            };
            match (claim.on_conflict, held.bar) {
                (OnConflict::Kill, None) => Finding::warning(
                    Check::HeldPorts,
                    what,
                    "`on_conflict: kill` is set: portward ends what holds the port when the tunnel starts",
                    line,
                ),
                (OnConflict::Kill, Some(bar)) => Finding::error(
                    Check::HeldPorts,
                    what,
                    format!("`on_conflict: kill` ends nobody here: {}", reason(bar, occupant)),
                    line,
                ),
                (OnConflict::Wait, _) => {
                    let why = "the tunnel waits until the port is let go, and comes up by itself then";
                    let why =
                        if claim.tunnel.is_some() { why } else { "the daemon cannot start without its API" };
                    Finding::error(Check::HeldPorts, what, why, line)
                }
            }
        }
    };
    tell(claim, finding)
}

/// What doctor itself may not see, the daemon may.
fn reason(bar: Bar, occupant: &Occupant) -> &'static str {
    if occupant.is_hidden() {
        "as far as can be told without seeing which process it is; run doctor as root"
    } else {
        bar.reason()
    }
}

fn is_udp(claim: &Claim) -> bool {
    claim.endpoint.protocol == Protocol::Udp
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use super::super::claims::tests::claim;
    use super::super::finding::Level;
    use super::super::judged::tests::judged;
    use super::*;
    use crate::protocol::tests::listener;

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

    fn held(kind: OccupantKind, holder: Option<Holder>) -> Held {
        let occupant = Occupant { port: 9443, kind, holder, ..listener(Holder::default()) };
        Held { occupant, cookie: 7, is_ours: false, bar: None }
    }

    fn judge_one(on_conflict: OnConflict, held: Held) -> Finding {
        let claim = Claim { on_conflict, ..claim("web", 9443) };
        let answers = [Answer { claim, result: Ok(vec![held]) }];
        let findings = judge(&answers, MEND);
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
            (holder(Some(812), "/user.slice/user-0.slice/session-1.scope"), "sudo kill 812".to_owned()),
            (holder(None, "/user.slice"), "sudo portward who 9443  # ".to_owned()),
            (holder(Some(812), &docker), format!("sudo docker stop {}  # ", &id[..12])),
        ] {
            let finding = judge_one(OnConflict::Wait, held(OccupantKind::Listener, Some(holder)));
            assert_eq!((finding.check, finding.level), (Check::HeldPorts, Level::Error));
            assert_eq!((&finding.tunnels[..], &finding.ports[..]), (&["web".to_owned()][..], &[9443][..]));
            let mend = finding.mend.unwrap();
            assert!(mend.contains(&line), "{line} in {mend}");
        }
    }

    #[test]
    fn who_is_to_be_killed_is_a_warning_only_if_the_daemon_would_do_it() {
        let finding = |on_conflict, bar| {
            let holder = Some(holder(Some(812), "/"));
            judge_one(on_conflict, Held { bar, ..held(OccupantKind::Bound, holder) })
        };
        assert_eq!(finding(OnConflict::Kill, None).level, Level::Warning);
        assert_eq!(finding(OnConflict::Wait, None).level, Level::Error);
        for bar in [Bar::Client, Bar::Nobody, Bar::Unseen, Bar::FirstProcess, Bar::Ancestor, Bar::Permission]
        {
            let finding = finding(OnConflict::Kill, Some(bar));
            assert_eq!(finding.level, Level::Error, "{bar:?}");
            let why = finding.why.unwrap();
            assert!(why.contains(bar.reason()), "{why}");
        }
    }

    /// The rule is the daemon's own; here it is asked about processes that are there.
    #[test]
    fn the_daemon_spares_what_it_may_not_see_or_signal_and_what_it_descends_from() {
        let own = nix::unistd::getuid().as_raw();
        let (ours, parent) = (std::process::id(), std::os::unix::process::parent_id());
        let bar_of = |pid: Option<u32>, judged: &Judged| {
            let occupant = listener(Holder { pid, ..Holder::default() });
            bar(&occupant, &pid.into_iter().collect::<Vec<_>>(), judged)
        };
        let all = CapabilitySet::KILL | CapabilitySet::SYS_PTRACE;
        let of = |uid, capabilities| judged(uid, capabilities, true);
        assert_eq!(bar_of(Some(1), &of(0, all)), Some(Bar::FirstProcess));
        assert_eq!(bar_of(None, &of(0, all)), Some(Bar::Unseen));
        let ourselves = Judged { by: By::Ourselves, ..of(own, all) };
        assert_eq!(bar_of(Some(ours), &ourselves), Some(Bar::Ancestor));
        assert_eq!(bar_of(Some(parent), &ourselves), Some(Bar::Ancestor));
        let unit = Judged { by: By::Unit, ..of(own, all) };
        assert_eq!(bar_of(Some(parent), &unit), None);
        let stranger = Judged { by: By::Unit, ..of(own + 1, CapabilitySet::empty()) };
        assert_eq!(bar_of(Some(parent), &stranger), Some(Bar::Unseen));
        let sees = Judged { by: By::Unit, ..of(own + 1, CapabilitySet::SYS_PTRACE) };
        assert_eq!(bar_of(Some(parent), &sees), Some(Bar::Permission));
    }

    #[test]
    fn time_wait_passes_by_itself() {
        let mut held = held(OccupantKind::TimeWait, None);
        held.occupant.until = Some(Timestamp::now() + Duration::from_millis(41_900));
        let finding = judge_one(OnConflict::Wait, held);
        assert_eq!((finding.check, finding.level), (Check::TimeWait, Level::Warning));
        assert!(finding.what.contains("for another 42 s"), "{finding:?}");
        assert!(finding.mend.unwrap().starts_with("portward wait 9443\nsudo ss -K "));
    }

    #[test]
    fn one_socket_in_the_way_of_two_endpoints_is_told_once_and_ours_not_at_all() {
        let one = || held(OccupantKind::Listener, Some(holder(Some(812), "/")));
        let ours = Held { is_ours: true, ..held(OccupantKind::Listener, Some(holder(Some(1), "/"))) };
        let answers = [
            Answer { claim: claim("web", 9443), result: Ok(vec![one()]) },
            Answer { claim: claim("web", 9443), result: Ok(vec![one()]) },
            Answer { claim: claim("db", 9444), result: Ok(vec![ours]) },
        ];
        let findings = judge(&answers, MEND);
        assert_eq!(
            findings.iter().filter(|finding| finding.level == Level::Error).count(),
            1,
            "{findings:?}"
        );
    }

    #[test]
    fn what_this_process_holds_is_the_daemons_if_this_is_the_daemon() {
        let socket = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        let ports = Ports::new().unwrap();
        let ask = |by| {
            let judged = Judged { by, ..judged(0, CapabilitySet::empty(), true) };
            let mut answers = ask(&ports, &[claim("web", port)], &judged);
            answers.swap_remove(0).result.unwrap().swap_remove(0)
        };
        let ours = ask(By::Daemon { pid: std::process::id() });
        assert!(ours.is_ours && ours.occupant.kind == OccupantKind::Listener, "{ours:?}");
        assert_eq!(ours.occupant.holder.unwrap().pid, Some(std::process::id()));
        assert!(!ask(By::Unit).is_ours);
    }

    #[test]
    fn an_address_of_another_machine_is_an_error() {
        // TEST-NET-1 is nobody's (RFC 5737).
        let mut claim = claim("web", 9443);
        claim.endpoint = crate::port::Endpoint::new([192, 0, 2, 1].into(), 9443);
        let judged = judged(0, CapabilitySet::empty(), true);
        let findings = judge(&ask(&Ports::new().unwrap(), &[claim], &judged), MEND);
        assert_eq!((findings[0].check, findings[0].level), (Check::Addresses, Level::Error));
        assert!(findings[0].what.contains("192.0.2.1:9443"), "{findings:?}");
    }
}
