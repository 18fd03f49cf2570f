//! Who is at the other end of the unix socket.

use nix::unistd::Uid;
use tokio::net::UnixStream;

/// Whether the peer may use the API: it runs as our user, or as root. A peer whose credentials the kernel does not tell may not.
pub(super) fn is_allowed(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| allows(Uid::effective(), Uid::from_raw(peer.uid())))
}

fn allows(ours: Uid, theirs: Uid) -> bool {
    theirs == ours || theirs.is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_user_and_root_are_allowed_and_nobody_else() {
        let [root, ada, bob] = [0, 1000, 1001].map(Uid::from_raw);
        assert!(allows(ada, ada));
        assert!(allows(ada, root));
        assert!(allows(root, root));
        assert!(!allows(ada, bob));
        assert!(!allows(root, ada));
    }
}
