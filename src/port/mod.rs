//! Ports: who holds an endpoint, and when it is released, as reported by the kernel.

pub mod advice;
mod bound;
pub mod daemons;
pub mod diag;
mod drain;
mod endpoint;
mod error;
mod events;
mod filter;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod held;
pub mod holder;
mod identify;
mod network;
mod occupant;
mod pace;
mod ports;
mod range;
mod release;
mod time_wait;
mod trial;
pub mod unix;
mod verdict;
pub mod who;
pub mod wire;

pub use endpoint::{Endpoint, Listener, Protocol};
pub use error::PortError;
pub use events::Subscription;
pub use held::{HeldBy, HoldKind, Verdict};
pub(crate) use occupant::SHORT_CONTAINER_ID;
pub use occupant::{Holder, Kinship, Occupant, OccupantKind, Supervisor};
pub use ports::{Counters, Ports};
pub use range::{PortRange, PortRangeError, concise};
pub use trial::socket;
pub use who::Question;
