//! The process of a `command:` tunnel: up once it, or a descendant of it, listens on the port.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::attempt::{Attempt, OutputTail};
use super::listening::Listening;
use super::record::Record;
use crate::core::{ConnectionEvent, Failure, FailureKind};
use crate::port::{Listener, holder};
use crate::process::{Child, OUTPUT_GRACE, Origin, Pipe, Tree, read_lines};
use crate::text;

/// The kernel sends an event when a socket is destroyed, and none when one begins to listen. So while a command starts,
/// and only then, its port is looked at whenever it says something, and else after waits that grow from this one
const FIRST_LOOK: Duration = Duration::from_millis(2);
/// up to this one, until it listens or `start_timeout` is over.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// A process that dies closes its sockets first, and its end is told right after: only when that does not follow within this
/// has a living process stopped listening.
const END_FOLLOWS: Duration = Duration::from_millis(100);

impl Attempt {
    /// Looks after a command until it has ended. `is_ready`: it counts as one that listens. Not an `async fn`: that would
    /// reserve memory for its arguments twice.
    pub(super) fn run_command(
        self,
        program: String,
        listening: Listening,
        (mut child, stdout, stderr): (Child, Pipe, Pipe),
        record: Option<Record>,
        is_ready: bool,
    ) -> impl Future<Output = ()> {
        let (tree, spoke) = (child.tree(), Arc::new(Notify::new()));
        let mut output = tokio::spawn({
            let (tail, spoke, reporter, pace) =
                (self.tail.clone(), spoke.clone(), self.reporter.clone(), self.pace.clone());
            async move {
                let hear = |line: String| {
                    // A flood is no reason to look at the port time and again.
                    if reporter.output(&line) {
                        spoke.notify_one();
                    }
                    tail.push(line);
                };
                tokio::join!(read_lines(stdout, &pace, hear), read_lines(stderr, &pace, hear));
            }
        });
        async move {
            let mut changes = pin!(self.report_changes(&listening, &tree, &spoke, (record, is_ready)));
            let ended = tokio::select! {
                ended = child.ended() => ended,
                never = &mut changes => match never {},
            };
            // Boxed, here and below, so that no process that runs reserves memory for it.
            let ended = Box::pin(follow_background(&program, ended, &listening, &tree, changes)).await;
            let _ = Box::pin(timeout(OUTPUT_GRACE, &mut output)).await;
            self.reporter.output_ended();
            let failure = match ended {
                Ok((subject, status)) => how_it_ended(&subject, status, &self.tail),
                Err(error) => {
                    let program = text::line(&program);
                    Failure::new(FailureKind::Exited, format!("cannot learn how {program} ended: {error}"))
                }
            };
            if Box::pin(tree.has_members()).await {
                self.report(ConnectionEvent::LeaderEnded(failure.clone()));
            }
            Box::pin(self.finish(&tree, failure, output)).await;
        }
    }

    /// Reports what becomes of its listener and of its process while it runs.
    async fn report_changes(
        &self,
        listening: &Listening,
        tree: &Tree,
        spoke: &Notify,
        (record, is_ready): (Option<Record>, bool),
    ) -> Infallible {
        // What is told as up, a later run of portward takes over. Boxed, so that no process that runs reserves memory for it.
        Box::pin(self.keep(record.as_ref())).await;
        tokio::select! {
            never = self.watch_listener(listening, tree, spoke, is_ready) => never,
            never = self.follow_main(tree) => never,
            never = self.keep_record_of(tree, record) => never,
        }
    }

    /// Keeps the record of the process that stands for the tree, when that is another one.
    async fn keep_record_of(&self, tree: &Tree, record: Option<Record>) -> Infallible {
        let Some(mut record) = record else { return std::future::pending().await };
        let mut main = tree.main();
        main.mark_changed();
        while main.changed().await.is_ok() {
            let pid = main.borrow_and_update().pid;
            if pid.is_some_and(|pid| pid != record.origin.pid) {
                let Some(origin) = Origin::of(tree, [None, None]) else { continue };
                record.origin = Origin { pipes: record.origin.pipes, ..origin };
                Box::pin(self.keep(Some(&record))).await;
            }
        }
        std::future::pending().await
    }

