//! As much of SOCKS5 (RFC 1928) as a client of `ssh -D` needs.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const CONNECT: u8 = 1;
const DOMAIN_NAME: u8 = 3;
/// Version, reply, reserved, address type IPv4, address and port: OpenSSH always answers with this form.
const REPLY_LENGTH: usize = 10;

/// Connects to `host:port` through the proxy on 127.0.0.1:`proxy`.
pub async fn connect(proxy: u16, host: &str, port: u16) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", proxy)).await?;
    stream.write_all(&[VERSION, 1, NO_AUTHENTICATION]).await?;
    let mut method = [0; 2];
    stream.read_exact(&mut method).await?;
    if method != [VERSION, NO_AUTHENTICATION] {
        return Err(io::Error::other(format!("the proxy wants the method {method:?}")));
    }
    let length = u8::try_from(host.len()).map_err(|_| io::Error::other("the host's name is too long"))?;
    let mut request = vec![VERSION, CONNECT, 0, DOMAIN_NAME, length];
    request.extend_from_slice(host.as_bytes());
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request).await?;
    let mut reply = [0; REPLY_LENGTH];
    stream.read_exact(&mut reply).await?;
    match reply {
        [VERSION, 0, ..] => Ok(stream),
        _ => Err(io::Error::other(format!("the proxy refuses {host}:{port}: {reply:?}"))),
    }
}
