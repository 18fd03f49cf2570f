//! Faults, each beside tunnels of all kinds whose clients lose no byte: what is shown meanwhile, and that all is well afterwards.
//!
//! docs/reliability.md has a line for each fault, and names the tests of other files that belong to it. What is printed are the
//! figures of that document.

#![allow(clippy::expect_used, clippy::unwrap_used)]

mod directories;
mod network;
mod pauses;
mod ports;
mod processes;
mod resources;
mod sigterm;
mod site;
