//! Listens on 127.0.0.1 and the port in its argument, and does nothing else: the smallest `command:` of a tunnel.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of tests: what surprises it ends it")]

use std::net::{Ipv4Addr, TcpListener};

fn main() {
    let port = std::env::args().nth(1).expect("a port").parse::<u16>().expect("a port");
    let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("binding the port");
    loop {
        std::thread::park();
    }
}
