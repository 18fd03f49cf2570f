//! OpenSSH's server, as a test needs it.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use tokio::process::Child;

use crate::far_side::FarSide;
use crate::lab::{Lab, MARK, SSHD_PORT};
use crate::log::capture;
use crate::namespace::kill;
use crate::record::Record;

/// A real sshd on 127.0.0.1.
#[derive(Debug)]
pub struct Sshd<'lab> {
    lab: &'lab Lab,
    far: Option<&'lab FarSide<'lab>>,
    config: PathBuf,
    listener: Option<Child>,
    log: Record<String>,
}

impl<'lab> Sshd<'lab> {
    /// Starts it on [`SSHD_PORT`]; it listens when this returns.
    pub async fn start(lab: &'lab Lab) -> Self {
        Self::start_with(lab, "").await
    }

    /// Starts it on [`SSHD_PORT`] with the lines `extra` in its configuration, in place of those of the same keywords;
    /// a ListenAddress is one more.
    pub async fn start_with(lab: &'lab Lab, extra: &str) -> Self {
        Self::start_on(lab, SSHD_PORT, extra).await
    }

    /// Starts it on `port`, beside others, with the lines `extra` in its configuration, in place of those of the same keywords;
    /// a ListenAddress is one more.
    pub async fn start_on(lab: &'lab Lab, port: u16, extra: &str) -> Self {
        Self::start_at(lab, None, port, extra).await
    }

    /// Starts it on all addresses of the far side, on [`SSHD_PORT`], with the lines `extra` in its configuration, in place of those of
    /// the same keywords.
    pub async fn start_far(far: &'lab FarSide<'lab>, extra: &str) -> Self {
        Self::start_at(far.lab, Some(far), SSHD_PORT, extra).await
    }

    async fn start_at(lab: &'lab Lab, far: Option<&'lab FarSide<'lab>>, port: u16, extra: &str) -> Self {
        let file = |name: &str| lab.path(name).display().to_string();
        let address = if far.is_some() { "0.0.0.0" } else { "127.0.0.1" };
        let config = format!(
            "Port {port}\nListenAddress {address}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\n\
             UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
             MaxStartups 200\nPerSourcePenalties no\nLogLevel VERBOSE\nSetEnv {}={} HOME={}\n",
            file("host_key"),
            file("authorized_keys"),
            // What a session runs is the server's, and what the account's shell reads at its start is none of this machine's.
            MARK.0,
            MARK.1,
            file("home"),
        );
        // Newer servers punish repeated failures for a while, older ones do not know the word.
        let config = if knows_penalties() { config } else { config.replace("PerSourcePenalties no\n", "") };
        let path = lab.path(format!("sshd_config.{port}"));
        // For most keywords the first value wins, MaxStartups has its last one, and addresses to listen on add up.
        let keyword = |line: &str| line.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
        let given: Vec<String> = extra.lines().map(keyword).filter(|word| word != "listenaddress").collect();
        let others = config.lines().filter(|line| !given.contains(&keyword(line)));
        let lines: Vec<&str> = extra.lines().chain(others).collect();
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        let mut sshd = Self { lab, far, config: path, listener: None, log: Record::default() };
        sshd.start_again().await;
        sshd
    }

    /// Starts it after [`Sshd::stop`] or [`Sshd::stop_listening`].
    pub async fn start_again(&mut self) {
        let mark = self.log.mark();
        let mut listener = match self.far {
            Some(far) => far.command("/usr/sbin/sshd"),
            None => self.lab.command("/usr/sbin/sshd"),
        };
        let mut listener = listener
            .args(["-D", "-e", "-f"])
            .arg(&self.config)
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

    /// The listening process.
    pub fn pid(&self) -> Option<u32> {
        self.listener.as_ref().and_then(Child::id)
    }

    /// Ends the server with all its sessions. For a lab with one server.
    pub async fn stop(&mut self) {
        self.stop_listening().await;
        self.kill_sessions();
    }

    /// `kill -9` of all sessions; the server goes on listening. For a lab with one server.
    pub fn kill_sessions(&self) {
        let listener = self.pid();
        for process in self.lab.sshd_processes() {
            if Some(process.pid) != listener {
                kill(process.pid, Signal::SIGKILL);
            }
        }
    }

    /// As [`Sshd::kill_sessions`], for one on a far side with no other server.
    pub fn kill_far_sessions(&self) {
        let far = self.far.expect("it is on a far side");
        for process in far.sshd_processes() {
            if Some(process.pid) != self.pid() {
                kill(process.pid, Signal::SIGKILL);
            }
        }
    }

    /// What it says on its standard error.
    pub fn log(&self) -> &Record<String> {
        &self.log
    }

    /// How often it was asked for a sign of life since `mark`, if it logs at DEBUG1.
    pub fn probes(&self, mark: usize) -> usize {
        self.log.since(mark).iter().filter(|line| is_probe(line)).count()
    }

    /// Waits until it is asked for a sign of life, at or after `mark`, if it logs at DEBUG1.
    pub async fn wait_probe(&self, mark: usize) {
        let probe = self.log.find(mark, |line| is_probe(line)).await;
        assert!(probe.is_some(), "{:#?}", self.log.since(mark));
    }
}

fn is_probe(line: &str) -> bool {
    line.contains("tcpip-forward listen localhost port 0")
}

fn knows_penalties() -> bool {
    let probe = std::process::Command::new("/usr/sbin/sshd")
        .args(["-G", "-f", "/dev/null", "-o", "PerSourcePenalties=no"])
        .output()
        .expect("starting /usr/sbin/sshd (package openssh-server)");
    probe.status.success()
}
