//! What the event loop does at its start with what an earlier run of portward has left: each process goes on as the connection of the
//! tunnels that it served, or is ended.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;

use super::attempt::{Asked, Attempt, Attendance, Inherited, Order, SocketsAtLogin, SshAttempt};
use super::connections::{Connections, Running, RunningSsh};
use super::effects::{Effects, TunnelResources};
use super::entry::Entry;
use super::event_loop::EventLoop;
use super::launch::Launch;
use super::links::LinkEntry;
use super::narrate;
use super::predecessor::{Left, Predecessor};
use super::probe::Probes;
use super::record::{self, Record, SshRecord};
use super::record_file::RecordFile;
use super::reporter::Report;
use super::unix_listener;
use crate::config::desired::{CommandTunnel, SshTunnel, Work};
use crate::core::{self, ConnectionId, LinkId, Role, Slot};
use crate::port::{Endpoint, Listener, holder};
use crate::process::{self, Child, Pipe};
use crate::ssh::{self, Forwarding, Listens, Master};

/// By whether it is an ssh, and a digest of what it is started with: the links that start such a process, each with the index of the
/// destination that it leads to.
type Candidates = HashMap<(bool, String), Vec<(LinkId, usize)>>;

/// A process, and what it is to its link.
struct Fitting {
    destination: usize,
    left: Left,
    role: Role,
    /// The tunnels that it listens for, and where, on this machine.
    serves: BTreeMap<Slot, Vec<Listener>>,
}

impl EventLoop {
    /// Takes over what fits a tunnel that is to be up, and ends the rest.
    pub(super) fn inherit(&mut self, predecessor: Predecessor) {
        let Predecessor { left, ended, runs, sockets, .. } = predecessor;
        let has_none = left.is_empty() && ended.is_empty();
        let candidates = if has_none { HashMap::new() } else { self.candidates() };
        let (mut of_links, mut useless) = (BTreeMap::<LinkId, Vec<_>>::new(), Vec::new());
        for left in left {
            let listens =
                |id| self.state.slots_of(id).iter().any(|slot| self.listeners_of(*slot, &left).is_some());
            match self.choose(&candidates, &left.record, listens).filter(|_| !left.is_mute()) {
                Some((id, destination)) => of_links.entry(id).or_default().push((destination, left)),
                None => useless.push(left),
            }
        }
        let (mut kept, mut others) = (HashSet::new(), BTreeSet::new());
        for (id, all) in of_links {
            let (fitting, more) = self.assign(id, all);
            useless.extend(more);
            for fitting in fitting {
                kept.extend(fitting.left.files());
                others.insert(fitting.left.record.origin.run().to_owned());
                self.take_over(id, fitting);
            }
        }
        kept.extend(self.remember(ended, &candidates));
        let unwanted: Vec<_> = useless.iter().map(Left::origin).collect();
        self.effects.begin_run(&kept, others, runs.clone());
        // With their records.
        drop(useless);
        if !runs.is_empty() {
            let report = self.report.clone();
            tokio::spawn(async move {
                narrate::ended_unwanted(&process::end_unwanted(unwanted, runs).await);
                // Without an event loop there is nobody to tell.
                let _ = report.send(Report::UnwantedEnded);
                // An ssh that was killed has left its socket, and its tunnel may be gone.
                for path in sockets {
                    unix_listener::remove_stale(path).await;
                }
            });
        }
    }

    /// Each link with each of its destinations, by what is started for it now.
    fn candidates(&self) -> Candidates {
        let mut candidates = Candidates::new();
        for Entry { link, desired, .. } in
            self.state.entries.values().map(Box::as_ref).filter(|entry| entry.may_run())
        {
            let is_ssh = matches!(desired.work, Work::Ssh(_));
            for at in 0..=desired.fallback_hosts.len() {
                let settings = record::settings(&desired.work_at(at), desired.share);
                let of_settings = candidates.entry((is_ssh, settings)).or_default();
                if !of_settings.contains(&(*link, at)) {
                    of_settings.push((*link, at));
                }
            }
        }
        candidates
    }

