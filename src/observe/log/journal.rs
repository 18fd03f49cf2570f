//! The journal's native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>): one datagram per entry, or a sealed memfd for
//! an entry that is too large for a datagram.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use tracing::Level;

use super::record::{Record, Value};
use super::sink::Sink;
use crate::text;

/// The value of SYSLOG_IDENTIFIER, which `journalctl -t` selects by.
const IDENTIFIER: &str = "portward";

/// Sends each record as an entry with one field per value.
#[derive(Debug)]
pub(super) struct JournalSink {
    socket: UnixDatagram,
    path: PathBuf,
}

impl JournalSink {
    /// Fails if nothing listens on the socket `path`. Does not block: a stalled journal still listens.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        UnixDatagram::unbound()?.connect(path)?;
        // Not connected itself: it would stay with this listener after systemd-journald.socket is restarted.
        Ok(Self { socket: UnixDatagram::unbound()?, path: path.to_owned() })
    }

    fn send(&self, entry: &[u8]) -> io::Result<()> {
        match self.socket.send_to(entry, &self.path) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                // Too large for the send buffer, or for one allocation of the kernel.
                Some(Errno::EMSGSIZE | Errno::ENOBUFS) => self.send_memfd(entry),
                _ => Err(error),
            },
        }
    }

    fn send_memfd(&self, entry: &[u8]) -> io::Result<()> {
        let mut memfd =
            File::from(memfd_create("journal-entry", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
        memfd.write_all(entry)?;
        // journald maps the file, and accepts only one that cannot change any more.
        fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
        let descriptors = [memfd.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let address = UnixAddr::new(&self.path)?;
        sendmsg(self.socket.as_raw_fd(), &[], &rights, MsgFlags::empty(), Some(&address))?;
        Ok(())
    }
}

impl Sink for JournalSink {
    fn write(&mut self, record: &Record) -> io::Result<()> {
        self.send(&entry(record))
    }
}

/// The fields of `record`. In the journal the lines of all tunnels are mixed, so the message starts with the tunnel's name.
fn entry(record: &Record) -> Vec<u8> {
    let mut entry = Vec::with_capacity(512);
    put(&mut entry, "PRIORITY", priority(record.level));
    put(&mut entry, "SYSLOG_IDENTIFIER", IDENTIFIER);
    put(&mut entry, "TARGET", record.target);
    if let Some((file, line)) = record.location {
        put(&mut entry, "CODE_FILE", file);
        put(&mut entry, "CODE_LINE", &line.to_string());
    }
    for (name, value) in &record.values {
        let value = match (*name, value, record.text("tunnel")) {
            ("message", Value::Text(message), Some(tunnel)) => {
                format!("{}: {}", text::line(tunnel), text::lines(message))
            }
            ("message", Value::Text(message), None) => text::lines(message).into_owned(),
            _ => value.to_string(),
        };
        put(&mut entry, &field_name(name), &value);
    }
    entry
}

fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend((value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend(value.as_bytes());
    entry.push(b'\n');
}

/// The journal ignores fields with other names: upper-case ASCII letters, digits and underscores, with no underscore first.
fn field_name(name: &str) -> String {
    let name = name.replace('.', "_").to_ascii_uppercase();
    let name = name.trim_start_matches('_');
    name.chars().filter(|letter| letter.is_ascii_alphanumeric() || *letter == '_').collect()
}

/// The level in the numbers of syslog(3).
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSliceMut, Read as _, Seek as _};
    use std::os::fd::FromRawFd as _;

    use nix::sys::socket::{ControlMessageOwned, recvmsg};
    use rustix::fs::fcntl_get_seals;

    use super::super::record::{About, lines_dropped};
    use super::*;

    fn journal() -> (tempfile::TempDir, UnixDatagram, JournalSink) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let sink = JournalSink::open(&path).unwrap();
        (directory, journald, sink)
    }

    fn record(values: Vec<(&'static str, Value)>) -> Record {
        Record {
            level: Level::WARN,
            location: Some(("src/a.rs", 7)),
            values,
            ..lines_dropped(&About::default(), 1)
        }
    }

    #[test]
    fn each_value_is_a_field_and_only_the_message_may_have_several_lines() {
        let entry = entry(&record(vec![
            ("message", Value::Text("held by\nsshd\u{1b}".to_owned())),
            ("tunnel", Value::Text("db\n".to_owned())),
            ("holder_pid", Value::Unsigned(4711)),
            ("duration_ms", Value::Float(12.0)),
            ("_error.source", Value::Text("PRIORITY=0\nEVENT=up".to_owned())),
        ]));
        let message = "db\\n: held by\nsshd\\u{1b}";
        let expected = [
            &b"PRIORITY=4\nSYSLOG_IDENTIFIER=portward\nTARGET=portward::observe::log\nCODE_FILE=src/a.rs\nCODE_LINE=7\nMESSAGE\n"[..],
            &(message.len() as u64).to_le_bytes(),
            message.as_bytes(),
            b"\nTUNNEL=db\\n\nHOLDER_PID=4711\nDURATION_MS=12.0\nERROR_SOURCE=PRIORITY=0\\nEVENT=up\n",
        ];
        assert_eq!(String::from_utf8_lossy(&entry), String::from_utf8_lossy(&expected.concat()));
    }

    #[test]
    fn an_entry_is_one_datagram() {
        let (_directory, journald, mut sink) = journal();
        let record = record(vec![("message", Value::Text("up".to_owned()))]);
        sink.write(&record).unwrap();
        let mut received = [0; 512];
        let length = journald.recv(&mut received).unwrap();
        assert_eq!(&received[..length], entry(&record));
    }

    #[test]
    fn an_entry_too_large_for_a_datagram_is_a_sealed_memfd() {
        let (_directory, journald, mut sink) = journal();
        let record = record(vec![("message", Value::Text("\u{1b}".repeat(1024 * 1024)))]);
        sink.write(&record).unwrap();
        let mut room = nix::cmsg_space!([std::os::fd::RawFd; 1]);
        let mut nothing = [0];
        let mut parts = [IoSliceMut::new(&mut nothing)];
        let received =
            recvmsg::<UnixAddr>(journald.as_raw_fd(), &mut parts, Some(&mut room), MsgFlags::empty())
                .unwrap();
        assert_eq!(received.bytes, 0);
        let Some(ControlMessageOwned::ScmRights(descriptors)) = received.cmsgs().unwrap().next() else {
            panic!("no descriptor came")
        };
        // SAFETY: the kernel has just made this descriptor for us, and nothing else uses it.
        let mut memfd = unsafe { File::from_raw_fd(descriptors[0]) };
        assert!(
            fcntl_get_seals(&memfd).unwrap().contains(SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW)
        );
        memfd.rewind().unwrap();
        let mut written = Vec::new();
        memfd.read_to_end(&mut written).unwrap();
        assert_eq!(written, entry(&record));
    }

    #[test]
    fn a_journal_that_is_gone_is_an_error_and_one_that_comes_back_is_used() {
        let (directory, journald, mut sink) = journal();
        let record = record(vec![("message", Value::Text("up".to_owned()))]);
        // A child that another test has just made may have the socket open until it executes its program.
        journald.shutdown(std::net::Shutdown::Both).unwrap();
        drop(journald);
        sink.write(&record).unwrap_err();
        std::fs::remove_file(directory.path().join("socket")).unwrap();
        assert!(JournalSink::open(&directory.path().join("socket")).is_err());
        let journald = UnixDatagram::bind(directory.path().join("socket")).unwrap();
        sink.write(&record).unwrap();
        assert!(journald.recv(&mut [0; 512]).unwrap() > 0);
    }
}
