//! Notifications to the service manager. Without one (no `NOTIFY_SOCKET`) these functions do nothing.
//!
//! The variables stay in this process's environment, because removing them is safe only before threads are started. Children
//! are started without them.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

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

/// Does not block: a service manager that does not read must not delay a tunnel. The message is lost then.
fn notify(state: &[NotifyState]) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(socket.as_bytes(), &message(state)) {
        tracing::warn!("cannot notify systemd of {state:?}: {error}; is NotifyAccess= set in the unit?");
    }
}

fn message(state: &[NotifyState]) -> String {
    state.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn send(socket: &[u8], message: &str) -> io::Result<()> {
    // sd_notify(3): a path, or with `@` an abstract name.
    let address = match socket.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(OsStr::from_bytes(socket))?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to_addr(message.as_bytes(), &address)?;
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
        let notify =
            || send(path.as_os_str().as_bytes(), &message(&[NotifyState::Ready, NotifyState::Status("up")]));
        notify().unwrap();
        let mut received = [0; 64];
        let length = reader.recv(&mut received).unwrap();
        assert_eq!(&received[..length], b"READY=1\nSTATUS=up");
        // The kernel queues some (net.unix.max_dgram_qlen), and then says so instead of waiting.
        let full = std::iter::repeat_with(notify).find_map(Result::err).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }
}
