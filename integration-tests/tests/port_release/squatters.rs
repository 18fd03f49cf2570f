//! Sockets of every kind that can hold a port.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use portward::port::Endpoint;
use socket2::{Domain, SockRef, Socket, Type};

/// The port that the tests quarrel about.
pub(crate) const PORT: u16 = 13306;

/// `address` is without port: `127.0.0.1`, `::1`.
pub(crate) fn at(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), PORT)
}

/// The endpoint as ssh would bind it.
pub(crate) fn endpoint(address: &str) -> Endpoint {
    Endpoint::new(address.parse().unwrap(), PORT)
}

/// How a socket is set up before it is bound.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    pub(crate) reuse_address: bool,
    pub(crate) reuse_port: bool,
    pub(crate) v6only: bool,
}

/// A socket with `options` bound to `address`.
pub(crate) fn bind(address: SocketAddr, options: Options) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(options.reuse_address)?;
    socket.set_reuse_port(options.reuse_port)?;
    if address.is_ipv6() {
        socket.set_only_v6(options.v6only)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The same, listening.
pub(crate) fn listen(address: SocketAddr, options: Options) -> std::io::Result<Socket> {
    let socket = bind(address, options)?;
    socket.listen(16)?;
    Ok(socket)
}

/// Whether what ssh does next would succeed.
pub(crate) fn would_bind_and_listen(endpoint: &Endpoint) -> bool {
    let options = Options { reuse_address: true, v6only: endpoint.v6only, ..Options::default() };
    listen(endpoint.address, options).is_ok()
}

/// Closes with a reset, so that nothing of the connection is left.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(stream);
}

/// A connection; the listener is gone already.
pub(crate) struct Connection {
    /// The side that called.
    pub(crate) client: TcpStream,
    /// The side that was called.
    pub(crate) server: TcpStream,
}

impl Connection {
    /// To a listener on `address` that has SO_REUSEADDR or not.
    pub(crate) fn accepted_at(address: SocketAddr, reuse_address: bool) -> Self {
        let listener = listen(address, Options { reuse_address, ..Options::default() }).unwrap();
        let listener = TcpListener::from(listener);
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        Self { client, server }
    }

    /// From a port that the kernel chose for the client.
    pub(crate) fn outgoing() -> Self {
        Self::accepted_at("127.0.0.1:5000".parse().unwrap(), true)
    }

    /// The client's own end as an endpoint.
    pub(crate) fn client_endpoint(&self) -> Endpoint {
        let address = self.client.local_addr().unwrap();
        Endpoint::new(address.ip(), address.port())
    }

    /// Closes the client first, which leaves its end in TIME_WAIT.
    pub(crate) fn close_client_first(self) {
        drop(self.client);
        wait_for_end(self.server);
    }

    /// Closes the server first, which leaves its end in TIME_WAIT.
    pub(crate) fn close_server_first(self) {
        drop(self.server);
        wait_for_end(self.client);
    }
}

fn wait_for_end(mut stream: TcpStream) {
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

/// A process that is killed, at the latest, when this is dropped.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A test that fails must not fail again here, which would abort all others.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that listens on `address`; listening when this returns.
pub(crate) fn listening_process(address: SocketAddr) -> Process {
    let program = format!(
        "import socket\ns = socket.create_server(({:?}, {}))\nprint('listening', flush=True)\ns.accept()",
        address.ip().to_string(),
        address.port()
    );
    let mut child =
        Command::new("python3").args(["-c", &program]).stdout(Stdio::piped()).spawn().expect("python3");
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "listening\n");
    Process(child)
}
