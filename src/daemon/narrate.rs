//! What the log says of a tunnel's life.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;

use super::entry::{Entry, Told, View, milliseconds};
use super::reporter::{Failed, log};
use crate::clock::Moment;
use crate::config::desired::{Forward, RemoteListen, Work};
use crate::core::{Failure, StateName};
use crate::port::advice::{self, advice};
use crate::port::{self, Occupant};
use crate::process::{self, Origin, Remains, Survivor, limits};
use crate::protocol::ReloadReport;
use crate::relay::{MOST_WAITING, Stranger};
use crate::{shell, text};

/// Bytes of the names of holders that are logged: of several there may be many.
const HOLDERS_LENGTH: usize = 2048;

/// A process that an earlier run of portward has started goes on as the tunnel's.
pub(super) fn adopted(entry: &Entry, origin: &Origin) {
    let what = match &entry.desired.work {
        Work::Ssh(_) => "ssh",
        Work::Command(_) => "command",
    };
    log!(
        info,
        entry.identity(),
        event = "adopted",
        pid = origin.pid,
        "took over the {what} with pid {}, which an earlier portward has started",
        origin.pid
    );
}

/// Processes of an earlier run of portward were ended, because no tunnel needs them.
pub(super) fn ended_unwanted(ended: &[Survivor]) {
    if !ended.is_empty() {
        let named = text::excerpt(&process::named(ended), HOLDERS_LENGTH).into_owned();
        tracing::info!(
            event = "adopted",
            "ended what an earlier portward had left and no tunnel needs: {named}"
        );
    }
}

/// Its server listens elsewhere than was asked for.
pub(super) fn listens_elsewhere(entry: &Entry, note: &str) {
    log!(warn, entry.identity(), event = "warning", "{note}");
}

/// Clients were turned away; the tunnel goes on.
pub(super) fn connections_failed(entry: &Entry, failed: &Failed, message: &str) {
    let Failed { count, error, .. } = failed;
    let clients = if *count == 1 { "a connection" } else { &format!("{count} connections") };
    log!(
        warn,
        entry.identity(),
        event = "connection_error",
        error_kind = error.kind.as_str(),
        "{clients} through the tunnel failed: {message}"
    );
}

/// The health checks pass from now on.
pub(super) fn passing(entry: &Entry) {
    let identity = entry.identity();
    let port = identity.port;
    log!(info, identity, event = "health", "the health checks of port {port} pass");
}

/// What is done about a failing tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Marked,
    Held(Duration),
    Restarted,
}

/// So many health checks in a row have failed.
pub(super) fn failing(entry: &Entry, failures: u32, step: Step) {
    let Some(error) = entry.health.as_ref().and_then(|health| health.last_error()) else { return };
    let identity = entry.identity();
    let port = identity.port;
    let failed = match failures {
        1 => "the health check".to_owned(),
        _ => format!("{failures} health checks in a row"),
    };
    let step = match step {
        Step::Marked => "it is left as it is (`action: mark`)".to_owned(),
        Step::Held(wait) => format!(
            "the last restart did not help, and the next one waits for {} s",
            milliseconds(wait) / 1000.0
        ),
        Step::Restarted => "it is restarted".to_owned(),
    };
    log!(
        warn,
        identity,
        event = "health",
        error_kind = error.kind.as_str(),
        "{failed} of port {port} failed: {}; {step}",
        error.message
    );
}

/// Clients of a held listener had waited for as long as they may.
pub(super) fn given_up(tunnel: View<'_>, count: u64) {
    let (entry, identity) = (tunnel.entry, tunnel.entry.identity());
    let clients = if count == 1 { "a client" } else { &format!("{count} clients") };
    let reason = match (tunnel.last_failure(), tunnel.state().0) {
        (Some(failure), _) => format!("the last try failed ({failure})"),
        (None, state) => format!("the tunnel is {state}"),
    };
    log!(
        warn,
        identity,
        event = "clients_given_up",
        "closed {clients} of port {} after {:?} without a connection to the server: {reason}; see `portward status {}`, or \
         set a longer `connect_wait`",
        identity.port,
        entry.desired.clients.connect_wait,
        shell::word(&identity.name)
    );
}

/// A client of a held listener is none of those that may be; `others` are counted, not named.
pub(super) fn denied(entry: &Entry, stranger: &Stranger, others: u64) {
    let identity = entry.identity();
    let Stranger { from, uid, user, pid } = stranger;
    let who = match (uid, user) {
        (Some(uid), Some(user)) => format!("user {user} (uid {uid})"),
        (Some(uid), None) => format!("uid {uid}"),
        (None, _) => "another machine, or another network namespace".to_owned(),
    };
    let process = match (uid, pid) {
        (Some(_), Some(pid)) => format!(", pid {pid},"),
        (Some(_), None) => ", whose process portward may not see or which has ended,".to_owned(),
        (None, _) => String::new(),
    };
    let others = match others {
        0 => String::new(),
        1 => "; another one was closed since the last line about this".to_owned(),
        others => format!("; {others} others were closed since the last line about this"),
    };
    let next = match uid {
        Some(_) => "if that is meant, add the user, or a group of theirs with `@`, to `allow_users`",
        None => "`allow_users` admits processes of this machine only",
    };
    let address = text::line(&from.to_string()).into_owned();
    log!(
        warn,
        identity,
        event = "client_denied",
        "closed a client of port {}, {address} of {who}{process} without passing anything on: {next}{others}",
        identity.port
    );
}

