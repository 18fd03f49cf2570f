//! Changes of links and addresses, as reported by rtnetlink.
//!
//! A socket that the kernel has made for itself, such as the UDP socket of a VXLAN device, sends no destroy event. Most of them
//! disappear with a link, and rtnetlink reports those to every user. The messages are not read: each is a hint to query again.

use std::io;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use tokio::io::unix::AsyncFd;

use crate::netlink;

/// RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR.
const GROUPS: [u32; 3] = [1, 5, 9];
/// The beginning of a message will do.
const BUFFER_SIZE: usize = 64;

/// A subscription to changes; ends when dropped.
#[derive(Debug)]
pub(super) struct NetworkChanges(AsyncFd<Socket>);

impl NetworkChanges {
    /// Subscribes. Panics outside a tokio runtime.
    pub(super) fn subscribe() -> io::Result<Self> {
        let socket = netlink::open(NETLINK_ROUTE)?;
        for group in GROUPS {
            socket.get_ref().add_membership(group)?;
        }
        Ok(Self(socket))
    }

    /// Waits until something changed since the last call.
    pub(super) async fn changed(&mut self) {
        let Ok(mut ready) = self.0.readable().await else {
            // The runtime is shutting down.
            return std::future::pending().await;
        };
        let mut buffer = Vec::with_capacity(BUFFER_SIZE);
        // Errors are read as well: ENOBUFS means that messages were lost, and clears by that.
        while let Ok(result) = ready.try_io(|socket| {
            buffer.clear();
            socket.get_ref().recv_from(&mut buffer, 0)
        }) {
            if let Err(error) = result {
                tracing::debug!(%error, "changes of the network");
            }
        }
    }
}
