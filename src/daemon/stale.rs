//! What connections have left at their servers: a server that has not noticed the end of one keeps its process, and with it the ports
//! that this listens on.

use std::collections::BTreeSet;

use super::record_file::RecordFile;
use crate::config::desired::{Forward, RemoteListen};
use crate::ssh::server::{BootId, ServerProcess};

/// How many are kept of one link, the latest ones: a server that cuts connections again and again is remembered no longer than this.
const KEPT: usize = 8;

/// The server's process of a connection whose ssh has ended.
#[derive(Debug)]
pub(super) struct StaleSession {
    process: ServerProcess,
    /// The ports that it listened on until then.
    ports: BTreeSet<u16>,
    /// The record of that ssh: a later run of portward knows the process from it. Dropped with this, it is removed.
    _file: RecordFile,
}

impl StaleSession {
    /// That with this record; `None`: it listens on no port.
    pub(super) fn new(process: ServerProcess, ports: BTreeSet<u16>, file: RecordFile) -> Option<Self> {
        (!ports.is_empty()).then_some(Self { process, ports, _file: file })
    }
}

/// Those of one link, the oldest first.
#[derive(Debug, Default)]
pub(super) struct StaleSessions(Vec<StaleSession>);

impl StaleSessions {
    pub(super) fn add(&mut self, session: StaleSession) {
        self.0.push(session);
        if self.0.len() > KEPT {
            self.0.remove(0);
        }
    }

    /// The processes that may hold a port which this forward needs.
    pub(super) fn that_may_hold(&self, forward: &Forward) -> Vec<ServerProcess> {
        let Forward::Remote { listen: RemoteListen::Ports { ports, .. }, .. } = forward else {
            return Vec::new();
        };
        let may_hold = |session: &&StaleSession| ports.ports().any(|port| session.ports.contains(&port));
        self.0.iter().filter(may_hold).map(|session| session.process.clone()).collect()
    }

    /// A later connection to a server of this boot listens on `ports`: who had one of them then has ended.
    pub(super) fn forget(&mut self, boot: &BootId, ports: &BTreeSet<u16>) {
        self.0.retain(|session| session.process.boot != *boot || session.ports.is_disjoint(ports));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::desired::{HostPorts, Target};
    use crate::port::PortRange;

    const BOOTS: [&str; 2] = ["0a1b2c3d-0000-4000-8000-0123456789ab", "1a1b2c3d-0000-4000-8000-0123456789ab"];

    fn boot(server: usize) -> BootId {
        BootId::try_from(BOOTS[server].to_owned()).unwrap()
    }

    fn session(server: usize, pid: u32, ports: &[u16]) -> StaleSession {
        let process = ServerProcess { boot: boot(server), pid, start: 1 };
        let file = RecordFile::new("/no/such/file".into());
        StaleSession::new(process, ports.iter().copied().collect(), file).unwrap()
    }

    fn pids(sessions: &StaleSessions, first: u16, last: u16) -> Vec<u32> {
        let ports = PortRange::new(first, last).unwrap();
        let forward = Forward::Remote {
            listen: RemoteListen::Ports { bind: None, ports },
            target: Target::Ports(HostPorts { host: "db".to_owned(), ports }),
        };
        sessions.that_may_hold(&forward).iter().map(|process| process.pid).collect()
    }

    #[test]
    fn only_who_had_a_port_may_be_ended_for_it_and_only_until_it_is_taken_again_on_that_server() {
        let mut sessions = StaleSessions::default();
        for (server, pid, ports) in [(0, 1, [80, 81]), (1, 2, [80, 82]), (0, 3, [90, 91])] {
            sessions.add(session(server, pid, &ports));
        }
        assert_eq!(pids(&sessions, 80, 80), [1, 2]);
        assert_eq!(pids(&sessions, 91, 99), [3]);
        assert!(pids(&sessions, 92, 99).is_empty());
        sessions.forget(&boot(0), &[81].into());
        assert_eq!(pids(&sessions, 80, 99), [2, 3]);
        for pid in 10..20 {
            sessions.add(session(0, pid, &[80]));
        }
        assert_eq!(pids(&sessions, 80, 99), (12..20).collect::<Vec<_>>());
    }
}
