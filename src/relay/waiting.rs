//! One client that waits, watched for its end.

use std::io;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::port::Ports;

/// A process that closes its socket sends the end before the socket has lost its owner, which takes microseconds.
const SETTLING: Duration = Duration::from_millis(20);

/// Resolves once the client has gone. A client that has ended what it sends, and still reads, has not.
///
/// The end of what a client sends does not tell which of the two it is. The kernel does: a socket that its process has closed
/// has no owner any more. Of a client on another machine the kernel here knows nothing; that one is taken for gone if it has
/// sent nothing, since it has nothing to wait for.
pub(super) async fn gone(client: &TcpStream, ports: &Ports) {
    loop {
        let Ok(ready) = client.ready(Interest::READABLE | Interest::ERROR).await else { return };
        if ready.is_error() {
            return;
        }
        if ready.is_read_closed() {
            break;
        }
        // There is something to read, and that stays so: only what is new is to wake this again.
        let _ = client.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
    sleep(SETTLING).await;
    if !has_owner(client, ports) {
        return;
    }
    // What comes now can only be a reset.
    let _ = client.ready(Interest::ERROR).await;
}

/// Whether a client that has ended what it sends may still read.
fn has_owner(client: &TcpStream, ports: &Ports) -> bool {
    let (Ok(ours), Ok(theirs)) = (client.local_addr(), client.peer_addr()) else { return false };
    match ports.other_end(ours, theirs) {
        Ok(Some(row)) => row.inode != 0,
        Ok(None) if ports.is_available(theirs.ip()) => false,
        // It is on another machine, or cannot be asked about.
        Ok(None) | Err(_) => has_sent(client),
    }
}

fn has_sent(client: &TcpStream) -> bool {
    let socket = socket2::SockRef::from(client);
    socket.peek(&mut [std::mem::MaybeUninit::uninit()]).is_ok_and(|length| length > 0)
}

/// The same connection, as one that the runtime knows nothing of yet: what [`gone`] has seen is told anew.
pub(super) fn anew(client: TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(client.into_std()?)
}
