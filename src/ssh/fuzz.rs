//! Targets of the fuzzer: what a master answers on its control socket, what a server answers about its ports, and what ssh says on
//! standard error.

#![allow(clippy::missing_panics_doc, reason = "a panic is how a target reports a fault")]

use std::future::Future;
use std::os::unix::process::ExitStatusExt as _;
use std::pin::pin;
use std::process::ExitStatus;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::connection_errors::ConnectionError;
use super::failure::{End, classify, is_debug, not_ready};
use super::mux::{Direction, Forwarding, MuxClient, MuxError, Place};
use super::server::Answer;
use crate::config::desired::{Environment, Ssh};
use crate::process::LONGEST_LINE;
use crate::text;

/// Longest message about a failure, in bytes (`core::Failure`).
const LONGEST_MESSAGE: usize = 2048;

/// What a master sends: its hello, and the answers to an alive check and to requests to open and to close a forward.
pub fn mux(sent: &[u8]) {
    let stream = tokio::io::join(sent, tokio::io::sink());
    let conversation = async {
        let mut client = MuxClient::greet(stream).await?;
        client.alive_check().await?;
        for direction in [Direction::Local, Direction::Remote, Direction::Dynamic] {
            let forwarding = Forwarding {
                direction,
                listen: Place::tcp("::1", 8080),
                target: Place::unix("/run/db.sock"),
            };
            is_bounded(client.open(&forwarding).await, sent)?;
            is_bounded(client.close(&forwarding).await, sent)?;
        }
        Ok::<(), MuxError>(())
    };
    // Everything is there, or will never be: there is nothing to wait for.
    match pin!(conversation).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(_) => {}
        Poll::Pending => panic!("it waits for more than its stream"),
    }
}

/// After a refusal the next request may be sent; any other error ends the conversation.
fn is_bounded(answer: Result<(), MuxError>, sent: &[u8]) -> Result<(), MuxError> {
    match answer {
        // A byte that is not UTF-8 becomes a character of three bytes.
        Err(MuxError::Refused(reason)) => {
            assert!(reason.len() <= 3 * sent.len(), "{} bytes", reason.len());
            Ok(())
        }
        other => other,
    }
}

/// What a server says of its ports.
pub fn server(said: &[u8]) {
    if let Some(answer) = Answer::read(&String::from_utf8_lossy(said)) {
        answer.listeners.iter().for_each(|listener| is_showable(&listener.to_string()));
    }
}

/// What ssh says, in lines; the first byte is how it ended.
pub fn stderr(bytes: &[u8]) {
    let Some((how, said)) = bytes.split_first() else { return };
    let ssh = Ssh {
        destination: "user@db".to_owned(),
        program: "ssh".into(),
        config_file: None,
        identity_file: None,
        options: [("Port".to_owned(), "2222".to_owned())].into(),
        env: Environment::default(),
    };
    let said: Vec<String> = said
        .split(|byte| *byte == b'\n')
        .flat_map(|line| line.chunks(LONGEST_LINE))
        .map(|line| String::from_utf8_lossy(line).trim_end().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    for line in &said {
        is_debug(line);
        if let Some(error) = ConnectionError::of_line(line) {
            is_showable(&error.message_of_one_of(2, "db"));
        }
    }
    let (was_ready, signal_or_status) = (how & 0x80 != 0, i32::from(how & 0x7f));
    for status in [signal_or_status, signal_or_status << 8, 255 << 8] {
        let end = End { status: Some(ExitStatus::from_raw(status)), said: &said, was_ready, by_hand: false };
        is_showable(&classify(&end, &ssh).message);
    }
    // No process has this pid.
    is_showable(&not_ready(&ssh, u32::MAX, &said, Duration::from_secs(25)).message);
}

/// Whatever is said, the message about it is one line of bounded length, and no character of it steers a terminal.
fn is_showable(message: &str) {
    assert!(message.chars().all(|letter| letter == '\t' || !text::is_unsafe(letter)), "{message:?}");
    assert!(message.len() <= LONGEST_MESSAGE, "{} bytes: {message}", message.len());
}