/// There is no room for more clients.
pub(super) fn full(entry: &Entry, clients: usize) {
    let (identity, pid) = (entry.identity(), std::process::id());
    log!(
        warn,
        identity,
        event = "clients_limited",
        "the clients of all tunnels with `listener: portward` are {clients}, as many as the limit of open files has room for; \
         those of port {} that come now are accepted when others end: raise LimitNOFILE= in portward's unit and start it \
         again (`prlimit --pid {pid} --nofile` shows the limit)",
        identity.port
    );
}

/// Clients cannot be accepted or connected for now.
pub(super) fn starved(entry: &Entry, error: &io::Error) {
    let identity = entry.identity();
    let reason = limits::explain(error).unwrap_or_else(|| format!("{error}; it is tried again"));
    log!(
        warn,
        identity,
        event = "clients_limited",
        "clients of port {} are accepted later: {reason}",
        identity.port
    );
}

/// The tunnel needs no connection until a client comes.
fn asleep(entry: &Entry) {
    let identity = entry.identity();
    let Some(on_demand) = entry.desired.policy.on_demand else { return };
    log!(
        info,
        identity,
        state = StateName::Up.as_str(),
        event = "asleep",
        "port {} listens and there is no ssh until a client comes; it is ended {on_demand:?} after the last client \
         (`on_demand`)",
        identity.port
    );
}

/// A client came to a tunnel that was asleep.
fn woken(entry: &Entry, state: StateName) {
    let identity = entry.identity();
    log!(
        info,
        identity,
        state = state.as_str(),
        event = "woken",
        "a client came to port {}, and waits for a connection to the server",
        identity.port
    );
}

/// As many clients wait as may.
pub(super) fn crowded(entry: &Entry) {
    let identity = entry.identity();
    log!(
        warn,
        identity,
        event = "clients_limited",
        "{MOST_WAITING} clients of port {} wait for a connection to the server; others are accepted when these are connected \
         or given up: see `portward status {}`",
        identity.port,
        shell::word(&identity.name)
    );
}

/// The kernel has closed the held listener.
pub(super) fn broken(entry: &Entry, address: SocketAddr, error: &io::Error) {
    log!(
        warn,
        entry.identity(),
        event = "warning",
        "the listener on {address} was closed from outside ({error}), for example by `ss -K`; portward listens again as soon \
         as the port is unbound"
    );
}

/// A login that waited is tried again.
pub(super) fn retried_early(tunnel: View<'_>) {
    let (state, _) = tunnel.state();
    log!(
        info,
        tunnel.entry.identity(),
        state = state.as_str(),
        event = "network",
        "the network changed, or the machine was resumed: the login is tried again now"
    );
}

/// A restart failed, and the old connection stays.
pub(super) fn restart_failed(entry: &Entry, failure: &Failure) {
    log!(
        warn,
        entry.identity(),
        event = "restart_failed",
        error_kind = failure.kind.as_str(),
        "the restart failed and the old connection stays up: {}",
        failure.message
    );
}

/// A person is there to log in.
pub(super) fn attended(entry: &Entry) {
    log!(info, entry.identity(), event = "login", "a person is there to log in");
}

/// The active connection was lost, and the standby connection serves in its place.
pub(super) fn takeover(entry: &Entry) {
    log!(info, entry.identity(), event = "takeover", "the standby connection takes over");
}

/// The standby connection failed, which no client notices.
pub(super) fn standby_failed(entry: &Entry, failure: &Failure) {
    log!(
        warn,
        entry.identity(),
        event = "standby_failed",
        error_kind = failure.kind.as_str(),
        "the standby connection failed; the tunnel itself is not affected: {}",
        failure.message
    );
}

/// What changed for a tunnel between `before` and now.
pub(super) fn transition(tunnel: View<'_>, before: &Told, now: Moment) {
    let entry = tunnel.entry;
    let ((old, entered), (new, _)) = (before.state, tunnel.state());
    let failure = tunnel.last_failure();
    if let Some(failure) = failure
        && before.last_failure.as_ref() != Some(failure)
    {
        self::failure(entry, failure, new);
    }
    let holders = tunnel.holders();
    if !holders.is_empty() && holders != before.holders {
        waiting(entry, holders);
    }
    if old == new && new == StateName::Up && before.last_failure.is_some() && failure.is_none() {
        log!(
            info,
            entry.identity(),
            state = new.as_str(),
            event = "continued",
            "it continues without a restart"
        );
    }
    match (before.is_asleep, tunnel.is_asleep()) {
        (false, true) => asleep(entry),
        (true, false) if new == StateName::Connecting => woken(entry, new),
        (false, false) | (true, _) => {}
    }
    if old != new {
        self::entered(tunnel, new, milliseconds(now.since(entered)));
    }
}

