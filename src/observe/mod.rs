//! What portward tells the outside: log lines, the journal, systemd.

pub mod recent;
