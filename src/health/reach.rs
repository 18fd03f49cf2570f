//! A connection to the tunnel's listener.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

use crate::core::{CheckError, CheckErrorKind};
use crate::relay::Announcer;

/// Connects to a listener of this machine, which is told before where the connection comes from if it can be told.
pub(super) async fn connect(
    listen: SocketAddr,
    announcer: Option<&Announcer>,
) -> Result<TcpStream, CheckError> {
    let connected = match announcer {
        Some(announcer) => connect_announced(listen, announcer).await,
        None => TcpStream::connect(listen).await,
    };
    let stream = connected.map_err(|error| refused(listen, &error))?;
    // Closed by a reset, it leaves no TIME_WAIT behind. That would hold the port that the kernel chose for it for a minute, and another
    // tunnel may want to listen there. Only the process of the tunnel sees the reset: it ends the way beyond as ever.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    // A listener that has just gone, and the kernel gave this very port to the connection, which met itself.
    if stream.local_addr().is_ok_and(|address| address == listen) {
        return Err(refused(listen, &io::ErrorKind::ConnectionRefused.into()));
    }
    Ok(stream)
}

async fn connect_announced(listen: SocketAddr, announcer: &Announcer) -> io::Result<TcpStream> {
    let socket = if listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As a connection to an address of this machine would have it anyway.
    let mut from = listen;
    from.set_port(0);
    socket.bind(from)?;
    announcer.announce(socket.local_addr()?);
    socket.connect(listen).await
}

fn refused(listen: SocketAddr, error: &io::Error) -> CheckError {
    let message =
        format!("cannot connect to {listen}: {error}; `portward who {}` shows who listens", listen.port());
    CheckError::new(CheckErrorKind::Refused, message)
}

/// The other end has closed the connection before it had answered.
pub(super) fn closed(listen: SocketAddr, how: &str, next_step: &str) -> CheckError {
    let message = format!("{listen} accepted the connection and {how}: {next_step}");
    CheckError::new(CheckErrorKind::Closed, message)
}
