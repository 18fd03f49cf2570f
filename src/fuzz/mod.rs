//! What the fuzzer feeds: each parser of bytes that others have made, with what must be true whatever they are.
//!
//! Not part of the product. This module is there for cargo-fuzz, which sets `cfg(fuzzing)` (`fuzz/`), and for `seeded`, a test
//! that gives damaged copies of the same seeds to the same functions, with no more than stable Rust. A function panics if what it
//! checks is not true; otherwise it returns.
//!
//! To add a target: a function beside the parser, in the `fuzz.rs` of its folder; a line in [`TARGETS`]; a file in
//! `fuzz/fuzz_targets/` and its `[[bin]]` in `fuzz/Cargo.toml`; seeds in `fuzz/seeds/NAME/`.

#[cfg(test)]
mod seeded;

pub use crate::config::fuzz::config;
pub use crate::daemon::fuzz::record;
pub use crate::network::fuzz::rtnetlink;
pub use crate::port::fuzz::{sock_diag, unix_diag};
pub use crate::protocol::fuzz::{events, timeout};
pub use crate::ssh::fuzz::{mux, server, stderr};

/// A target: reads the bytes, and panics if it finds a fault.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("config", config),
    ("events", events),
    ("mux", mux),
    ("record", record),
    ("rtnetlink", rtnetlink),
    ("server", server),
    ("sock_diag", sock_diag),
    ("stderr", stderr),
    ("timeout", timeout),
    ("unix_diag", unix_diag),
];
