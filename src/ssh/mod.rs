//! OpenSSH: one master for each connection, its forwards asked for over the multiplexing protocol, its failures classified.

mod askpass;
mod by_hand;
mod connection_errors;
mod control;
mod evaluate;
mod failure;
mod forward;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod jump;
mod master;
mod mux;
mod plan;
mod progress;
mod query;
pub mod server;
mod settings;

pub use askpass::{Askpass, KIND, PROGRAM, SOCKET, TOKEN};
pub use by_hand::{accepting_line, line};
pub use connection_errors::{ConnectionError, ConnectionErrorKind};
pub use control::{ControlDirectory, ControlError, ControlSocket, ForwardSockets, SocketMade, forward_paths};
pub use failure::{End, classify, is_debug, not_ready, not_the_master, quote};
pub use forward::{Listens, Master, MasterError, NotOpened, forwardings, is_of_closing};
pub use master::{asking, command, question};
pub use mux::Forwarding;
pub use plan::{AddressFamily, Plan};
pub use server::is_of_session;
pub use settings::Settings;
