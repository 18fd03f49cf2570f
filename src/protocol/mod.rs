//! The wire types: what the API is asked and what it answers, defined once for its server and its clients.
//!
//! - [`TunnelStatus`], [`Snapshot`], [`Health`]: the state of the tunnels and of the daemon (`/status`, `/health`);
//!   [`TunnelHealth`] is what the health checks of a tunnel have shown.
//! - [`Change`]: an event of `/events`, and [`Decoder`], which reads it from the stream.
//! - [`Verb`], [`ActQuery`], [`Acted`], [`AllActed`], [`Took`]: `/start`, `/stop`, `/restart`.
//! - [`posted`], [`posted_list`], [`ReplaceQuery`]: what is posted to `/config`. [`ReloadQuery`], [`Reloaded`]: `/reload`.
//!   [`LogQuery`], [`RecentLog`]: `/logs/{id}`. [`PortQuery`]: `/ports/{port}`.
//! - [`LoginEnd`]: the end of `/ws/auth/{hash}`. [`AskpassQuery`], [`AskpassAnswer`]: a question of ssh (`/askpass`).
//! - [`doctor::Report`]: what the daemon finds when it examines itself (`/doctor`).
//! - [`Refused`]: the body of every answer that refuses.
//! - [`autossh_tunnel`]: the views that exist for the clients of autossh-tunnel-dockerized only.
//!
//! [`find`] and [`wording`] give server and command line the same reading of an identifier and of a status.

mod actions;
pub mod autossh_tunnel;
mod configure;
pub mod doctor;
mod events;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod login;
mod logs;
mod lookup;
mod ports;
mod refused;
mod reload;
mod sse;
mod status;
#[cfg(test)]
pub(crate) mod tests;
mod timeout;
pub mod wording;

pub use actions::{ActQuery, Acted, AllActed, Conclusion, Took, Verb};
pub use configure::{
    BodyError, Confirmed, PostedChange, PostedList, PostedTunnel, ReplaceQuery, posted, posted_list,
};
pub use events::Change;
pub use login::{AskpassAnswer, AskpassQuery, LoginCode, LoginEnd, QuestionKind, Secret};
pub use logs::{LogQuery, RecentLog};
pub use lookup::{Identified, LookupError, find, position};
pub use ports::PortQuery;
pub use refused::Refused;
pub use reload::{ReloadQuery, ReloadReport, Reloaded};
pub use sse::{Decoder, SentEvent};
pub use status::{
    Clients, ConnectionErrors, ConnectionWord, FailedConnection, Health, HealthWord, Snapshot, TunnelHealth,
    TunnelStatus,
};
pub use timeout::{Timeout, TimeoutError, duration};

pub use crate::core::{CheckError, CheckErrorKind, Failure, FailureKind, HealthState, Standby, StateName};
pub use crate::port::{Holder, Kinship, Occupant, OccupantKind, Protocol};
pub use crate::ssh::ConnectionErrorKind;
