//! One daemon for each configuration: a second one that would keep the same tunnels up is refused, and told of the first.
//!
//! What two daemons would fight about are ports, and ports belong to a network namespace. So the claim is a socket bound to an
//! abstract name, which the kernel keeps apart by network namespaces as well: containers with networks of their own may use one
//! file. The name says which entry of which directory the configuration is, by device and inode. Editors that replace the file by
//! rename do not change it, bind mounts do not hide it, and neither a read-only file system nor NFS matters. The kernel frees
//! the name when the daemon ends, however it ends, and reports who has it: no file that says so has to be trusted.
//!
//! Any user can bind any abstract name. So a claim counts if root, this user or the owner of the configuration has made it; beside
//! that of anybody else, the next free name is taken.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use md5::{Digest as _, Md5};
use nix::unistd::Uid;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::time::Instant;

use crate::port::Holder;
use crate::port::daemons::{CLAIM, Claimed, Daemons, RUN};
use crate::port::holder::{self, Owned};
use crate::{shell, text};

/// So many names are tried beside those that others have taken.
const NAMES: usize = 64;

/// A child executes its program this long after its start, or is one of a daemon that runs.
const EXECUTES_WITHIN: Duration = Duration::from_secs(5);

/// The claim on a configuration. It holds as long as this lives.
#[derive(Debug)]
pub struct Claim {
    /// They do not listen, so that nobody can connect to them.
    _sockets: Vec<Socket>,
}

/// Why the configuration is not ours.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another daemon has it.
    #[error(
        "another portward{} is running with the configuration {}{}: {}",
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(),
        config.display(),
        socket.as_ref().map(|socket| format!(", and answers on {socket}")).unwrap_or_default(),
        .next_step
    )]
    AlreadyRunning {
        /// The configuration.
        config: PathBuf,
        /// Its process, if this user may see it.
        pid: Option<u32>,
        /// The socket of its API, if this user may see it.
        socket: Option<String>,
        /// What to do.
        next_step: String,
    },
    /// The kernel does not say who has it.
    #[error(
        "cannot find out whether another portward runs with the configuration {}: {source}; two of them would wait for each \
         other's ports: see `ps -C portward`",
        config.display()
    )]
    Unknown {
        /// The configuration.
        config: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Claim {
    /// Claims the configuration file `config`, which is there. Reads /proc if somebody else has it.
    pub fn on(config: &Path) -> Result<Self, ClaimError> {
        let unknown = |source| ClaimError::Unknown { config: config.to_owned(), source };
        let owner = fs::metadata(config).map_err(unknown)?.uid();
        let trusted = [0, Uid::effective().as_raw(), owner];
        let mut sockets = Vec::new();
        for place in places(config).map_err(unknown)? {
            sockets.push(take_in_time(&place, trusted).map_err(|untaken| match untaken {
                Untaken::Held(daemons, claim) => already_running(config, &daemons, &claim),
                Untaken::Io(source) => unknown(source),
            })?);
        }
        Ok(Self { _sockets: sockets })
    }
}

/// Shows other daemons that this one looks after what the run `run` of portward has started, which is over: they spare that. It is
/// shown as long as this lives.
///
/// # Errors
/// The name cannot be bound, and they may end such a process with `on_conflict: kill`.
pub fn show_run(run: &str) -> io::Result<Socket> {
    for number in 0..NAMES {
        if let Some(socket) = bind(&format!("{CLAIM}{RUN}{run}/{number}"))? {
            return Ok(socket);
        }
    }
    Err(all_taken())
}

/// Binds an abstract name, unless somebody has it.
fn bind(name: &str) -> io::Result<Option<Socket>> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
    // The zero makes it an abstract name.
    match socket.bind(&SockAddr::unix(format!("\0{name}"))?) {
        Ok(()) => Ok(Some(socket)),
        Err(taken) if taken.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error),
    }
}

fn all_taken() -> io::Error {
    io::Error::other("other users have taken all names for it")
}

/// Why a name was not taken.
enum Untaken {
    Held(Daemons, Claimed),
    Io(io::Error),
}

impl From<io::Error> for Untaken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What names begin with for the entry of a directory that `config` is, and for the one that it leads to. Kubernetes replaces the
/// latter at each change of a ConfigMap.
fn places(config: &Path) -> io::Result<BTreeSet<String>> {
    let whole = std::path::absolute(config)?;
    // What a process has open under such a name, another one has not.
    let is_of_a_process = ["/dev", "/proc"].iter().any(|root| whole.starts_with(root));
    let mut paths = vec![fs::canonicalize(config)?];
    if !is_of_a_process {
        paths.push(whole);
    }
    let place = |path: &PathBuf| {
        let directory = fs::metadata(path.parent().unwrap_or(Path::new("/")))?;
        let name = path.file_name().unwrap_or_default().as_bytes();
        // A name in a directory may be longer than that of a socket.
        let name = text::hex(&Md5::digest(name));
        Ok(format!("{CLAIM}{:x}:{:x}/{name}/", directory.dev(), directory.ino()))
    };
    paths.iter().map(place).collect()
}

