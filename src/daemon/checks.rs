//! The health checks of one tunnel as tasks: one at a time, and none is left when the tunnel is forgotten.

use tokio::sync::oneshot;

use super::reporter::{Reporter, TunnelReport};
use crate::core::{CheckError, CheckErrorKind, CheckNumber, Slot};
use crate::health::Probe;
use crate::process::Pace;

/// The check that runs, if one does.
#[derive(Debug, Default)]
pub(super) struct Checks {
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    number: CheckNumber,
    /// Dropped, it cancels the check.
    cancel: Option<oneshot::Sender<()>>,
}

impl Checks {
    /// Starts a check: `Checked`, unless it is abandoned, and `CheckOver` in any case.
    pub(super) fn start(&mut self, number: CheckNumber, probe: Probe, reporter: Reporter<Slot>, pace: Pace) {
        if self.running.is_some() {
            let message = "a process of the check before is still there after SIGKILL: stuck in the kernel (state D in ps), \
                           most often on a network file system";
            let error = CheckError::new(CheckErrorKind::Failed, message);
            return reporter.send(TunnelReport::Checked(number, Err(error)));
        }
        let (cancel, cancelled) = oneshot::channel();
        self.running = Some(Running { number, cancel: Some(cancel) });
        tokio::spawn(async move {
            let cancelled = async {
                // Nothing is ever sent: it resolves when the other end is dropped.
                let _ = cancelled.await;
            };
            let report = |result| reporter.send(TunnelReport::Checked(number, result));
            probe.run(&pace, cancelled, report).await;
            reporter.send(TunnelReport::CheckOver(number));
        });
    }

    /// Ends the check that runs. It is over as soon as nothing of it is left.
    pub(super) fn abandon(&mut self) {
        if let Some(running) = &mut self.running {
            running.cancel = None;
        }
    }

    /// Nothing is left of this check.
    pub(super) fn over(&mut self, number: CheckNumber) {
        self.running.take_if(|running| running.number == number);
    }

    /// Whether nothing of a check is left.
    pub(super) fn is_over(&self) -> bool {
        self.running.is_none()
    }
}
