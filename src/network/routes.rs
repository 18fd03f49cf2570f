//! Changes of links, addresses and routes, over one rtnetlink socket.

use std::collections::BTreeSet;
use std::future::pending;
use std::io;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::libc;
use tokio::io::unix::AsyncFd;

use super::Change;
use super::message::Announced;
use crate::netlink;

/// RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE.
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];

/// A message about an address has some 100 bytes. One about a link may have more than this, and need not be read to its end.
const BUFFER_SIZE: usize = 8 * 1024;

/// Datagrams that are read before others on this thread have their turn.
const DATAGRAMS_AT_ONCE: usize = 64;

/// A subscription to the changes; ends when dropped.
#[derive(Debug)]
pub(super) struct Routes {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
    announced: Announced,
}

impl Routes {
    /// Subscribes, in the network namespace of the calling thread. Panics outside a tokio runtime.
    pub(super) fn subscribe() -> io::Result<Self> {
        let socket = netlink::open(NETLINK_ROUTE)?;
        for group in GROUPS {
            socket.get_ref().add_membership(group)?;
        }
        Ok(Self { socket, buffer: Vec::with_capacity(BUFFER_SIZE), announced: Announced::default() })
    }

    /// Waits for changes since the last call. Cancel-safe: what was not read is reported by the next call.
    pub(super) async fn changes(&mut self) -> BTreeSet<Change> {
        let mut changes = BTreeSet::new();
        while changes.is_empty() {
            let Ok(mut ready) = self.socket.readable().await else {
                // The runtime is shutting down.
                return pending().await;
            };
            for _ in 0..DATAGRAMS_AT_ONCE {
                self.buffer.clear();
                self.buffer.reserve(BUFFER_SIZE);
                let buffer = &mut self.buffer;
                match ready.try_io(|socket| socket.get_ref().recv_from(buffer, 0)) {
                    Ok(Ok((_, sender))) if sender.port_number() == 0 => {
                        changes.extend(self.announced.changes(&self.buffer));
                    }
                    // Not from the kernel: processes of root can send messages, too.
                    Ok(Ok(_)) => {}
                    // ENOBUFS: messages were lost. Reading the error clears it, and the socket works on.
                    Ok(Err(error)) => {
                        if error.raw_os_error() != Some(libc::ENOBUFS) {
                            tracing::debug!(%error, "changes of the network");
                        }
                        self.announced.forget();
                        changes.insert(Change::NetworkChanged);
                    }
                    Err(_would_block) => break,
                }
            }
        }
        changes
    }
}
