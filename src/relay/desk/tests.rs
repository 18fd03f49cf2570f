use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::task::spawn_blocking;

use super::super::order::Order;
use super::*;
use crate::port::Endpoint;

/// No wait takes longer.
const DEADLINE: Duration = Duration::from_secs(20);

/// A desk, and the place of the ssh to which it connects clients.
struct Lab {
    directory: TempDir,
    address: SocketAddr,
    orders: mpsc::UnboundedSender<Order>,
    figures: Arc<Figures>,
    news: mpsc::UnboundedReceiver<News>,
}

impl Lab {
    fn new(connect_wait: Duration) -> Self {
        let sockets =
            Sockets::listen(&[Endpoint::new(Ipv4Addr::LOCALHOST.into(), 0)], &mut HashMap::new()).unwrap();
        Self::with(sockets, connect_wait)
    }

    fn with(sockets: Sockets, connect_wait: Duration) -> Self {
        let address = sockets.listeners[0].local_addr().unwrap();
        let (orders, received) = mpsc::unbounded_channel();
        let (told, news) = mpsc::unbounded_channel();
        let figures = Arc::<Figures>::default();
        let tell = move |news| drop(told.send(news));
        let room = Room::of_limit();
        let ports = Ports::new().unwrap();
        let desk = Desk::new(
            sockets,
            Terms { connect_wait, allowed: None, tell_presence: true },
            received,
            figures.clone(),
            room,
            ports,
            tell,
        );
        tokio::spawn(desk.run());
        Self { directory: tempfile::tempdir().unwrap(), address, orders, figures, news }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn serve(&self, number: u64, path: &Path) {
        let upstream = Upstream { number, paths: vec![path.to_owned()] };
        self.orders.send(Order::Serve(Some(upstream))).unwrap();
    }

    async fn client(&self, greeting: u8) -> TcpStream {
        let mut client = TcpStream::connect(self.address).await.unwrap();
        client.write_all(&[greeting]).await.unwrap();
        client
    }

    /// Waits until the figures are like this.
    async fn counts(&mut self, what: &str, is_so: impl Fn(&Figures) -> bool) {
        let counted = async {
            while !is_so(&self.figures) {
                self.news.recv().await.unwrap();
            }
        };
        let counted = tokio::time::timeout(DEADLINE, counted).await;
        assert!(counted.is_ok(), "not {what}: {:?}", self.figures);
    }

    async fn told(&mut self, what: &str, wanted: impl Fn(&News) -> bool) {
        let told = async { while !wanted(&self.news.recv().await.unwrap()) {} };
        assert!(tokio::time::timeout(DEADLINE, told).await.is_ok(), "{what} was not told");
    }
}

fn read(figure: &std::sync::atomic::AtomicU64) -> u64 {
    figure.load(Ordering::Relaxed)
}

async fn is_reset(client: &mut TcpStream) -> bool {
    let read = tokio::time::timeout(DEADLINE, client.read_to_end(&mut Vec::new())).await.unwrap();
    read.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn clients_that_wait_are_connected_in_the_order_in_which_they_came() {
    let mut lab = Lab::new(DEADLINE);
    let mut clients = Vec::new();
    for greeting in 0..200 {
        clients.push(lab.client(greeting).await);
    }
    lab.counts("200 wait", |figures| read(&figures.waiting) == 200).await;
    let path = lab.path("1");
    let ssh = UnixListener::bind(&path).unwrap();
    lab.serve(1, &path);
    for greeting in 0..200 {
        let (mut stream, _) = ssh.accept().await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), greeting);
        stream.write_u8(greeting).await.unwrap();
    }
    for (greeting, client) in clients.iter_mut().enumerate() {
        assert_eq!(usize::from(client.read_u8().await.unwrap()), greeting);
    }
    lab.counts("nobody waits", |figures| read(&figures.waiting) == 0).await;
    assert_eq!([&lab.figures.total, &lab.figures.refused].map(read), [200, 0]);
}

/// Two ports that follow one another, at one address.
fn two_ports() -> Sockets {
    loop {
        let listener = |port| Endpoint::new(Ipv4Addr::LOCALHOST.into(), port);
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if let Some(next) = free.checked_add(1)
            && let Ok(sockets) = Sockets::listen(&[listener(free), listener(next)], &mut HashMap::new())
        {
            return sockets;
        }
    }
}

