//! OpenSSH's server, as a test needs it.

use std::fs;

use nix::sys::signal::Signal;
use tokio::process::Child;

use crate::lab::{Lab, SSHD_PORT};
use crate::log::capture;
use crate::namespace::kill;
use crate::record::Record;

/// A real sshd on 127.0.0.1:[`SSHD_PORT`].
#[derive(Debug)]
pub struct Sshd<'lab> {
    lab: &'lab Lab,
    listener: Option<Child>,
    log: Record<String>,
}

impl<'lab> Sshd<'lab> {
    /// Starts it; it listens when this returns.
    pub async fn start(lab: &'lab Lab) -> Self {
        Self::start_with(lab, "").await
    }

    /// Starts it with the lines `extra` at the beginning of its configuration, where the first value of a keyword wins.
    pub async fn start_with(lab: &'lab Lab, extra: &str) -> Self {
        let file = |name: &str| lab.path(name).display().to_string();
        let config = format!(
            "Port {SSHD_PORT}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\n\
             UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
             MaxStartups 200\nPerSourcePenalties no\nLogLevel VERBOSE\n",
            file("host_key"),
            file("authorized_keys"),
        );
        // Newer servers punish repeated failures for a while, older ones do not know the word.
        let config = if knows_penalties() { config } else { config.replace("PerSourcePenalties no\n", "") };
        fs::write(lab.path("sshd_config"), format!("{}\n{config}", extra.trim_end())).unwrap();
        let mut sshd = Self { lab, listener: None, log: Record::default() };
        sshd.start_again().await;
        sshd
    }

    /// Starts it after [`Sshd::stop`] or [`Sshd::stop_listening`].
    pub async fn start_again(&mut self) {
        let mark = self.log.mark();
        let mut listener = self
            .lab
            .command("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(self.lab.path("sshd_config"))
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("starting /usr/sbin/sshd (package openssh-server)");
        capture(listener.stderr.take().unwrap(), self.log.clone(), std::convert::identity);
        self.listener = Some(listener);
        let listening = self.log.find(mark, |line| line.starts_with("Server listening")).await;
        assert!(listening.is_some(), "sshd does not listen: {:#?}", self.log.since(mark));
    }

    /// Ends the listening process only: what is connected stays connected.
    pub async fn stop_listening(&mut self) {
        let mut listener = self.listener.take().expect("sshd runs");
        kill(listener.id().unwrap(), Signal::SIGTERM);
        listener.wait().await.unwrap();
    }

    /// Ends the server with all its sessions.
    pub async fn stop(&mut self) {
        self.stop_listening().await;
        self.kill_sessions();
    }

    /// `kill -9` of all sessions; the server goes on listening.
    pub fn kill_sessions(&self) {
        let listener = self.listener.as_ref().and_then(Child::id);
        for process in self.lab.sshd_processes() {
            if Some(process.pid) != listener {
                kill(process.pid, Signal::SIGKILL);
            }
        }
    }

    /// What it says on its standard error.
    pub fn log(&self) -> &Record<String> {
        &self.log
    }
}

fn knows_penalties() -> bool {
    let probe = std::process::Command::new("/usr/sbin/sshd")
        .args(["-G", "-f", "/dev/null", "-o", "PerSourcePenalties=no"])
        .output()
        .expect("starting /usr/sbin/sshd (package openssh-server)");
    probe.status.success()
}
