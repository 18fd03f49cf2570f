//! A client of OpenSSH's multiplexing protocol, version 4 (PROTOCOL.mux in OpenSSH's source): what `ssh -O check`, `-O forward`
//! and `-O cancel` send to a master's control socket, and `ssh` itself for a session without a terminal.

use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

const VERSION: u32 = 4;

/// Largest message, as in ssh itself.
const MAX_MESSAGE: u32 = 256 * 1024;

const HELLO: u32 = 0x0000_0001;
const NEW_SESSION: u32 = 0x1000_0002;
const ALIVE_CHECK: u32 = 0x1000_0004;
const OPEN_FORWARD: u32 = 0x1000_0006;
const CLOSE_FORWARD: u32 = 0x1000_0007;
const OK: u32 = 0x8000_0001;
const PERMISSION_DENIED: u32 = 0x8000_0002;
const FAILURE: u32 = 0x8000_0003;
const ALIVE: u32 = 0x8000_0005;
const SESSION_OPENED: u32 = 0x8000_0006;
const REMOTE_PORT: u32 = 0x8000_0007;

/// Stands for the port where the host is the path of a unix socket (-2).
const UNIX_SOCKET: u32 = u32::MAX - 1;

/// Stands for the escape character of a session that has none.
const NO_ESCAPE: u32 = u32::MAX;

/// Why a request failed. After any error but [`Self::Refused`] the connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub(super) enum MuxError {
    /// The master refused it, in its own words.
    #[error("{0}")]
    Refused(String),
    /// The control socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Another version of the protocol.
    #[error("protocol version {0} instead of {VERSION}")]
    Version(u32),
    /// A message that is longer than the protocol allows.
    #[error("a message of {0} bytes, where at most {MAX_MESSAGE} are allowed")]
    TooLong(u32),
    /// A message that ends within a field.
    #[error("an incomplete message")]
    Incomplete,
    /// A message of a type that is not an answer.
    #[error("a message of unknown type {0:#x}")]
    Unknown(u32),
    /// An answer, but not to this request.
    #[error("an unexpected answer: {0:?}")]
    Unexpected(Answer),
}

/// A message from the master, without the number of the request that it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The first message of a connection. Its number is the version of the protocol.
    Hello,
    /// Done.
    Ok,
    /// Not done, and why.
    Refused(String),
    /// The pid of the master.
    Alive(u32),
    /// Done; the port that the server has chosen.
    RemotePort(u32),
    /// The session runs.
    SessionOpened,
}

/// Which way a forward leads; the numbers are those of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Direction {
    /// `-L`
    Local = 1,
    /// `-R`
    Remote = 2,
    /// `-D`
    Dynamic = 3,
}

/// Where a forward listens or leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Place {
    host: Vec<u8>,
    port: u32,
}

impl Place {
    /// A TCP port of a host.
    pub(super) fn tcp(host: &str, port: u16) -> Self {
        Self { host: host.as_bytes().to_vec(), port: port.into() }
    }

    /// A unix socket.
    pub(super) fn unix(path: impl AsRef<Path>) -> Self {
        Self { host: path.as_ref().as_os_str().as_bytes().to_vec(), port: UNIX_SOCKET }
    }

    /// The target of a dynamic forward, as `ssh -O forward -D` sends it. ssh refuses an empty one.
    pub(super) fn socks() -> Self {
        Self::tcp("socks", 0)
    }
}

/// A forward as the protocol describes it: one listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Forwarding {
    pub(super) direction: Direction,
    pub(super) listen: Place,
    pub(super) target: Place,
}

impl Forwarding {
    /// The unix socket of this machine on which ssh listens for it.
    pub fn socket(&self) -> Option<&Path> {
        let Place { host, port } = &self.listen;
        let is_here = self.direction != Direction::Remote && *port == UNIX_SOCKET;
        is_here.then(|| Path::new(OsStr::from_bytes(host)))
    }

