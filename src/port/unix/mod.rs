//! Unix sockets: whether a tunnel can listen on a path, and who does.
//!
//! The file of a socket stays when nobody listens on it any more, and then keeps others from binding the path. So the verdict has one
//! more value than that of a port: stale. A row of sock_diag names a socket's file by device and inode; rows are those of one network
//! namespace, while a file may be shared by several. So before a file counts as stale, a connection is tried: only "connection
//! refused" means that nobody listens.
//!
//! - `file`: a socket's file: which one it is, its removal and its mode.
//! - `rows`: the sockets that are bound to files or abstract names, as the kernel reports them.
//! - `judge`: the verdict.
//! - `changes`: waiting for a change of the file, and for the end of a holder.

mod changes;
mod file;
mod judge;
pub(super) mod rows;

pub use changes::{Changes, Ends};
pub use file::{At, SocketFile, at};
pub use judge::{Judgement, UnixHolder, judge, listening, occupant};
pub(super) use rows::{Row, rows};