#[tokio::test]
async fn clients_of_each_port_of_a_range_are_connected_to_the_socket_of_that_port() {
    let mut lab = Lab::with(two_ports(), DEADLINE);
    let mut second = lab.address;
    second.set_port(second.port() + 1);
    let (mut clients, mut others) = (Vec::new(), Vec::new());
    for greeting in 0..20 {
        clients.push(lab.client(greeting).await);
        let mut other = TcpStream::connect(second).await.unwrap();
        other.write_all(&[100 + greeting]).await.unwrap();
        others.push(other);
    }
    lab.counts("40 wait", |figures| read(&figures.waiting) == 40).await;
    let paths = vec![lab.path("first"), lab.path("second")];
    let [first, other] = [&paths[0], &paths[1]].map(|path| UnixListener::bind(path).unwrap());
    lab.orders.send(Order::Serve(Some(Upstream { number: 1, paths }))).unwrap();
    // Those that waited, and one more of each that did not.
    clients.push(lab.client(20).await);
    let mut last = TcpStream::connect(second).await.unwrap();
    last.write_all(&[120]).await.unwrap();
    for greeting in 0..=20 {
        let (mut stream, _) = first.accept().await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), greeting);
        let (mut stream, _) = other.accept().await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 100 + greeting);
    }
}

#[tokio::test]
async fn an_upstream_where_nobody_listens_is_told_and_its_client_waits_for_the_next() {
    let mut lab = Lab::new(DEADLINE);
    lab.serve(7, &lab.path("nobody"));
    let mut client = lab.client(1).await;
    lab.told("the loss of upstream 7", |news| matches!(news, News::UpstreamLost(7))).await;
    let path = lab.path("8");
    let ssh = UnixListener::bind(&path).unwrap();
    lab.serve(8, &path);
    let (mut stream, _) = ssh.accept().await.unwrap();
    let greeting = stream.read_u8().await.unwrap();
    stream.write_u8(greeting + 1).await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), 2);
}

#[tokio::test]
async fn a_client_that_ssh_did_not_accept_before_it_closed_is_connected_to_the_next() {
    let lab = Lab::new(DEADLINE);
    let path = lab.path("old");
    let old = UnixListener::bind(&path).unwrap();
    lab.serve(1, &path);
    let mut client = TcpStream::connect(lab.address).await.unwrap();
    has_a_client(&old).await;
    let next = lab.path("new");
    let ssh = UnixListener::bind(&next).unwrap();
    lab.serve(2, &next);
    drop(old);
    let (mut stream, _) =
        tokio::time::timeout(DEADLINE, ssh.accept()).await.expect("the client again").unwrap();
    stream.write_all(b"hello").await.unwrap();
    drop(stream);
    let mut heard = String::new();
    client.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "hello");
}

/// Waits until a client is in the queue of `listener`, and leaves it there.
async fn has_a_client(listener: &UnixListener) {
    let descriptor = listener.as_fd().try_clone_to_owned().unwrap();
    let wait = move || {
        let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
        poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&patience)).unwrap()
    };
    assert_eq!(spawn_blocking(wait).await.unwrap(), 1, "nobody came");
}

#[tokio::test]
async fn a_client_is_given_up_after_its_time_and_not_before_and_a_new_time_counts_at_once() {
    let mut lab = Lab::new(DEADLINE * 10);
    let mut client = lab.client(1).await;
    lab.counts("one waits", |figures| read(&figures.waiting) == 1).await;
    lab.orders
        .send(Order::Treat(Terms {
            connect_wait: Duration::from_millis(50),
            allowed: None,
            tell_presence: true,
        }))
        .unwrap();
    assert!(is_reset(&mut client).await);
    lab.told("one given up", |news| matches!(news, News::Changed { given_up: 1 })).await;
    assert_eq!([&lab.figures.refused, &lab.figures.waiting].map(read), [1, 0]);
}

