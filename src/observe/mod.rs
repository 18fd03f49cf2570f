//! What portward tells the outside: log lines, the journal, systemd.

pub mod log;
pub mod recent;
pub mod systemd;
