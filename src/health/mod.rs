//! One health check of a tunnel: a connection through its listener as a client makes it, or a program.
//!
//! A check holds no state and decides nothing: when there is one and what follows from it is the affair of
//! [`core::Health`](crate::core::Health).

mod command;
mod connect;
mod http;
mod probe;
mod reach;

pub use command::run as run_program;
pub use probe::Probe;
