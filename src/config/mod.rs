//! The configuration: file -> raw -> desired.

pub mod desired;

pub use desired::Desired;