    async fn watch_listener(
        &self,
        listening: &Listening,
        tree: &Tree,
        spoke: &Notify,
        is_ready: bool,
    ) -> Infallible {
        if is_ready && !look(listening, tree).await {
            self.report(ConnectionEvent::ListenerLost);
        }
        loop {
            let mut wait = FIRST_LOOK;
            while !look(listening, tree).await {
                tokio::select! {
                    () = spoke.notified() => {}
                    // Boxed, so that no command that listens reserves memory for it.
                    () = Box::pin(sleep(wait)) => wait = (wait * 3 / 2).min(LAST_LOOK),
                }
            }
            self.report(ConnectionEvent::Ready);
            let mut subscription = listening.watch().await;
            while look(listening, tree).await {
                subscription.changed().await;
            }
            Box::pin(sleep(END_FOLLOWS)).await;
            if !look(listening, tree).await {
                self.report(ConnectionEvent::ListenerLost);
            }
        }
    }
}

/// A program that goes into the background ends with success, and leaves the work to another process, which may do the same again:
/// waits for the end of the last one. Returns what it is called, and how it ended.
async fn follow_background(
    program: &str,
    ended: io::Result<ExitStatus>,
    listening: &Listening,
    tree: &Tree,
    mut changes: Pin<&mut impl Future<Output = Infallible>>,
) -> io::Result<(String, ExitStatus)> {
    let program = text::line(program);
    let (mut subject, mut status) = (program.to_string(), ended?);
    while status.success() && tree.may_be_in_background().await {
        subject = format!("{program} in the background");
        // Finds the process that stands for the tunnel now, if it listens already.
        look(listening, tree).await;
        tokio::select! {
            biased;
            ended = tree.main_ended() => status = ended,
            () = tree.background_ended() => {
                status = tree.how_main_ended().unwrap_or(status);
                break;
            }
            never = &mut changes => match never {},
        }
    }
    Ok((subject, status))
}

/// Whether a process of the tree listens on the port; remembers on what.
async fn look(listening: &Listening, tree: &Tree) -> bool {
    let known = listening.present().clone();
    let owns = |listener: &Listener| {
        tree.pid().is_some_and(|pid| known.contains(listener) || holder::pid_owns(pid, listener.inode))
    };
    let listeners = match listening.listeners(|found| found.iter().all(owns)) {
        Ok(listeners) => listeners,
        Err(error) => {
            // What cannot be asked about is as it was.
            listening.reporter().warn(&error.to_string());
            return !known.is_empty();
        }
    };
    // After the end of the process that stood for the tree, another one is to be found.
    let (mut ours, unknown): (Vec<_>, Vec<_>) = listeners.into_iter().partition(owns);
    // Reading all of /proc takes 10 ms: only for sockets that the leader itself does not hold.
    if !unknown.is_empty() {
        ours.extend(Box::pin(claimed(tree.clone(), unknown)).await);
    }
    let listens = !ours.is_empty();
    if !listens {
        // What follows from that is reported first.
        listening.present().clear();
    } else if ours != known {
        listening.set(ours);
    }
    listens
}

/// Those of `listeners` that belong to a process of the tree.
async fn claimed(tree: Tree, mut listeners: Vec<Listener>) -> Vec<Listener> {
    let inodes: BTreeSet<_> = listeners.iter().map(|listener| listener.inode).collect();
    let claimed = tokio::task::spawn_blocking(move || {
        let owners = holder::owners(&inodes).into_iter();
        owners.filter(|(_, pid)| tree.claims_listener(*pid)).map(|(inode, _)| inode).collect::<BTreeSet<_>>()
    });
    let claimed = claimed.await.unwrap_or_default();
    listeners.retain(|listener| claimed.contains(&listener.inode));
    listeners
}

fn how_it_ended(subject: &str, status: ExitStatus, tail: &OutputTail) -> Failure {
    use std::os::unix::process::ExitStatusExt;

    let last = tail.lines().pop().map(|line| format!(": {line}")).unwrap_or_default();
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            Failure::new(FailureKind::Killed, format!("{subject} was ended by signal {signal}{last}"))
        }
        (None, Some(code)) => {
            Failure::new(FailureKind::Exited, format!("{subject} ended with status {code}{last}"))
        }
        (None, None) => Failure::new(FailureKind::Exited, format!("{subject} ended{last}")),
    }
}
