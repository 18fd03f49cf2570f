//! The forwards of one ssh that is ready: carries out the orders to open and to close them, and watches their listeners.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::attempt::{Asked, Attempt, Heard, Order, SshAttempt, port_failure};
use super::connections::forward_name;
use super::listening::Listening;
use super::record::{Carried, SshRecord};
use super::remote_port::{self, Who};
use super::reporter::{LinkReport, Reporter, TunnelReport, log};
use super::server_side::{Matter, Refused, ServerSide};
use super::unix_listener::{self, UnixListener};
use crate::config::desired::{Forward, RemoteListen, RemotePortRecovery};
use crate::core::{ConnectionEvent, Failure, FailureKind, ForwardEvent, Request, Slot};
use crate::port::{Endpoint, Listener, Verdict, holder};
use crate::ssh::server::{Answer, ServerProcess};
use crate::ssh::{self, ForwardSockets, Forwarding, Listens, Master, MasterError, NotOpened};

/// How long a master may take to answer before it counts as one that lives and is stopped: 0.2 ms measured.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// The forwards of one master.
pub(super) struct Forwards<'a> {
    attempt: &'a Attempt,
    ssh: &'a SshAttempt,
    pid: u32,
    master: Master,
    open: BTreeMap<Slot, Opened>,
    /// Those among them of which nobody has been told yet.
    untold: Vec<Slot>,
    carried: Carried,
    server: ServerSide,
}

/// Why a forward is not open.
enum NotOpen {
    Failed(Failure),
    /// The server does not listen on this port; in its own words.
    AtServer(u16, String),
}

impl From<Failure> for NotOpen {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// A forward that was opened.
struct Opened {
    request: Request,
    listening: Arc<Listening>,
    forward: Forward,
    sockets: ForwardSockets,
    /// The unix socket that clients of this machine connect to, once ssh listens on it.
    unix: Option<Arc<UnixListener>>,
    /// Reports when a listener is gone. Ends when it is dropped.
    watch: JoinSet<()>,
}

impl<'a> Forwards<'a> {
    /// None is open. `server`: the process of this ssh there, if that is known already.
    pub(super) fn new(
        attempt: &'a Attempt,
        ssh: &'a SshAttempt,
        (pid, master): (u32, Master),
        server: Option<ServerProcess>,
        heard: Arc<Heard>,
    ) -> Self {
        let server = ServerSide::new(ssh.control.path(), pid, server, heard);
        let (open, untold, carried) = Default::default();
        Self { attempt, ssh, pid, master, open, untold, carried, server }
    }

    /// Takes over what an earlier run of portward has left: closes what is `unneeded`.
    pub(super) async fn begin(&mut self, unneeded: &[Forwarding], carried: Carried) {
        self.carried = carried;
        if let Err(error) = self.master.close_all(unneeded).await {
            self.attempt.reporter.warn(&error.to_string());
        }
    }

    /// What the master is asked for, to serve the tunnel.
    pub(super) fn forwardings(&self, asked: &Asked) -> Vec<Forwarding> {
        let Asked { reporter, forward, .. } = asked;
        let wanted = self.ssh.family.endpoints(forward.listens(), &self.ssh.ssh.destination);
        let endpoints = self.attempt.ports.usable(&wanted.unwrap_or_default());
        let name = forward_name(reporter.slot(), self.attempt.connection);
        let sockets = ssh::forward_paths(self.ssh.control.path(), &name, forward.held_ports());
        ssh::forwardings(forward, Listens { endpoints: &endpoints, sockets: &sockets })
    }

    /// What the master forwards now, and whose connections it may carry.
    pub(super) fn note(&self, record: &mut SshRecord) {
        let of = |opened: &Opened| ssh::forwardings(&opened.forward, opened.listens());
        record.forwards = self.open.values().flat_map(of).collect();
        record.carried.clone_from(&self.carried);
        record.server = self.server.own().cloned();
    }

