//! The unix socket that the ssh of a tunnel listens on, from the wait for its path to its removal.

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::spawn_blocking;

use super::reporter::{Reporter, log};
use crate::config::desired::LocalSocket;
use crate::core::{Failure, FailureKind, ForwardEvent, Request, Slot};
use crate::port::unix::{self, Changes, Ends, Judgement, SocketFile};
use crate::port::{Holder, Occupant, holder};
use crate::watch::Watcher;

/// The unix socket that an ssh listens on for a tunnel.
#[derive(Debug)]
pub(super) struct UnixListener {
    watcher: Watcher,
    socket: LocalSocket,
    file: SocketFile,
}

impl UnixListener {
    /// The ssh `pid` says that it listens: checks that it does, and gives the file its mode. Until then it is for its user alone.
    pub(super) fn opened(pid: u32, socket: &LocalSocket, watcher: &Watcher) -> Result<Self, Failure> {
        let LocalSocket { path, mode } = socket;
        let shown = path.display();
        let failed = |why: String| Failure::new(FailureKind::Exited, why);
        let listening = unix::listening(path)
            .map_err(|error| failed(format!("cannot find out who listens on {shown}: {error}")))?;
        let Some((file, _)) = listening.filter(|(_, inode)| holder::pid_owns(pid, *inode)) else {
            return Err(failed(format!(
                "ssh says that it listens on {shown}, and the kernel shows no such listener of it"
            )));
        };
        let listener = Self { watcher: watcher.clone(), socket: socket.clone(), file };
        file.set_mode(path, *mode)
            .map_err(|error| failed(format!("cannot give {shown} the mode {mode:04o}: {error}")))?;
        Ok(listener)
    }

    /// Removes the file, if it is the one that ssh made.
    pub(super) fn remove(&self) {
        // What cannot be removed is found stale by the next start, which says so.
        let _ = self.file.remove(&self.socket.path);
    }

    /// Resolves once the file is gone, or another one is in its place.
    pub(super) async fn lost(&self, reporter: &Reporter<Slot>) {
        let path = &self.socket.path;
        let changes = match Changes::of(&self.watcher, path) {
            Ok(changes) => changes,
            Err(error) => {
                reporter.warn(&format!("a removal of {} is not noticed: {error}", path.display()));
                return pending().await;
            }
        };
        while self.file.is_at(path) {
            changes.changed().await;
        }
    }
}

/// Waits until a socket can be bound to a path, and removes a file that an earlier one has left there.
pub(super) struct PathWait {
    pub(super) watcher: Watcher,
    pub(super) reporter: Reporter<Slot>,
    pub(super) request: Request,
    pub(super) path: PathBuf,
    /// Asks for another look.
    pub(super) look: Arc<Notify>,
}

impl PathWait {
    /// Reports `PortHeld`, and in the end `PortUnbound` or `PortUnusable`. Woken by a change of the file and by the end of a process
    /// that has the socket.
    pub(super) async fn run(self) {
        let event = match self.unbound().await {
            Ok(()) => ForwardEvent::PortUnbound,
            Err(failure) => ForwardEvent::PortUnusable(failure),
        };
        self.report(event);
    }

    async fn unbound(&self) -> Result<(), Failure> {
        let mut watch = None;
        let (mut known, mut ends) = (None, Ends::of([]));
        while let Some(occupant) = self.holder().await? {
            if known.as_ref() != Some(&occupant) {
                ends = Ends::of(occupant.holder.iter().flat_map(Holder::pids));
                self.report(ForwardEvent::PortHeld(vec![occupant.clone()]));
                known = Some(occupant);
                if watch.is_none() {
                    watch = Some(self.watch()?);
                }
                // What has changed before it was watched is seen by another look.
                continue;
            }
            let file = async {
                match &watch {
                    Some(changes) => changes.changed().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = file => {}
                () = ends.any() => {}
                () = self.look.notified() => {}
            }
        }
        Ok(())
    }

    fn watch(&self) -> Result<Changes, Failure> {
        Changes::of(&self.watcher, &self.path).map_err(|error| {
            let path = self.path.display();
            let why = format!("{path} is held, and its release would not be noticed: {error}");
            Failure::new(FailureKind::Exited, why)
        })
    }

    /// Who has the path, if anybody does. Looks on a thread that may block.
    async fn holder(&self) -> Result<Option<Occupant>, Failure> {
        let path = self.path.clone();
        let looked = spawn_blocking(move || match unix::judge(&path) {
            Judgement::Unbound => Ok((None, false)),
            Judgement::Held(holder) => Ok((Some(unix::occupant(&path, &holder)), false)),
            Judgement::Stale(file) => file.remove(&path).map(|()| (None, true)).map_err(|error| {
                format!(
                    "nobody listens on {}, and portward cannot remove it ({error}): remove it as its owner",
                    path.display()
                )
            }),
            Judgement::Unusable(why) => Err(why),
        });
        match looked.await {
            Ok(Ok((holder, was_stale))) => {
                if was_stale {
                    let path = self.path.display();
                    log!(
                        info,
                        self.reporter.identity(),
                        event = "stale",
                        "removed {path}, on which nobody listens"
                    );
                }
                Ok(holder)
            }
            Ok(Err(why)) => Err(Failure::new(FailureKind::Config, why).retried_slowly()),
            Err(error) => {
                let why = format!("cannot look at {}: {error}", self.path.display());
                Err(Failure::new(FailureKind::Exited, why))
            }
        }
    }

    fn report(&self, event: ForwardEvent) {
        self.reporter.answer(self.request, event);
    }
}

/// Removes the file of a socket on which nobody listens any more.
pub(super) async fn remove_stale(path: PathBuf) {
    let removed = spawn_blocking(move || match unix::judge(&path) {
        Judgement::Stale(file) => file.remove(&path).is_ok().then_some(path),
        Judgement::Unbound | Judgement::Held(_) | Judgement::Unusable(_) => None,
    });
    if let Ok(Some(path)) = removed.await {
        tracing::info!(
            event = "stale",
            "removed {}, on which an earlier portward's ssh has listened, and nobody does now",
            path.display()
        );
    }
}

/// Why ssh did not listen on a path that was found unbound.
pub(super) fn why_refused(socket: &LocalSocket, otherwise: impl FnOnce() -> Failure) -> Failure {
    let path = socket.path.display();
    match unix::judge(&socket.path) {
        Judgement::Held(_) => Failure::new(
            FailureKind::LocalPortHeld,
            format!("{path} was taken before ssh could listen on it; portward waits for it"),
        ),
        Judgement::Unusable(why) => Failure::new(FailureKind::Config, why).retried_slowly(),
        Judgement::Unbound | Judgement::Stale(_) => otherwise(),
    }
}
