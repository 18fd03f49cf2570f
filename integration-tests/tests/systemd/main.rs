//! portward under a real systemd with a real journal, on machines that are booted for one test each.

mod journal;
mod log;
mod machine;
mod service;
mod site;
mod units;
