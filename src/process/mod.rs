//! Processes: those that portward starts, each the leader of a group of its own and watched through a pidfd, and those
//! that it is told to evict from a port.

mod bucket;
mod child;
mod evict;
mod lines;

pub(crate) use bucket::{Bucket, Rate};
pub use child::{Child, Group, SpawnError, spawn};
pub use evict::{Bar, Evictee, Signalled, Spared, Suspect, bar, evictees, signal};
pub use lines::{Pace, read_lines};
