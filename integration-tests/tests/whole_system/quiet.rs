//! What holds whenever nothing happens.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileTypeExt as _;
use std::time::Duration;

use integration_tests::{LogLine, fetch, starts};
use portward::core::Standby;
use portward::port::daemons::Daemons;
use portward::protocol::{FailureKind, StateName, TunnelStatus};
use tokio::time::{Instant, timeout};

use crate::sight;
use crate::tunnels::{Kind, Tunnel};
use crate::world::World;

/// How long the system may take to come to rest: a probe takes 3 s, a login that is cut off in the middle 10 s.
const PATIENCE: Duration = Duration::from_secs(30);
/// What /proc shows changes without an event: it is looked at again after so long, or when the daemon reports something.
const LOOK: Duration = Duration::from_millis(50);
/// The ports of all tunnels.
const PORTS: std::ops::Range<u16> = 9600..9900;

/// What the daemon has open for each ssh: its pidfd, its two outputs, and the connection to its control socket.
const FOR_EACH_SSH: [(&str, usize); 3] = [("anon_inode", 1), ("pipe", 2), ("socket", 1)];

/// Files that the daemon opens for its first process, and keeps.
const TO_START: usize = 4;

/// What differs from what should be.
type Difference = String;

macro_rules! differs {
    ($condition:expr, $($text:tt)*) => {
        if $condition {
            return Err(format!($($text)*));
        }
    };
}

