//! The start of an ssh: what it would do is asked first, off the event loop.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::mpsc;

use super::attempt::{Attempt, Order};
use super::launch::Launch;
use super::reporter::Report;
use crate::config::desired::SshTunnel;
use crate::core::{ConnectionEvent, Failure, FailureKind};
use crate::port::Endpoint;
use crate::process::{self, SpawnError};
use crate::ssh::{self, ControlSocket, Plan, SocketMade};

/// The start of an ssh: it is asked what it would do, unless that is known already, and then started.
pub(super) struct SshStart {
    pub(super) launch: Launch,
    /// Set to the endpoints that it will listen on, once that is known.
    pub(super) endpoints: Arc<OnceLock<Vec<Endpoint>>>,
    pub(super) connect_timeout: Duration,
    /// What it said it would do, if that is still fresh.
    pub(super) plan: Option<Plan>,
}

impl SshStart {
    /// Starts it and looks after it until it has ended.
    pub(super) async fn run(
        self,
        mut attempt: Attempt,
        tunnel: SshTunnel,
        control: (ControlSocket, SocketMade),
        orders: mpsc::UnboundedReceiver<Order>,
    ) {
        let Self { launch, endpoints, connect_timeout, plan } = self;

        let made = async {
            match plan {
                Some(plan) => plan,
                None => Plan::make(&tunnel).await,
            }
        };
        let plan = tokio::select! {
            plan = made => plan,
            () = launch.cancelled() => return attempt.report(ConnectionEvent::Ended(cancelled())),
        };
        let usable = match plan.endpoints(tunnel.listens(), &tunnel.destination) {
            Ok(allowed) => endpoints.get_or_init(|| attempt.ports.usable(&allowed)).clone(),
            Err(failure) => return attempt.report(ConnectionEvent::Ended(failure)),
        };
        let started = launch.start(|| {
            let what = format!("{} to {}", tunnel.program.display(), tunnel.destination);
            attempt.reporter.starting(&what);
            let process = process::spawn(ssh::command(&tunnel, control.0.path(), &plan, connect_timeout))?;
            let tree = process.0.tree();
            Ok::<_, SpawnError>((process, tree))
        });
        match started {
            Some(Ok(process)) => {
                attempt.reporter.send(Report::ProcessChanged);
                attempt.endpoints = usable;
                attempt.run_ssh(tunnel, process, control, orders).await;
            }
            Some(Err(error)) => attempt.report(ConnectionEvent::Ended(error.failure())),
            None => attempt.report(ConnectionEvent::Ended(cancelled())),
        }
    }
}

/// Nobody reads it: whoever told a process to end before it was started waits for nothing but its end.
fn cancelled() -> Failure {
    Failure::new(FailureKind::Exited, "ssh was told to end before it was started")
}