fn failure(entry: &Entry, failure: &Failure, state: StateName) {
    let (identity, error_kind, message) = (entry.identity(), failure.kind.as_str(), &failure.message);
    if state == StateName::Failed {
        log!(
            error,
            identity,
            state = state.as_str(),
            event = "failure",
            error_kind,
            "{message}; retrying would not help: fix it, then `portward start {}`",
            shell::word(&identity.name)
        );
    } else {
        log!(warn, identity, state = state.as_str(), event = "failure", error_kind, "{message}");
    }
}

fn waiting(entry: &Entry, held_by: &[Occupant]) {
    let identity = entry.identity();
    let holder_pid = held_by.iter().find_map(|occupant| occupant.holder.as_ref()?.pid);
    let now = Timestamp::now();
    let mut told = None;
    let reason = |occupant: &Occupant| {
        let predicate = advice::predicate(occupant, now);
        // Of a range, several may be held.
        let is_told = told.replace(occupant.port) == Some(occupant.port);
        if is_told { predicate } else { format!("{} {predicate}", occupant.place()) }
    };
    let reasons: Vec<_> = held_by.iter().map(reason).collect();
    let steps: Vec<_> = held_by.iter().map(|occupant| advice(occupant).to_string()).collect();
    log!(
        warn,
        identity,
        state = StateName::AwaitingPort.as_str(),
        event = "held",
        holder_pid,
        "{}; the tunnel comes up as soon as it is free: {}",
        text::excerpt(&reasons.join(" and "), HOLDERS_LENGTH),
        text::excerpt(&steps.join("; "), HOLDERS_LENGTH)
    );
}

/// `duration_ms` is the time spent in the state before.
fn entered(tunnel: View<'_>, state: StateName, duration_ms: f64) {
    let (identity, word) = (tunnel.entry.identity(), state.as_str());
    match state {
        // What it does instead is told by `asleep`.
        StateName::Up if tunnel.is_asleep() => {}
        StateName::Up => {
            log!(info, identity, state = word, event = "state", duration_ms, "up: {}", serves(tunnel));
        }
        StateName::Stopped => {
            let left = left(tunnel.link.connections.left());
            if left.is_empty() {
                let left = "nothing of it is left";
                log!(info, identity, state = word, event = "state", duration_ms, "stopped; {left}");
            } else {
                log!(warn, identity, state = word, event = "state", duration_ms, "stopped; {left}");
            }
        }
        StateName::NeedsAuth => {
            let name = shell::word(&identity.name);
            let needs = "needs a person to log in";
            log!(
                info,
                identity,
                state = word,
                event = "state",
                duration_ms,
                "{needs}: `portward auth {name}`"
            );
        }
        StateName::AwaitingPort
        | StateName::Connecting
        | StateName::Forwarding
        | StateName::Replacing
        | StateName::Stopping
        | StateName::Backoff
        | StateName::Failed => {
            log!(debug, identity, state = word, event = "state", duration_ms, "{word}");
        }
    }
}

/// What runs on after a stop; empty if nothing does.
fn left(remains: &Remains) -> String {
    let mut texts = Vec::new();
    if !remains.forbidden.is_empty() {
        let who = process::named(&remains.forbidden);
        texts.push(format!("{who} runs on, which portward's user may not signal: end it as root"));
    }
    if !remains.unknown.is_empty() {
        let who = process::named(&remains.unknown);
        texts.push(format!(
            "{who} runs on, which this tunnel or another one has started: it shows no more which"
        ));
    }
    if remains.holds_output {
        texts.push(
            "something has its output open still, and may be a process of it that does not show where it comes from: see \
             `ps -e --forest`"
                .to_owned(),
        );
    }
    texts.join("; ")
}

/// What an up tunnel does, from the listener to the target.
fn serves(tunnel: View<'_>) -> String {
    let here = port::concise(&tunnel.entry.listeners).join(", ");
    match &*tunnel.work() {
        Work::Command(tunnel) => format!("{} listens on {here}", tunnel.argv[0]),
        Work::Ssh(tunnel) => match &tunnel.forward {
            Forward::Local { target, .. } => {
                format!("{here} -> {target} at {}", tunnel.ssh.destination)
            }
            Forward::Dynamic { .. } => format!("{here} is a SOCKS proxy through {}", tunnel.ssh.destination),
            Forward::Socket { listen, target } => {
                format!("{} -> {target} at {}", listen.path.display(), tunnel.ssh.destination)
            }
            Forward::Remote { listen: RemoteListen::Socket(path), target } => {
                format!("{} listens on {} -> {target}", tunnel.ssh.destination, path.display())
            }
            Forward::Remote { listen: RemoteListen::Ports { ports, .. }, target } => format!(
                "{} listens on port {ports}, on the addresses that its sshd chooses (`ss -ltn 'sport = :{}'` there shows \
                 them) -> {target}",
                tunnel.ssh.destination,
                ports.first()
            ),
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
    if let Some(error) = &report.error {
        tracing::error!(
            event = "reload",
            "the configuration has errors: {} run as before, or not at all, and nothing is removed until it is valid:\n{error}",
            report.broken.join(", ")
        );
    }
}
