//! What the daemon tells by itself: `GET /events`, server-sent events. The show waits for these and never for time.

use std::collections::HashMap;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use portward::daemon::snapshot::{Snapshot, TunnelStatus};
use serde::Deserialize;

use crate::Result;
use crate::steps::{PATIENCE, within};

/// The stream of events, and the tunnels as the last ones told them.
pub(crate) struct Events {
    body: Incoming,
    unread: Vec<u8>,
    /// By name.
    tunnels: HashMap<String, TunnelStatus>,
}

/// Data of the event `removed`.
#[derive(Deserialize)]
struct Removed {
    hash: String,
}

/// Data of the event `config`.
#[derive(Deserialize)]
struct ConfigRead {
    error: Option<String>,
}

impl Events {
    /// Follows the events in the body of an answer to `GET /events`.
    pub(crate) fn new(body: Incoming) -> Self {
        Self { body, unread: Vec::new(), tunnels: HashMap::new() }
    }

    /// The tunnel `name`, once `is_so` of it; `what` says in words what is waited for.
    pub(crate) async fn until(
        &mut self,
        name: &str,
        what: &str,
        is_so: impl Fn(&TunnelStatus) -> bool,
    ) -> Result<TunnelStatus> {
        let waiting = async {
            loop {
                match self.tunnels.get(name) {
                    Some(tunnel) if is_so(tunnel) => return Ok(tunnel.clone()),
                    _ => self.take_one().await?,
                }
            }
        };
        let outcome = within(PATIENCE, what, waiting).await;
        outcome.map_err(|error| match self.tunnels.get(name) {
            Some(TunnelStatus { state, last_error: Some(failure), .. }) => {
                format!("tunnel {name} is {state} ({failure}): {error}").into()
            }
            Some(TunnelStatus { state, .. }) => format!("tunnel {name} is {state}: {error}").into(),
            None => format!("the daemon knows no tunnel {name}: {error}").into(),
        })
    }

    async fn take_one(&mut self) -> Result<()> {
        const END: &[u8] = b"\n\n";
        loop {
            if let Some(end) = self.unread.windows(END.len()).position(|window| window == END) {
                let event = self.unread.drain(..end + END.len()).collect();
                return self.apply(&String::from_utf8(event)?);
            }
            let frame = self.body.frame().await.ok_or("the daemon ended its stream of events")??;
            self.unread.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
    }

    fn apply(&mut self, event: &str) -> Result<()> {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let data = field("data: ");
        match field("event: ") {
            "snapshot" => {
                let snapshot: Snapshot = serde_json::from_str(data)?;
                self.tunnels =
                    snapshot.tunnels.into_iter().map(|tunnel| (tunnel.name.clone(), tunnel)).collect();
            }
            "tunnel" => {
                let tunnel: TunnelStatus = serde_json::from_str(data)?;
                self.tunnels.insert(tunnel.name.clone(), tunnel);
            }
            "removed" => {
                let Removed { hash } = serde_json::from_str(data)?;
                self.tunnels.retain(|_, tunnel| tunnel.hash != hash);
            }
            "config" => {
                let ConfigRead { error } = serde_json::from_str(data)?;
                if let Some(error) = error {
                    return Err(format!("the daemon refuses its configuration: {error}").into());
                }
            }
            // Comments that keep the stream alive, and events of a later version.
            _ => {}
        }
        Ok(())
    }
}
