//! Notifications to the service manager. Without one (no `NOTIFY_SOCKET`) these functions do nothing.
//!
//! The variables stay in this process's environment, because removing them is safe only before threads are started. Children
//! are started without them.

use std::env;
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use sd_notify::NotifyState;

use crate::text;

/// Reports that all tunnels were started, or that a reload is complete.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// Sets the status line of `systemctl status`.
pub fn status(text: &str) {
    // Escaped, because a line end would let the text add assignments of its own.
    notify(&[NotifyState::Status(&text::line(text))]);
}

/// Reports that a reload has started. [`ready`] reports its end.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // In one message: systemd 253 waits for ever if the time comes in a later one.
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!("cannot report the reload to systemd: cannot read the clock: {error}"),
    }
}

/// Reports that the daemon is stopping.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// The interval of [`ping`]: half of `WatchdogSec=`. `None` if the watchdog is off.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()).map(|limit| limit / 2)
}

/// Reports that the event loop makes progress.
pub fn ping() {
    notify(&[NotifyState::Watchdog]);
}

/// Sockets that the service manager has kept for us: those of [`Kept`] that an earlier run of portward did not close.
pub fn kept() -> Vec<OwnedFd> {
    let descriptors = match sd_notify::listen_fds() {
        Ok(descriptors) => descriptors,
        Err(error) => {
            tracing::warn!("cannot take the sockets that systemd has kept: {error}");
            return Vec::new();
        }
    };
    // SAFETY: they are open, and nobody else in this process uses them: they were given to it at its start.
    descriptors.map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) }).collect()
}

/// A listening socket that the service manager has as well. Whatever becomes of this process, clients can connect, and wait
/// for the next one. Dropped, it is given back.
#[derive(Debug)]
pub struct Kept {
    name: String,
}

impl Kept {
    /// Hands over a duplicate of the socket that listens on `address`. Nothing else listens there.
    pub fn keep(socket: impl AsFd, address: SocketAddr) -> Self {
        let name = name(address);
        notify_with(&[NotifyState::Custom("FDSTORE=1"), NotifyState::Custom(&name)], &[socket.as_fd()]);
        Self { name }
    }

    /// The service manager is to close its duplicate of the socket that listens on `address`, which an earlier run has kept.
    pub fn give_back(address: SocketAddr) {
        drop(Self { name: name(address) });
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        notify(&[NotifyState::Custom("FDSTOREREMOVE=1"), NotifyState::Custom(&self.name)]);
    }
}

/// What names a socket to the service manager: sd_pid_notify_with_fds(3) allows no colon.
fn name(address: SocketAddr) -> String {
    format!("FDNAME={}", address.to_string().replace(':', "_"))
}

/// Does not block: a service manager that does not read must not delay a tunnel. The message is lost then.
fn notify(state: &[NotifyState]) {
    notify_with(state, &[]);
}

fn notify_with(state: &[NotifyState], descriptors: &[BorrowedFd<'_>]) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(socket.as_bytes(), &message(state), descriptors) {
        tracing::warn!("cannot notify systemd of {state:?}: {error}; is NotifyAccess= set in the unit?");
    }
}

fn message(state: &[NotifyState]) -> String {
    state.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn send(socket: &[u8], message: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    // sd_notify(3): a path, or with `@` an abstract name.
    let address = match socket.strip_prefix(b"@") {
        Some(name) => UnixAddr::new_abstract(name)?,
        None => UnixAddr::new(OsStr::from_bytes(socket))?,
    };
    let sender = UnixDatagram::unbound()?;
    let descriptors: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let attached = [ControlMessage::ScmRights(&descriptors)];
    let attached = if descriptors.is_empty() { &[] } else { &attached[..] };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg(sender.as_raw_fd(), &[IoSlice::new(message.as_bytes())], attached, flags, Some(&address))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_and_a_reader_that_sleeps_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let reader = UnixDatagram::bind(&path).unwrap();
        let notify = || {
            send(path.as_os_str().as_bytes(), &message(&[NotifyState::Ready, NotifyState::Status("up")]), &[])
        };
        notify().unwrap();
        let mut received = [0; 64];
        let length = reader.recv(&mut received).unwrap();
        assert_eq!(&received[..length], b"READY=1\nSTATUS=up");
        // The kernel queues some (net.unix.max_dgram_qlen), and then says so instead of waiting.
        let full = std::iter::repeat_with(notify).find_map(Result::err).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }
}