    /// The link that a process is left to: one for which it listens, the one that it was started for, one whose own destination it
    /// leads to, in this order.
    fn choose(
        &self,
        candidates: &Candidates,
        record: &Record,
        listens: impl Fn(LinkId) -> bool,
    ) -> Option<(LinkId, usize)> {
        let fitting = candidates.get(&(record.ssh.is_some(), record.settings.clone()))?;
        if let [only] = fitting[..] {
            return Some(only);
        }
        let is_of = |slot: &Slot| {
            self.state.entries.get(slot).is_some_and(|entry| entry.desired.hash == record.tunnel)
        };
        let started_it = |id| self.state.slots_of(id).iter().any(is_of);
        // Of several the first.
        let ranked = fitting.iter().rev();
        ranked.max_by_key(|(id, at)| (listens(*id), started_it(*id), *at == 0)).copied()
    }

    /// Remembers what processes that have ended may have left at the servers of their links, and names the files that are needed
    /// for that.
    fn remember(&mut self, ended: Vec<(Record, RecordFile)>, candidates: &Candidates) -> Vec<OsString> {
        let mut kept = Vec::new();
        for (record, file) in ended {
            let Some((id, _)) = self.choose(candidates, &record, |_| false) else { continue };
            let name = file.path().file_name().map(OsString::from);
            if let (Some(entry), Some(session)) = (self.state.links.get_mut(id), record.stale_session(file)) {
                entry.connections.stale().add(session);
                kept.extend(name);
            }
        }
        kept
    }

    /// What each of these processes is to the link, the oldest first; and those that are nothing to it.
    fn assign(&self, id: LinkId, all: Vec<(usize, Left)>) -> (Vec<Fitting>, Vec<Left>) {
        let Some(LinkEntry { link, .. }) = self.state.links.get(id) else { return (Vec::new(), Vec::new()) };
        let mut open: Vec<_> = link.slots().filter(|slot| self.may_run(*slot)).collect();
        // The latest first: what moved to it has left the others.
        let mut serves: Vec<BTreeMap<_, _>> = Vec::new();
        for (_, left) in all.iter().rev() {
            let listeners = |slot: &Slot| Some((*slot, self.listeners_of(*slot, left)?));
            let found: BTreeMap<_, _> = open.iter().filter_map(listeners).collect();
            open.retain(|slot| !found.contains_key(slot));
            serves.push(found);
        }
        serves.reverse();
        let seen = all.iter().zip(&serves).map(|((_, left), serves)| left.seen(!serves.is_empty()));
        let roles = link.roles(&seen.collect::<Vec<_>>());
        let (mut fitting, mut useless) = (Vec::new(), Vec::new());
        for (((destination, left), serves), role) in all.into_iter().zip(serves).zip(roles) {
            match role {
                Some(role) => fitting.push(Fitting { destination, left, role, serves }),
                None => useless.push(left),
            }
        }
        (fitting, useless)
    }

    fn may_run(&self, slot: Slot) -> bool {
        self.state.entries.get(&slot).is_some_and(|entry| entry.may_run())
    }

    /// What the process listens on for the tunnel, as the kernel shows it; nothing if it does that at the server, as it has said.
    /// `None`: it does not listen for it.
    fn listeners_of(&self, slot: Slot, left: &Left) -> Option<Vec<Listener>> {
        let entry = self.state.entries.get(&slot)?;
        match (&entry.desired.work, &left.record.ssh) {
            // Its clients were portward's, and are gone.
            (Work::Ssh(_), Some(_)) if entry.desired.work.is_held() => None,
            // Who is stopped by a signal accepts nobody.
            (Work::Ssh(_), Some(_)) if !left.seen(false).is_ready => None,
            (Work::Ssh(tunnel), Some(ssh)) => self.effects.listeners_of_ssh(tunnel, &left.record, ssh),
            (Work::Command(tunnel), None) => self.effects.listeners_of_command(tunnel, left),
            (Work::Ssh(_), None) | (Work::Command(_), Some(_)) => None,
        }
    }

