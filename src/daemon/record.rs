//! What is kept on disk of each process, so that a later run of portward can take it over.
//!
//! A record lies in the directory of the control sockets, which belongs to this user alone, and is named after its connection. It
//! is written when the process has started and whenever it listens on something else, and removed when nothing is left of the
//! process. It is trusted no further than needed: the process is recognised by pid, start time and boot, its mark and its pipes,
//! and what it listens on is asked of the kernel and of the process itself.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use md5::{Digest as _, Md5};
use nix::libc;
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::command_line;
use super::record_file::RecordFile;
use super::reporter::Reporter;
use super::stale::StaleSession;
use crate::access::{self, Rule};
use crate::config::desired::{SshTunnel, Work};
use crate::core::LinkId;
use crate::process::Origin;
use crate::ssh::server::ServerProcess;
use crate::ssh::{self, AddressFamily, Forwarding, Listens, Plan};
use crate::text;

/// Of what is written here. A record of another version is not read: its process is ended, and started again.
const VERSION: u32 = 1;

/// Bytes of a record. One of an ssh with 100 ranges of 256 ports has some 6 MB.
const LONGEST: u64 = 16 * 1024 * 1024;

/// The extension of a record's file.
pub(super) const EXTENSION: &str = "json";

/// What follows where a record cannot be written.
pub(super) const CONSEQUENCE: &str = "when portward is started again, it may have to start this process anew";

/// A record as it is on disk.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Written<R> {
    version: u32,
    /// The boot of the machine that pids and start times are of.
    pub(super) boot: String,
    #[serde(flatten)]
    pub(super) record: R,
}

/// One process that portward started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The process.
    pub(super) origin: Origin,
    /// Digest of what it was started with, by [`settings`].
    pub(super) settings: String,
    /// The hash of the tunnel that it was started for: of several tunnels with these settings that one has it first.
    #[serde(default)]
    pub(super) tunnel: String,
    /// The number of its connection: of two processes of a link the later one has the higher number.
    pub(super) connection: u64,
    /// `None`: a command.
    pub(super) ssh: Option<SshRecord>,
}

/// What an ssh has beyond that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SshRecord {
    /// File name of its control socket, in the directory of the record.
    pub(super) control: String,
    /// What it listens on.
    pub(super) family: AddressFamily,
    /// The inodes of the sockets that it had when it was ready; none: it is not.
    pub(super) at_login: BTreeSet<u32>,
    /// What it may be asked to forward, or may have been asked for at this moment.
    pub(super) planned: Vec<Forwarding>,
    /// What it forwards.
    pub(super) forwards: Vec<Forwarding>,
    /// Whose connections it may carry.
    pub(super) carried: Carried,
    /// Its process at the server, which listens there for it; `None`: it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) server: Option<ServerProcess>,
}

/// Where clients have come from, whose connections may still be carried.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Carried {
    /// The addresses that were listened on.
    pub(super) addresses: BTreeSet<SocketAddr>,
    /// Clients that nobody here sees: those of a remote forward are at the server, and those of a held listener reach ssh over a unix
    /// socket.
    pub(super) unseen: bool,
}

impl Record {
    /// Whether it is an ssh that has been ready.
    pub(super) fn was_ready(&self) -> bool {
        self.ssh.as_ref().is_some_and(|ssh| !ssh.at_login.is_empty())
    }

    /// Reads a record; `None` if it is of another boot.
    ///
    /// # Errors
    /// It cannot be read, is not this user's own, is longer than any that portward writes, or is not such a record.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        Self::parse(&read(path)?, boot())
    }

    /// The unix sockets that it may listen on.
    pub(super) fn sockets(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let forwards = self.ssh.iter().flat_map(|ssh| ssh.planned.iter().chain(&ssh.forwards));
        forwards.filter_map(Forwarding::socket).map(Path::to_owned)
    }

    /// The text of a record as it is read during `boot`.
    pub(super) fn parse(text: &[u8], boot: &str) -> io::Result<Option<Self>> {
        let Written { version, boot: of, record }: Written<Self> = serde_json::from_slice(text)?;
        if version != VERSION {
            return Err(io::Error::other(format!("it is of version {version}, and not {VERSION}")));
        }
        let is_name = |name: &str| !name.is_empty() && name != ".." && name != "." && !name.contains('/');
        if record.ssh.as_ref().is_some_and(|ssh| !is_name(&ssh.control)) {
            return Err(io::Error::other("its control socket has no file name"));
        }
        Ok((of == boot).then_some(record))
    }

    /// What this ssh, which has ended, may have left at its server; `None`: no server listens for it, as far as is known. `file` is
    /// the record's.
    pub(super) fn stale_session(&self, file: RecordFile) -> Option<StaleSession> {
        let ssh = self.ssh.as_ref()?;
        let ports = ssh.forwards.iter().filter_map(Forwarding::server_port).collect();
        StaleSession::new(ssh.server.clone()?, ports, file)
    }
}

