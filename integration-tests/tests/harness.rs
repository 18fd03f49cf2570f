//! The harness itself, against plain `ssh -L`: what it sees and what it finds.

#![allow(clippy::expect_used)]

use std::process::Stdio;
use std::time::Duration;

use integration_tests::{
    ECHO_PORT, Fetcher, Lab, NumberedStream, ORIGIN_PORT, Squatter, Sshd, Trace, fetch, serve_echo,
    serve_page, socks, within_deadline,
};
use tokio::process::Child;

const PORT: u16 = 9443;

fn ssh(lab: &Lab, arguments: &[&str]) -> Child {
    lab.command(lab.path("bin/ssh"))
        .arg("-F")
        .arg(lab.path("ssh_config"))
        .args(["-N", "-o", "ExitOnForwardFailure=yes"])
        .args(arguments)
        .stderr(Stdio::piped())
        .spawn()
        .expect("starting ssh")
}

#[tokio::test]
async fn clients_use_a_tunnel_until_its_session_dies() {
    let lab = Lab::new();
    let mut sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    let mut tunnel =
        ssh(&lab, &["-v", "-L", "9443:127.0.0.1:8000", "-L", "9444:127.0.0.1:7000", "-D", "9445", "server"]);
    let log = integration_tests::lines_of(tunnel.stderr.take().unwrap());
    assert!(
        log.find(0, |line| line.contains("Entering interactive session")).await.is_some(),
        "{:#?}",
        log.all()
    );

    let fetcher = Fetcher::start(PORT);
    let stream = NumberedStream::open(9444).await;
    let other_stream =
        NumberedStream::over(socks::connect(9445, "localhost", ECHO_PORT).await.unwrap()).await;
    fetcher.next_page().await;
    sshd.stop_listening().await;
    stream.next_bytes().await;
    assert!(other_stream.finish().await > 0);

    sshd.kill_sessions();
    stream.broken().await;
    within_deadline("the end of ssh", tunnel.wait()).await.unwrap();
    assert!(fetch(PORT).await.is_err());
    let seen = fetcher.finish();
    assert!(seen.ok > 0, "{seen:?}");
    assert_eq!(lab.ssh_starts().len(), 1);

    sshd.start_again().await;
    let mark = sshd.log().mark();
    let mut tunnel = ssh(&lab, &["-L", "9443:127.0.0.1:8000", "server"]);
    let accepted = sshd.log().find(mark, |line| line.starts_with("Accepted publickey")).await;
    assert!(accepted.is_some(), "{:#?}", sshd.log().all());
    tunnel.kill().await.unwrap();
    assert_eq!(lab.ssh_starts().len(), 2);
}

#[tokio::test]
async fn each_destination_that_cannot_work_says_why() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let failure = async |destination| {
        let ended = ssh(&lab, &["-o", "BatchMode=yes", destination]).wait_with_output();
        let ended = within_deadline(destination, ended).await.unwrap();
        String::from_utf8(ended.stderr).unwrap()
    };
    let wrong_key = failure("wrong-key").await;
    assert!(wrong_key.contains("Permission denied (publickey)"), "{wrong_key}");
    let stranger = failure("stranger").await;
    assert!(stranger.contains("Host key verification failed"), "{stranger}");
    let nowhere = failure("nowhere").await;
    assert!(nowhere.contains("Could not resolve hostname"), "{nowhere}");
    lab.add_host("nowhere.invalid");
    lab.accept_other_key();
    lab.trust_server("no_known_hosts");
}

#[tokio::test]
#[should_panic(expected = "left behind in the namespace: pid")]
async fn a_process_that_is_left_behind_fails_the_test() {
    let lab = Lab::new();
    let mut left = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    drop(lab);
    left.wait().unwrap();
}

#[tokio::test]
async fn strace_tells_who_sleeps_from_who_polls() {
    let lab = Lab::new();
    let sleeper = Squatter::listen(&lab, "127.0.0.1", PORT).await;
    let calls = Trace::attach(&lab, sleeper.pid()).await.calls_during(Duration::from_millis(300)).await;
    assert_eq!(calls, Vec::<String>::new());
    sleeper.leave().await;

    let program = "import time\nwhile True: time.sleep(0.05)";
    let mut poller = lab.command("/usr/bin/python3").args(["-c", program]).spawn().unwrap();
    let trace = Trace::attach(&lab, poller.id().unwrap()).await;
    assert!(!trace.calls_during(Duration::from_millis(300)).await.is_empty());
    poller.kill().await.unwrap();
}
