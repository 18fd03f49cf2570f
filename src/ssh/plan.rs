//! What ssh's own configuration leaves to do for a tunnel: evaluated by `ssh -G` before each start, so that an edit of
//! ssh_config counts for the next ssh.

use std::convert::Infallible;
use std::process::Command;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::jump;
use super::master::question;
use super::settings::Settings;
use crate::config::desired::SshTunnel;
use crate::core::{Failure, FailureKind};
use crate::port::Endpoint;
use crate::process;

/// Deadline for `ssh -G` and what it runs (`Match exec`), jump hosts included. As a rule it takes 10 ms of CPU time, of which
/// 9 are those of any start of ssh.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most that is read of the answer, in bytes. OpenSSH 9.2 prints 5 KB, and a line more for each key and token.
const LONGEST_ANSWER: u64 = 256 * 1024;

/// At these values of LogLevel ssh does not say which clients it turns away, nor, at some, why it fails. `ssh -G` prints
/// QUIET as SILENT.
const QUIET_LEVELS: [&str; 4] = ["SILENT", "QUIET", "FATAL", "ERROR"];

/// How to start the ssh of a tunnel, and where it will listen. The default is that of an ssh that could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    settings: Settings,
    proxy_command: Option<String>,
}

impl Plan {
    /// The plan for an ssh with these settings.
    pub fn new(settings: Settings, proxy_command: Option<String>) -> Self {
        Self { settings, proxy_command }
    }

    /// Asks the tunnel's ssh what it would do. An ssh that does not answer, or not as OpenSSH does, is started all the same.
    pub async fn make(tunnel: &SshTunnel) -> Self {
        let plan = async {
            let settings = ask(question(tunnel)).await?;
            let proxy_command = jump::contained(tunnel, &settings).await;
            Some(Self::new(settings, proxy_command))
        };
        timeout(PATIENCE, plan).await.ok().flatten().unwrap_or_default()
    }

    /// Which of `wanted` ssh will listen on: it refuses those that are not of its AddressFamily.
    ///
    /// # Errors
    /// None of them is; the failure names the option.
    pub fn endpoints(&self, wanted: &[Endpoint], destination: &str) -> Result<Vec<Endpoint>, Failure> {
        let family = self.settings.one("addressfamily");
        let is_refused = |endpoint: &Endpoint| match family {
            "inet" => endpoint.address.is_ipv6(),
            "inet6" => endpoint.address.is_ipv4(),
            _ => false,
        };
        let allowed: Vec<_> = wanted.iter().filter(|endpoint| !is_refused(endpoint)).copied().collect();
        match wanted.first() {
            Some(refused) if allowed.is_empty() => Err(Failure::new(
                FailureKind::Config,
                format!(
                    "ssh to {destination} does not listen on {refused}, because its settings say `AddressFamily {family}`: \
                     change local_port to an address of that family, or set `AddressFamily: any` under `ssh: options:`"
                ),
            )),
            _ => Ok(allowed),
        }
    }

    /// Whether it may still be used after a wait for the port: it leaves the way to the server to ssh, which reads its configuration
    /// anew. What else is out of date by then costs one failed start, as the next one has a plan of its own.
    pub fn may_wait(&self) -> bool {
        self.proxy_command.is_none()
    }

    /// Whether ssh knows this option.
    pub(super) fn is_known(&self, option: &str) -> bool {
        self.settings.tells(option)
    }

    /// Whether ssh would not say what goes wrong with single connections.
    pub fn is_quiet(&self) -> bool {
        QUIET_LEVELS.contains(&self.settings.one("loglevel"))
    }

    /// The ProxyCommand to be used instead of the configured one, or instead of ProxyJump.
    pub(super) fn proxy_command(&self) -> Option<&str> {
        self.proxy_command.as_deref()
    }
}

/// Runs an `ssh -G`; `None` if it fails or does not answer as OpenSSH does. Dropping the future kills it.
pub(super) async fn ask(command: Command) -> Option<Settings> {
    let (mut child, stdout, mut stderr) = process::spawn(command).ok()?;
    let mut answer = Vec::new();
    let mut stdout = stdout.take(LONGEST_ANSWER);
    let answered = async {
        stdout.read_to_end(&mut answer).await.ok()?;
        let is_whole = stdout.limit() > 0;
        (is_whole && child.ended().await.ok()?.success()).then_some(())
    };
    let mut complaints = tokio::io::sink();
    tokio::select! {
        answered = answered => answered?,
        // Whoever complains must not come to a standstill; what is said is the real ssh's to say.
        never = async {
            let _ = tokio::io::copy(&mut stderr, &mut complaints).await;
            std::future::pending::<Infallible>().await
        } => match never {},
    }
    let settings = Settings::from_lines(String::from_utf8_lossy(&answer).lines());
    settings.tells("hostname").then_some(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn only_an_answer_as_of_openssh_counts() {
        let answer = ask(shell("echo 'hostname db'; echo 'loglevel INFO'")).await.unwrap();
        assert_eq!(answer.one("hostname"), "db");
        for script in
            ["echo 'hostname db'; exit 255", "echo usage: ssh", "", "yes 'hostname db' | head -c 300000"]
        {
            assert_eq!(ask(shell(script)).await, None, "{script}");
        }
        assert_eq!(ask(Command::new("/no/such/ssh")).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_ssh_that_does_not_answer_is_started_all_the_same() {
        let text =
            "tunnels: [{remote_host: db, remote_port: 1, local_port: 2, ssh: {program: /usr/bin/yes}}]";
        let desired = crate::config::parse(text, std::path::Path::new("/etc/c.yaml")).unwrap();
        let crate::config::desired::Work::Ssh(tunnel) = &desired.tunnels[0].work else {
            panic!("an ssh tunnel")
        };
        assert_eq!(Plan::make(tunnel).await, Plan::default());
    }

    #[test]
    fn only_addresses_of_the_family_that_ssh_listens_on_are_used() {
        let endpoints = ["127.0.0.1:80", "[::1]:80"].map(|text| {
            let address: std::net::SocketAddr = text.parse().unwrap();
            Endpoint::new(address.ip(), address.port())
        });
        let used = |family: &str, wanted: &[Endpoint]| {
            let plan = Plan::new(Settings::from_lines([format!("addressfamily {family}")]), None);
            plan.endpoints(wanted, "db")
        };
        assert_eq!(used("any", &endpoints).unwrap(), endpoints);
        assert_eq!(used("inet", &endpoints).unwrap(), endpoints[..1]);
        assert_eq!(used("inet6", &endpoints).unwrap(), endpoints[1..]);
        assert_eq!(used("inet6", &[]).unwrap(), []);
        let refused = used("inet6", &endpoints[..1]).unwrap_err();
        assert_eq!(refused.kind, FailureKind::Config);
        assert!(refused.message.contains("AddressFamily inet6") && refused.message.contains("127.0.0.1:80"));
    }
}
