//! Asking the server of an ssh for a sign of life.

use std::path::{Path, PathBuf};

use tokio::task::JoinSet;

use super::reporter::Reporter;
use crate::core::{ConnectionEvent, ConnectionId, LinkId};
use crate::ssh::Master;

/// The probes of one ssh. What is under way ends when it is dropped.
///
/// Each has a connection to the control socket of its own, for the orders to an ssh must not wait for a server that is silent.
#[derive(Debug)]
pub(super) struct Probes {
    control: PathBuf,
    /// One at most.
    under_way: JoinSet<()>,
}

impl Probes {
    /// For the ssh whose control socket this is.
    pub(super) fn new(control: &Path) -> Self {
        Self { control: control.to_owned(), under_way: JoinSet::new() }
    }

    /// Reports `Answered` once the server of the ssh `pid` has answered. If it is being asked already, that answer will do.
    pub(super) fn begin(&mut self, connection: ConnectionId, pid: u32, reporter: &Reporter<LinkId>) {
        while self.under_way.try_join_next().is_some() {}
        if !self.under_way.is_empty() {
            return;
        }
        let (control, reporter) = (self.control.clone(), reporter.clone());
        self.under_way.spawn(async move {
            let answer = async { Master::connect(&control, pid).await?.probe().await };
            match answer.await {
                Ok(()) => reporter.report(connection, ConnectionEvent::Answered),
                // Either it ends, and its end is reported; or it is ended, as if the server had not answered.
                Err(error) => tracing::debug!(%error, pid, "the server was not asked for a sign of life"),
            }
        });
    }
}
