//! The pure core: what happens next. No IO, no clock, no waiting.
//!
//! Two machines. A `connection` is one process: an ssh master, or what a `command:` runs. A `forward` is the listener that
//! serves a tunnel: it needs its port, and a connection that listens. A [`Link`] joins those that belong together: it keeps what
//! is wanted apart from what is, hears of every [`Event`], and answers with [`Action`]s, whose results come back as events.
//!
//! Deadlines are part of the states. Whoever drives a link asks for the [next one](Link::deadline) and reports when it has passed.

mod action;
mod backoff;
mod check_error;
mod connection;
mod demand;
mod event;
mod evicted;
mod failure;
mod forward;
mod health;
mod ids;
mod inherit;
mod link;
mod loss;
mod network;
mod policy;
#[cfg(test)]
mod properties;
mod reconcile;
mod spare;
mod state_name;
#[cfg(test)]
mod tables;
mod turn;

pub use action::Action;
pub use check_error::{CheckError, CheckErrorKind};
pub use event::{ConnectionEvent, Event, ForwardEvent};
pub use failure::{Failure, FailureKind, Retry};
pub use health::{CheckNumber, Health, HealthAction, HealthEvent, HealthPolicy, HealthState, Remedy};
pub use ids::{ConnectionId, LinkId, Request, Slot};
pub use inherit::{Left, Role};
pub use link::{Link, TunnelState};
pub use policy::{Kind, LONGEST_LOGIN, OnConflict, Policy};
pub use reconcile::{Candidate, Plan, reconcile};
pub use spare::Standby;
pub use state_name::StateName;