impl World<'_> {
    /// Waits until everything is as it should be.
    pub(crate) async fn quiet(&mut self) {
        self.steps.note("quiet".to_owned());
        self.answers(None).await;
        let deadline = Instant::now() + PATIENCE;
        while let Err(difference) = self.check().await {
            self.wait_or_fail(deadline, &difference).await;
        }
        let logins = self.logins();
        let (now, before) =
            (logins.iter().sum::<usize>(), std::mem::replace(&mut self.logged_in, logins.iter().sum()));
        assert!(
            now - before <= self.may_log_in,
            "{} logins since the last quiet point, and causes for {}\n{}",
            now - before,
            self.may_log_in,
            self.daemon().report()
        );
        self.may_log_in = 0;
    }

    /// The descriptors that the daemon has now, less those that its connections need: tunnels that share one may be on several.
    pub(crate) fn descriptors(&self) -> BTreeMap<String, usize> {
        let mut found = sight::descriptors(self.daemon().pid());
        let connections = self.lab.sshs().len();
        // One for each earlier run that something was taken over from.
        let claims = Daemons::now().unwrap();
        let runs = claims.claims().iter().filter(|claim| claim.run().is_some()).count();
        if let Some(sockets) = found.get_mut("socket") {
            *sockets -= runs;
        }
        // One that has taken everything over has started nothing yet.
        if starts(&self.daemon().log().all()) == 0 {
            *found.entry("file".to_owned()).or_default() += TO_START;
        }
        for (kind, each) in FOR_EACH_SSH {
            if let Some(number) = found.get_mut(kind) {
                *number = number.saturating_sub(each * connections);
            }
        }
        found
    }

    /// Waits until the daemon has as many descriptors of each kind as in `expected`.
    pub(crate) async fn has_descriptors(&self, expected: &BTreeMap<String, usize>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.descriptors();
            if now == *expected {
                return;
            }
            self.wait_or_fail(deadline, &format!("descriptors: {now:?}, once {expected:?}")).await;
        }
    }

    async fn wait_or_fail(&self, deadline: Instant, difference: &str) {
        assert!(Instant::now() < deadline, "not quiet: {difference}\n{}", self.daemon().report());
        let next = self.daemon().mark();
        let _ = timeout(LOOK, self.daemon().next_status(next)).await;
    }

    /// Everything that should be true.
    async fn check(&self) -> Result<(), Difference> {
        let answer = self.daemon().get("/status").await;
        let statuses: Vec<TunnelStatus> = serde_json::from_str(&answer.body).unwrap();
        let present: Vec<&Tunnel> = self.tunnels.iter().filter(|tunnel| tunnel.is_present).collect();
        let names =
            |statuses: &[TunnelStatus]| statuses.iter().map(|status| status.name.clone()).collect::<Vec<_>>();
        differs!(
            !names(&statuses).iter().eq(present.iter().map(|tunnel| &tunnel.name)),
            "tunnels: {:?}",
            names(&statuses)
        );
        for (tunnel, status) in present.iter().zip(&statuses) {
            self.state(tunnel, status)?;
        }
        self.processes(&present, &statuses)?;
        self.listeners(&present, &statuses)?;
        self.starts()?;
        for tunnel in present.iter().filter(|tunnel| self.is_to_be_up(tunnel) && tunnel.leads_to_the_page()) {
            for port in tunnel.ports() {
                fetch(port).await.map_err(|error| format!("{} leads nowhere: {error}", tunnel.name))?;
            }
        }
        Ok(())
    }

    fn state(&self, tunnel: &Tunnel, status: &TunnelStatus) -> Result<(), Difference> {
        let squatter = self.squatter(tunnel).filter(|_| tunnel.is_wanted);
        let wanted = match (tunnel.is_wanted, squatter) {
            (false, _) => StateName::Stopped,
            (true, Some(_)) => StateName::AwaitingPort,
            (true, None) => StateName::Up,
        };
        differs!(status.state != wanted, "{wanted} is wanted: {status:?}");
        if squatter.is_some() {
            let holder = status.holder.as_ref().and_then(|holder| holder.pid);
            differs!(holder != squatter, "pid {squatter:?} holds the port: {status:?}");
        }
        let is_asleep = tunnel.kind == Kind::OnDemand && wanted == StateName::Up;
        differs!(status.is_asleep() != is_asleep, "a client is gone: {status:?}");
        // A connection that others use as well is told also while the port is waited for.
        let may_be_told = tunnel.kind == Kind::Shared && wanted == StateName::AwaitingPort;
        let has_process = wanted == StateName::Up && !is_asleep;
        differs!(!may_be_told && has_process != status.pid.is_some(), "pid of {status:?}");
        differs!(status.draining > 0, "{status:?}");
        // One that sleeps tells why its last connection ended, if nobody has ended it; and one that was to be replaced, why it was not,
        // if the connection that was to take over was killed, stopped or cut off.
        let is_told = has_process && status.last_error.is_some();
        let is_kept = status.last_error.as_ref().is_some_and(|failure| {
            matches!(failure.kind, FailureKind::Killed | FailureKind::Timeout | FailureKind::Network)
                && self.to_be_replaced.contains(&status.name)
        });
        differs!(is_told && !is_kept, "{status:?}");
        let standby = (tunnel.kind == Kind::Standby).then_some(Standby::Ready).filter(|_| tunnel.is_wanted);
        differs!(wanted != StateName::Stopped && status.standby != standby, "standby of {status:?}");
        Ok(())
    }

    /// Each process is one that a tunnel needs, and each is there.
    fn processes(&self, present: &[&Tunnel], statuses: &[TunnelStatus]) -> Result<(), Difference> {
        let (children, zombies) = sight::children(self.daemon().pid());
        differs!(!zombies.is_empty(), "zombies: {zombies:?}");
        let found = self.lab.daemon_processes();
        let all: BTreeSet<u32> = found.iter().map(|process| process.pid).collect();
        let others: BTreeSet<u32> = all.into_iter().filter(|pid| *pid != self.daemon().pid()).collect();
        // What was taken over is nobody's child.
        differs!(!children.is_subset(&others), "processes {others:?}, children {children:?}");
        let carrying: BTreeSet<u32> = statuses.iter().filter_map(|status| status.pid).collect();
        differs!(!carrying.is_subset(&others), "told {carrying:?}, processes {others:?}");
        // A connection stands by for a port that is held as well.
        let spares = present.iter().filter(|tunnel| tunnel.kind == Kind::Standby && tunnel.is_wanted).count();
        differs!(
            others.len() != carrying.len() + spares,
            "{carrying:?} and {spares} that stand by are needed, processes {}",
            found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        );
        Ok(())
    }

    /// What listens is what the tunnels need, by the process of each.
    fn listeners(&self, present: &[&Tunnel], statuses: &[TunnelStatus]) -> Result<(), Difference> {
        let mut expected: BTreeMap<u16, BTreeSet<u32>> = BTreeMap::new();
        let found = sight::listeners(&self.ports, PORTS);
        let sshds: BTreeSet<u32> = self.lab.sshd_processes().iter().map(|process| process.pid).collect();
        for (port, squatter) in &self.squatters {
            expected.insert(*port, BTreeSet::from([squatter.pid()]));
        }
        for (tunnel, status) in present.iter().zip(statuses).filter(|(tunnel, _)| self.is_to_be_up(tunnel)) {
            let owner = match tunnel.kind {
                kind if kind.is_held() => Some(self.daemon().pid()),
                // A session of the server.
                Kind::Remote => {
                    let listening = found.get(&tunnel.port()).and_then(|owners| owners.first());
                    listening.copied().filter(|pid| sshds.contains(pid))
                }
                _ => status.pid,
            };
            for port in tunnel.ports() {
                expected.insert(port, owner.into_iter().collect());
            }
        }
        differs!(found != expected, "listeners {found:?}, expected {expected:?}");
        for tunnel in self.tunnels.iter().filter(|tunnel| tunnel.kind == Kind::Socket) {
            let is_there =
                tunnel.path(self.lab).symlink_metadata().is_ok_and(|file| file.file_type().is_socket());
            differs!(is_there != self.is_to_be_up(tunnel), "{}", tunnel.path(self.lab).display());
        }
        Ok(())
    }

    /// Each ssh that was started has a line of its own. One that was ended at once may not have come to write that it ran.
    fn starts(&self) -> Result<(), Difference> {
        let lines = self.daemon().log().all();
        let is_start = |line: &&LogLine| line.has("event", "starting") && line.raw.contains("starting ssh");
        let told = lines.iter().filter(is_start).count();
        let is_of_this_daemon = |line: &&String| {
            let pid = line.split(' ').next().and_then(|pid| pid.parse().ok());
            pid.is_none_or(|pid| !self.left.contains(&pid))
        };
        let started = self.lab.ssh_starts().iter().skip(self.starts_before).filter(is_of_this_daemon).count();
        differs!(started > told, "{started} starts, {told} lines");
        Ok(())
    }

    /// The logins that each server has accepted.
    fn logins(&self) -> [usize; 2] {
        [&self.sshd, &self.far_sshd]
            .map(|sshd| sshd.log().all().iter().filter(|line| line.starts_with("Accepted publickey")).count())
    }

    /// The figures of a run.
    pub(crate) fn summary(&self) -> String {
        let [near, far] = self.logins();
        format!(
            "{near} and {far} logins, {} starts of ssh, {:?}",
            self.lab.ssh_starts().len(),
            self.steps.counts()
        )
    }
}