    /// The port that the server listens on; `None`: it does not listen, or on a unix socket.
    pub fn server_port(&self) -> Option<u16> {
        let port = u16::try_from(self.listen.port).ok()?;
        (self.direction == Direction::Remote).then_some(port)
    }
}

/// A connection to a control socket. Requests are not cancel-safe: when the future of one is dropped, so must be the connection.
#[derive(Debug)]
pub(super) struct MuxClient<S = UnixStream> {
    stream: S,
    /// The number of the next request.
    next: u32,
}

impl MuxClient {
    /// Connects to the socket `control`.
    pub(super) async fn connect(control: &Path) -> Result<Self, MuxError> {
        Self::greet(UnixStream::connect(control).await?).await
    }

    /// Has the server run `command`, by the account's shell and without a terminal, with these as standard input, output and error.
    /// It runs when this returns. The connection is of no more use but to end the session: that ends with it.
    pub(super) async fn session(
        &mut self,
        command: &str,
        streams: [BorrowedFd<'_>; 3],
    ) -> Result<(), MuxError> {
        let number = self.next;
        self.next = number.wrapping_add(1);
        let mut request = Request::new(NEW_SESSION, number);
        request.text(b"");
        // Neither a terminal, nor X11, nor an agent, nor a subsystem.
        for wanted in [0; 4] {
            request.number(wanted);
        }
        request.number(NO_ESCAPE);
        // The kind of the terminal.
        request.text(b"");
        request.text(command.as_bytes());
        self.send(request).await?;
        for stream in streams {
            self.stream.async_io(Interest::WRITABLE, || pass(&self.stream, stream)).await?;
        }
        match self.receive().await? {
            (answered, Answer::SessionOpened) if answered == number => Ok(()),
            (answered, Answer::Refused(reason)) if answered == number => Err(MuxError::Refused(reason)),
            (_, answer) => Err(MuxError::Unexpected(answer)),
        }
    }
}

/// Passes a descriptor, as the master expects it: with one byte.
fn pass(socket: &UnixStream, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let descriptors = [descriptor.as_raw_fd()];
    let message = [ControlMessage::ScmRights(&descriptors)];
    let byte = [IoSlice::new(&[0])];
    sendmsg::<()>(socket.as_raw_fd(), &byte, &message, MsgFlags::empty(), None)?;
    Ok(())
}

impl<S: AsyncRead + AsyncWrite + Unpin> MuxClient<S> {
    /// Greets the master at the other end of `stream`.
    pub(super) async fn greet(stream: S) -> Result<Self, MuxError> {
        let mut client = Self { stream, next: 0 };
        client.send(Request::new(HELLO, VERSION)).await?;
        match client.receive().await? {
            (VERSION, Answer::Hello) => Ok(client),
            (version, Answer::Hello) => Err(MuxError::Version(version)),
            (_, other) => Err(MuxError::Unexpected(other)),
        }
    }

    /// The pid of the master.
    pub(super) async fn alive_check(&mut self) -> Result<u32, MuxError> {
        match self.ask(ALIVE_CHECK, None).await? {
            Answer::Alive(pid) => Ok(pid),
            other => Err(MuxError::Unexpected(other)),
        }
    }

    /// Opens a listener. When `forwarding` listens on port 0 of the server, the server chooses one.
    pub(super) async fn open(&mut self, forwarding: &Forwarding) -> Result<(), MuxError> {
        match self.ask(OPEN_FORWARD, Some(forwarding)).await? {
            Answer::Ok | Answer::RemotePort(_) => Ok(()),
            other => Err(MuxError::Unexpected(other)),
        }
    }

    /// Closes a listener, which is named as it was when it was opened.
    pub(super) async fn close(&mut self, forwarding: &Forwarding) -> Result<(), MuxError> {
        match self.ask(CLOSE_FORWARD, Some(forwarding)).await? {
            Answer::Ok => Ok(()),
            other => Err(MuxError::Unexpected(other)),
        }
    }

