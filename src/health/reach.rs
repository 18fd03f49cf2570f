//! A connection to the tunnel's listener.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::core::{CheckError, CheckErrorKind};

/// Connects to a listener of this machine.
pub(super) async fn connect(listen: SocketAddr) -> Result<TcpStream, CheckError> {
    let stream = TcpStream::connect(listen).await.map_err(|error| refused(listen, &error))?;
    // Closed by a reset, it leaves no TIME_WAIT behind. That would hold the port that the kernel chose for it for a minute, and another
    // tunnel may want to listen there. Only the process of the tunnel sees the reset: it ends the way beyond as ever.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    // A listener that has just gone, and the kernel gave this very port to the connection, which met itself.
    if stream.local_addr().is_ok_and(|address| address == listen) {
        return Err(refused(listen, &io::ErrorKind::ConnectionRefused.into()));
    }
    Ok(stream)
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
