//! What systemd is told. Without a NOTIFY_SOCKET, nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// READY=1: the first reconcile is done, or a reload.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// STATUS=: one line for `systemctl status`.
pub fn status(text: &str) {
    notify(&[NotifyState::Status(text)]);
}

/// RELOADING=1, with the time that systemd wants in the same message.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!("cannot tell systemd of the reload: {error}"),
    }
}

/// STOPPING=1.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// How often [`ping`] is due: half of WATCHDOG_USEC. `None` if systemd does not watch this process.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// WATCHDOG=1: the event loop goes round.
pub fn ping() {
    notify(&[NotifyState::Watchdog]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot notify systemd: {error}");
    }
}
