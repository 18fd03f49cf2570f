//! Who holds a port and when it is free, against the real kernel. Each test has a network namespace of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what surprises a test ends it")]

mod busy;
mod namespace;
mod release;
mod squatters;
mod subscriptions;
mod verdict;
