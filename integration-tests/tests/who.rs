//! `portward who` and `portward wait`: without a daemon, without privilege, and in the words of the API.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Output, Stdio};

use integration_tests::{Daemon, Lab, NOBODY, Squatter, lines_of, within_deadline};
use portward::port::{Occupant, OccupantKind};
use tokio::process::Command;

const PORT: u16 = 9443;

fn portward(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = lab.command(lab.path("bin/portward"));
    command.args(arguments).env("NO_COLOR", "1").env("PORTWARD_SOCKET", "/nonexistent/portward.sock");
    command
}

/// Runs a command, checks its exit code and returns what it printed on both streams.
async fn run(command: &mut Command, code: i32) -> String {
    let output: Output = within_deadline("portward", command.output()).await.unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {text}");
    text
}

async fn occupants(command: &mut Command) -> Vec<Occupant> {
    serde_json::from_str(&run(command, 0).await).unwrap()
}

#[tokio::test]
async fn a_listener_of_another_process_is_named() {
    let lab = Lab::new();
    let squatter = Squatter::listen(&lab, "127.0.0.1", PORT).await;

    let table = run(&mut portward(&lab, &["who", "9443"]), 0).await;
    let row = table.lines().find(|line| line.contains("127.0.0.1:9443")).expect("a row").to_owned();
    for word in ["listener", &squatter.pid().to_string(), "root (0)", "/usr/bin/python3"] {
        assert!(row.contains(word), "{word} in {table}");
    }
    assert!(!table.contains("hides"), "nothing is hidden from root: {table}");

    let told = occupants(&mut portward(&lab, &["who", "--json", "9443"])).await;
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].port, told[0].kind), (PORT, OccupantKind::Listener));
    let holder = told[0].holder.as_ref().unwrap();
    assert_eq!(holder.pid, Some(squatter.pid()));
    assert!(holder.command.as_ref().unwrap().starts_with("/usr/bin/python3"), "{holder:?}");
}

#[tokio::test]
async fn an_ordinary_user_sees_the_uid_and_never_that_a_held_port_is_free() {
    let lab = Lab::new();
    let _squatter = Squatter::listen(&lab, "127.0.0.1", PORT).await;
    let low = TcpListener::bind(("127.0.0.1", 443)).unwrap();
    let copy = lab.portward_for_all();
    let as_nobody = |arguments: &[&str]| {
        let mut command = lab.command(copy.path().join("portward"));
        command.args(arguments).uid(NOBODY).gid(NOBODY).current_dir("/");
        command
    };

    for port in ["9443", "443"] {
        let table = run(&mut as_nobody(&["who", port]), 0).await;
        for word in ["root (0)", "hidden", &format!("sudo portward who {port}")] {
            assert!(table.contains(word), "{word} in {table}");
        }
        assert!(!table.contains("Nobody"), "{table}");
        let told = occupants(&mut as_nobody(&["who", port, "--json"])).await;
        let holder = told[0].holder.as_ref().unwrap();
        assert_eq!((holder.uid, holder.pid, &holder.command), (0, None, &None));
    }
    let late = run(&mut as_nobody(&["wait", "9443", "--timeout", "100ms"]), 1).await;
    assert!(late.contains("root"), "{late}");
    run(&mut as_nobody(&["wait", "9444", "--timeout", "10s"]), 0).await;
    drop(low);
    run(&mut as_nobody(&["wait", "443", "--timeout", "10s"]), 0).await;
    run(&mut as_nobody(&["who", "443"]), 1).await;
}

#[tokio::test]
async fn exit_codes_tell_held_from_free_from_wrong() {
    let lab = Lab::new();
    let _listener = TcpListener::bind(("127.0.0.1", PORT)).unwrap();
    let mixed = run(&mut portward(&lab, &["who", "9443", "9500"]), 0).await;
    assert!(mixed.contains("127.0.0.1:9443") && mixed.contains("Nobody holds TCP port 9500."), "{mixed}");
    let free = run(&mut portward(&lab, &["who", "9500", "9600-9610"]), 1).await;
    assert!(free.contains("port 9500.") && free.contains("ports 9600-9610."), "{free}");
    assert_eq!(run(&mut portward(&lab, &["who", "--json", "9500"]), 1).await.trim(), "[]");
    let nowhere = run(&mut portward(&lab, &["who", "/nonexistent/app.sock"]), 1).await;
    assert!(nowhere.contains("Nobody listens on /nonexistent/app.sock."), "{nowhere}");
    for wrong in [&["who"][..], &["who", "http"], &["who", "0"], &["who", "90-80"], &["wait", "0"]] {
        run(&mut portward(&lab, wrong), 2).await;
    }
}