/// Reads a file of this user's own.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    let is_ours = access::check(&metadata, Rule::PrivateTo(Uid::effective().as_raw())).is_ok();
    if !metadata.is_file() || !is_ours {
        return Err(io::Error::other("it is not a file that this user alone can access"));
    }
    let mut text = Vec::new();
    if file.take(LONGEST + 1).read_to_end(&mut text)? as u64 > LONGEST {
        return Err(io::Error::other("it is too long"));
    }
    Ok(text)
}

/// The text of a record as it is written during `boot`.
pub(super) fn written<R: Serialize>(record: &R, boot: &str) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&Written { version: VERSION, boot: boot.to_owned(), record })?)
}

/// Writes the record in place of an earlier one: whoever reads it finds this or that one, whole. Without it a later run of portward
/// ends the process, and starts another one.
pub(super) async fn write(file: &RecordFile, record: &Record, reporter: &Reporter<LinkId>) {
    let (path, text) = (file.path().to_owned(), written(record, boot()));
    let writing = file.lock().await;
    let wrote = match text {
        // It goes on when nobody waits for it any more.
        Ok(text) => spawn_blocking(move || {
            let _writing = writing;
            replace(&path, &text)
        })
        .await
        .unwrap_or_else(|error| Err(error.into())),
        Err(error) => Err(error),
    };
    if let Err(error) = wrote {
        reporter.warn(&format!("cannot write the record {}: {error}; {CONSEQUENCE}", file.path().display()));
    }
}

/// Puts `text` in the place of `path`. Nothing is synced: a record counts during this boot alone, and within it the kernel keeps what
/// was written, whatever becomes of the writer. A slow disk would keep the tunnels waiting.
pub(super) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(text)?;
    drop(file);
    fs::rename(&temporary, path)
}

/// The boot of the machine; empty where that is not told.
pub(super) fn boot() -> &'static str {
    static BOOT: LazyLock<String> =
        LazyLock::new(|| fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default());
    BOOT.trim()
}

/// Digest of what the process of `work` is started with, and of what it serves if that is no other tunnels' affair: it is taken
/// over for a tunnel with the same.
pub(super) fn settings(work: &Work, is_shared: bool) -> String {
    let mut digest = Md5::new();
    match work {
        Work::Ssh(tunnel) => {
            let nowhere = Path::new("");
            // How long a login may take is no setting of the connection that comes of it.
            add_command(&mut digest, &ssh::command(&tunnel.ssh, nowhere, &Plan::default(), Duration::ZERO));
            if !is_shared {
                add(&mut digest, &serde_json::to_vec(&served(tunnel)).unwrap_or_default());
            }
        }
        Work::Command(tunnel) => {
            add_command(&mut digest, &command_line::command(tunnel));
            for endpoint in &tunnel.listen {
                add(&mut digest, endpoint.to_string().as_bytes());
            }
        }
    }
    text::hex(&digest.finalize())
}

/// What ssh is asked for where everything is as written, and portward's own listeners are at no place in particular.
fn served(tunnel: &SshTunnel) -> Vec<Forwarding> {
    let sockets = vec![PathBuf::new(); tunnel.forward.held_ports()];
    ssh::forwardings(&tunnel.forward, Listens { endpoints: tunnel.forward.listens(), sockets: &sockets })
}