/// Binds the first free name of `place`, if nobody of `trusted` has one.
fn take(place: &str, trusted: [u32; 3]) -> Result<Socket, Untaken> {
    let is_trusted = |claim: &Claimed| claim.uid.is_some_and(|uid| trusted.contains(&uid));
    for number in 0..NAMES {
        // Asked before each name, for it may have been taken since.
        let daemons = Daemons::now()?;
        let holding = daemons
            .claims()
            .iter()
            .find(|claim| claim.name.starts_with(place.as_bytes()) && is_trusted(claim));
        if let Some(claim) = holding.cloned() {
            return Err(Untaken::Held(daemons, claim));
        }
        if let Some(socket) = bind(&format!("{place}{number}"))? {
            return Ok(socket);
        }
    }
    Err(Untaken::Io(all_taken()))
}

/// As [`take`], but not refused because of a daemon that is over: a child that it had just started has its sockets open until it
/// executes its program. That takes some microseconds, and more on a busy machine; the kernel does not tell when it is done.
fn take_in_time(place: &str, trusted: [u32; 3]) -> Result<Socket, Untaken> {
    let begun = Instant::now();
    loop {
        match take(place, trusted) {
            Err(Untaken::Held(_, claim)) if begun.elapsed() < EXECUTES_WITHIN && is_over(&claim) => {
                thread::yield_now();
            }
            taken => return taken,
        }
    }
}

/// Whether nobody has the claim any more, or only processes that are about to execute a program.
fn is_over(claim: &Claimed) -> bool {
    let ours = Uid::effective();
    // The processes of others may be hidden.
    let is_visible = ours.is_root() || claim.uid == Some(ours.as_raw());
    is_visible && !holder_of(claim).pids().any(holder::has_executed)
}

fn holder_of(claim: &Claimed) -> Holder {
    let owned = Owned { inode: claim.inode, uid: claim.uid.unwrap_or_default(), cgroup: None };
    holder::describe_all(&[owned]).pop().unwrap_or_default()
}

fn already_running(config: &Path, daemons: &Daemons, claim: &Claimed) -> ClaimError {
    let holder = holder_of(claim);
    let sockets = holder.pid.and_then(holder::sockets).unwrap_or_default();
    let socket = daemons.api(&sockets);
    let next_step = next_step(&holder, socket.as_deref());
    ClaimError::AlreadyRunning { config: config.to_owned(), pid: holder.pid, socket, next_step }
}

