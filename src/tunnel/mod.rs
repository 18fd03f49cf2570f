//! The pure core: what a tunnel does next. No IO, no clock, no waiting.
//!
//! What is wanted arrives as [`Event::StartRequested`], [`Event::StopRequested`] and [`Event::RestartRequested`]; what
//! is, as the other events. [`step()`] answers with the next state and with [`Action`]s, whose results come back as events.
//!
//! A planned restart of an ssh tunnel, make before break:
//!
//! ```text
//! up{old} -> replacing{old,new}    StartProcess(new)
//!         -> handing over          CloseForward(old)      the port is down from here,
//!         -> forwarding{new}       ConfirmPort(new), RequestForward(new)
//!         -> up{new}               Terminate(old)         and up again from here
//! ```

mod action;
mod backoff;
mod event;
mod failure;
mod policy;
#[cfg(test)]
mod properties;
mod reconcile;
mod state;
mod step;

pub use action::Action;
pub use event::Event;
pub use failure::{Failure, FailureKind, Retry};
pub use policy::{Kind, OnConflict, Policy};
pub use reconcile::{Candidate, Plan, Slot, reconcile};
pub use state::{Generation, StateName, Tunnel};
pub use step::step;
