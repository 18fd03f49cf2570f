//! One tunnel as the event loop keeps it.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::checks::Checks;
use super::counts::Counts;
use super::effects::TunnelResources;
use super::held::HeldListener;
use super::hook::Hook;
use super::links::LinkEntry;
use super::remote_port;
use super::reporter::{Failed, Identity};
use crate::clock::{Clock, Moment};
use crate::config::desired::{self, Work};
use crate::core::{ConnectionId, Failure, Health, LinkId, Request, Slot, StateName, TunnelState};
use crate::port::Occupant;
use crate::protocol::{
    ConnectionErrors, ConnectionWord, FailedConnection, Took, TunnelHealth, TunnelStatus, autossh_tunnel,
};

/// A tunnel: what is desired, and its resources. Its state is with its link.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) desired: desired::Tunnel,
    pub(super) link: LinkId,
    pub(super) resources: TunnelResources,
    pub(super) phases: Phases,
    /// Processes started so far.
    pub(super) starts: u64,
    /// Gone from the configuration: forgotten as soon as it is stopped.
    pub(super) removed: bool,
    /// What is wrong with its entry of the file as it stands; the tunnel goes on as it was.
    pub(super) config_error: Option<String>,
    pub(super) counts: Counts,
    /// What it listens on, as the kernel showed it last.
    pub(super) listeners: Vec<SocketAddr>,
    /// Where the server of a connection listens for it, as far as that is known.
    pub(super) server_listens: Option<(ConnectionId, Vec<SocketAddr>)>,
    /// Connections of its clients that failed.
    pub(super) connection_errors: Option<ConnectionErrors>,
    /// What its health checks have shown; `None`: it has none. Boxed, for most tunnels have none.
    pub(super) health: Option<Box<Health>>,
    pub(super) checks: Checks,
    pub(super) hook: Hook,
    /// What the log has told of its state.
    pub(super) told: Told,
    /// The status that was told last; `None` before that, and when the tunnel is in the status no more.
    pub(super) published: Option<Arc<TunnelStatus>>,
}

impl Entry {
    pub(super) fn identity(&self) -> Identity {
        self.resources.reporter().identity()
    }

    /// Where it is kept; its link knows it by the same number.
    pub(super) fn slot(&self) -> Slot {
        self.resources.slot()
    }

    /// A connection is made for it; `failure` is what it met last.
    pub(super) fn note_start(&mut self, failure: Option<&Failure>) {
        self.starts += 1;
        // The connection that a client needs is no restart.
        if self.starts > 1 && !self.told.is_asleep {
            self.counts.note_restart(failure);
        }
    }

    pub(super) fn note_failed_connections(&mut self, failed: &Failed, message: String, clock: &Clock) {
        let before = self.connection_errors.as_ref().map_or(0, |errors| errors.count);
        let at = clock.timestamp(clock.moment(failed.at));
        let last = FailedConnection { at, kind: failed.error.kind, message };
        self.connection_errors = Some(ConnectionErrors { count: before + failed.count, last });
    }
}

/// A tunnel together with its link.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'s> {
    pub(super) entry: &'s Entry,
    pub(super) link: &'s LinkEntry,
}

impl View<'_> {
    /// The word for its state, and when that was entered.
    pub(super) fn state(&self) -> (StateName, Moment) {
        self.link.link.state(self.entry.slot())
    }

    /// The last failure, until it is up or stopped.
    pub(super) fn last_failure(&self) -> Option<&Failure> {
        self.link.link.last_failure(self.entry.slot())
    }

    /// Who holds the port that it waits for.
    pub(super) fn holders(&self) -> &[Occupant] {
        self.link.link.holders(self.entry.slot())
    }

    /// The connection that listens for it, and the request that made it listen.
    pub(super) fn listening(&self) -> Option<(ConnectionId, Request)> {
        self.link.link.listening(self.entry.slot())
    }

    /// Whether it is up without a connection, which is made when a client comes.
    pub(super) fn is_asleep(&self) -> bool {
        self.link.link.is_asleep(self.entry.slot())
    }

    /// Whether it is to be up, whatever its state.
    pub(super) fn is_wanted(&self) -> bool {
        self.link.link.is_wanted(self.entry.slot())
    }

    /// The fallback host that it is connected to, or on its way to.
    fn fallback_host(&self) -> Option<&str> {
        let index = self.link.link.destination(self.entry.slot()).checked_sub(1)?;
        self.entry.desired.fallback_hosts.get(index).map(String::as_str)
    }

    /// What it runs, with the destination that it is connected to, or on its way to.
    pub(super) fn work(&self) -> Cow<'_, Work> {
        self.entry.desired.work_at(self.link.link.destination(self.entry.slot()))
    }

    /// What a person should know of where its server listens.
    pub(super) fn note(&self) -> Option<String> {
        let listens = self.entry.server_listens.as_ref();
        let listens =
            listens.filter(|(on, _)| self.listening().is_some_and(|(connection, _)| connection == *on));
        remote_port::note(&self.work(), listens.map(|(_, addresses)| &addresses[..]))
    }

    /// Whether nothing of it runs, no health check either.
    pub(super) fn rests(&self) -> bool {
        matches!(self.state().0, StateName::Stopped | StateName::NeedsAuth) && self.entry.checks.is_over()
    }

    /// How many tunnels use its connections; `None`: it shares none.
    fn shared_by(&self) -> Option<usize> {
        self.entry.desired.share.then(|| self.link.link.slots().len())
    }

    pub(super) fn status(&self, clock: &Clock) -> TunnelStatus {
        let Self { entry, link: LinkEntry { link, connections } } = self;
        let (slot, (state, since)) = (entry.slot(), self.state());
        let listens = state.is_up();
        // What it shares its connection with may have that still.
        let process = link.process(slot).filter(|_| state != StateName::Stopped);
        let written = entry.desired.written.clone();
        let held = entry.resources.held();
        TunnelStatus {
            name: entry.desired.name.clone(),
            status: autossh_tunnel::Status::of(state),
            local_port: written.local_port,
            remote_host: written.remote_host,
            remote_port: written.remote_port,
            hash: entry.desired.hash.clone(),
            log_id: entry.desired.log_id.clone(),
            state,
            direction: written.direction,
            interactive: entry.desired.interactive,
            pid: process.and_then(|connection| connections.pid(connection)),
            shared_by: self.shared_by(),
            since: clock.timestamp(since),
            restarts: entry.starts.saturating_sub(1),
            last_error: self.last_failure().cloned(),
            config_error: entry.config_error.clone(),
            holder: self.holders().iter().find_map(|occupant| occupant.holder.clone()),
            held_by: self.holders().to_vec(),
            // portward's own listener is there whatever the state.
            listeners: if listens || held.is_some() { entry.listeners.clone() } else { Vec::new() },
            note: listens.then(|| self.note()).flatten(),
            connection_errors: entry.connection_errors.clone(),
            standby: link.standby(),
            draining: link.draining(),
            connection: link.is_asleep(slot).then_some(ConnectionWord::Asleep),
            destination: self.fallback_host().map(str::to_owned),
            health: entry.health.as_ref().map(|health| TunnelHealth {
                state: health.state(),
                failures: health.failures(),
                last_error: health.last_error().cloned(),
                checked: health.checked().map(|checked| clock.timestamp(checked)),
            }),
            clients: held.map(HeldListener::clients),
        }
    }
}

