//! The harness: the real daemon, the real ssh and the real sshd, in a network and mount namespace made for one test.
//!
//! A test is a `#[tokio::test]` (current-thread runtime): [`Lab::new`] moves its thread into new namespaces, and all that the
//! thread starts from then on lives in there. Nothing of a test can reach the host's ports, nor another test's.
//!
//! - [`Lab`]: the namespaces, the directory, the keys and the ssh configuration of one test.
//! - [`Sshd`]: OpenSSH's server, which can be stopped and started again.
//! - [`FarSide`]: a second network namespace with cables to the lab's, for a server that can be cut off.
//! - [`Daemon`]: `portward run`, its log, its events, its API and its command line.
//! - [`Fetcher`], [`NumberedStream`], [`socks`]: clients that use a tunnel while the test does something to it.
//! - [`Others`]: tunnels of all kinds beside the one that a fault hits, with streams that must lose nothing.
//! - [`Squatter`], [`python`]: foreign processes that hold a port.
//! - [`held_tunnel`], [`fetch_patiently`]: tunnels with `listener: portward`, and clients that may have to wait.
//! - [`Gate`]: where a command waits until the test lets it go on.
//! - [`run`], [`said_by`]: what a program prints, and how it ends. [`tool`]: one that Debian has no package of.
//! - [`Squat`]: a socket of any kind that can hold a port, made here or by the program `squatting-process`.
//! - [`isolated`]: a network namespace alone, for what needs no daemon.
//! - [`Bystander`]: a process under the pid that another one had.
//! - [`Terminal`], [`Panel`]: a person at a pseudo-terminal, and at the WebSocket that a browser opens.
//! - [`repository`], [`read`], [`read_below`]: files of the repository, which some tests compare.
//! - [`Trace`], [`Tripwire`]: strace, to see the system calls of a process, or to stop it at one.
//! - [`Choices`]: choices at random that can be repeated.
//! - [`Record`]: a list that only grows and that can be waited on; every wait in the harness is one on a record.

// A harness fails by panicking: that is how a test hears of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]

mod api;
mod bystander;
mod choices;
mod clients;
mod daemon;
mod far_side;
mod gate;
mod held;
mod lab;
mod log;
mod namespace;
mod network;
mod origin;
mod others;
mod output;
mod record;
mod repository;
pub mod socks;
mod squat;
mod squatter;
mod sshd;
mod strace;
mod terminal;
mod tools;

pub use api::{
    API_PORT, API_TOKEN, Answer, get_of_other, request, request_over_tcp, request_over_tcp_with,
    request_with, send_over_tcp,
};
pub use bystander::Bystander;
pub use choices::{Choices, SEED};
pub use clients::{Fetched, Fetcher, NumberedStream, fetch, fetch_from};
pub use daemon::{Daemon, Ended, listens_on};
pub use far_side::FarSide;
pub use gate::Gate;
pub use held::{PATIENCE, fetch_patiently, held_tunnel};
pub use lab::{ECHO_PORT, Lab, ORIGIN_PORT, SSHD_PORT};
pub use log::{LogLine, assert_no_busy_port, lines_of, starts};
pub use namespace::{ProcessInfo, kill, process_end, stop_signal};
pub use network::{NOBODY, become_nobody, ip, isolated};
pub use origin::{serve_echo, serve_page};
pub use others::Others;
pub use output::{run, said_by};
pub use record::{DEADLINE, Record, within_deadline};
pub use repository::{read, read_below, repository};
pub use squat::{Held, Squat, Use, would_bind_and_listen};
pub use squatter::{Squatter, listener_called, python};
pub use sshd::Sshd;
pub use strace::{Trace, Tripwire};
pub use terminal::{Panel, Terminal};
pub use tools::tool;