    fn take_over(&mut self, id: LinkId, Fitting { destination, left, role, serves }: Fitting) {
        let now = self.clock.now();
        let runs: Vec<_> = self.state.slots_of(id).into_iter().filter(|slot| self.may_run(*slot)).collect();
        let Some(LinkEntry { link, connections }) = self.state.links.get_mut(id) else { return };
        let Some(entry) = runs.first().and_then(|slot| self.state.entries.get(slot)) else { return };
        let connection = link.inherit(role, destination, now);
        let forwards = runs.iter().filter_map(|slot| match &self.state.entries.get(slot)?.desired.work {
            Work::Ssh(tunnel) if serves.contains_key(slot) => Some(tunnel),
            Work::Ssh(_) | Work::Command(_) => None,
        });
        let work = (&*entry.desired.work_at(destination), entry.desired.interactive);
        narrate::adopted(entry, &left.record.origin);
        let process = (left, role);
        self.effects.take_over(
            (&entry.resources, &mut *connections),
            connection,
            work,
            process,
            &forwards.collect::<Vec<_>>(),
        );
        for slot in runs {
            let listeners = serves.get(&slot);
            let listens = listeners.is_some();
            if !listens && !matches!(role, Role::Active { .. }) {
                continue;
            }
            let Some(entry) = self.state.entries.get_mut(&slot) else { continue };
            let request = link.take_up(slot, connection, listens, now);
            entry.starts = 1;
            if let Some(listeners) = listeners {
                entry.resources.set_listeners(connection, listeners.clone());
            }
            if let (Some(request), Work::Ssh(tunnel)) = (request, &entry.desired.work) {
                let asked = Asked {
                    reporter: entry.resources.reporter().clone(),
                    forward: tunnel.forward.clone(),
                    recovery: entry.desired.remote_port_recovery,
                    stale: Vec::new(),
                };
                connections.order(connection, Order::Inherit(request, Box::new(asked)));
            }
        }
    }
}

impl Entry {
    /// Whether a process that an earlier run of portward has left may go on for it.
    pub(super) fn may_run(&self) -> bool {
        self.desired.enabled
    }
}

impl Left {
    /// As a link sees it; `serves`: it listens for a tunnel.
    fn seen(&self, serves: bool) -> core::Left {
        let is_ready = self.control.as_ref().map_or(serves, |(_, master)| master.is_some());
        let was_asked = self.record.ssh.as_ref().is_some_and(|ssh| !ssh.forwards.is_empty());
        core::Left { is_ready, serves, was_asked }
    }

    /// The names of its files.
    fn files(&self) -> Vec<OsString> {
        let control = self.control.as_ref().map(|(path, _)| path.as_path());
        [Some(self.file.path()), control]
            .into_iter()
            .flatten()
            .filter_map(Path::file_name)
            .map(OsString::from)
            .collect()
    }
}

impl Effects {
    /// What this ssh listens on for the tunnel, and for nothing else as far as is known. At the server it does, if that was noted.
    fn listeners_of_ssh(
        &self,
        tunnel: &SshTunnel,
        record: &Record,
        ssh: &SshRecord,
    ) -> Option<Vec<Listener>> {
        let forwardings = self.forwardings(tunnel, ssh);
        let listens = ssh.family.endpoints(tunnel.forward.listens(), &tunnel.ssh.destination);
        let endpoints = self.usable(&listens.unwrap_or_default());
        if forwardings.is_empty() || endpoints.is_empty() {
            let is_noted = forwardings.iter().all(|one| ssh.forwards.contains(one));
            return (is_noted && !forwardings.is_empty()).then(Vec::new);
        }
        let sockets = holder::sockets(record.origin.pid)?;
        let listeners = self.listeners(&endpoints).ok()?.into_iter();
        let listeners: Vec<_> = listeners.filter(|one| sockets.contains(&one.inode)).collect();
        let is_known = |one| ssh.forwards.contains(one) || ssh.planned.contains(one);
        let is_listening = |endpoint: &Endpoint| listeners.iter().any(|one| one.address == endpoint.address);
        (forwardings.iter().all(is_known) && endpoints.iter().all(is_listening)).then_some(listeners)
    }

    /// What this ssh is asked for, to serve the tunnel.
    fn forwardings(&self, tunnel: &SshTunnel, ssh: &SshRecord) -> Vec<Forwarding> {
        let listens = ssh.family.endpoints(tunnel.forward.listens(), &tunnel.ssh.destination);
        let endpoints = self.usable(&listens.unwrap_or_default());
        ssh::forwardings(&tunnel.forward, Listens { endpoints: &endpoints, sockets: &[] })
    }

