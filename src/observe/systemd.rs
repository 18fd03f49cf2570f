//! What portward tells the service manager. Without one (no `NOTIFY_SOCKET`) all of this does nothing.
//!
//! The variables stay in the environment, because only the start of a process may take them out; children are started
//! without them.

use std::time::Duration;

use sd_notify::NotifyState;

/// Everything wanted was started, or a reload is over.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// One line about how things are, for `systemctl status`.
pub fn status(text: &str) {
    // A line end would let the text make assignments of its own.
    notify(&[NotifyState::Status(&text.replace(char::is_control, " "))]);
}

/// A reload has begun; [`ready`] tells of its end.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // In one message: systemd 253 waits for ever for a time that comes later.
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!("systemd is not told of the reload: cannot read the clock: {error}"),
    }
}

/// The daemon is going down.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// How often to [`ping`]: half of the time after which systemd takes this process for hung (`WatchdogSec=`); `None` when
/// nobody watches it.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()).map(|limit| limit / 2)
}

/// The event loop makes progress.
pub fn ping() {
    notify(&[NotifyState::Watchdog]);
}

fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("cannot tell systemd {state:?}: {error}; is NotifyAccess= set in the unit?");
    }
}
