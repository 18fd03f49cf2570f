//! Listeners that portward holds itself, and the relay of their clients to ssh.
//!
//! A held listener accepts whether or not there is a connection to the server. Without one, clients wait in the order in
//! which they came; with one, each is connected to the unix socket on which the ssh of that connection listens, and bytes
//! are copied both ways until both sides have ended.
//!
//! All held listeners live on one thread with a runtime of its own, which the first of them starts: however much goes
//! through a tunnel, the event loop is as quick as without.
//!
//! - `thread`: the thread, and the handles by which it is told what to do.
//! - `order`: what it is told.
//! - `allowed`: who may be a client.
//! - `bind`: sockets that listen on all endpoints of a tunnel.
//! - `desk`: one tunnel: accepts its clients, keeps those that wait, and connects them.
//! - `waiting`: one client that waits, watched for its end.
//! - `upstream`: connects to ssh's unix socket.
//! - `presence`: whether there are clients at all.
//! - `carry`: copies between a client and ssh.
//! - `room`: how many clients the limit of open files has room for.
//! - `figures`: what is counted, and what is reported.

mod allowed;
mod bind;
mod carry;
mod desk;
mod figures;
mod order;
mod presence;
mod room;
mod thread;
mod upstream;
mod waiting;

pub use allowed::{Allowed, Stranger};
pub use bind::{ListenError, Sockets};
pub use desk::MOST_WAITING;
pub use figures::{Figures, News};
pub use order::{Terms, Upstream};
pub use thread::{Announcer, Held, Relay};
