//! One tunnel as the event loop keeps it.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::checks::Checks;
use super::effects::TunnelResources;
use super::held::HeldListener;
use super::reporter::{Failed, Identity};
use crate::clock::{Clock, Moment};
use crate::config::desired::{self, Forward, RemoteListen, SshTunnel, Work};
use crate::core::{
    Action, ConnectionEvent, ConnectionId, Event, ForwardEvent, Health, Link, Request, Slot, StateName,
};
use crate::protocol::{ConnectionErrors, FailedConnection, Took, TunnelHealth, TunnelStatus, autossh_tunnel};

/// A tunnel: what is desired, its state and its resources.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) desired: desired::Tunnel,
    pub(super) link: Link,
    pub(super) resources: TunnelResources,
    pub(super) phases: Phases,
    /// Processes started so far.
    pub(super) starts: u64,
    /// Gone from the configuration: forgotten as soon as it is stopped.
    pub(super) removed: bool,
    /// What it listens on, as the kernel showed it last.
    pub(super) listeners: Vec<SocketAddr>,
    /// Connections of its clients that failed.
    pub(super) connection_errors: Option<ConnectionErrors>,
    /// What its health checks have shown; `None`: it has none. Boxed, for most tunnels have none.
    pub(super) health: Option<Box<Health>>,
    pub(super) checks: Checks,
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

    /// The word for its state, and when that was entered.
    pub(super) fn state(&self) -> (StateName, Moment) {
        self.link.state(self.slot())
    }

    /// The fallback host that it is connected to, or on its way to.
    fn fallback_host(&self) -> Option<&str> {
        let index = self.link.destination().checked_sub(1)?;
        self.desired.fallback_hosts.get(index).map(String::as_str)
    }

    /// What it runs, with the destination that it is connected to, or on its way to.
    pub(super) fn work(&self) -> Cow<'_, Work> {
        self.desired.work_at(self.link.destination())
    }

    /// Whether nothing of it runs, no health check either.
    pub(super) fn rests(&self) -> bool {
        matches!(self.state().0, StateName::Stopped | StateName::NeedsAuth) && self.checks.is_over()
    }

    pub(super) fn status(&self, clock: &Clock) -> TunnelStatus {
        let (slot, (state, since)) = (self.slot(), self.state());
        let listens = matches!(state, StateName::Up | StateName::Replacing);
        let written = self.desired.written.clone();
        let held = self.resources.held();
        TunnelStatus {
            name: self.desired.name.clone(),
            status: autossh_tunnel::Status::of(state),
            local_port: written.local_port,
            remote_host: written.remote_host,
            remote_port: written.remote_port,
            hash: self.desired.hash.clone(),
            log_id: self.desired.log_id.clone(),
            state,
            direction: written.direction,
            interactive: self.desired.interactive,
            pid: self.link.process().and_then(|connection| self.resources.pid(connection)),
            since: clock.timestamp(since),
            restarts: self.starts.saturating_sub(1),
            last_error: self.link.last_failure(slot).cloned(),
            holder: self.link.holders(slot).iter().find_map(|occupant| occupant.holder.clone()),
            held_by: self.link.holders(slot).to_vec(),
            // portward's own listener is there whatever the state.
            listeners: if listens || held.is_some() { self.listeners.clone() } else { Vec::new() },
            note: listens.then(|| unseen(&self.work())).flatten(),
            connection_errors: self.connection_errors.clone(),
            standby: self.link.standby(),
            draining: self.link.draining(),
            destination: self.fallback_host().map(str::to_owned),
            health: self.health.as_ref().map(|health| TunnelHealth {
                state: health.state(),
                failures: health.failures(),
                last_error: health.last_error().cloned(),
                checked: health.checked().map(|checked| clock.timestamp(checked)),
            }),
            clients: held.map(HeldListener::clients),
        }
    }

    /// Takes over what the connection that serves it listens on.
    pub(super) fn note_listeners(&mut self) {
        if let Some(held) = self.resources.held() {
            self.listeners = held.addresses().to_vec();
        } else if let Some((connection, _)) = self.link.listening(self.slot()) {
            let listeners = self.resources.listeners(connection);
            self.listeners = listeners.iter().map(|listener| listener.address).collect();
        }
    }

    pub(super) fn note_failed_connections(&mut self, failed: &Failed, clock: &Clock) {
        let before = self.connection_errors.as_ref().map_or(0, |errors| errors.count);
        let last = FailedConnection {
            at: clock.timestamp(clock.moment(failed.at)),
            kind: failed.kind,
            message: failed.message.clone(),
        };
        self.connection_errors = Some(ConnectionErrors { count: before + failed.count, last });
    }
}

/// What cannot be seen from here of a tunnel that is up.
fn unseen(work: &Work) -> Option<String> {
    let Work::Ssh(SshTunnel {
        destination,
        forward: Forward::Remote { listen: RemoteListen::Ports { bind: Some(bind), ports }, .. },
        ..
    }) = work
    else {
        return None;
    };
    let is_loopback = bind == "localhost" || bind.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    (!is_loopback).then(|| {
        format!(
            "{destination} took the request to listen on {bind} port {ports}, and does not say where it listens: with \
             `GatewayPorts no`, sshd's default, on its loopback only. See `ss -ltn 'sport = :{}'` there; \
             `GatewayPorts clientspecified` in its sshd_config makes it follow",
            ports.first()
        )
    })
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
    pub(super) fn note_action(&mut self, action: &Action, now: Moment) {
        match action {
            Action::StartConnection(connection, _) => {
                *self = Self { connection: *connection, started: Some(now), ..Self::default() };
            }
            Action::OpenForward(_, request, connection) if *connection == self.connection => {
                (self.request, self.requested) = (*request, Some(now));
            }
            Action::OpenForward(..)
            | Action::ExplainDelay(_)
            | Action::Probe(_)
            | Action::ConfirmPort(..)
            | Action::AbandonPort(..)
            | Action::CloseForward(..)
            | Action::AwaitClients(_)
            | Action::Terminate(_)
            | Action::Kill(_)
            | Action::FindSurvivors(_)
            | Action::TerminateHolders(..)
            | Action::KillHolders(..)
            | Action::ReportReplacementFailed(_)
            | Action::ReportTakeover(_)
            | Action::ReportStandbyFailed(_) => {}
        }
    }

    pub(super) fn note_event(&mut self, event: &Event, now: Moment) {
        match event {
            Event::Connection(connection, ConnectionEvent::Ready) if *connection == self.connection => {
                self.ready = Some(now);
            }
            Event::Forward(request, ForwardEvent::Opened) if *request == self.request => {
                self.listening = Some(now);
            }
            Event::Connection(..)
            | Event::Forward(..)
            | Event::StartRequested(_)
            | Event::StopRequested(_)
            | Event::RestartRequested(_)
            | Event::PolicyChanged(..)
            | Event::NetworkChanged
            | Event::DeadlinePassed => {}
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