    /// Sends a request and waits for its answer, which is not a refusal.
    async fn ask(&mut self, kind: u32, forwarding: Option<&Forwarding>) -> Result<Answer, MuxError> {
        let number = self.next;
        self.next = number.wrapping_add(1);
        let mut request = Request::new(kind, number);
        if let Some(Forwarding { direction, listen, target }) = forwarding {
            request.number(*direction as u32);
            request.place(listen);
            request.place(target);
        }
        self.send(request).await?;
        match self.receive().await? {
            (answered, Answer::Refused(reason)) if answered == number => Err(MuxError::Refused(reason)),
            (answered, answer) if answered == number => Ok(answer),
            (_, answer) => Err(MuxError::Unexpected(answer)),
        }
    }

    async fn send(&mut self, request: Request) -> io::Result<()> {
        self.stream.write_all(&request.into_bytes()).await
    }

    async fn receive(&mut self) -> Result<(u32, Answer), MuxError> {
        let length = self.stream.read_u32().await?;
        if length > MAX_MESSAGE {
            return Err(MuxError::TooLong(length));
        }
        let mut message = vec![0; length as usize];
        self.stream.read_exact(&mut message).await?;
        decode(&message)
    }
}

/// The number of the request that `message` answers, and the answer. Further fields are ignored, as the extensions of a hello are.
fn decode(message: &[u8]) -> Result<(u32, Answer), MuxError> {
    let mut rest = Fields(message);
    let kind = rest.number()?;
    let number = rest.number()?;
    let answer = match kind {
        HELLO => Answer::Hello,
        OK => Answer::Ok,
        PERMISSION_DENIED | FAILURE => Answer::Refused(rest.text()?),
        ALIVE => Answer::Alive(rest.number()?),
        REMOTE_PORT => Answer::RemotePort(rest.number()?),
        SESSION_OPENED => Answer::SessionOpened,
        other => return Err(MuxError::Unknown(other)),
    };
    Ok((number, answer))
}

/// The fields of a message that are not read yet.
struct Fields<'m>(&'m [u8]);

impl Fields<'_> {
    fn number(&mut self) -> Result<u32, MuxError> {
        let (number, rest) = self.0.split_first_chunk().ok_or(MuxError::Incomplete)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*number))
    }

    fn text(&mut self) -> Result<String, MuxError> {
        let length = self.number()? as usize;
        let (text, rest) = self.0.split_at_checked(length).ok_or(MuxError::Incomplete)?;
        self.0 = rest;
        Ok(String::from_utf8_lossy(text).into_owned())
    }
}

/// A message to the master: its length, its type, and big-endian fields.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u32, number: u32) -> Self {
        // Filled in at the end.
        let length = [0; 4];
        Self([length, kind.to_be_bytes(), number.to_be_bytes()].concat())
    }

    fn number(&mut self, number: u32) {
        self.0.extend(number.to_be_bytes());
    }

    fn text(&mut self, text: &[u8]) {
        self.number(length(text));
        self.0.extend(text);
    }

    fn place(&mut self, place: &Place) {
        self.text(&place.host);
        self.number(place.port);
    }

    fn into_bytes(mut self) -> Vec<u8> {
        let length = length(&self.0[4..]);
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0
    }
}

