//! What portward reports: log lines, the journal, the state for systemd.

pub mod log;
pub mod recent;
pub mod systemd;
