//! `-D` over the multiplexing protocol.
//!
//! openssh-mux-client 0.17 offers it, marked as untested: it names an empty unix socket as the target, which ssh answers
//! with "No forward host name". So these two messages are written here, as OpenSSH's PROTOCOL.mux describes them and as
//! its own `ssh -O forward -D` sends them: the target is the host `socks`, port 0.

use std::io;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::port::Endpoint;

const HELLO: u32 = 0x0000_0001;
const PROTOCOL_VERSION: u32 = 4;
const OPEN_FORWARD: u32 = 0x1000_0006;
const CLOSE_FORWARD: u32 = 0x1000_0007;
const OK: u32 = 0x8000_0001;
const PERMISSION_DENIED: u32 = 0x8000_0002;
const FAILURE: u32 = 0x8000_0003;
const FORWARD_DYNAMIC: u32 = 3;

/// ssh's own limit for one message of the protocol.
const MAX_MESSAGE: u32 = 256 * 1024;

/// Why a request was not granted.
#[derive(Debug, thiserror::Error)]
pub(super) enum DynamicError {
    /// The master is gone, or does not speak the protocol.
    #[error("the control socket failed: {0}")]
    Io(#[from] io::Error),
    /// The master said no.
    #[error("{0}")]
    Refused(String),
}

/// Asks the master behind `control` to listen on `endpoint` as a SOCKS proxy.
pub(super) async fn open(control: &Path, endpoint: Endpoint) -> Result<(), DynamicError> {
    request(control, OPEN_FORWARD, endpoint).await
}

/// Asks the master behind `control` to stop listening on `endpoint`.
pub(super) async fn close(control: &Path, endpoint: Endpoint) -> Result<(), DynamicError> {
    request(control, CLOSE_FORWARD, endpoint).await
}

async fn request(control: &Path, kind: u32, endpoint: Endpoint) -> Result<(), DynamicError> {
    const REQUEST_ID: u32 = 0;
    let mut master = UnixStream::connect(control).await?;
    let mut hello = Message::new(HELLO);
    hello.put_u32(PROTOCOL_VERSION);
    let mut forward = Message::new(kind);
    forward.put_u32(REQUEST_ID);
    forward.put_u32(FORWARD_DYNAMIC);
    forward.put_string(&endpoint.address.ip().to_string());
    forward.put_u32(u32::from(endpoint.port()));
    forward.put_string("socks");
    forward.put_u32(0);
    master.write_all(&[hello.into_bytes(), forward.into_bytes()].concat()).await?;

    loop {
        let length = master.read_u32().await?;
        if length > MAX_MESSAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message over 256 KiB").into());
        }
        let mut message = vec![0; length as usize];
        master.read_exact(&mut message).await?;
        let mut rest = message.as_slice();
        match rest.read_u32().await? {
            HELLO => {}
            OK => return Ok(()),
            PERMISSION_DENIED | FAILURE => {
                let _request_id = rest.read_u32().await?;
                let length = rest.read_u32().await? as usize;
                let reason = rest.get(..length).unwrap_or(rest);
                return Err(DynamicError::Refused(String::from_utf8_lossy(reason).into_owned()));
            }
            other => {
                let problem = format!("an unexpected message of type {other:#x}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, problem).into());
            }
        }
    }
}

/// A message: its length, its type, and big-endian fields.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u32) -> Self {
        let mut message = Self(Vec::new());
        message.put_u32(kind);
        message
    }

    fn put_u32(&mut self, value: u32) {
        self.0.extend(value.to_be_bytes());
    }

    fn put_string(&mut self, text: &str) {
        // The texts are an IP address and a word: far from 4 GiB.
        self.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend(text.as_bytes());
    }

    fn into_bytes(self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        [&length.to_be_bytes()[..], &self.0].concat()
    }
}
