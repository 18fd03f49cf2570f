//! Whether the kernel reports sockets: it is asked about one that was made for the purpose.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::claims::{Claim, protocols};
use super::fix::Fix;
use crate::port::{Endpoint, PortError, Ports, Protocol, Question};
use crate::protocol::doctor::Finding;

/// The event comes 11 microseconds after the close at the median.
const PATIENCE: Duration = Duration::from_secs(2);

/// The protocols whose sockets the kernel does not report.
pub(super) fn sock_diag(ports: &Result<Ports, PortError>, claims: &[Claim], fix: Fix) -> Vec<Finding> {
    match ports {
        Ok(ports) => refused(ports, &protocols(claims), fix),
        Err(error) => vec![not_reported(Protocol::Tcp, error, fix)],
    }
}

/// Why the kernel does not report that a port was released.
pub(super) fn destroy_events(ports: &Ports, fix: Fix) -> Option<Finding> {
    no_event(Handle::current().block_on(event(ports)).map_err(|error| error.to_string()), fix)
}

fn refused(ports: &Ports, protocols: &BTreeSet<Protocol>, fix: Fix) -> Vec<Finding> {
    let question = |protocol| Question { ports: vec![1..=1], protocol, connections: true };
    let refused = |protocol: &Protocol| {
        let error = ports.occupants(&question(*protocol)).err()?;
        Some(not_reported(*protocol, &error, fix))
    };
    protocols.iter().filter_map(refused).collect()
}

fn not_reported(protocol: Protocol, error: &PortError, fix: Fix) -> Finding {
    Finding::error(
        format!("the kernel does not report who holds a {} port: {error}", protocol.name()),
        "portward starts nothing on a port that it cannot ask about",
        modprobe(fix),
    )
}

/// Whether an event came when a socket was closed.
async fn event(ports: &Ports) -> Result<bool, PortError> {
    let bind = || -> io::Result<(Socket, SocketAddr)> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let address = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("no IPv4 address"))?;
        Ok((socket, address))
    };
    let operation = "bind a socket to ask about";
    let (socket, address) = bind().map_err(|source| PortError::Netlink { operation, source })?;
    let mut subscription = ports.watch(&[Endpoint::new(address.ip(), address.port())])?;
    drop(socket);
    Ok(timeout(PATIENCE, subscription.changed()).await.is_ok())
}

fn no_event(event: Result<bool, String>, fix: Fix) -> Option<Finding> {
    let reason = match event {
        Ok(true) => return None,
        Ok(false) => "no event came when a socket was closed".to_owned(),
        Err(error) => error,
    };
    Some(Finding::warning(
        format!(
            "the kernel does not report that a port was released: {reason} (Linux 4.2 or later is required)"
        ),
        "a tunnel whose port is held does not start when the holder leaves, but only at the next `portward restart`",
        modprobe(fix),
    ))
}

fn modprobe(fix: Fix) -> String {
    fix.as_root("modprobe -a inet_diag tcp_diag udp_diag")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::doctor::Level;

    const FIX: Fix = Fix { uid: 0 };

    #[tokio::test]
    async fn this_kernel_reports_both_protocols_and_a_closed_socket() {
        let ports = Ports::new().unwrap();
        assert_eq!(refused(&ports, &[Protocol::Tcp, Protocol::Udp].into(), FIX), []);
        assert!(event(&ports).await.unwrap());
        assert_eq!(ports.counters().events, 1);
    }

    #[test]
    fn missing_modules_are_loaded_by_the_fix() {
        let error = not_reported(Protocol::Udp, &PortError::NotTold(Protocol::Udp), FIX);
        assert_eq!(error.level, Level::Error);
        assert_eq!(error.fix.as_deref(), Some("modprobe -a inet_diag tcp_diag udp_diag"));
        assert_eq!(no_event(Ok(true), FIX), None);
        for event in [Ok(false), Err("denied".to_owned())] {
            assert_eq!(no_event(event, FIX).unwrap().level, Level::Warning);
        }
    }
}
