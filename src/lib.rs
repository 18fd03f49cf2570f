//! portward keeps SSH tunnels alive, and never starts one on a port that the kernel has not confirmed unbound.
//!
//! One way through: configuration file -> raw config -> desired -> reconcile -> `Link::hear` -> actions -> effects -> events back;
//! snapshots go out to the API, the command line and the journal.
//!
//! - [`config`]: the YAML file, its errors, and what is wanted when it has none; watching it.
//! - [`core`]: the pure core, two state machines and the link that joins them. It decides everything and does no IO.
//! - [`claim`]: one daemon for each configuration.
//! - [`port`]: who holds an endpoint and when it is unbound, as the kernel says over sock_diag netlink.
//! - [`relay`]: listeners that portward holds itself, and the relay of their clients to ssh, on a thread of their own.
//! - [`ssh`] and [`process`]: one connection of OpenSSH, and the processes that portward starts and ends.
//! - [`health`]: one health check of a tunnel, through its listener or by a program.
//! - [`daemon`]: the event loop, sole owner of all state; carries out actions, publishes snapshots.
//! - [`protocol`]: the wire types, once, for the daemon, the API and all clients.
//! - [`api`] and [`cli`]: both read snapshots and send commands; neither touches a tunnel.
//! - [`doctor`]: checks for problems that would make a tunnel fail, each with the fix.
//! - [`run`]: the composition of all this as `portward run`.
//! - [`observe`]: log lines, the journal, systemd.
//! - [`socket`] and [`token`]: the daemon's unix socket, and the bearer token of its API.
//! - [`shell`]: words of the lines that a person pastes into a shell.
//! - [`text`]: texts of others made safe to show.
//! - [`paths`]: default paths: home directory, configuration, runtime directory.
//! - [`access`]: who can read or change a file.
//! - [`watch`]: changes of files, by the process's one inotify instance.
//! - [`network`]: changes of the network and of the clock, as the kernel reports them.
//! - [`clock`]: the only place that reads a clock.
//!
//! Imports run downwards, in the order that ARCHITECTURE.md gives and a test checks.

pub mod access;
pub mod api;
pub mod claim;
pub mod cli;
pub mod clock;
pub mod config;
pub mod core;
pub mod daemon;
pub mod doctor;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod health;
mod netlink;
pub mod network;
pub mod observe;
pub mod paths;
pub mod port;
pub mod process;
pub mod protocol;
pub mod relay;
pub mod run;
pub mod shell;
pub mod socket;
pub mod ssh;
pub mod text;
pub mod token;
pub mod watch;
