//! The process of a connection over ssh: ready once it answers on its control socket, and carries out orders from then on.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::attempt::{Attempt, Heard, Inherited, Order, SshAttempt};
use super::forwards::Forwards;
use super::record::{self, Record, SshRecord};
use super::reporter::LinkReport;
use super::tally::Tally;
use crate::core::ConnectionEvent;
use crate::port::holder;
use crate::process::{Child, OUTPUT_GRACE, Origin, Pipe, read_lines};
use crate::ssh::{self, AddressFamily, ConnectionError, End, Forwarding, Master, MasterError, SocketMade};

impl Attempt {
    /// Looks after an ssh until it has ended.
    pub(super) async fn run_ssh(
        self,
        mut of_ssh: SshAttempt,
        mut record: Option<Record>,
        process: (Child, Pipe, Pipe),
        made: SocketMade,
        orders: mpsc::UnboundedReceiver<Order>,
    ) {
        let (mut child, _stdout, stderr) = process;
        let inherited = std::mem::take(&mut of_ssh.inherited);
        let heard = Arc::new(Heard::default());
        heard.was_ready.store(inherited.master.is_some(), Ordering::Relaxed);
        let mut output = tokio::spawn({
            let (tail, reporter) = (self.tail.clone(), self.reporter.clone());
            let (pace, heard) = (self.pace.clone(), heard.clone());
            let attendance = of_ssh.attendance.clone();
            async move {
                let tally = Tally::default();
                let reading = read_lines(stderr, &pace, |line| {
                    // Before that it would be a banner.
                    if heard.was_ready.load(Ordering::Relaxed)
                        && let Some(error) = ConnectionError::of_line(&line)
                    {
                        let is_ours =
                            ssh::is_of_session(&line) && heard.awaits_refusal.swap(false, Ordering::Relaxed);
                        if !is_ours {
                            tally.add(error);
                        }
                        return;
                    }
                    if ssh::is_of_closing(&line) {
                        return;
                    }
                    reporter.output(&line);
                    if !ssh::is_debug(&line) {
                        if !heard.was_ready.load(Ordering::Relaxed) {
                            attendance.tell(&line);
                        }
                        tail.push(line);
                    }
                });
                tokio::select! {
                    () = reading => {}
                    never = tally.run(&reporter) => match never {},
                }
                tally.report(&reporter);
            }
        });
        let (pid, tree) = (child.pid(), child.tree());
        let (ended, not_the_master) = tokio::select! {
            ended = child.ended() => (ended, None),
            error = self.serve((&of_ssh, inherited), &mut record, made, pid, orders, &heard) => {
                // What answers in its place is of its tree, and useless.
                tree.kill();
                (child.ended().await, Some(error))
            }
            never = self.follow_main(&tree) => match never {},
        };
        let _ = timeout(OUTPUT_GRACE, &mut output).await;
        self.reporter.output_ended();
        let SshAttempt { ssh, control, attendance, .. } = of_ssh;
        drop(control);
        let tail = self.tail.lines();
        let failure = match (not_the_master, ended) {
            (Some(error), _) => ssh::not_the_master(&error, &ssh),
            (None, ended) => {
                let (status, was_ready) = (ended.ok(), heard.was_ready.load(Ordering::Relaxed));
                let by_hand = attendance.is_needed();
                ssh::classify(&End { status, said: &tail, was_ready, by_hand }, &ssh)
            }
        };
        if let Some(session) = record.and_then(|record| record.stale_session(self.file.clone())) {
            self.reporter.send(LinkReport::SessionLeft(session));
        }
        // Another connection can listen from now on, whatever is left of this one: to look for that takes milliseconds.
        self.report(ConnectionEvent::LeaderEnded(failure.clone()));
        // Boxed, so that no process that runs reserves memory for it.
        Box::pin(self.finish(&tree, failure, output)).await;
    }

    /// The record of an ssh that has just been started; `None` if it has ended.
    pub(super) fn ssh_record(
        &self,
        settings: String,
        (child, stdout, stderr): &(Child, Pipe, Pipe),
        control: &Path,
        (family, planned): (AddressFamily, Vec<Forwarding>),
    ) -> Option<Record> {
        let origin = Origin::of(&child.tree(), [Some(stdout), Some(stderr)])?;
        let control = control.file_name()?.to_str()?.to_owned();
        let (at_login, forwards, carried, server) = Default::default();
        let ssh = SshRecord { control, family, at_login, planned, forwards, carried, server };
        let (tunnel, connection) = (self.reporter.identity().hash.clone(), self.connection.number());
        Some(Record { origin, settings, tunnel, connection, ssh: Some(ssh) })
    }

    /// Serves the orders once the master is ready; returns only if another process is in the master's place.
    async fn serve(
        &self,
        (of_ssh, inherited): (&SshAttempt, Inherited),
        record: &mut Option<Record>,
        made: SocketMade,
        pid: u32,
        mut orders: mpsc::UnboundedReceiver<Order>,
        heard: &Arc<Heard>,
    ) -> MasterError {
        let Inherited { master, unneeded, carried, server } = inherited;
        self.keep(record.as_ref()).await;
        let connected = if let Some(master) = master {
            Ok(master)
        } else {
            made.wait().await;
            Master::connect(of_ssh.control.path(), pid).await
        };
        let master = match connected {
            Ok(master) => master,
            Err(error @ MasterError::Stranger { .. }) => return error,
            Err(error) => {
                // The deadline of the attempt ends it.
                self.reporter.warn(&error.to_string());
                return std::future::pending().await;
            }
        };
        if !heard.was_ready.swap(true, Ordering::Relaxed) {
            // A banner, say, tells nothing about the end of a connection that stood.
            self.tail.clear();
        }
        if let Some(sockets) = holder::sockets(pid) {
            let _ = of_ssh.at_login.set(sockets);
        }
        self.report(ConnectionEvent::Ready);
        let mut forwards = Forwards::new(self, of_ssh, (pid, master), server, heard.clone());
        forwards.begin(&unneeded, carried).await;
        loop {
            let order = if let Ok(order) = orders.try_recv() {
                order
            } else {
                if let Some(ssh) = record.as_mut().and_then(|record| record.ssh.as_mut()) {
                    ssh.at_login = of_ssh.at_login.get().cloned().unwrap_or_default();
                    forwards.note(ssh);
                }
                self.keep(record.as_ref()).await;
                forwards.tell();
                tokio::select! {
                    order = orders.recv() => match order {
                        Some(order) => order,
                        None => return std::future::pending().await,
                    },
                    answered = forwards.answered() => {
                        forwards.take(answered).await;
                        continue;
                    }
                }
            };
            if let (Order::Open(_, asked), Some(record)) = (&order, &mut *record) {
                self.plan(forwards.forwardings(asked), record).await;
            }
            forwards.carry_out(order).await;
        }
    }

    /// Nothing is asked for that the record does not have: a later run of portward could not close what it does not know of.
    async fn plan(&self, forwardings: Vec<Forwarding>, record: &mut Record) {
        let Some(ssh) = &mut record.ssh else { return };
        let known = ssh.planned.len();
        for forwarding in forwardings {
            if !ssh.planned.contains(&forwarding) {
                ssh.planned.push(forwarding);
            }
        }
        if ssh.planned.len() > known {
            self.keep(Some(record)).await;
        }
    }

    /// Writes the record of the process.
    pub(super) async fn keep(&self, record: Option<&Record>) {
        if let Some(record) = record {
            record::write(&self.file, record, &self.reporter).await;
        }
    }
}