    pub(super) async fn carry_out(&mut self, order: Order) {
        match order {
            Order::Open(request, asked) => {
                let opened = self.open(request, &asked).await;
                match (opened, asked.recovery) {
                    (Ok(()), _) => self.opened(&asked),
                    (Err(NotOpen::AtServer(port, said)), RemotePortRecovery::Auto)
                        if !self.server.is_mute() =>
                    {
                        let refused = Refused { request, asked: *asked, port, said };
                        self.server.ask(Matter::Who(Box::new(refused)));
                    }
                    (Err(not_open), recovery) => {
                        let who = match recovery {
                            RemotePortRecovery::Auto => Who::Hidden,
                            RemotePortRecovery::Off => Who::Off,
                        };
                        let failure = self.failure(not_open, |_| who);
                        asked.reporter.answer(request, ForwardEvent::Refused(failure));
                    }
                }
            }
            Order::Inherit(request, asked) => {
                // ssh answers a request for a listener that it has with success, and does nothing.
                match self.open(request, &asked).await {
                    Ok(()) => {
                        self.watch(asked.reporter.slot());
                        self.ask_where(&asked);
                    }
                    Err(not_open) => {
                        let failure = self.failure(not_open, |_| Who::Unasked);
                        asked.reporter.warn(&failure.to_string());
                        asked.reporter.answer(request, ForwardEvent::ListenerLost);
                    }
                }
            }
            Order::Close(request, slot) => self.close(request, slot).await,
            Order::AwaitClients => {
                // Where nobody looks, the time passes.
                if !self.carried.unseen && !self.carried.addresses.is_empty() {
                    let endpoint = |address: &SocketAddr| Endpoint::new(address.ip(), address.port());
                    let endpoints: Vec<_> = self.carried.addresses.iter().map(endpoint).collect();
                    match self.attempt.ports.drained(self.pid, &endpoints).await {
                        Ok(()) => self.attempt.report(ConnectionEvent::Drained),
                        Err(error) => self.attempt.reporter.warn(&error.to_string()),
                    }
                }
            }
            Order::Check(request) => {
                let opened = self.open.values().find(|opened| opened.request == request);
                // The end of ssh is reported with its reason.
                if let Some(opened) = opened
                    && lives(self.ssh.control.path(), self.pid).await
                {
                    opened.listening.reporter().answer(request, ForwardEvent::ListenerLost);
                }
            }
        }
    }

    /// What the server has answered, and to what. Cancel-safe.
    pub(super) async fn answered(&mut self) -> (Vec<Matter>, Option<Answer>) {
        self.server.answered().await
    }

    /// Does what follows from an answer of the server.
    pub(super) async fn take(&mut self, (matters, answer): (Vec<Matter>, Option<Answer>)) {
        let mut taken = BTreeSet::new();
        if let (Some(Matter::Who(refused)), Some(answer)) = (matters.first(), &answer) {
            self.log_recovery(&refused.asked, answer);
        }
        for matter in matters {
            match (matter, &answer) {
                (Matter::Where(reporter, port), Some(answer)) => {
                    taken.insert(port);
                    self.note_where(&reporter, port, answer);
                }
                (Matter::Where(..), None) => {}
                (Matter::Who(refused), answer) => self.ask_once_more(*refused, answer.as_ref()).await,
            }
        }
        if let Some(own) = answer.and_then(|answer| answer.own)
            && !taken.is_empty()
        {
            self.attempt.reporter.send(LinkReport::ServerListens(own.boot, taken));
        }
    }

    /// A refused request is made once more, if who had the port has ended.
    async fn ask_once_more(&mut self, refused: Refused, answer: Option<&Answer>) {
        let Refused { request, asked, port, said } = refused;
        let on_port = |answer: &Answer| {
            let listeners = answer.listeners.iter().filter(|listener| listener.address.port() == port);
            listeners.cloned().collect::<Vec<_>>()
        };
        // Nobody has it any more if it was freed for another tunnel just now.
        let is_free = |answer: &Answer| {
            !answer.ended.is_empty() || (on_port(answer).is_empty() && !asked.stale.is_empty())
        };
        let mut not_open = NotOpen::AtServer(port, said);
        if answer.is_some_and(is_free) {
            match self.open(request, &asked).await {
                Ok(()) => return self.opened(&asked),
                Err(again) => not_open = again,
            }
        }
        let failure = self.failure(not_open, |refused| match answer {
            Some(answer) if refused == port => Who::Seen(on_port(answer)),
            Some(_) => Who::Unasked,
            None => Who::Hidden,
        });
        asked.reporter.answer(request, ForwardEvent::Refused(failure));
    }

    fn log_recovery(&self, asked: &Asked, answer: &Answer) {
        let destination = &self.ssh.ssh.destination;
        for pid in &answer.ended {
            log!(
                info,
                asked.reporter.identity(),
                event = "remote_port_recovered",
                "ended pid {pid} of {destination}, which still held the port there for a connection that has ended"
            );
        }
    }

