//! An ssh that was not ready in time: what it waits for, as far as that is visible.

use std::time::Duration;

use super::cause::has_link;
use super::words::{self, is_noise};
use super::{quote, wrapper};
use crate::config::desired::Ssh;
use crate::core::{Failure, FailureKind};
use crate::ssh::by_hand::{try_by_hand, user};
use crate::ssh::progress::Progress;

/// What ssh says when a security key waits for a touch (sshconnect2.c, sk-usbhid.c).
const TOUCH: &str = "Confirm user presence for key ";

/// The failure of an ssh that runs as `pid`, has said `said`, and is still not ready after `waited`.
pub fn not_ready(ssh: &Ssh, pid: u32, said: &[String], waited: Duration) -> Failure {
    let progress = match Progress::of(pid) {
        _ if said.iter().any(|line| line.starts_with(TOUCH)) => Progress::Token,
        progress => progress,
    };
    of_progress(&progress, ssh, said, waited)
}

fn of_progress(progress: &Progress, ssh: &Ssh, said: &[String], waited: Duration) -> Failure {
    let waited = format!("it was not ready after {} s", waited.as_secs_f64());
    let last = said.iter().rev().map(String::as_str).find(|line| !is_noise(line));
    let remark = last.map(|line| format!("; its last line was: {}", quote(line))).unwrap_or_default();
    let failure = |next: &str| {
        let message = format!("ssh to {}: {waited}{remark}; {next}", ssh.destination);
        Failure::new(FailureKind::Timeout, message)
    };
    match progress {
        Progress::NotSsh(name) => wrapper(ssh, &format!("{waited}, and the process is not ssh but {}", quote(name))),
        Progress::OtherArguments => {
            wrapper(ssh, &format!("{waited}, and the process has not the arguments that portward gave it"))
        }
        Progress::Token => failure(
            "it waits for a security key or a smart card: that takes a person to touch it or to type its PIN, so use a key \
             that needs neither",
        )
        .retried_slowly(),
        Progress::Agent => failure(&format!(
            "it is connected and has a unix socket open, as it has while it asks an agent: one that waits for a \
             confirmation, a PIN or a touch needs a person; {}",
            try_by_hand(ssh)
        ))
        .retried_slowly(),
        Progress::Carrier(name) => match said.iter().rev().find(|line| has_link(line) && words::read(line).is_none()) {
            Some(link) => {
                let message = format!(
                    "ssh to {}: {waited}; the ProxyCommand or jump host says: {}; log in there as user {}",
                    ssh.destination,
                    quote(link),
                    user()
                );
                Failure::new(FailureKind::Timeout, message).retried_slowly()
            }
            None => failure(&format!(
                "it waits for {}, which carries its connection (ProxyCommand or ProxyJump); {}",
                quote(name),
                try_by_hand(ssh)
            )),
        },
        Progress::Tcp => failure(&format!(
            "it has a TCP connection, or tries one address after the other; {}, and see the server's log, or raise \
             ssh.connect_timeout",
            try_by_hand(ssh)
        )),
        Progress::Nothing => failure("it has no connection yet: check that the name of the host resolves"),
        Progress::Unknown => failure("see whether the server answers, or raise ssh.connect_timeout"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::failure::tests::tunnel;

    #[test]
    fn each_hang_has_a_step_of_its_own() {
        let late = |progress: Progress, said: &[&str]| {
            let said: Vec<String> = said.iter().map(|line| (*line).to_owned()).collect();
            of_progress(&progress, &tunnel(), &said, Duration::from_secs(25))
        };
        let mut messages: Vec<String> = [
            Progress::NotSsh("dash".to_owned()),
            Progress::OtherArguments,
            Progress::Token,
            Progress::Agent,
            Progress::Carrier("cloudflared".to_owned()),
            Progress::Tcp,
            Progress::Nothing,
            Progress::Unknown,
        ]
        .into_iter()
        .map(|progress| late(progress, &["debug1: noise", "Welcome", ""]))
        .map(|failure| failure.message)
        .collect();
        assert!(messages.iter().all(|message| message.contains("25 s")), "{messages:?}");
        messages.sort();
        messages.dedup();
        assert_eq!(messages.len(), 8);

        let said = [
            "A browser window should have opened at the following URL:",
            "https://login.example/x",
            "Or else.",
        ];
        let login = late(Progress::Carrier("cloudflared".to_owned()), &said);
        assert!(
            login.message.contains("says: https://login.example/x; log in there as user"),
            "{}",
            login.message
        );
    }
}
