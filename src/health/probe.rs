//! What to check, and its course.

use std::net::SocketAddr;

use tokio::time::timeout;

use super::{command, connect, http};
use crate::config::desired::{Check, Forward, Health, Ssh, SshTunnel, Target, Tunnel, Work};
use crate::core::{CheckError, CheckErrorKind};
use crate::process::Pace;
use crate::relay::Announcer;
use crate::shell;

/// One check of a tunnel that is up.
#[derive(Debug, Clone)]
pub struct Probe {
    tunnel: String,
    work: Work,
    health: Health,
    /// Where the tunnel listens, as a client of this machine reaches it; `None`: a server listens.
    listen: Option<SocketAddr>,
    /// Who is to know that its connection is not that of a client.
    announcer: Option<Announcer>,
}

impl Probe {
    /// The check of `tunnel`, which listens on `listeners`: on the first of them. Its connection is announced by `announcer`; that
    /// of the program of [`Check::Command`] is not. `None`: it asks for none.
    pub fn new(tunnel: &Tunnel, listeners: &[SocketAddr], announcer: Option<Announcer>) -> Option<Self> {
        Some(Self {
            tunnel: tunnel.name.clone(),
            work: tunnel.work.clone(),
            health: tunnel.health.clone()?,
            listen: listeners.first().map(reachable),
            announcer,
        })
    }

    /// Makes the check. Calls `report` with the result, unless `cancelled` resolves before, and returns when nothing of it is left:
    /// no process, no connection.
    pub async fn run(
        self,
        pace: &Pace,
        cancelled: impl Future<Output = ()>,
        report: impl FnOnce(Result<(), CheckError>),
    ) {
        match (&self.health.check, self.listen) {
            (Check::Command(argv), _) => {
                let program = command::program(argv, &self.tunnel, &self.work, self.listen);
                command::run(program, self.health.timeout, pace, cancelled, report).await;
            }
            (Check::Connect, Some(listen)) => {
                let patience = self.health.timeout;
                let is_socks =
                    matches!(self.work, Work::Ssh(SshTunnel { forward: Forward::Dynamic { .. }, .. }));
                let step = self.next_step();
                let check = async {
                    if is_socks {
                        connect::socks(listen).await
                    } else {
                        connect::stays(listen, self.announcer.as_ref(), patience, &step).await
                    }
                };
                self.within(&format!("{listen} did not answer"), check, cancelled, report).await;
            }
            (Check::Http(path), Some(listen)) => {
                let (host, step) = (self.host(listen), self.next_step());
                let check = http::get(listen, self.announcer.as_ref(), path, &host, &step);
                self.within(&format!("GET {path} on {listen} was not answered"), check, cancelled, report)
                    .await;
            }
            // A listener that has gone was reported before, and the check is abandoned then.
            (Check::Connect | Check::Http(_), None) => report(Err(CheckError::new(
                CheckErrorKind::Failed,
                "portward does not know where the tunnel listens: see `portward status`",
            ))),
        }
    }

    async fn within(
        &self,
        what: &str,
        check: impl Future<Output = Result<(), CheckError>>,
        cancelled: impl Future<Output = ()>,
        report: impl FnOnce(Result<(), CheckError>),
    ) {
        let patience = self.health.timeout;
        tokio::select! {
            biased;
            () = cancelled => {}
            result = timeout(patience, check) => report(result.unwrap_or_else(|_| {
                let message = format!("{what} within {patience:?}: {}", self.next_step());
                Err(CheckError::new(CheckErrorKind::Timeout, message))
            })),
        }
    }

    /// `Host` of a request: what a client beside the service would ask for.
    fn host(&self, listen: SocketAddr) -> String {
        let host_port = |host: &str, port: u16| match (host.contains(':'), port) {
            (true, port) => format!("[{host}]:{port}"),
            (false, 80) => host.to_owned(),
            (false, port) => format!("{host}:{port}"),
        };
        match &self.work {
            Work::Ssh(SshTunnel {
                forward: Forward::Local { target: Target::Ports(target), .. }, ..
            }) => host_port(&target.host, target.ports.first()),
            // A service on a unix socket is asked as one on this machine.
            Work::Ssh(SshTunnel { forward: Forward::Local { target: Target::Socket(_), .. }, .. }) => {
                "localhost".to_owned()
            }
            Work::Ssh(SshTunnel {
                forward: Forward::Socket { .. } | Forward::Remote { .. } | Forward::Dynamic { .. },
                ..
            })
            | Work::Command(_) => listen.to_string(),
        }
    }

    /// What to look at when nothing comes through the tunnel.
    fn next_step(&self) -> String {
        match &self.work {
            Work::Ssh(SshTunnel { forward: Forward::Local { target, .. }, ssh: Ssh { destination, .. } }) => {
                format!("check from {destination} whether {} answers", target.first())
            }
            Work::Ssh(SshTunnel { ssh: Ssh { destination, .. }, .. }) => {
                format!("check whether {destination} can be reached: `ssh {destination} true`")
            }
            Work::Command(_) => {
                format!("see what the command says: `portward logs {}`", shell::word(&self.tunnel))
            }
        }
    }
}

/// The address by which a client of this machine reaches the listener.
fn reachable(listener: &SocketAddr) -> SocketAddr {
    let mut address = *listener;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_reached_over_loopback() {
        for (listener, address) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("127.0.0.2:80", "127.0.0.2:80"),
            ("[fd00::5]:80", "[fd00::5]:80"),
        ] {
            assert_eq!(reachable(&listener.parse().unwrap()).to_string(), address);
        }
    }
}
