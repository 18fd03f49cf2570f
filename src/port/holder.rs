//! The process behind a socket. Everything here reads /proc and blocks: call it on a blocking thread.

use std::collections::{BTreeSet, HashMap};

use super::{HeldBy, Holder};

/// The processes that hold the sockets `inodes`, by inode, as far as this user may see them. Reads all of /proc
/// (7 to 10 ms for 280 processes).
pub fn owners(_inodes: &BTreeSet<u32>) -> HashMap<u32, u32> {
    todo!()
}

/// Whether the process `pid` has the socket `inode` open (28 microseconds).
pub fn pid_owns(_pid: u32, _inode: u32) -> bool {
    todo!()
}

/// Who holds the endpoint.
pub fn describe(_held: &HeldBy) -> Holder {
    todo!()
}

/// Whether `pid` is `ancestor` or a descendant of it.
pub fn is_descendant_of(_pid: u32, _ancestor: u32) -> bool {
    todo!()
}
