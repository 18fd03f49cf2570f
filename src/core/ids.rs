//! What the parts of a [`Link`](super::Link) are known by. None of these numbers is ever given out twice.

use std::fmt;

/// A tunnel's place in the daemon. It outlives a change of name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u64);

/// A link, known by the tunnel that it was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub Slot);

/// A connection of a link: one ssh master, or one process of a `command:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ConnectionId(u64);

impl ConnectionId {
    pub(super) const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The later one of a link has the higher number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What a forward has asked for: the answer carries the number, and an answer to an earlier request changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Request(u64);

impl Request {
    /// Takes the next number.
    pub(super) fn take_next(&mut self) -> Self {
        self.0 += 1;
        *self
    }
}
