//! The process of a connection over ssh: ready once it answers on its control socket, and carries out orders from then on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::attempt::{Attempt, Order, SshAttempt};
use super::forwards::Forwards;
use super::tally::Tally;
use crate::core::{ConnectionEvent, Failure, FailureKind};
use crate::port::holder;
use crate::process::{Child, OUTPUT_GRACE, Pipe, read_lines};
use crate::ssh::{self, ConnectionError, End, Master, MasterError, SocketMade};

impl Attempt {
    /// Looks after an ssh until it has ended.
    pub(super) async fn run_ssh(
        self,
        of_ssh: SshAttempt,
        process: (Child, Pipe, Pipe),
        made: SocketMade,
        orders: mpsc::UnboundedReceiver<Order>,
    ) {
        let (mut child, _stdout, stderr) = process;
        let was_ready = Arc::new(AtomicBool::new(false));
        let mut output = tokio::spawn({
            let (tail, reporter) = (self.tail.clone(), self.reporter.clone());
            let (pace, was_ready) = (self.pace.clone(), was_ready.clone());
            async move {
                let tally = Tally::default();
                let reading = read_lines(stderr, &pace, |line| {
                    // Before that it would be a banner.
                    if was_ready.load(Ordering::Relaxed)
                        && let Some(error) = ConnectionError::of_line(&line)
                    {
                        return tally.add(error);
                    }
                    if ssh::is_of_closing(&line) {
                        return;
                    }
                    reporter.output(&line);
                    if !ssh::is_debug(&line) {
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
            error = self.serve(&of_ssh, made, pid, orders, &was_ready) => {
                // What answers in its place is of its tree, and useless.
                tree.kill();
                (child.ended().await, Some(error))
            }
            never = self.follow_main(&tree) => match never {},
        };
        let _ = timeout(OUTPUT_GRACE, &mut output).await;
        self.reporter.output_ended();
        let SshAttempt { ssh, control, .. } = of_ssh;
        drop(control);
        let tail = self.tail.lines();
        let failure = match (not_the_master, ended) {
            (Some(error), _) => ssh::not_the_master(&error, &ssh),
            (None, Ok(status)) => {
                let was_ready = was_ready.load(Ordering::Relaxed);
                ssh::classify(&End { status, said: &tail, was_ready }, &ssh)
            }
            (None, Err(error)) => {
                Failure::new(FailureKind::Exited, format!("cannot learn how ssh ended: {error}"))
            }
        };
        // Another connection can listen from now on, whatever is left of this one: to look for that takes milliseconds.
        self.report(ConnectionEvent::LeaderEnded(failure.clone()));
        // Boxed, so that no process that runs reserves memory for it.
        Box::pin(self.finish(&tree, failure, output)).await;
    }

    /// Serves the orders once the master is ready; returns only if another process is in the master's place.
    async fn serve(
        &self,
        of_ssh: &SshAttempt,
        made: SocketMade,
        pid: u32,
        mut orders: mpsc::UnboundedReceiver<Order>,
        was_ready: &AtomicBool,
    ) -> MasterError {
        made.wait().await;
        match Master::connect(of_ssh.control.path(), pid).await {
            Ok(master) => {
                // A banner, say, tells nothing about the end of a connection that stood.
                self.tail.clear();
                was_ready.store(true, Ordering::Relaxed);
                if let Some(sockets) = holder::sockets(pid) {
                    let _ = of_ssh.at_login.set(sockets);
                }
                self.report(ConnectionEvent::Ready);
                let mut forwards = Forwards::new(self, of_ssh, pid, master);
                while let Some(order) = orders.recv().await {
                    forwards.carry_out(order).await;
                }
            }
            Err(error @ MasterError::Stranger { .. }) => return error,
            // The deadline of the attempt ends it.
            Err(error) => self.reporter.warn(&error.to_string()),
        }
        std::future::pending().await
    }
}