#[tokio::test]
async fn a_client_that_goes_is_noticed_and_one_that_only_ends_what_it_sends_is_served() {
    let mut lab = Lab::new(DEADLINE * 10);
    let gone = [lab.client(1).await, TcpStream::connect(lab.address).await.unwrap()];
    let reset = lab.client(2).await;
    let mut half = lab.client(3).await;
    half.shutdown().await.unwrap();
    lab.counts("four wait", |figures| read(&figures.waiting) == 4).await;
    reset_on_close(&reset);
    drop((gone, reset));
    lab.counts("one waits", |figures| read(&figures.waiting) == 1).await;
    let path = lab.path("1");
    let ssh = UnixListener::bind(&path).unwrap();
    lab.serve(1, &path);
    let (mut stream, _) = ssh.accept().await.unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, [3]);
    stream.write_u8(4).await.unwrap();
    assert_eq!(half.read_u8().await.unwrap(), 4);
    assert_eq!(read(&lab.figures.refused), 0);
}

#[tokio::test]
async fn no_more_clients_wait_than_may_and_the_others_come_later() {
    let mut lab = Lab::new(DEADLINE * 10);
    let more = MOST_WAITING + 50;
    let mut clients = Vec::new();
    for _ in 0..more {
        clients.push(TcpStream::connect(lab.address).await.unwrap());
    }
    lab.told("the crowd", |news| matches!(news, News::Crowded)).await;
    assert_eq!(read(&lab.figures.total), MOST_WAITING as u64);
    let path = lab.path("1");
    let ssh = UnixListener::bind(&path).unwrap();
    lab.serve(1, &path);
    let mut streams = Vec::new();
    for _ in 0..more {
        streams.push(tokio::time::timeout(DEADLINE, ssh.accept()).await.unwrap().unwrap());
    }
    lab.counts("all are connected", |figures| read(&figures.now) == more as u64).await;
    assert_eq!(read(&lab.figures.refused), 0);
}

#[tokio::test]
async fn the_end_of_the_handle_closes_the_port_and_resets_who_waits() {
    let mut lab = Lab::new(DEADLINE * 10);
    let mut client = lab.client(1).await;
    lab.counts("one waits", |figures| read(&figures.waiting) == 1).await;
    let Lab { address, orders, .. } = lab;
    drop(orders);
    assert!(is_reset(&mut client).await);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_first_and_the_last_client_are_told_and_a_health_check_is_none() {
    let mut lab = Lab::new(DEADLINE * 10);
    let ask = |lab: &Lab, number| lab.orders.send(Order::AskForClients(number)).unwrap();
    let first = |news: &News| matches!(news, News::FirstCame);
    let last = |news: &News| matches!(news, News::LastLeft);
    let check = tokio::net::TcpSocket::new_v4().unwrap();
    check.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    lab.orders.send(Order::Disregard(check.local_addr().unwrap())).unwrap();
    let check = check.connect(lab.address).await.unwrap();
    lab.counts("the check waits", |figures| read(&figures.waiting) == 1).await;
    ask(&lab, 1);
    let told = tokio::time::timeout(DEADLINE, lab.news.recv()).await.unwrap();
    assert!(matches!(told, Some(News::Nobody(1))), "{told:?}");

    let client = lab.client(1).await;
    lab.told("the first client", first).await;
    // There is one: neither a second one nor the question is told of.
    drop(lab.client(2).await);
    ask(&lab, 2);
    drop(client);
    let mut told = Vec::new();
    while !told.last().is_some_and(last) {
        told.push(tokio::time::timeout(DEADLINE, lab.news.recv()).await.unwrap().unwrap());
    }
    assert!(!told.iter().any(|news| matches!(news, News::Nobody(_) | News::FirstCame)), "{told:?}");
    ask(&lab, 3);
    lab.told("that nobody is there", |news| matches!(news, News::Nobody(3))).await;

    let treat = |tell_presence| Order::Treat(Terms { connect_wait: DEADLINE, allowed: None, tell_presence });
    lab.orders.send(treat(false)).unwrap();
    let client = lab.client(3).await;
    lab.counts("it waits", |figures| read(&figures.waiting) == 2).await;
    lab.orders.send(treat(true)).unwrap();
    lab.told("the client that is there", first).await;
    drop((client, check));
    lab.told("its end", last).await;
}
