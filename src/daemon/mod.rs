//! The daemon: one event loop owns all state, carries out the core's actions and publishes snapshots.

pub mod handle;
pub mod paths;
pub mod snapshot;