/// How to use the daemon that runs, and how to stop it.
fn next_step(holder: &Holder, socket: Option<&str>) -> String {
    let socket = socket.map(|socket| format!(" --socket {}", shell::word(socket))).unwrap_or_default();
    let user =
        holder.user.as_ref().map_or_else(|| format!("uid {}", holder.uid), |user| format!("user {user}"));
    let stop = match (holder.pid, holder.unit.as_deref()) {
        (_, Some(unit)) if unit.ends_with(".service") => {
            let is_of_user = holder.cgroup.as_deref().is_some_and(|path| path.contains("/user@"));
            let manager = if is_of_user { " --user" } else { "" };
            format!("stop it first (`systemctl{manager} stop {}`)", shell::word(unit))
        }
        (Some(pid), _) => format!("stop it first (`kill {pid}`)"),
        (None, _) => "stop it first".to_owned(),
    };
    format!(
        "use that one (`portward{socket} status` as {user}), or {stop}, or give this one another file with --config"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_config() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.yaml");
        fs::write(&path, "tunnels: []\n").unwrap();
        (directory, path)
    }

    fn is_ours(config: &Path) -> bool {
        match Claim::on(config) {
            Ok(_) => false,
            Err(ClaimError::AlreadyRunning { pid, .. }) => pid == Some(std::process::id()),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_configuration_is_claimed_once_and_by_whichever_name_it_is_reached() {
        let (directory, config) = a_config();
        let claim = Claim::on(&config).unwrap();
        let link = directory.path().join("link.yaml");
        std::os::unix::fs::symlink(&config, &link).unwrap();
        assert!(is_ours(&config) && is_ours(&link));
        // An editor replaces it.
        fs::write(directory.path().join("new"), "tunnels: []\n").unwrap();
        fs::rename(directory.path().join("new"), &config).unwrap();
        assert!(is_ours(&config));
        let other = directory.path().join("other.yaml");
        fs::write(&other, "tunnels: []\n").unwrap();
        Claim::on(&other).unwrap();
        drop(claim);
        Claim::on(&link).unwrap();
    }

    #[test]
    fn a_link_that_leads_elsewhere_now_is_the_same_configuration() {
        let (directory, config) = a_config();
        let (other, elsewhere) = a_config();
        let link = directory.path().join("link.yaml");
        std::os::unix::fs::symlink(&config, &link).unwrap();
        let _claim = Claim::on(&link).unwrap();
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
        assert!(is_ours(&link));
        Claim::on(&elsewhere).unwrap();
        drop(other);
    }

    #[test]
    fn the_name_of_somebody_who_does_not_count_is_no_hindrance() {
        let (_directory, config) = a_config();
        let place = places(&config).unwrap().pop_first().unwrap();
        // Uids that do not count here are those of this test's own socket.
        let nobody = [u32::MAX; 3];
        let first = take(&place, nobody).ok().unwrap();
        let second = take(&place, nobody).ok().unwrap();
        let ours = [u32::MAX, Uid::effective().as_raw(), u32::MAX];
        assert!(matches!(take(&place, ours), Err(Untaken::Held(..))));
        drop(first);
        assert!(matches!(take(&place, ours), Err(Untaken::Held(..))), "the second one has the next name");
        drop(second);
        take(&place, ours).ok().unwrap();
    }

    /// A child that has not executed its program yet.
    struct Forked {
        pid: nix::unistd::Pid,
        /// Closed, it ends.
        waits: Option<io::PipeWriter>,
    }

    impl Forked {
        fn new() -> Self {
            let (mut reader, writer) = io::pipe().unwrap();
            // SAFETY: the child makes system calls only.
            match unsafe { nix::unistd::fork() }.unwrap() {
                nix::unistd::ForkResult::Parent { child } => Self { pid: child, waits: Some(writer) },
                nix::unistd::ForkResult::Child => {
                    // SAFETY: it is the child's own copy, and nothing else in it runs.
                    unsafe { nix::libc::close(std::os::fd::AsRawFd::as_raw_fd(&writer)) };
                    let _ = std::io::Read::read(&mut reader, &mut [0]);
                    // SAFETY: always.
                    unsafe { nix::libc::_exit(0) }
                }
            }
        }
    }

    impl Drop for Forked {
        fn drop(&mut self) {
            self.waits = None;
            nix::sys::wait::waitpid(self.pid, None).unwrap();
        }
    }

    #[test]
    fn a_child_that_has_not_executed_its_program_is_no_daemon() {
        let (_directory, config) = a_config();
        let claim = Claim::on(&config).unwrap();
        let place = places(&config).unwrap().pop_first().unwrap();
        let child = Forked::new();
        let trusted = [Uid::effective().as_raw(); 3];
        let held = || match take(&place, trusted) {
            Err(Untaken::Held(_, claim)) => claim,
            Ok(_) | Err(Untaken::Io(_)) => panic!("nobody has it"),
        };
        assert!(!is_over(&held()), "the daemon runs");
        drop(claim);
        assert!(is_over(&held()), "the child alone has it");
        drop(child);
        Claim::on(&config).unwrap();
    }

    #[test]
    fn who_runs_is_named_with_the_way_to_stop_it() {
        let service = Holder {
            pid: Some(700),
            user: Some("root".to_owned()),
            unit: Some("portward.service".to_owned()),
            ..Holder::default()
        };
        let error = ClaimError::AlreadyRunning {
            config: "/etc/portward/config.yaml".into(),
            pid: Some(700),
            socket: Some("/run/portward/portward.sock".to_owned()),
            next_step: next_step(&service, Some("/run/portward/portward.sock")),
        };
        insta::assert_snapshot!(error, @"another portward (pid 700) is running with the configuration /etc/portward/config.yaml, and answers on /run/portward/portward.sock: use that one (`portward --socket /run/portward/portward.sock status` as user root), or stop it first (`systemctl stop portward.service`), or give this one another file with --config");
        let by_hand = Holder { pid: Some(700), uid: 1000, ..Holder::default() };
        insta::assert_snapshot!(next_step(&by_hand, None), @"use that one (`portward status` as uid 1000), or stop it first (`kill 700`), or give this one another file with --config");
        insta::assert_snapshot!(next_step(&Holder::default(), None), @"use that one (`portward status` as uid 0), or stop it first, or give this one another file with --config");
    }
}
