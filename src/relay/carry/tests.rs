use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

/// No wait takes longer.
const DEADLINE: Duration = Duration::from_secs(20);

/// A client and the ssh at its other end, with the relay between them.
struct Relayed {
    client: TcpStream,
    ssh: UnixStream,
    figures: Arc<Figures>,
    relay: JoinHandle<End>,
}

async fn relayed() -> Relayed {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut accepted, _) = listener.accept().await.unwrap();
    let (ssh, mut ours) = UnixStream::pair().unwrap();
    let figures = Arc::<Figures>::default();
    let counted = figures.clone();
    let relay = tokio::spawn(async move { carry(&mut accepted, &mut ours, &counted).await });
    Relayed { client, ssh, figures, relay }
}

async fn read_all(stream: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.expect("an end")?;
    Ok(bytes)
}

async fn end(relay: JoinHandle<End>) -> End {
    timeout(DEADLINE, relay).await.expect("the end of the relay").unwrap()
}

#[tokio::test]
async fn either_side_may_end_first_and_go_on_reading() {
    let Relayed { mut client, mut ssh, figures, relay } = relayed().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut ssh).await.unwrap(), b"question");
    ssh.write_all(b"long answer").await.unwrap();
    ssh.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap(), b"long answer");
    assert_eq!(end(relay).await, End::Over);
    assert_eq!([&figures.sent, &figures.received].map(|figure| figure.load(Ordering::Relaxed)), [8, 11]);

    let Relayed { mut client, mut ssh, relay, .. } = relayed().await;
    ssh.write_all(b"banner").await.unwrap();
    ssh.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap(), b"banner");
    client.write_all(b"late").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut ssh).await.unwrap(), b"late");
    assert_eq!(end(relay).await, End::Over);
}

#[tokio::test]
async fn an_ssh_that_has_closed_both_ways_ends_the_client_though_it_says_nothing() {
    let Relayed { mut client, ssh, relay, .. } = relayed().await;
    drop(ssh);
    assert_eq!(end(relay).await, End::Over);
    assert_eq!(read_all(&mut client).await.unwrap(), b"");
}

#[tokio::test]
async fn a_reset_of_one_side_ends_the_other() {
    let Relayed { client, mut ssh, relay, .. } = relayed().await;
    reset_on_close(&client);
    drop(client);
    assert_eq!(end(relay).await, End::Over);
    assert_eq!(read_all(&mut ssh).await.unwrap(), b"");

    let Relayed { mut client, mut ssh, relay, .. } = relayed().await;
    client.write_all(b"first, and more").await.unwrap();
    let mut first = [0; 5];
    ssh.read_exact(&mut first).await.unwrap();
    // What it has not read makes this a reset.
    drop(ssh);
    assert_eq!(end(relay).await, End::Over);
    assert_eq!(read_all(&mut client).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_cannot_be_delivered_resets_the_client() {
    let Relayed { mut client, mut ssh, relay, .. } = relayed().await;
    ssh.write_all(b"bye").await.unwrap();
    ssh.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap(), b"bye");
    drop(ssh);
    client.write_all(b"too late").await.unwrap();
    assert_eq!(end(relay).await, End::Over);
    // A reset after the end of the other side.
    assert_eq!(client.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_client_that_ssh_never_accepted_can_be_connected_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut accepted, _) = listener.accept().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let ssh = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let ours = StdUnixStream::connect(&path).unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut ours = UnixStream::from_std(ours).unwrap();
    drop(ssh);
    assert_eq!(carry(&mut accepted, &mut ours, &Figures::default()).await, End::Unheard);
}

#[tokio::test]
async fn what_one_side_does_not_read_is_not_read_from_the_other() {
    const MOST: usize = 64 * 1024 * 1024;
    let Relayed { mut client, mut ssh, relay, .. } = relayed().await;
    let block = vec![7; 64 * 1024];
    let mut sent = 0;
    // Until nothing has been taken for a while: the buffers on the way are full.
    while let Ok(written) = timeout(Duration::from_millis(300), ssh.write(&block)).await {
        sent += written.unwrap();
        assert!(sent < MOST, "nobody reads, and {sent} bytes were taken");
    }
    drop(ssh);
    assert_eq!(read_all(&mut client).await.unwrap().len(), sent, "no byte is lost");
    drop(client);
    assert_eq!(end(relay).await, End::Over);
}
