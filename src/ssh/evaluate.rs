//! Evaluates ssh's own configuration by `ssh -G` before each start, so that an edit of ssh_config counts for the next ssh.

use std::time::Duration;

use tokio::time::timeout;

use super::jump;
use super::master::question;
use super::plan::Plan;
use super::query::ask;
use crate::config::desired::Ssh;

/// Deadline for `ssh -G` and what it runs (`Match exec`), jump hosts included. As a rule it takes 10 ms of CPU time, of which
/// 9 are those of any start of ssh.
const PATIENCE: Duration = Duration::from_secs(5);

impl Plan {
    /// Asks the tunnel's ssh what it would do. An ssh that does not answer, or not as OpenSSH does, is started all the same.
    pub async fn make(ssh: &Ssh) -> Self {
        let plan = async {
            let settings = ask(question(ssh)).await?;
            let proxy_command = jump::contained(ssh, &settings).await;
            Some(Self::new(settings, proxy_command))
        };
        timeout(PATIENCE, plan).await.ok().flatten().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_ssh_that_does_not_answer_is_started_all_the_same() {
        let text =
            "tunnels: [{remote_host: db, remote_port: 1, local_port: 2, ssh: {program: /usr/bin/yes}}]";
        let desired = crate::config::parse(text, std::path::Path::new("/etc/c.yaml")).unwrap();
        let crate::config::desired::Work::Ssh(tunnel) = &desired.tunnels[0].work else {
            panic!("an ssh tunnel")
        };
        assert_eq!(Plan::make(&tunnel.ssh).await, Plan::default());
    }
}
