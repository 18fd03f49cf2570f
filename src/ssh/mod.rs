//! OpenSSH: one master for each connection, its forwards asked for over the multiplexing protocol, its failures classified.

mod by_hand;
mod control;
mod dynamic;
mod failure;
mod forward;
mod master;
mod progress;

pub use by_hand::{accepting_line, line};
pub use control::{ControlDirectory, ControlError, ControlSocket};
pub use failure::{End, classify, is_debug, not_ready, not_the_master, quote};
pub use forward::{Master, MasterError};
pub use master::command;
