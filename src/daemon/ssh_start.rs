//! The start of an ssh: what it would do is asked first, off the event loop.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::mpsc;

use super::attempt::{Attempt, Attendance, Inherited, Order, SocketsAtLogin, SshAttempt};
use super::launch::Launch;
use super::logins::Attended;
use super::reporter::LinkReport;
use crate::config::desired::Ssh;
use crate::core::{ConnectionEvent, Failure, FailureKind};
use crate::process::{self, Says, SpawnError};
use crate::ssh::{self, AddressFamily, ControlSocket, Forwarding, Plan, SocketMade};

/// The start of an ssh: it is asked what it would do, unless that is known already, and then started.
pub(super) struct SshStart {
    pub(super) ssh: Ssh,
    pub(super) launch: Launch,
    /// Set once it is known what it will listen on.
    pub(super) family: Arc<OnceLock<AddressFamily>>,
    pub(super) at_login: SocketsAtLogin,
    pub(super) connect_timeout: Duration,
    /// What it said it would do, if that is still fresh.
    pub(super) plan: Option<Plan>,
    /// Digest of its settings, for its record.
    pub(super) settings: String,
    /// What it may be asked to forward.
    pub(super) planned: Vec<Forwarding>,
    /// The login that a person attends.
    pub(super) attended: Option<Attended>,
}

impl SshStart {
    /// Starts it and looks after it until it has ended.
    pub(super) async fn run(
        self,
        attempt: Attempt,
        (control, made): (ControlSocket, SocketMade),
        orders: mpsc::UnboundedReceiver<Order>,
    ) {
        let Self { ssh, launch, family, at_login, connect_timeout, plan, settings, planned, attended } = self;
        let making = async {
            match plan {
                Some(plan) => plan,
                None => Plan::make(&ssh).await,
            }
        };
        let plan = tokio::select! {
            plan = making => plan,
            () = launch.cancelled() => return attempt.report(ConnectionEvent::Ended(cancelled())),
        };
        let family = *family.get_or_init(|| plan.address_family());
        let started = launch.start(|| {
            let what = format!("{} to {}", ssh.program.display(), ssh.destination);
            attempt.reporter.starting(&what);
            let askpass = attended.as_ref().map(|attended| &attended.askpass);
            let process = process::spawn_saying(
                ssh::asking(&ssh, control.path(), &plan, connect_timeout, askpass),
                Says::WhatFits,
            )?;
            let tree = process.0.tree();
            Ok::<_, SpawnError>((process, tree))
        });
        // It is some kilobytes, and not needed any more.
        drop(plan);
        match started {
            Some(Ok(process)) => {
                attempt.reporter.send(LinkReport::ProcessChanged);
                let inherited = Inherited::default();
                let record = attempt.ssh_record(settings, &process, control.path(), (family, planned));
                let attendance = match attended {
                    Some(attended) => Attendance::Needed(Some(attended.updates)),
                    None => Attendance::NotNeeded,
                };
                let of_ssh = SshAttempt { ssh, family, control, at_login, attendance, inherited };
                attempt.run_ssh(of_ssh, record, process, made, orders).await;
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
