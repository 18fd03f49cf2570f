//! `connect`: the tunnel takes a connection, and keeps it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use super::reach::{closed, connect};
use crate::core::{CheckError, CheckErrorKind};
use crate::relay::Announcer;

/// ssh accepts a connection before the server has connected to the target, and closes it when the server could not. So a connection
/// that is closed without a byte within this time has led nowhere.
const SETTLED: Duration = Duration::from_secs(1);

/// The greeting of SOCKS5 (RFC 1928): version, number of methods, no authentication.
const GREETING: [u8; 3] = [5, 1, 0];

/// The answer: version, and the method that was chosen.
const CHOSEN: [u8; 2] = [5, 0];

/// Connects; the connection must bring a byte, or stay open for [`SETTLED`] or nearly all of `patience`, whichever is shorter.
pub(super) async fn stays(
    listen: SocketAddr,
    announcer: Option<&Announcer>,
    patience: Duration,
    next_step: &str,
) -> Result<(), CheckError> {
    let began = Instant::now();
    let mut stream = connect(listen, announcer).await?;
    let settled = SETTLED.min(patience.mul_f64(0.9).saturating_sub(began.elapsed()));
    match timeout(settled, stream.read(&mut [0; 1])).await {
        // It stays open, or it greets.
        Err(_) | Ok(Ok(1..)) => Ok(()),
        Ok(Ok(0)) => Err(closed(listen, "closed it without a byte", next_step)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
            Err(closed(listen, "reset it without a byte", next_step))
        }
        Ok(Err(error)) => Err(closed(listen, &format!("broke it ({error})"), next_step)),
    }
}

/// Greets a SOCKS5 proxy, which must answer. Whether it reaches anything is not asked.
pub(super) async fn socks(listen: SocketAddr) -> Result<(), CheckError> {
    let mut stream = connect(listen, None).await?;
    let mut answer = [0; 2];
    let exchange = async {
        stream.write_all(&GREETING).await?;
        stream.read_exact(&mut answer).await
    };
    let step = format!("see which process listens there: `portward who {}`", listen.port());
    match exchange.await {
        Ok(_) if answer == CHOSEN => Ok(()),
        Ok(_) => {
            let message = format!("{listen} does not answer as a SOCKS proxy does: {step}");
            Err(CheckError::new(CheckErrorKind::Answer, message))
        }
        Err(error) => Err(closed(listen, &format!("did not answer the greeting of SOCKS ({error})"), &step)),
    }
}
