//! Waiting until somebody serves an endpoint.

use std::time::Duration;

use tokio::time::sleep;

use super::{Endpoint, Listener, PortError, Ports};

/// The kernel sends an event when a socket is destroyed, and none when one begins to listen. So the endpoint is looked at after
/// waits that grow from this one, for what has just been started listens soon,
const FIRST_LOOK: Duration = Duration::from_millis(2);
/// up to this one.
const LAST_LOOK: Duration = Duration::from_secs(1);

impl Ports {
    /// Resolves once a socket listens on one of `endpoints` (of UDP: is bound to it), at once if one does. It is told a
    /// second late at most, and while the wait is young, late by half of the wait so far or less.
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