fn add_command(digest: &mut Md5, command: &Command) {
    add(digest, command.get_program().as_bytes());
    digest.update(command.get_args().len().to_le_bytes());
    for argument in command.get_args() {
        add(digest, argument.as_bytes());
    }
    digest.update(command.get_envs().len().to_le_bytes());
    for (name, value) in command.get_envs() {
        add(digest, name.as_bytes());
        add(digest, value.unwrap_or_default().as_bytes());
    }
    let directory = command.get_current_dir().map(|directory| directory.as_os_str().as_bytes());
    add(digest, directory.unwrap_or_default());
}

/// With its length before it, so that no two lists have the same digest.
fn add(digest: &mut Md5, text: &[u8]) {
    digest.update((text.len() as u64).to_le_bytes());
    digest.update(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let origin = Origin { pid: 7, start: 11, mark: "5-9-3".to_owned(), pipes: [1, 2] };
        let ssh = SshRecord {
            control: "4-1".to_owned(),
            family: AddressFamily::Any,
            at_login: [12].into(),
            planned: Vec::new(),
            forwards: Vec::new(),
            carried: Carried::default(),
            server: None,
        };
        Record { origin, settings: "00".to_owned(), tunnel: "ab".to_owned(), connection: 1, ssh: Some(ssh) }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_nothing_else_is_a_record() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("4-1.json");
        let text = written(&record(), boot()).unwrap();
        replace(&path, &text).unwrap();
        assert_eq!(Record::read(&path).unwrap(), Some(record()));
        assert_eq!(Record::parse(&text, "another boot").unwrap(), None);

        let text = String::from_utf8(text).unwrap();
        assert!(!text.contains("\"server\""), "an earlier version does not know it: {text}");
        let boot_id = "0a1b2c3d-0000-4000-8000-0123456789ab";
        let known = text.replace(
            "\"carried\"",
            &format!("\"server\":{{\"boot\":\"{boot_id}\",\"pid\":5,\"start\":6}},\"carried\""),
        );
        let known = Record::parse(known.as_bytes(), boot()).unwrap().unwrap().ssh.unwrap().server.unwrap();
        assert_eq!((known.pid, known.start), (5, 6));
        for bad in [
            "",
            "{}",
            "[]",
            &text[..text.len() - 1],
            &text.replace("\"version\":1", "\"version\":2"),
            &text.replace("\"4-1\"", "\"../4-1\""),
            &text.replace("\"4-1\"", "\"..\""),
            &text.replace("\"pid\":7", "\"pid\":-7"),
        ] {
            assert!(Record::parse(bad.as_bytes(), boot()).is_err(), "{bad}");
        }

        let link = directory.path().join("5-1.json");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(Record::read(&link).is_err(), "a link leads to somebody else's file");
        assert!(Record::read(directory.path()).is_err());
    }

    #[test]
    fn what_only_changes_how_a_process_is_supervised_is_none_of_its_settings() {
        let desired = |text: &str| {
            let parsed = crate::config::parse(text, Path::new("config.yaml")).unwrap();
            parsed.tunnels.into_iter().next().unwrap()
        };
        let of = |text: &str| {
            let tunnel = desired(&format!("tunnels:\n  - {{{text}}}\n"));
            settings(&tunnel.work, tunnel.share)
        };
        let ssh = "remote_host: db, remote_port: 5432, local_port: 9001";
        for (one, other, are_same) in [
            (
                ssh,
                "name: other, remote_host: db, remote_port: 5432, local_port: 9001, restart: {min_delay: 3s}",
                true,
            ),
            (ssh, "remote_host: db, remote_port: 5432, local_port: 9002", false),
            (ssh, "remote_host: db, remote_port: 5433, local_port: 9001", false),
            (ssh, "remote_host: db, remote_port: 5432, local_port: 9001, listener: portward", false),
            (ssh, "remote_host: db, remote_port: 5432, local_port: 9001, env: {A: b}", false),
            // One connection serves whatever its tunnels ask for.
            (
                "remote_host: db, remote_port: 5432, local_port: 9001, share: true",
                "remote_host: db, remote_port: 5432, local_port: 9002, share: true",
                true,
            ),
            ("command: [a, b], local_port: 9001", "command: [a, b], local_port: 9002", false),
            ("command: [a, b], local_port: 9001", "command: [ab], local_port: 9001", false),
        ] {
            assert_eq!(of(one) == of(other), are_same, "{one} and {other}");
        }
    }
}
