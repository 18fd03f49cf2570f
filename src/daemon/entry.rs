//! One tunnel as the event loop keeps it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::effects::Outside;
use super::tell::{Failed, Identity};
use crate::clock::{Clock, Moment};
use crate::config::desired::{self, Forward, SshTunnel, Work};
use crate::protocol::{ConnectionErrors, FailedConnection, Took, TunnelStatus, autossh_tunnel};
use crate::tunnel::{Action, Event, Generation, StateName, Tunnel};

/// A tunnel's wish, its state and its outside.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) desired: desired::Tunnel,
    pub(super) tunnel: Tunnel,
    pub(super) outside: Outside,
    pub(super) phases: Phases,
    /// Processes started so far.
    pub(super) starts: u64,
    /// Gone from the configuration: forgotten as soon as it is stopped.
    pub(super) removed: bool,
    /// What it listens on, as the kernel showed it last.
    pub(super) listeners: Vec<SocketAddr>,
    /// Connections of its clients that failed.
    pub(super) connection_errors: Option<ConnectionErrors>,
    /// The status that was told last; `None` before that, and when the tunnel is in the status no more.
    pub(super) published: Option<Arc<TunnelStatus>>,
}

impl Entry {
    pub(super) fn identity(&self) -> Identity {
        self.outside.teller().identity()
    }

    pub(super) fn status(&self, clock: &Clock) -> TunnelStatus {
        let state = self.tunnel.name();
        let listens = matches!(state, StateName::Up | StateName::Replacing);
        let written = self.desired.written.clone();
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
            pid: self.tunnel.process().and_then(|generation| self.outside.pid(generation)),
            since: clock.timestamp(self.tunnel.entered()),
            restarts: self.starts.saturating_sub(1),
            last_error: self.tunnel.last_failure().cloned(),
            holder: self.tunnel.holders().iter().find_map(|occupant| occupant.holder.clone()),
            held_by: self.tunnel.holders().to_vec(),
            listeners: if listens { self.listeners.clone() } else { Vec::new() },
            note: listens.then(|| unseen(&self.desired.work)).flatten(),
            connection_errors: self.connection_errors.clone(),
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
    let Work::Ssh(SshTunnel { destination, forward: Forward::Remote { bind: Some(bind), port, .. }, .. }) =
        work
    else {
        return None;
    };
    let is_loopback = bind == "localhost" || bind.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    (!is_loopback).then(|| {
        format!(
            "{destination} took the request to listen on {bind} port {port}, and does not say where it listens: with \
             `GatewayPorts no`, sshd's default, on its loopback only. See `ss -ltn 'sport = :{port}'` there; \
             `GatewayPorts clientspecified` in its sshd_config makes it follow"
        )
    })
}

/// When the latest process reached what, for the answer to a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Phases {
    generation: Generation,
    started: Option<Moment>,
    ready: Option<Moment>,
    requested: Option<Moment>,
    listening: Option<Moment>,
}

impl Phases {
    pub(super) fn note_action(&mut self, action: &Action, now: Moment) {
        match action {
            Action::StartProcess(generation) => {
                *self = Self { generation: *generation, started: Some(now), ..Self::default() };
            }
            Action::RequestForward(generation) if *generation == self.generation => {
                self.requested = Some(now);
            }
            Action::RequestForward(_)
            | Action::ExplainDelay(_)
            | Action::ConfirmPort(_)
            | Action::AbandonPort(_)
            | Action::CloseForward(_)
            | Action::Terminate(_)
            | Action::Kill(_)
            | Action::FindSurvivors(_)
            | Action::TerminateHolders(_)
            | Action::KillHolders(_)
            | Action::Arm(..)
            | Action::Disarm(_)
            | Action::ReportRestartFailed(_) => {}
        }
    }

    pub(super) fn note_event(&mut self, event: &Event, now: Moment) {
        match event {
            Event::ProcessReady(generation) if *generation == self.generation => self.ready = Some(now),
            Event::ForwardListening(generation) if *generation == self.generation => {
                self.listening = Some(now);
            }
            Event::ProcessReady(_)
            | Event::ForwardListening(_)
            | Event::StartRequested
            | Event::StopRequested
            | Event::RestartRequested
            | Event::PolicyChanged
            | Event::PortUnbound(_)
            | Event::PortHeld(..)
            | Event::HoldersSpared(..)
            | Event::PortUnusable(..)
            | Event::NotReady(..)
            | Event::LeaderEnded(..)
            | Event::ProcessEnded(..)
            | Event::ProcessSurvived(..)
            | Event::ProcessStopped(..)
            | Event::ProcessContinued(_)
            | Event::ProcessMoved(_)
            | Event::ForwardRefused(..)
            | Event::ForwardClosed(_)
            | Event::ListenerLost(_)
            | Event::DeadlinePassed(_) => {}
        }
    }

    /// The length of each phase since `asked`; zero if no process had to be started.
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
