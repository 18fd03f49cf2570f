//! What the daemon tells by itself: `GET /events`, server-sent events. The show waits for these and never for time.

use http_body_util::BodyExt;
use hyper::body::Incoming;
use portward::protocol::{Change, Decoder, SentEvent, Snapshot, TunnelStatus};

use crate::Result;
use crate::steps::{PATIENCE, within};

/// The stream of events, and the tunnels as the last ones told them.
pub(crate) struct Events {
    body: Incoming,
    decoder: Decoder,
    snapshot: Snapshot,
}

impl Events {
    /// Follows the events in the body of an answer to `GET /events`.
    pub(crate) fn new(body: Incoming) -> Self {
        Self { body, decoder: Decoder::default(), snapshot: Snapshot::default() }
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
                match self.tunnel(name) {
                    Some(tunnel) if is_so(tunnel) => return Ok(tunnel.clone()),
                    _ => self.take_one().await?,
                }
            }
        };
        let outcome = within(PATIENCE, what, waiting).await;
        outcome.map_err(|error| match self.tunnel(name) {
            Some(TunnelStatus { state, last_error: Some(failure), .. }) => {
                format!("tunnel {name} is {state} ({failure}): {error}").into()
            }
            Some(TunnelStatus { state, .. }) => format!("tunnel {name} is {state}: {error}").into(),
            None => format!("the daemon knows no tunnel {name}: {error}").into(),
        })
    }

    async fn take_one(&mut self) -> Result<()> {
        loop {
            if let Some(SentEvent { name, data }) = self.decoder.take() {
                // An event that this version does not know changes no tunnel.
                let Some(change) = Change::parse(&name, &data)? else { return Ok(()) };
                if let Change::Config { error: Some(error) } = change {
                    return Err(format!("the daemon refuses its configuration: {error}").into());
                }
                change.apply(&mut self.snapshot);
                return Ok(());
            }
            let frame = self.body.frame().await.ok_or("the daemon ended its stream of events")??;
            self.decoder.push(&frame.into_data().unwrap_or_default());
        }
    }

    fn tunnel(&self, name: &str) -> Option<&TunnelStatus> {
        self.snapshot.tunnels.iter().find(|tunnel| tunnel.name == name)
    }
}
