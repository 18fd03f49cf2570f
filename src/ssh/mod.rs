//! OpenSSH: one master for each connection, its forwards asked for over the multiplexing protocol, its failures classified.

mod control;
mod dynamic;
mod failure;
mod forward;
mod master;

pub use control::{ControlDirectory, ControlError, ControlSocket, SocketMade};
pub use failure::classify;
pub use forward::{Master, MasterError};
pub use master::command;