/// ssh refuses what is longer than [`MAX_MESSAGE`], and so what is longer than this can tell.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Encodes a message of the master: its type, its numbers and a text.
    fn message(kind: u32, numbers: &[u32], text: Option<&str>) -> Vec<u8> {
        let mut message = kind.to_be_bytes().to_vec();
        message.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
        if let Some(text) = text {
            message.extend(length(text.as_bytes()).to_be_bytes());
            message.extend(text.as_bytes());
        }
        message
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        [&length(message).to_be_bytes(), message].concat()
    }

    /// A client whose master answers with these messages, and what it has sent afterwards.
    async fn client(answers: &[Vec<u8>]) -> (Result<MuxClient, MuxError>, UnixStream) {
        let (ours, mut master) = UnixStream::pair().unwrap();
        for answer in answers {
            master.write_all(&framed(answer)).await.unwrap();
        }
        (MuxClient::greet(ours).await, master)
    }

    /// What the client sent after its hello, once it is dropped.
    async fn sent(client: MuxClient, mut master: UnixStream) -> Vec<u8> {
        drop(client);
        let mut sent = Vec::new();
        master.read_to_end(&mut sent).await.unwrap();
        let hello = framed(&message(HELLO, &[VERSION], None));
        sent.strip_prefix(&hello[..]).expect("a hello comes first").to_vec()
    }

    fn hello() -> Vec<u8> {
        message(HELLO, &[VERSION], None)
    }

    fn forwarding(direction: Direction) -> Forwarding {
        Forwarding { direction, listen: Place::tcp("::1", 8080), target: Place::tcp("db", 5432) }
    }

    /// The fields of [`forwarding`] on the wire.
    const FORWARDING: &[u8] = b"\0\0\0\x03::1\0\0\x1f\x90\0\0\0\x02db\0\0\x15\x38";

    #[tokio::test]
    async fn a_hello_of_another_version_and_no_hello_are_refused() {
        let (other, _master) = client(&[message(HELLO, &[5], None)]).await;
        assert!(matches!(other, Err(MuxError::Version(5))), "{other:?}");
        let (none, _master) = client(&[message(OK, &[0], None)]).await;
        assert!(matches!(none, Err(MuxError::Unexpected(Answer::Ok))), "{none:?}");
    }

    #[tokio::test]
    async fn the_extensions_of_a_hello_are_ignored() {
        let mut extended = message(HELLO, &[VERSION], Some("name"));
        extended.extend(message(5, &[], None));
        client(&[extended]).await.0.unwrap();
    }

    #[tokio::test]
    async fn an_alive_check_tells_the_pid() {
        let (client, master) = client(&[hello(), message(ALIVE, &[0, 4711], None)]).await;
        let mut client = client.unwrap();
        assert_eq!(client.alive_check().await.unwrap(), 4711);
        assert_eq!(sent(client, master).await, framed(&message(ALIVE_CHECK, &[0], None)));
    }

    #[tokio::test]
    async fn a_forward_is_opened_and_closed() {
        let (client, master) = client(&[hello(), message(OK, &[0], None), message(OK, &[1], None)]).await;
        let mut client = client.unwrap();
        client.open(&forwarding(Direction::Local)).await.unwrap();
        client.close(&forwarding(Direction::Remote)).await.unwrap();
        let open = [message(OPEN_FORWARD, &[0, 1], None), FORWARDING.to_vec()].concat();
        let close = [message(CLOSE_FORWARD, &[1, 2], None), FORWARDING.to_vec()].concat();
        assert_eq!(sent(client, master).await, [framed(&open), framed(&close)].concat());
    }

    #[tokio::test]
    async fn a_dynamic_forward_and_a_unix_socket_have_targets_of_their_own() {
        let (client, master) = client(&[hello(), message(OK, &[0], None), message(OK, &[1], None)]).await;
        let mut client = client.unwrap();
        client.open(&Forwarding { target: Place::socks(), ..forwarding(Direction::Dynamic) }).await.unwrap();
        client
            .open(&Forwarding { target: Place::unix("/dev/null"), ..forwarding(Direction::Remote) })
            .await
            .unwrap();
        let sent = sent(client, master).await;
        let dynamic = b"\0\0\0\x05socks\0\0\0\0";
        let unix = b"\0\0\0\x09/dev/null\xff\xff\xff\xfe";
        assert!(
            sent.windows(dynamic.len()).any(|bytes| bytes == dynamic) && sent.ends_with(unix),
            "{sent:?}"
        );
    }

    #[tokio::test]
    async fn the_port_that_the_server_chose_means_that_it_listens() {
        let (client, _master) = client(&[hello(), message(REMOTE_PORT, &[0, 40_000], None)]).await;
        client.unwrap().open(&forwarding(Direction::Remote)).await.unwrap();
    }

    #[tokio::test]
    async fn a_session_is_asked_for_with_its_command_and_its_streams() {
        let (client, master) = client(&[hello(), message(SESSION_OPENED, &[0, 3], None)]).await;
        let null = std::fs::File::open("/dev/null").unwrap();
        let mut client = client.unwrap();
        client.session("date", [std::os::fd::AsFd::as_fd(&null); 3]).await.unwrap();
        let fields = b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\0\0\0\0\0\0\0\x04date";
        let request = [message(NEW_SESSION, &[0], None), fields.to_vec()].concat();
        assert_eq!(sent(client, master).await, [framed(&request), vec![0; 3]].concat());
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_words_of_the_master_and_the_next_request_is_served() {
        for kind in [FAILURE, PERMISSION_DENIED] {
            let refusal = message(kind, &[0], Some("Port forwarding failed"));
            let (client, _master) = client(&[hello(), refusal, message(OK, &[1], None)]).await;
            let mut client = client.unwrap();
            let refused = client.open(&forwarding(Direction::Local)).await;
            assert!(matches!(&refused, Err(MuxError::Refused(reason)) if reason == "Port forwarding failed"));
            client.close(&forwarding(Direction::Local)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_answer_to_another_request_is_an_error() {
        for answer in [
            message(OK, &[1], None),
            message(FAILURE, &[7], Some("x")),
            message(ALIVE, &[0, 1], None),
            message(0x9000_0001, &[0], None),
            Vec::new(),
        ] {
            let (client, _master) = client(&[hello(), answer]).await;
            let error = client.unwrap().open(&forwarding(Direction::Local)).await.unwrap_err();
            assert!(!matches!(error, MuxError::Refused(_)), "{error}");
        }
    }

    #[tokio::test]
    async fn a_message_out_of_bounds_is_not_waited_for() {
        let (ours, mut master) = UnixStream::pair().unwrap();
        master.write_u32(MAX_MESSAGE + 1).await.unwrap();
        let error = MuxClient::greet(ours).await.unwrap_err();
        assert!(matches!(error, MuxError::TooLong(length) if length == MAX_MESSAGE + 1));
    }

    #[tokio::test]
    async fn a_master_that_goes_is_an_error() {
        let (client, master) = client(&[hello()]).await;
        drop(master);
        assert!(matches!(client.unwrap().alive_check().await, Err(MuxError::Io(_))));
    }

    proptest! {
        #[test]
        fn an_answer_is_read_as_it_was_written(number: u32, value: u32, text: String) {
            for (written, answer) in [
                (message(OK, &[number], None), Answer::Ok),
                (message(HELLO, &[number], Some(&text)), Answer::Hello),
                (message(FAILURE, &[number], Some(&text)), Answer::Refused(text.clone())),
                (message(PERMISSION_DENIED, &[number], Some(&text)), Answer::Refused(text.clone())),
                (message(ALIVE, &[number, value], None), Answer::Alive(value)),
                (message(REMOTE_PORT, &[number, value], None), Answer::RemotePort(value)),
            ] {
                prop_assert_eq!(decode(&written).unwrap(), (number, answer));
            }
        }

        #[test]
        fn a_truncated_answer_is_incomplete(text: String, cut: prop::sample::Index) {
            let whole = message(FAILURE, &[3], Some(&text));
            let cut = &whole[..cut.index(whole.len())];
            prop_assert!(matches!(decode(cut), Err(MuxError::Incomplete)));
        }
    }
}