/// The state whose changes are logged.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) state: (StateName, Moment),
    pub(super) last_failure: Option<Failure>,
    pub(super) holders: Vec<Occupant>,
    pub(super) is_asleep: bool,
}

impl Told {
    /// Nothing has happened to the tunnel before `state`.
    pub(super) fn new(state: (StateName, Moment)) -> Self {
        Self { state, last_failure: None, holders: Vec::new(), is_asleep: false }
    }

    /// How a tunnel is.
    pub(super) fn of(tunnel: &TunnelState<'_>) -> Self {
        Self {
            state: tunnel.state,
            last_failure: tunnel.last_failure.cloned(),
            holders: tunnel.holders.to_vec(),
            is_asleep: tunnel.is_asleep,
        }
    }

    /// Whether this is how the tunnel is.
    pub(super) fn is_of(&self, tunnel: &TunnelState<'_>) -> bool {
        self.state == tunnel.state
            && self.last_failure.as_ref() == tunnel.last_failure
            && self.holders == tunnel.holders
            && self.is_asleep == tunnel.is_asleep
    }
}

/// When the latest connection reached what, for the answer to a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Phases {
    connection: ConnectionId,
    request: Request,
    started: Option<Moment>,
    ready: Option<Moment>,
    requested: Option<Moment>,
    listening: Option<Moment>,
}

impl Phases {
    /// A connection is started for the tunnel.
    pub(super) fn note_start(&mut self, connection: ConnectionId, now: Moment) {
        *self = Self { connection, started: Some(now), ..Self::default() };
    }

    /// The connection is ready; when it was started, if it was started for this tunnel.
    pub(super) fn note_ready(&mut self, connection: ConnectionId, now: Moment) -> Option<Moment> {
        if connection != self.connection {
            return None;
        }
        self.ready = Some(now);
        self.started
    }

    /// The connection is asked to listen; whether it is a newer one, and was started for other tunnels.
    pub(super) fn note_open(&mut self, connection: ConnectionId, request: Request, now: Moment) -> bool {
        let is_newer = connection > self.connection;
        if is_newer {
            *self = Self { connection, ..Self::default() };
        }
        if connection == self.connection {
            (self.request, self.requested) = (request, Some(now));
        }
        is_newer
    }

    pub(super) fn note_opened(&mut self, request: Request, now: Moment) {
        if request == self.request {
            self.listening = Some(now);
        }
    }

    /// The length of each phase since `asked`; zero if no connection had to be made.
    pub(super) fn took(&self, asked: Moment, now: Moment) -> Took {
        let total_ms = milliseconds(now.since(asked));
        if self.started < Some(asked) {
            return Took { total_ms, ..Took::default() };
        }
        Took {
            connect_ms: between(self.started, self.ready),
            release_ms: between(self.ready, self.requested),
            forward_ms: between(self.requested, self.listening),
            total_ms,
        }
    }
}

/// Zero if the phase was not gone through.
fn between(from: Option<Moment>, to: Option<Moment>) -> f64 {
    match (from, to) {
        (Some(from), Some(to)) => milliseconds(to.since(from)),
        _ => 0.0,
    }
}

/// In milliseconds, to the microsecond.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
