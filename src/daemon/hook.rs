//! `on_change`: a program that is run when the state of a tunnel has changed. One at a time for each tunnel, and one a second at most: of
//! what changes meanwhile, the program is told the last.

use std::process::Command;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::reporter::{Reporter, TunnelReport};
use crate::core::{CheckError, Slot, StateName};
use crate::health::run_program;
use crate::process::Pace;
use crate::protocol::TunnelStatus;

/// A program that has not ended by then is killed, with all that it has started.
const PATIENCE: Duration = Duration::from_secs(30);

/// At the end of portward, which waits for the programs.
const PATIENCE_AT_THE_END: Duration = Duration::from_secs(5);

/// From one start to the next.
const EVERY: Duration = Duration::from_secs(1);

/// What a program is run with.
#[derive(Debug)]
pub(super) struct Means {
    pub(super) pace: Pace,
    /// Whether portward ends.
    pub(super) ending: watch::Receiver<bool>,
}

/// The programs of one tunnel.
#[derive(Debug, Default)]
pub(super) struct Hook {
    /// The state that was told last, or will be told next.
    told: Option<StateName>,
    runs: bool,
    /// What is to be told when the program that runs has ended.
    next: Option<Command>,
    /// When the next one may be started.
    not_before: Option<Instant>,
}

impl Hook {
    /// Whether no program runs, and none is to be run.
    pub(super) fn is_over(&self) -> bool {
        !self.runs && self.next.is_none()
    }

    /// The tunnel may have changed: tells its program `argv`.
    pub(super) fn note(
        &mut self,
        argv: &[String],
        status: &TunnelStatus,
        reporter: &Reporter<Slot>,
        means: Means,
    ) {
        if is_passing(status) || self.told == Some(status.state) {
            return;
        }
        self.next = Some(program(argv, status, self.told));
        self.told = Some(status.state);
        self.start(reporter, means);
    }

    /// Nothing is left of the program that ran.
    pub(super) fn over(&mut self, reporter: &Reporter<Slot>, means: Means) {
        self.runs = false;
        self.start(reporter, means);
    }

    /// Starts what is to be told next, unless one runs.
    fn start(&mut self, reporter: &Reporter<Slot>, Means { pace, mut ending }: Means) {
        if self.runs {
            return;
        }
        let Some(command) = self.next.take() else { return };
        self.runs = true;
        let begins = self.not_before.map_or_else(Instant::now, |earliest| earliest.max(Instant::now()));
        self.not_before = Some(begins + EVERY);
        let reporter = reporter.clone();
        tokio::spawn(async move {
            sleep_until(begins).await;
            let report = |result: Result<(), CheckError>| {
                if let Err(error) = result {
                    reporter.warn(&format!("on_change: {}", error.message));
                }
            };
            let at_the_end = async {
                if ending.wait_for(|ends| *ends).await.is_ok() {
                    sleep(PATIENCE_AT_THE_END).await;
                }
            };
            run_program(command, PATIENCE, &pace, at_the_end, report).await;
            reporter.send(TunnelReport::HookOver);
        });
    }
}

/// Whether the state is one that every start and restart goes through: nobody is told of those.
fn is_passing(status: &TunnelStatus) -> bool {
    match status.state {
        StateName::AwaitingPort => status.held_by.is_empty(),
        StateName::Connecting | StateName::Forwarding | StateName::Replacing | StateName::Stopping => true,
        StateName::Stopped
        | StateName::Up
        | StateName::Backoff
        | StateName::Failed
        | StateName::NeedsAuth => false,
    }
}

/// The program, with the facts in its environment. What there is not is not set.
fn program(argv: &[String], status: &TunnelStatus, previous: Option<StateName>) -> Command {
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]);
    let error = status.last_error.as_ref();
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let facts = [
        ("PORTWARD_TUNNEL", text(&status.name)),
        ("PORTWARD_HASH", text(&status.hash)),
        ("PORTWARD_STATE", Some(status.state.to_string())),
        ("PORTWARD_PREVIOUS_STATE", previous.map(|state| state.to_string())),
        ("PORTWARD_LISTEN", status.listeners.first().map(ToString::to_string)),
        ("PORTWARD_LOCAL_PORT", text(&status.local_port)),
        ("PORTWARD_REMOTE_HOST", text(&status.remote_host)),
        ("PORTWARD_REMOTE_PORT", text(&status.remote_port)),
        ("PORTWARD_ERROR_KIND", error.map(|error| error.kind.as_str().to_owned())),
        ("PORTWARD_ERROR", error.map(|error| error.message.clone())),
        ("PORTWARD_HOLDER_PID", status.holder.as_ref().and_then(|holder| Some(holder.pid?.to_string()))),
    ];
    for (name, value) in facts {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}
