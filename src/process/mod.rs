//! Processes that portward starts: each leads a group of its own, is watched through a pidfd, and ends with its group.

mod child;
mod lines;

pub use child::{Child, Group, SpawnError, spawn};
pub use lines::read_lines;
