//! What is at the far end of the tunnels.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};

/// What [`serve_page`] answers.
pub(crate) const PAGE: &str = "the page\n";

/// Answers each HTTP request on `address` with one short page.
pub async fn serve_page(address: impl ToSocketAddrs) {
    let listener = TcpListener::bind(address).await.expect("binding the origin");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
}

async fn answer(mut stream: TcpStream) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_buf(&mut request).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    let response = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{PAGE}", PAGE.len());
    // A client that has gone away is the tunnel's affair.
    let _ = stream.write_all(response.as_bytes()).await;
}

/// Sends back whatever comes in on `address`.
pub async fn serve_echo(address: impl ToSocketAddrs) {
    let listener = TcpListener::bind(address).await.expect("binding the echo");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
}
