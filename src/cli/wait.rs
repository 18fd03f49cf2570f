//! `portward wait`.

use std::time::Duration;

use tokio::time::timeout;

use super::arguments::WaitArguments;
use super::failure::Failed;
use crate::port::{Endpoint, HeldBy, HoldKind, PortError, Ports, Protocol, Question, holder, who};

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
        let late = |limit| Failed::NotDone(format!("nobody listens on {port} after {limit:?}"));
        return bound.map(drop).map_err(late);
    }
    let mut held = Vec::new();
    let unbound = within(arguments.timeout, ports.unbound(&endpoints, |by| held = by.to_vec())).await;
    let unbound = match unbound {
        // Without privilege a port under 1024 cannot be tried: then it counts that the kernel shows nobody.
        Err(PortError::PermissionDenied(_)) if is_empty(&ports, protocol, arguments.port)? => Ok(()),
        unbound => unbound?,
    };
    unbound.map_err(|limit| {
        let holders: Vec<String> = held.iter().map(describe).collect();
        Failed::NotDone(format!("{port} is still held after {limit:?}, by {}", holders.join("; ")))
    })
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

fn describe(held: &HeldBy) -> String {
    let bound = Endpoint { address: held.bound, ..held.endpoint };
    match held.kind {
        HoldKind::Listener | HoldKind::Bound | HoldKind::Connection => {
            format!("{} on {bound}", holder::describe(held))
        }
        HoldKind::TimeWait(_) => {
            format!("TIME_WAIT of a connection from {bound}, which the kernel ends by itself")
        }
        HoldKind::Unexplained => "a socket that the kernel does not show".to_owned(),
    }
}
