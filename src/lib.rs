//! portward keeps SSH tunnels alive, and never starts one on a port that the kernel has not confirmed unbound.
//!
//! One way through: configuration file -> raw config -> desired -> reconcile -> `step` -> actions -> effects -> events back;
//! snapshots go out to the API, the command line and the journal.
//!
//! - [`config`]: the YAML file, its errors, and what is wanted when it has none; watching it.
//! - [`tunnel`]: the pure core. `step(tunnel, event, now, policy)` decides everything and does no IO.
//! - [`port`]: who holds an endpoint and when it is unbound, as the kernel says over sock_diag netlink.
//! - [`daemon`]: the event loop, sole owner of all state; carries out actions, publishes snapshots.
//! - [`api`] and [`cli`]: both read snapshots and send commands; neither touches a tunnel.
//! - [`doctor`]: checks for problems that would make a tunnel fail, each with the fix.
//! - [`protocol`]: the wire types, which the API and its clients share.
//! - [`observe`]: log lines, the journal, systemd.
//! - [`shell`]: words of the lines that a person pastes into a shell.
//! - [`text`]: texts of others made safe to show.
//! - [`home`]: the home directory, for `~/` and for children.
//! - [`watch`]: changes of files, by the process's one inotify instance.
//! - [`clock`]: the only place that reads a clock.

pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod home;
pub mod observe;
pub mod port;
pub mod process;
pub mod protocol;
pub mod shell;
pub mod ssh;
pub mod text;
pub mod tunnel;
pub mod watch;