#[tokio::test]
async fn a_range_shows_what_is_in_it_and_nothing_else() {
    let lab = Lab::new();
    let _listeners =
        [9439, 9440, 9445, 9450, 9451].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
    let told = occupants(&mut portward(&lab, &["who", "9440-9450", "9445", "--json"])).await;
    assert_eq!(told.iter().map(|told| told.port).collect::<Vec<_>>(), [9440, 9445, 9450]);
}

#[tokio::test]
async fn connections_are_shown_when_asked_for_or_when_they_alone_hold_the_port() {
    let lab = Lab::new();
    let listener = TcpListener::bind(("127.0.0.1", PORT)).unwrap();
    let client = TcpStream::connect(("127.0.0.1", PORT)).unwrap();
    let _accepted = listener.accept().unwrap();
    let kinds = |told: &[Occupant]| told.iter().map(|told| told.kind).collect::<Vec<_>>();

    let told = occupants(&mut portward(&lab, &["who", "9443", "--json"])).await;
    assert_eq!(kinds(&told), [OccupantKind::Listener]);
    let told = occupants(&mut portward(&lab, &["who", "9443", "--json", "--clients"])).await;
    assert_eq!(kinds(&told), [OccupantKind::Listener, OccupantKind::Connection]);
    assert_eq!(told[1].peer, Some(client.local_addr().unwrap()));

    // The client's own port is held by it: nobody else can bind it.
    let own = client.local_addr().unwrap().port().to_string();
    let told = occupants(&mut portward(&lab, &["who", &own, "--json"])).await;
    assert_eq!(kinds(&told), [OccupantKind::Connection]);
    assert_eq!(told[0].holder.as_ref().unwrap().pid, Some(std::process::id()));
}

#[tokio::test]
async fn udp_ports_are_others_than_tcp_ports() {
    let lab = Lab::new();
    let _socket = UdpSocket::bind(("127.0.0.1", PORT)).unwrap();
    run(&mut portward(&lab, &["who", "9443"]), 1).await;
    let table = run(&mut portward(&lab, &["who", "9443", "--udp"]), 0).await;
    assert!(table.contains("bound"), "{table}");
    run(&mut portward(&lab, &["wait", "9443", "--timeout", "0s"]), 0).await;
    run(&mut portward(&lab, &["wait", "9443", "--udp", "--timeout", "50ms"]), 1).await;
    run(&mut portward(&lab, &["wait", "9443", "--udp", "--bound"]), 0).await;
}

#[tokio::test]
async fn wait_ends_when_the_squatter_leaves() {
    let lab = Lab::new();
    let squatter = Squatter::listen(&lab, "127.0.0.1", PORT).await;
    let mut strace = lab.command("strace");
    strace.args(["-e", "trace=setsockopt"]).arg(lab.path("bin/portward")).args(["wait", "9443"]);
    let mut waiting = strace.stderr(Stdio::piped()).spawn().unwrap();
    let calls = lines_of(waiting.stderr.take().unwrap());
    let subscribed = calls.find(0, |line| line.contains("NETLINK_ADD_MEMBERSHIP")).await;
    assert!(subscribed.is_some(), "wait subscribes to what the kernel tells: {:?}", calls.all());
    squatter.leave().await;
    let status = within_deadline("wait", waiting.wait()).await.unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn wait_bound_ends_when_somebody_listens() {
    let lab = Lab::new();
    let mut waiting = portward(&lab, &["wait", "9443", "--bound"]).spawn().unwrap();
    let _squatter = Squatter::listen(&lab, "127.0.0.1", PORT).await;
    assert!(within_deadline("wait", waiting.wait()).await.unwrap().success());
    let late = run(&mut portward(&lab, &["wait", "9444", "--bound", "--timeout", "50ms"]), 1).await;
    assert!(late.contains("no process listens on TCP port 9444"), "{late}");
}

#[tokio::test]
async fn wait_that_is_over_names_the_holder() {
    let lab = Lab::new();
    let squatter = Squatter::listen(&lab, "127.0.0.1", PORT).await;
    let late = run(&mut portward(&lab, &["wait", "9443", "--timeout", "100ms"]), 1).await;
    assert!(late.contains(&format!("pid {} (/usr/bin/python3", squatter.pid())), "{late}");
}

#[tokio::test]
async fn the_api_answers_in_the_same_words() {
    let lab = Lab::new();
    let _squatter = Squatter::listen(&lab, "127.0.0.1", PORT).await;
    let daemon = Daemon::start(&lab, "").await;
    for port in ["9443", "9500"] {
        let answer = daemon.get(&format!("/ports/{port}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let output = portward(&lab, &["who", port, "--json"]).output().await.unwrap();
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer.json(), told);
    }
    let udp = daemon.get("/ports/9443?protocol=udp&clients=true").await;
    assert_eq!((udp.status, udp.body.as_str()), (200, "[]"));
    for wrong in ["/ports/0", "/ports/http", "/ports/65536", "/ports/9443?protocol=sctp"] {
        assert_eq!(daemon.get(wrong).await.status, 400, "{wrong}");
    }
}
