//! What the log says of a tunnel's life.

use super::entry::{Entry, milliseconds};
use super::handle::ReloadReport;
use super::tell::Identity;
use crate::clock::Moment;
use crate::config::desired::{Forward, Work};
use crate::port::Holder;
use crate::tunnel::{Failure, StateName, Tunnel};

/// The one line of a start.
pub(super) fn starting(entry: &Entry) {
    let Identity { name, hash, port } = entry.identity();
    let what = match &entry.desired.work {
        Work::Ssh(tunnel) => format!("{} to {}", tunnel.program.display(), tunnel.destination),
        Work::Command(tunnel) => tunnel.argv.join(" "),
    };
    tracing::info!(tunnel = name, tunnel_hash = hash, port, event = "starting", "starting {what}");
}

/// A restart failed, and the old connection stays.
pub(super) fn restart_failed(entry: &Entry, failure: &Failure) {
    let Identity { name, hash, port } = entry.identity();
    tracing::warn!(
        tunnel = name,
        tunnel_hash = hash,
        port,
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
    if old != new {
        entered(entry, new, milliseconds(now.since(before.entered())));
    }
}

fn failure(entry: &Entry, failure: &Failure, state: StateName) {
    let Identity { name, hash, port } = entry.identity();
    let (kind, message) = (failure.kind.as_str(), &failure.message);
    let state_word = state.as_str();
    if state == StateName::Failed {
        tracing::error!(
            tunnel = name,
            tunnel_hash = hash,
            port,
            state = state_word,
            event = "failure",
            error_kind = kind,
            "{message}; retrying would not help: mend it, then `portward start {name}`"
        );
    } else {
        tracing::warn!(
            tunnel = name,
            tunnel_hash = hash,
            port,
            state = state_word,
            event = "failure",
            error_kind = kind,
            "{message}"
        );
    }
}

fn waiting(entry: &Entry, holders: &[Holder]) {
    let Identity { name, hash, port } = entry.identity();
    let holder_pid = holders.iter().find_map(|holder| holder.pid);
    let names: Vec<_> = holders.iter().map(ToString::to_string).collect();
    tracing::warn!(
        tunnel = name,
        tunnel_hash = hash,
        port,
        state = StateName::AwaitingPort.as_str(),
        event = "held",
        holder_pid,
        "port {port} is held by {}; the tunnel comes up as soon as it is free",
        names.join(" and ")
    );
}

/// `duration_ms` is the time spent in the state before.
fn entered(entry: &Entry, state: StateName, duration_ms: f64) {
    let Identity { name, hash, port } = entry.identity();
    let message = match state {
        StateName::Up => format!("up: {}", serves(entry)),
        StateName::Stopped => "stopped; nothing of it is left".to_owned(),
        StateName::AwaitingPort
        | StateName::Connecting
        | StateName::Forwarding
        | StateName::Replacing
        | StateName::Stopping
        | StateName::Backoff
        | StateName::Failed
        | StateName::NeedsAuth => {
            tracing::debug!(
                tunnel = name,
                tunnel_hash = hash,
                port,
                state = state.as_str(),
                event = "state",
                duration_ms,
                "{state}"
            );
            return;
        }
    };
    tracing::info!(
        tunnel = name,
        tunnel_hash = hash,
        port,
        state = state.as_str(),
        event = "state",
        duration_ms,
        "{message}"
    );
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
