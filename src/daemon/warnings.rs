//! What portward itself cannot do for now: told in the log, in the status and to systemd, until it can.

/// One sentence for each thing that does not work, with the next step.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    pub(super) config: Option<String>,
    pub(super) runtime: Option<String>,
}

impl Warnings {
    pub(super) fn list(&self) -> Vec<String> {
        self.config.iter().chain(&self.runtime).cloned().collect()
    }
}
