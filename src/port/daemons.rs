//! The daemons of portward in this network namespace, as the kernel reports them.
//!
//! A daemon has a socket bound to an abstract name that begins with [`CLAIM`] for as long as it lives (`crate::claim`). sock_diag
//! lists these sockets, and /proc the process that has one open: no file has to be trusted, and nothing is left of a daemon that has
//! ended. Whoever else takes such a name is merely left alone by `on_conflict: kill`.

use std::collections::BTreeSet;
use std::io;

use super::unix::{Row, rows};

/// What the abstract names of daemons begin with.
pub const CLAIM: &str = "portward/";

/// What follows that in the names of runs that are over, and whose processes the daemon looks after.
pub const RUN: &str = "run/";

/// In the environment of every process that a daemon starts, and so of all that these start: `PID-START-SECRET.NUMBER`, of which
/// `PID-START` names the run.
pub const MARK: &str = "PORTWARD_TREE";

/// What the marks of all processes begin with that the same run of portward has started.
pub fn run_of(mark: &str) -> &str {
    mark.rsplit_once('-').map_or(mark, |(run, _)| run)
}

/// A socket with the name of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Its abstract name.
    pub name: Vec<u8>,
    /// Its inode, by which /proc shows its process.
    pub inode: u32,
    /// The user that made it; `None` before Linux 5.3.
    pub uid: Option<u32>,
}

impl Claimed {
    /// The run that the name is of, if it is of one.
    pub fn run(&self) -> Option<String> {
        let name = self.name.strip_prefix(CLAIM.as_bytes())?.strip_prefix(RUN.as_bytes())?;
        Some(String::from_utf8_lossy(name).split('/').next()?.to_owned())
    }
}

/// The daemons at one time.
#[derive(Debug, Default)]
pub struct Daemons {
    claims: Vec<Claimed>,
    /// The inode and path of each unix socket that listens.
    listening: Vec<(u32, Vec<u8>)>,
}

impl Daemons {
    /// Those of now: one dump of unix sockets. An error if the kernel cannot list them (no `unix_diag`).
    pub fn now() -> io::Result<Self> {
        let mut daemons = Self::default();
        for Row { inode, is_listening, name, abstract_name, uid, .. } in rows()? {
            match (abstract_name, name) {
                (Some(name), _) if name.starts_with(CLAIM.as_bytes()) => {
                    daemons.claims.push(Claimed { name, inode, uid });
                }
                (None, Some(path)) if is_listening => daemons.listening.push((inode, path)),
                (Some(_) | None, _) => {}
            }
        }
        Ok(daemons)
    }

    /// The sockets with names of daemons.
    pub fn claims(&self) -> &[Claimed] {
        &self.claims
    }

    /// The path that a daemon with these `sockets` open listens on: that of its API.
    pub fn api(&self, sockets: &BTreeSet<u32>) -> Option<String> {
        let (_, path) = self.listening.iter().find(|(inode, _)| sockets.contains(inode))?;
        Some(String::from_utf8_lossy(path).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};

    use nix::unistd::Uid;

    use super::*;
    use crate::port::holder;

    #[test]
    fn a_daemon_is_known_by_its_name_and_its_api_by_the_path_that_it_listens_on() {
        let name = format!("{CLAIM}test/{}", std::process::id());
        let _claim = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("portward.sock");
        let _api = UnixListener::bind(&path).unwrap();
        let daemons = Daemons::now().unwrap();
        let claim = daemons.claims().iter().find(|claim| claim.name == name.as_bytes()).unwrap();
        assert_eq!(claim.uid, Some(Uid::effective().as_raw()));
        let ours = std::process::id();
        assert!(holder::pid_owns(ours, claim.inode));
        assert_eq!(daemons.api(&BTreeSet::new()), None);
        // Other tests of this process may listen as well.
        assert!(
            daemons.listening.iter().any(|(_, listening)| listening == path.as_os_str().as_encoded_bytes())
        );
    }
}
