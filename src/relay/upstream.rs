//! Connects to the unix socket on which ssh listens.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::task::spawn_blocking;

/// How long ssh may leave its full queue of 128 clients as it is, before it counts as one that does not serve.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects, if ssh's queue has room. The stream does not block.
///
/// # Errors
/// `WouldBlock` if the queue is full: no event tells when it has room.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

/// As [`connect`], on a thread that waits until the queue has room.
pub(super) async fn connect_when_possible(path: &Path) -> io::Result<UnixStream> {
    connect_within(path, PATIENCE).await
}

async fn connect_within(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let address = SockAddr::unix(path)?;
    let connected = spawn_blocking(move || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_write_timeout(Some(patience))?;
        socket.connect(&address)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    });
    // The only other end of it is a panic, which has been reported.
    connected.await.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_full_queue_is_waited_for_without_a_look() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let listener: UnixListener = socket.into();
        let first = connect(&path).unwrap();
        assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let (patience, began) = (Duration::from_millis(50), Instant::now());
        assert_eq!(connect_within(&path, patience).await.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(began.elapsed() >= patience, "it was not waited for");
        let second = tokio::spawn({
            let path = path.clone();
            async move { connect_when_possible(&path).await }
        });
        drop((listener.accept().unwrap(), first));
        second.await.unwrap().unwrap();
        // To drop it would not do: a child that another test is starting may have it as well.
        socket2::SockRef::from(&listener).shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
