//! What people use instead: ssh as a service of systemd with `Restart=always`, and autossh.

use std::fs;
use std::time::Duration;

use integration_tests::{Lab, kill, process_end, within_deadline};
use nix::sys::signal::Signal;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// The options that guides give such an ssh, with portward's own default of how soon a dead server is noticed.
const OPTIONS: [&str; 7] =
    ["-N", "-o", "ExitOnForwardFailure=yes", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3"];

/// `program`, an ssh or what starts one, with these forwards.
pub(crate) fn forwarding(lab: &Lab, program: &str, ports: &[u16], target: u16) -> Command {
    let mut command = lab.command(program);
    command.arg("-F").arg(lab.path("ssh_config")).args(OPTIONS);
    for port in ports {
        command.arg("-L").arg(format!("127.0.0.1:{port}:127.0.0.1:{target}"));
    }
    command.arg("far");
    command
}

/// A service with `Restart=always`, as systemd treats it: after its end it is started again `RestartSec` later, and `systemctl
/// restart` ends it with SIGTERM and starts it as soon as it has ended. `StartLimitIntervalSec=0`: with its default, five
/// starts within 10 s would be the last.
pub(crate) struct Service {
    pid: watch::Receiver<u32>,
    restarts: mpsc::UnboundedSender<()>,
    task: JoinHandle<()>,
}

impl Service {
    /// Starts it.
    pub(crate) fn start(restart_sec: Duration, command: Command) -> Self {
        let (sender, pid) = watch::channel(0);
        let (restarts, asked) = mpsc::unbounded_channel();
        let task = tokio::spawn(supervise(restart_sec, command, sender, asked));
        Self { pid, restarts, task }
    }

    /// `systemctl restart`: returns once the new process is started.
    pub(crate) async fn restart(&mut self) {
        self.pid.mark_unchanged();
        self.restarts.send(()).unwrap();
        within_deadline("a restart of the service", self.pid.changed()).await.unwrap();
    }

    /// The process that was started last.
    pub(crate) fn pid(&self) -> u32 {
        *self.pid.borrow()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Its process ends with its handle.
        self.task.abort();
    }
}

async fn supervise(
    restart_sec: Duration,
    mut command: Command,
    pid: watch::Sender<u32>,
    mut restarts: mpsc::UnboundedReceiver<()>,
) {
    loop {
        let mut process = command.spawn().expect("starting the service");
        let started = process.id().expect("it is not waited for yet");
        pid.send_replace(started);
        let is_asked = tokio::select! {
            _ = process.wait() => false,
            asked = restarts.recv() => asked.is_some(),
        };
        if is_asked {
            kill(started, Signal::SIGTERM);
            let _ = process.wait().await;
        } else {
            tokio::select! {
                () = sleep(restart_sec) => {}
                _ = restarts.recv() => {}
            }
        }
    }
}

/// autossh, without its monitoring ports, as its manual advises.
pub(crate) struct Autossh {
    command: Command,
    process: Child,
}

impl Autossh {
    /// Whether it is installed.
    pub(crate) fn is_installed() -> bool {
        std::process::Command::new("autossh").arg("-V").output().is_ok()
    }

    /// Starts it.
    pub(crate) fn start(lab: &Lab, port: u16, target: u16) -> Self {
        let mut command = lab.command("autossh");
        command.env("AUTOSSH_GATETIME", "0").env("AUTOSSH_LOGLEVEL", "0").args(["-M", "0"]);
        command.args(forwarding(lab, "ssh", &[port], target).as_std().get_args());
        let process = command.spawn().expect("starting autossh");
        Self { command, process }
    }

    /// Has it forget its earlier starts, each of which makes the next one later once there were five.
    pub(crate) async fn renew(&mut self) {
        let ssh = self.ssh();
        kill(self.pid(), Signal::SIGTERM);
        within_deadline("the end of autossh", self.process.wait()).await.unwrap();
        process_end(ssh).await;
        self.process = self.command.spawn().expect("starting autossh");
    }

    /// Has it start a new ssh; returns when the old one has ended.
    pub(crate) async fn restart(&self) {
        let ssh = self.ssh();
        kill(self.pid(), Signal::SIGUSR1);
        process_end(ssh).await;
    }

    fn pid(&self) -> u32 {
        self.process.id().expect("autossh runs")
    }

    /// The ssh that it has started.
    pub(crate) fn ssh(&self) -> u32 {
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.trim().parse().unwrap_or_else(|_| panic!("autossh has the children {children:?}"))
    }
}
