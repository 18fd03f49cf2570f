//! `portward wait`.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::timeout;

use super::arguments::WaitArguments;
use super::failure::Failed;
use crate::port::advice::{self, advice};
use crate::port::{Occupant, PortError, Ports, Protocol, Question, who};

/// Waits until the port is as it shall be, or the time is over.
pub(super) async fn wait(arguments: &WaitArguments) -> Result<(), Failed> {
    let protocol = if arguments.udp { Protocol::Udp } else { Protocol::Tcp };
    let port = format!("{} port {}", protocol.name(), arguments.port);
    let ports = Ports::new()?;
    let mut endpoints = who::wildcards(protocol, arguments.port).to_vec();
    // A machine may have no IPv6.
    endpoints.retain(|endpoint| ports.is_available(endpoint.address.ip()));
    if arguments.bound {
        let bound = within(arguments.timeout, ports.bound(&endpoints)).await?;
        let late = |limit| Failed::NotDone(format!("no process listens on {port} after {limit:?}"));
        return bound.map(drop).map_err(late);
    }
    let unbound = within(arguments.timeout, ports.unbound(&endpoints, |_, _| ())).await;
    let unbound = match unbound {
        // Without privilege a port under 1024 cannot be tried: then it counts that the kernel shows nobody.
        Err(PortError::PermissionDenied(_)) if is_empty(&ports, protocol, arguments.port)? => Ok(()),
        unbound => unbound?,
    };
    let Err(limit) = unbound else { return Ok(()) };
    // Not every change is told, so it is asked once more before somebody is named.
    let held = ports.holders(&endpoints)?;
    if held.is_empty() {
        return Ok(());
    }
    Err(Failed::NotDone(still_held(&port, limit, &who::describe(&held))))
}

/// Who holds the port, and what to do about it.
fn still_held(port: &str, limit: Duration, occupants: &[Occupant]) -> String {
    let now = Timestamp::now();
    let reasons: Vec<String> = occupants.iter().map(|occupant| advice::predicate(occupant, now)).collect();
    let steps: Vec<String> = occupants.iter().map(|occupant| advice(occupant).to_string()).collect();
    format!("{port} is not free after {limit:?}: it {}; {}", reasons.join(" and "), steps.join("; "))
}

fn is_empty(ports: &Ports, protocol: Protocol, port: u16) -> Result<bool, PortError> {
    let question = Question { ports: vec![port..=port], protocol, connections: false };
    Ok(ports.occupants(&question)?.is_empty())
}

/// What came of it, or the limit if that is over.
async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, PortError>>,
) -> Result<Result<T, Duration>, PortError> {
    match limit {
        None => work.await.map(Ok),
        Some(limit) => match timeout(limit, work).await {
            Ok(done) => done.map(Ok),
            Err(_) => Ok(Err(limit)),
        },
    }
}
