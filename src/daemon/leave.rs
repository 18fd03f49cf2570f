//! What SIGTERM is meant for: the end of the service, or another run of portward in its place.
//!
//! systemd sends the same signal for `systemctl stop` and for `systemctl restart`, and tells which of the two it is by the type of the
//! unit's job. Where that cannot be found out the tunnels are ended, for after a stop nothing may be left.

use std::env;
use std::fs;
use std::process::Command;
use std::time::Duration;

use tokio::time::timeout;

use crate::port::holder::cgroup::{self, Manager, Place};
use crate::process;

/// How long `systemctl` may take: some milliseconds measured, and more on a small machine that is busy with an upgrade. The unit's
/// TimeoutStopSec= goes on meanwhile.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of an answer: a line for each job that systemd has.
const LONGEST_ANSWER: u64 = 64 * 1024;

/// How a run of the daemon has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Nothing of it is left.
    Stopped,
    /// Its processes go on, and the next run takes them over. This one is to exit without dropping anything: a tunnel whose
    /// process is dropped is ended.
    HandedOver,
}

/// Whether the service that this process is of is restarted; `None` if it is of none.
pub(super) fn is_restart() -> Option<impl Future<Output = bool>> {
    env::var_os("NOTIFY_SOCKET")?;
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let Place { manager, unit, .. } = cgroup::place_in(cgroup::path_in(&cgroups)?)?;
    let (unit, mut systemctl) = (unit.to_owned(), Command::new("systemctl"));
    if let Manager::User(_) = manager {
        systemctl.arg("--user");
    }
    systemctl.args(["--no-pager", "--no-legend", "--plain", "--full", "list-jobs"]);
    Some(async move {
        let answer = timeout(ANSWERS_WITHIN, process::answer(systemctl, LONGEST_ANSWER)).await;
        answer.ok().flatten().is_some_and(|answer| has_restart(&String::from_utf8_lossy(&answer), &unit))
    })
}

/// Whether the jobs, one in each line as `JOB UNIT TYPE STATE`, have one that restarts the unit.
fn has_restart(jobs: &str, unit: &str) -> bool {
    jobs.lines().any(|job| {
        let mut fields = job.split_ascii_whitespace().skip(1);
        fields.next() == Some(unit) && fields.next() == Some("restart")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_of_this_unit_decides() {
        let jobs = "1234 portward.service restart running\n1235 nginx.service       stop waiting\n";
        assert!(has_restart(jobs, "portward.service"));
        assert!(!has_restart(jobs, "nginx.service"));
        assert!(!has_restart("", "portward.service"));
        assert!(!has_restart("1 portward.service stop running", "portward.service"));
        assert!(!has_restart("1 other-portward.service restart running", "portward.service"));
    }
}
