//! Waiting until a process listens on an endpoint.

use std::time::Duration;

use tokio::time::sleep;

use super::{Endpoint, Listener, PortError, Ports};

/// The kernel sends no event when a socket begins to listen, so the endpoint is queried after delays that grow from this one, because
/// most programs listen soon after their start,
const FIRST_LOOK: Duration = Duration::from_millis(2);
/// up to this one.
const LAST_LOOK: Duration = Duration::from_secs(1);

impl Ports {
    /// Resolves once a socket listens on one of `endpoints` (of UDP: is bound to it), at once if one does. It resolves
    /// at most a second late, and at first late by at most half of the time waited so far.
    pub async fn bound(&self, endpoints: &[Endpoint]) -> Result<Vec<Listener>, PortError> {
        let mut wait = FIRST_LOOK;
        loop {
            let listeners = self.listeners(endpoints)?;
            if !listeners.is_empty() {
                return Ok(listeners);
            }
            sleep(wait).await;
            wait = (wait * 3 / 2).min(LAST_LOOK);
        }
    }
}
