//! The pure core: what a tunnel does next. No IO, no clock, no waiting.

mod failure;
mod policy;
mod state;

pub use failure::{Failure, FailureKind};
pub use policy::{Kind, OnConflict, Policy};
pub use state::StateName;
