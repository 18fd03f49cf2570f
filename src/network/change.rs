//! What can change.

use std::net::IpAddr;

/// A change that the kernel reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// An interface has lost this address. Another one may have it, or the same one again by now.
    AddressRemoved(IpAddr),
    /// A link, an address or a route is another one than before, or messages about them were lost.
    NetworkChanged,
    /// The machine was resumed, or its clock was set.
    Resumed,
}
