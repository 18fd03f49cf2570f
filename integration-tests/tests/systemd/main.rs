//! portward under a real systemd with a real journal, on machines that are booted for one test each.

// Tests fail by panicking, and so do the helpers here.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod continuity;
mod doctor;
mod journal;
mod log;
mod machine;
mod package;
mod service;
mod site;
mod sockets;
mod units;
mod who;