    fn failure(&self, not_open: NotOpen, who: impl FnOnce(u16) -> Who) -> Failure {
        match not_open {
            NotOpen::Failed(failure) => failure,
            NotOpen::AtServer(port, said) => {
                remote_port::refused(&self.ssh.ssh.destination, port, &said, &who(port))
            }
        }
    }

    fn opened(&mut self, asked: &Asked) {
        self.untold.push(asked.reporter.slot());
        self.ask_where(asked);
    }

    /// Reports what has been opened, which is in the record by now: what is told as up, a later run of portward takes over.
    pub(super) fn tell(&mut self) {
        for slot in std::mem::take(&mut self.untold) {
            if let Some(opened) = self.open.get(&slot) {
                opened.listening.reporter().answer(opened.request, ForwardEvent::Opened);
            }
            self.watch(slot);
        }
    }

    /// Has it reported when the listener is gone.
    fn watch(&mut self, slot: Slot) {
        let control = (self.ssh.control.path().to_owned(), self.pid);
        let Some(opened) = self.open.get_mut(&slot) else { return };
        if opened.unix.is_some() || !opened.listening.endpoints().is_empty() {
            let watched = (opened.listening.clone(), opened.unix.clone());
            opened.watch.spawn(watch(watched, control, opened.request));
        }
    }

    /// Asks where the server listens, and which process that is. Nobody waits for it.
    fn ask_where(&mut self, asked: &Asked) {
        if let Forward::Remote { listen: RemoteListen::Ports { ports, .. }, .. } = &asked.forward
            && asked.recovery == RemotePortRecovery::Auto
            && !self.server.is_mute()
        {
            self.server.ask(Matter::Where(asked.reporter.clone(), ports.first()));
        }
    }

    fn note_where(&self, reporter: &Reporter<Slot>, port: u16, answer: &Answer) {
        let ours =
            answer.listeners.iter().filter(|one| one.address.port() == port && answer.uid == Some(one.uid));
        let addresses: Vec<_> = ours.map(|one| one.address).collect();
        if !addresses.is_empty() {
            reporter.send(TunnelReport::ServerListens(self.attempt.connection, addresses));
        }
    }

    async fn open(&mut self, request: Request, asked: &Asked) -> Result<(), NotOpen> {
        let (reporter, forward) = (asked.reporter.clone(), asked.forward.clone());
        let slot = reporter.slot();
        let wanted = self.ssh.family.endpoints(forward.listens(), &self.ssh.ssh.destination)?;
        let endpoints = self.attempt.ports.usable(&wanted);
        let listening =
            Listening::new(self.attempt.connection, reporter, self.attempt.ports.clone(), endpoints);
        let name = forward_name(slot, self.attempt.connection);
        let sockets = self.ssh.control.forward_sockets(&name, forward.held_ports());
        let mut opened = Opened {
            request,
            listening: Arc::new(listening),
            forward,
            sockets,
            unix: None,
            watch: JoinSet::new(),
        };
        if let Err(refused) = self.master.open(&opened.forward, opened.listens()).await {
            return Err(self.why_refused(&refused, &opened));
        }
        if let Err(failure) = self.confirm(&mut opened) {
            // It would say the same when asked again.
            let _ = self.master.close(&opened.forward, opened.listens()).await;
            return Err(failure.into());
        }
        self.carried.addresses.extend(opened.listening.endpoints().iter().map(|endpoint| endpoint.address));
        self.carried.unseen |= opened.listening.endpoints().is_empty();
        self.open.insert(slot, opened);
        Ok(())
    }

    /// Takes over what the kernel shows of the listeners that ssh says it has.
    fn confirm(&self, opened: &mut Opened) -> Result<(), Failure> {
        if let Some(socket) = opened.forward.socket() {
            let unix = UnixListener::opened(self.pid, socket, &self.attempt.watcher)?;
            opened.unix = Some(Arc::new(unix));
        }
        let endpoints = opened.listening.endpoints();
        if endpoints.is_empty() {
            return Ok(());
        }
        // Read once: of a range there are many listeners.
        let sockets = holder::sockets(self.pid).unwrap_or_default();
        let is_ours = |listener: &Listener| {
            let is_wanted = endpoints.iter().any(|endpoint| endpoint.address == listener.address);
            is_wanted && sockets.contains(&listener.inode)
        };
        let has_all = |found: &[Listener]| {
            let ours = found.iter().filter(|listener| is_ours(listener));
            ours.count() == endpoints.len()
        };
        let mut listeners = opened.listening.listeners(has_all).map_err(|error| port_failure(&error))?;
        listeners.retain(is_ours);
        let missing =
            |endpoint: &&Endpoint| !listeners.iter().any(|listener| listener.address == endpoint.address);
        if let Some(endpoint) = endpoints.iter().find(missing) {
            return Err(Failure::new(
                FailureKind::Exited,
                format!(
                    "ssh says that it listens on {endpoint}, and the kernel shows no such listener of it"
                ),
            ));
        }
        opened.listening.set(listeners);
        Ok(())
    }

