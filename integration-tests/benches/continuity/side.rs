//! One way to keep a tunnel up, and what can happen to it.

use std::time::Duration;

use integration_tests::{Daemon, ECHO_PORT, Lab, kill, process_end};
use nix::sys::signal::Signal;
use portward::protocol::{Standby, StateName, TunnelStatus};

use crate::plain::{Autossh, Service, forwarding};

/// The tunnels of portward: name, local port and keys beside those that all have.
const OF_PORTWARD: [(&str, u16, &str); 3] = [
    ("portward", 9441, ""),
    ("portward, standby: true", 9442, "standby: true"),
    ("portward, listener: portward", 9443, "listener: portward"),
];

/// What happens to a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happening {
    Restart,
    Kill,
}

/// A tunnel that is kept up.
pub(crate) struct Side<'lab> {
    pub(crate) name: &'static str,
    /// Where it listens, on 127.0.0.1.
    pub(crate) port: u16,
    keeper: Keeper<'lab>,
    /// After the end of its ssh it does nothing for seconds.
    is_slow: bool,
}

enum Keeper<'lab> {
    Systemd(Service),
    Autossh(Box<Autossh>),
    /// The daemon has the others of its kind as well.
    Portward(&'lab Daemon<'lab>),
}

/// A daemon for the sides that are portward's, with its default delays.
pub(crate) async fn daemon(lab: &Lab) -> Daemon<'_> {
    let tunnel = |(name, port, keys): &(&str, u16, &str)| {
        format!(
            "  - {{name: '{name}', remote_host: far, remote_port: '127.0.0.1:{ECHO_PORT}', local_port: '127.0.0.1:{port}', {keys}}}\n"
        )
    };
    configure(lab, &OF_PORTWARD.iter().map(tunnel).collect::<String>());
    Daemon::start_as_configured(lab).await
}

/// Writes the configuration with these tunnels, and nothing but the lab's ssh configuration for all of them.
pub(crate) fn configure(lab: &Lab, tunnels: &str) {
    let ssh_config = lab.path("ssh_config");
    let config = format!("defaults: {{ssh: {{config_file: {}}}}}\ntunnels:\n{tunnels}", ssh_config.display());
    std::fs::write(lab.config_path(), config).unwrap();
}

/// All sides, and they are being started.
pub(crate) fn all<'lab>(lab: &'lab Lab, daemon: &'lab Daemon<'lab>) -> Vec<Side<'lab>> {
    let of_systemd = |name, port, restart_sec| {
        let ssh = forwarding(lab, "/usr/bin/ssh", &[port], ECHO_PORT);
        let keeper = Keeper::Systemd(Service::start(restart_sec, ssh));
        Side { name, port, keeper, is_slow: restart_sec > Duration::from_secs(1) }
    };
    let mut sides = vec![
        of_systemd("ssh, Restart=always", 9431, Duration::from_millis(100)),
        of_systemd("ssh, RestartSec=5", 9432, Duration::from_secs(5)),
    ];
    if Autossh::is_installed() {
        let keeper = Keeper::Autossh(Box::new(Autossh::start(lab, 9433, ECHO_PORT)));
        sides.push(Side { name: "autossh", port: 9433, keeper, is_slow: false });
    }
    for (name, port, _) in OF_PORTWARD {
        sides.push(Side { name, port, keeper: Keeper::Portward(daemon), is_slow: false });
    }
    sides
}

impl Side<'_> {
    /// How many of so `many` happen to it: a third where each takes seconds, and none where another side is the same.
    pub(crate) fn part_of(&self, many: usize, what: Happening) -> usize {
        match what {
            Happening::Restart if self.is_slow => 0,
            Happening::Kill if self.is_slow => many.div_ceil(3),
            Happening::Restart | Happening::Kill => many,
        }
    }

    /// Waits until nothing is under way.
    pub(crate) async fn settled(&self) {
        match &self.keeper {
            // They have nothing but the ssh that the clients wait for.
            Keeper::Systemd(_) | Keeper::Autossh(_) => {}
            Keeper::Portward(daemon) => {
                let mark = daemon.mark();
                if !is_settled(&daemon.status(self.name).await) {
                    daemon.wait_status(mark, self.name, "settled", is_settled).await;
                }
            }
        }
    }

    /// Has it forget what makes it wait longer each time: to autossh a restart counts as well.
    pub(crate) async fn forget(&mut self, what: Happening) {
        match (&mut self.keeper, what) {
            (Keeper::Systemd(_), _) | (Keeper::Portward(_), Happening::Restart) => {}
            (Keeper::Autossh(autossh), _) => autossh.renew().await,
            (Keeper::Portward(daemon), Happening::Kill) => {
                for verb in ["stop", "start"] {
                    ask(daemon, self.name, verb).await;
                }
            }
        }
    }

    /// A planned restart, as its operator asks for it.
    pub(crate) async fn restart(&mut self) {
        match &mut self.keeper {
            Keeper::Systemd(service) => service.restart().await,
            Keeper::Autossh(autossh) => autossh.restart().await,
            Keeper::Portward(daemon) => ask(daemon, self.name, "restart").await,
        }
    }

    /// `kill -9` of the ssh that serves; returns when it has ended.
    pub(crate) async fn kill(&self) {
        let ssh = match &self.keeper {
            Keeper::Systemd(service) => service.pid(),
            Keeper::Autossh(autossh) => autossh.ssh(),
            Keeper::Portward(daemon) => daemon.tunnel_pid(self.name).await,
        };
        kill(ssh, Signal::SIGKILL);
        process_end(ssh).await;
    }
}

async fn ask(daemon: &Daemon<'_>, name: &str, verb: &str) {
    let hash = daemon.status(name).await.hash;
    let answer = daemon.post(&format!("/{verb}/{hash}?timeout=60s")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn is_settled(status: &TunnelStatus) -> bool {
    status.state == StateName::Up && status.standby.is_none_or(|standby| standby == Standby::Ready)
}
