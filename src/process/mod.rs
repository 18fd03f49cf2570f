//! Processes: those that portward starts, each the leader of a tree of its own and watched through a pidfd, those that become
//! its children, and those that it evicts from a port.

mod answer;
mod bucket;
mod child;
mod ends;
mod evict;
mod exec;
mod inherited;
pub mod limits;
mod lines;
mod orphans;
mod pipes;
mod reaper;
mod registry;
mod spawn_error;
mod stat;
mod tree;
mod vfork;

pub use answer::answer;
pub(crate) use bucket::{Bucket, Rate};
pub use child::{Child, spawn, spawn_saying};
pub use evict::{Bar, Evictee, Signalled, Spared, Suspect, bar, evictees, signal};
pub(crate) use exec::resolve;
pub use inherited::{Origin, end_unwanted, inherit, is_running};
pub use lines::{LONGEST_LINE, OUTPUT_GRACE, Pace, Pipe, read_lines};
pub use pipes::Says;
pub use reaper::look_after_children;
pub use registry::{MARK, Main, become_subreaper, is_of_a_tree, run};
pub use spawn_error::SpawnError;
pub use tree::{Remains, Survivor, Tree, named};
