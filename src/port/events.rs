//! Destroy events: the kernel tells when a socket on a watched port goes away.

/// A standing request to be told when sockets on some ports are destroyed; ends when dropped.
#[derive(Debug)]
pub struct Subscription {}

impl Subscription {
    /// Waits until something happened on the ports since the last call. It is a hint: ask again what is so.
    /// Cancel-safe: what happened meanwhile is reported by the next call.
    pub async fn changed(&mut self) {
        todo!()
    }
}
