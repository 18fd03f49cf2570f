//! OpenSSH: one master for each connection, its forwards asked for over the multiplexing protocol, its failures classified.

mod connection_errors;
mod control;
mod dynamic;
mod failure;
mod forward;
mod jump;
mod master;
mod plan;
mod settings;

pub use connection_errors::{ConnectionError, ConnectionErrorKind};
pub use control::{ControlDirectory, ControlError, ControlSocket};
pub use failure::classify;
pub use forward::{Master, MasterError};
pub use master::{command, question};
pub use plan::Plan;
pub use settings::Settings;