    async fn close(&mut self, request: Request, slot: Slot) {
        let Some(mut opened) = self.open.remove(&slot) else { return };
        // Its news would delay the listener that is to follow.
        opened.watch.abort_all();
        let reporter = opened.listening.reporter();
        match self.master.close(&opened.forward, opened.listens()).await {
            Ok(()) => {
                if let Some(unix) = &opened.unix {
                    unix.remove();
                }
                reporter.answer(request, ForwardEvent::Closed);
            }
            // No answer means that it hangs: the deadline kills it.
            Err(error) => reporter.warn(&error.to_string()),
        }
    }

    fn why_refused(&self, NotOpened { offset, error }: &NotOpened, opened: &Opened) -> NotOpen {
        let destination = &self.ssh.ssh.destination;
        if !matches!(error, MasterError::Refused(_)) {
            return Failure::new(FailureKind::Exited, format!("ssh to {destination}: {error}")).into();
        }
        if let Forward::Remote { listen: RemoteListen::Ports { ports, .. }, .. } = &opened.forward {
            return NotOpen::AtServer(ports.at(*offset), error.to_string());
        }
        self.why_refused_here(error, opened).into()
    }

    fn why_refused_here(&self, error: &MasterError, opened: &Opened) -> Failure {
        let destination = &self.ssh.ssh.destination;
        if let Forward::Remote { listen: RemoteListen::Socket(path), .. } = &opened.forward {
            let path = path.display();
            return Failure::new(
                FailureKind::RemotePortHeld,
                format!(
                    "{destination} does not listen on {path} ({error}): a file is there already, left by an earlier connection \
                     unless its sshd_config says `StreamLocalBindUnlink yes` (remove it there: `rm {path}`, if nobody listens on \
                     it), the user there may not write to the directory, or its sshd forbids it (AllowStreamLocalForwarding no or \
                     local and DisableForwarding in sshd_config, `restrict` in authorized_keys)"
                ),
            );
        }
        let otherwise = || {
            let last = self.attempt.tail.lines().pop();
            let last = last.map(|line| format!("; its last line was: {}", ssh::quote(&line)));
            let last = last.unwrap_or_default();
            Failure::new(FailureKind::Exited, format!("ssh to {destination} does not listen: {error}{last}"))
        };
        if let Some(socket) = opened.forward.socket() {
            return unix_listener::why_refused(socket, otherwise);
        }
        match self.attempt.ports.verdict(opened.listening.endpoints()) {
            Err(error) => port_failure(&error),
            Ok(Verdict::Held(held)) => Failure::new(
                FailureKind::LocalPortHeld,
                format!(
                    "{} was taken before ssh could listen on it; portward waits for it",
                    held[0].endpoint
                ),
            ),
            Ok(Verdict::Unbound) => otherwise(),
        }
    }
}

/// ssh leaves the file of its socket behind when it ends.
impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(unix) = &self.unix {
            unix.remove();
        }
    }
}

impl Opened {
    fn listens(&self) -> Listens<'_> {
        Listens { endpoints: self.listening.endpoints(), sockets: self.sockets.paths() }
    }
}

/// Reports when a listener is gone and ssh is not.
async fn watch(
    (listening, unix): (Arc<Listening>, Option<Arc<UnixListener>>),
    (control, pid): (PathBuf, u32),
    request: Request,
) {
    match unix {
        Some(unix) => unix.lost(listening.reporter()).await,
        None => listening.lost().await,
    }
    // ssh closes its listeners when it ends, too, and its end is reported with its reason.
    if lives(&control, pid).await {
        listening.reporter().answer(request, ForwardEvent::ListenerLost);
    }
}

/// Whether the master still serves its control socket, or would, if that were still there. One that hangs lives.
async fn lives(control: &Path, pid: u32) -> bool {
    match timeout(ANSWER_TIMEOUT, Master::connect(control, pid)).await {
        Ok(Ok(_)) | Err(_) => true,
        // Its directory may have been deleted, or something mounted over it. A process that has ended has no sockets.
        Ok(Err(_)) => !control.exists() && holder::sockets(pid).is_some_and(|sockets| !sockets.is_empty()),
    }
}