    /// What the processes of the command's tree listen on for the tunnel.
    fn listeners_of_command(&self, tunnel: &CommandTunnel, left: &Left) -> Option<Vec<Listener>> {
        let listeners = self.listeners(&self.usable(&tunnel.listen)).ok()?;
        let (pid, tree) = (left.record.origin.pid, left.process.0.tree());
        let (mut ours, others): (Vec<_>, Vec<_>) =
            listeners.into_iter().partition(|listener| holder::pid_owns(pid, listener.inode));
        // Reading all of /proc takes 10 ms: only for sockets that the leader itself does not hold.
        if !others.is_empty() {
            let owners = holder::owners(&others.iter().map(|listener| listener.inode).collect());
            let is_ours =
                |listener: &Listener| owners.get(&listener.inode).is_some_and(|owner| tree.contains(*owner));
            ours.extend(others.into_iter().filter(is_ours));
        }
        (!ours.is_empty()).then_some(ours)
    }

    /// Looks after a process from now on, as that of a connection of the link. `forwards`: the tunnels that it forwards for.
    fn take_over(
        &mut self,
        (resources, connections): (&TunnelResources, &mut Connections),
        connection: ConnectionId,
        (work, by_hand): (&Work, bool),
        (left, role): (Left, Role),
        forwards: &[&SshTunnel],
    ) {
        let Left { mut record, file, process, control } = left;
        let attempt = self.attempt(connection, connections.reporter(), file);
        record.connection = connection.number();
        record.tunnel = connections.reporter().identity().hash;
        let (launch, tail) = (Launch::started(process.0.tree()), attempt.tail.clone());
        let ssh = match (work, control) {
            (Work::Ssh(tunnel), Some((path, master))) => {
                let tunnel = (tunnel, by_hand);
                Some(self.take_over_ssh(attempt, tunnel, (record, role), process, (path, master), forwards))
            }
            (Work::Command(tunnel), _) => {
                let is_ready = role == Role::Active { is_ready: true };
                self.run_command((attempt, resources), tunnel, process, Some(record), is_ready);
                None
            }
            // What fits a tunnel over ssh has a control socket.
            (Work::Ssh(_), None) => return,
        };
        connections.add(connection, Running { launch, tail, ssh });
    }

    fn take_over_ssh(
        &mut self,
        attempt: Attempt,
        (tunnel, by_hand): (&SshTunnel, bool),
        (record, role): (Record, Role),
        process: (Child, Pipe, Pipe),
        (path, master): (PathBuf, Option<Master>),
        forwards: &[&SshTunnel],
    ) -> RunningSsh {
        let (at_login, family) = (SocketsAtLogin::default(), Arc::<OnceLock<_>>::default());
        let mut inherited = Inherited { master, ..Inherited::default() };
        let mut listens_on = ssh::AddressFamily::Any;
        if let Some(ssh) = &record.ssh {
            listens_on = ssh.family;
            if !ssh.at_login.is_empty() {
                let _ = at_login.set(ssh.at_login.clone());
            }
            let needed: HashSet<_> =
                forwards.iter().flat_map(|tunnel| self.forwardings(tunnel, ssh)).collect();
            let known: HashSet<_> = ssh.forwards.iter().chain(&ssh.planned).collect();
            inherited.unneeded = known.into_iter().filter(|one| !needed.contains(one)).cloned().collect();
            inherited.carried.clone_from(&ssh.carried);
            inherited.server.clone_from(&ssh.server);
        }
        let _ = family.set(listens_on);
        let (control, made) = self.inherit_control(path.clone());
        let (orders, received) = mpsc::unbounded_channel();
        if role == Role::Draining {
            let _ = orders.send(Order::AwaitClients);
        }
        let of_ssh = SshAttempt {
            ssh: tunnel.ssh.clone(),
            family: listens_on,
            control,
            at_login: at_login.clone(),
            attendance: if by_hand { Attendance::Needed(None) } else { Attendance::NotNeeded },
            inherited,
        };
        tokio::spawn(attempt.run_ssh(of_ssh, Some(record), process, made, received));
        let probes = Probes::new(&path);
        RunningSsh { orders, family, control: path, at_login, probes }
    }
}
