//! What the log says of a tunnel's life.

use super::effects::named;
use super::entry::{Entry, milliseconds};
use super::handle::ReloadReport;
use super::tell::tell;
use crate::clock::Moment;
use crate::config::desired::{Forward, Work};
use crate::port::Holder;
use crate::process::Remains;
use crate::tunnel::{Failure, StateName, Tunnel};

/// The one line of a start.
pub(super) fn starting(entry: &Entry) {
    let what = match &entry.desired.work {
        Work::Ssh(tunnel) => format!("{} to {}", tunnel.program.display(), tunnel.destination),
        Work::Command(tunnel) => tunnel.argv.join(" "),
    };
    tell!(info, entry.identity(), event = "starting", "starting {what}");
}

/// A restart failed, and the old connection stays.
pub(super) fn restart_failed(entry: &Entry, failure: &Failure) {
    tell!(
        warn,
        entry.identity(),
        event = "restart_failed",
        error_kind = failure.kind.as_str(),
        "the restart failed and the old connection stays up: {}",
        failure.message
    );
}

/// What changed for a tunnel between `before` and now.
pub(super) fn transition(entry: &Entry, before: &Tunnel, now: Moment) {
    let (old, new) = (before.name(), entry.tunnel.name());
    if let Some(failure) = entry.tunnel.last_failure()
        && before.last_failure() != Some(failure)
    {
        self::failure(entry, failure, new);
    }
    let holders = entry.tunnel.holders();
    if !holders.is_empty() && holders != before.holders() {
        waiting(entry, holders);
    }
    if old == new
        && new == StateName::Up
        && before.last_failure().is_some()
        && entry.tunnel.last_failure().is_none()
    {
        tell!(info, entry.identity(), state = new.as_str(), event = "continued", "the process goes on");
    }
    if old != new {
        entered(entry, new, milliseconds(now.since(before.entered())));
    }
}

fn failure(entry: &Entry, failure: &Failure, state: StateName) {
    let (identity, error_kind, message) = (entry.identity(), failure.kind.as_str(), &failure.message);
    if state == StateName::Failed {
        tell!(
            error,
            identity,
            state = state.as_str(),
            event = "failure",
            error_kind,
            "{message}; retrying would not help: mend it, then `portward start {}`",
            identity.name
        );
    } else {
        tell!(warn, identity, state = state.as_str(), event = "failure", error_kind, "{message}");
    }
}

fn waiting(entry: &Entry, holders: &[Holder]) {
    let identity = entry.identity();
    let holder_pid = holders.iter().find_map(|holder| holder.pid);
    let names: Vec<_> = holders.iter().map(ToString::to_string).collect();
    tell!(
        warn,
        identity,
        state = StateName::AwaitingPort.as_str(),
        event = "held",
        holder_pid,
        "port {} is held by {}; the tunnel comes up as soon as it is free",
        identity.port,
        names.join(" and ")
    );
}

/// `duration_ms` is the time spent in the state before.
fn entered(entry: &Entry, state: StateName, duration_ms: f64) {
    let (identity, word) = (entry.identity(), state.as_str());
    match state {
        StateName::Up => {
            tell!(info, identity, state = word, event = "state", duration_ms, "up: {}", serves(entry));
        }
        StateName::Stopped => {
            let left = left(entry.outside.left());
            if left.is_empty() {
                let left = "nothing of it is left";
                tell!(info, identity, state = word, event = "state", duration_ms, "stopped; {left}");
            } else {
                tell!(warn, identity, state = word, event = "state", duration_ms, "stopped; {left}");
            }
        }
        StateName::AwaitingPort
        | StateName::Connecting
        | StateName::Forwarding
        | StateName::Replacing
        | StateName::Stopping
        | StateName::Backoff
        | StateName::Failed
        | StateName::NeedsAuth => {
            tell!(debug, identity, state = word, event = "state", duration_ms, "{word}");
        }
    }
}

/// What runs on after a stop; empty if nothing does.
fn left(remains: &Remains) -> String {
    let mut texts = Vec::new();
    if !remains.forbidden.is_empty() {
        let who = named(&remains.forbidden);
        texts.push(format!("{who} runs on, which portward's user may not signal: end it as root"));
    }
    if !remains.unknown.is_empty() {
        let who = named(&remains.unknown);
        texts.push(format!(
            "{who} runs on, which this tunnel or another one has started: it shows no more which"
        ));
    }
    texts.join("; ")
}

/// What an up tunnel does, from the listener to the target.
fn serves(entry: &Entry) -> String {
    let here = entry.listeners.join(", ");
    match &entry.desired.work {
        Work::Command(tunnel) => format!("{} listens on {here}", tunnel.argv[0]),
        Work::Ssh(tunnel) => match &tunnel.forward {
            Forward::Local { target, .. } => {
                format!("{here} -> {}:{} at {}", target.host, target.port, tunnel.destination)
            }
            Forward::Dynamic { .. } => format!("{here} is a SOCKS proxy through {}", tunnel.destination),
            Forward::Remote { port, target, .. } => {
                format!("port {port} at {} -> {}:{}", tunnel.destination, target.host, target.port)
            }
        },
    }
}

/// What a reload did.
pub(super) fn reloaded(report: &ReloadReport) {
    tracing::info!(
        event = "reload",
        "configuration in force: {} added, {} removed, {} changed, {} unchanged",
        report.added.len(),
        report.removed.len(),
        report.changed.len(),
        report.unchanged.len()
    );
}
