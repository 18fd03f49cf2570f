//! What one ssh asks its server about the ports that this listens on. The answers are waited for beside the orders, one at a time:
//! servers count the sessions of a connection (MaxSessions).

use std::collections::{BTreeSet, VecDeque};
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::JoinSet;

use super::attempt::{Asked, Heard};
use super::reporter::Reporter;
use crate::core::{Request, Slot};
use crate::ssh::server::{self, Answer, Question, ServerProcess, Unanswered};

/// How many tunnels one question is about, at most: its line is to stay short.
const TOGETHER: usize = 32;

/// The server of one ssh.
#[derive(Debug)]
pub(super) struct ServerSide {
    control: PathBuf,
    pid: u32,
    own: Option<ServerProcess>,
    heard: Arc<Heard>,
    speaks: Speaks,
    waiting: VecDeque<Matter>,
    /// One at most. Ends when it is dropped.
    asking: JoinSet<(Vec<Matter>, Result<Answer, Unanswered>)>,
}

/// Whether the server answers our questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    /// As far as is known.
    Maybe,
    /// It has not answered once, and is not asked again: what the account runs in place of our command is not to run time after time.
    Never,
}

/// What is to be known of a server.
#[derive(Debug)]
pub(super) enum Matter {
    /// Where it listens for a tunnel, whose first port this is.
    Where(Reporter<Slot>, u16),
    /// Who has the port that it does not listen on.
    Who(Box<Refused>),
}

/// A request that a server has refused.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) request: Request,
    pub(super) asked: Asked,
    pub(super) port: u16,
    /// In its own words.
    pub(super) said: String,
}

impl ServerSide {
    /// That of the ssh `pid` with this control socket. `own`: its process there, if that is known already.
    pub(super) fn new(control: &Path, pid: u32, own: Option<ServerProcess>, heard: Arc<Heard>) -> Self {
        let (waiting, asking) = Default::default();
        Self { control: control.to_owned(), pid, own, heard, speaks: Speaks::Maybe, waiting, asking }
    }

    /// Its process for this connection, once that is known.
    pub(super) fn own(&self) -> Option<&ServerProcess> {
        self.own.as_ref()
    }

    /// Whether it is of no use to ask.
    pub(super) fn is_mute(&self) -> bool {
        self.speaks == Speaks::Never
    }

    /// Asks about this as soon as nothing else is asked.
    pub(super) fn ask(&mut self, matter: Matter) {
        self.waiting.push_back(matter);
        self.go_on();
    }

    /// The next answer, and what it is about. `None`: there was no answer. Cancel-safe.
    pub(super) async fn answered(&mut self) -> (Vec<Matter>, Option<Answer>) {
        let (matters, answer) = match self.asking.join_next().await {
            Some(Ok(answered)) => answered,
            Some(Err(_)) | None => pending().await,
        };
        let answer = match answer {
            Ok(answer) => {
                self.heard.awaits_refusal.store(false, Ordering::Relaxed);
                if answer.own.is_some() {
                    self.own.clone_from(&answer.own);
                }
                Some(answer)
            }
            Err(error) => {
                tracing::debug!(%error, pid = self.pid, "the server was not asked about its ports");
                self.speaks = Speaks::Never;
                None
            }
        };
        self.go_on();
        (matters, answer)
    }

    fn go_on(&mut self) {
        if !self.asking.is_empty() {
            return;
        }
        let kind = self.waiting.front().map(std::mem::discriminant);
        let is_same = |matter: &&Matter| Some(std::mem::discriminant(*matter)) == kind;
        let together = self.waiting.iter().take(TOGETHER).take_while(is_same).count();
        let matters: Vec<_> = self.waiting.drain(..together).collect();
        let Some(question) = question(&matters) else { return };
        let (control, pid, is_mute) = (self.control.clone(), self.pid, self.is_mute());
        // After a refusal, whose line may be on its way still, it is not asked again.
        if !is_mute {
            self.heard.awaits_refusal.store(true, Ordering::Relaxed);
        }
        self.asking.spawn(async move {
            let answer =
                if is_mute { Err(Unanswered::Other) } else { server::ask(&control, pid, &question).await };
            (matters, answer)
        });
    }
}

/// One question about matters of the same kind; `None`: there are none.
fn question(matters: &[Matter]) -> Option<Question> {
    let mut question = Question { ports: BTreeSet::new(), who: false, stale: BTreeSet::new() };
    for matter in matters {
        match matter {
            Matter::Where(_, port) => drop(question.ports.insert(*port)),
            Matter::Who(refused) => {
                question.who = true;
                question.ports.insert(refused.port);
                question.stale.extend(refused.asked.stale.iter().cloned());
            }
        }
    }
    (!question.ports.is_empty()).then_some(question)
}
