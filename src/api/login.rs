//! A login that a person attends, as a dialogue with a terminal: what ssh says is shown, what it asks is answered, and the end is the
//! tunnel's state.

use std::future::Future;
use std::time::Duration;

use axum::body::Bytes;
use jiff::Timestamp;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::time::{Instant, sleep_until};

use super::context::Ending;
use super::line::{Echo, Line, Typed};
use crate::core::LONGEST_LOGIN;
use crate::daemon::handle::{Login, Outcome, Question, Update};
use crate::port;
use crate::protocol::wording::explain;
use crate::protocol::{Change, LoginCode, LoginEnd, QuestionKind, Secret, StateName, TunnelStatus};
use crate::text;

/// Who types nothing for so long is let go.
const IDLE: Duration = Duration::from_secs(120);

/// Bytes of a question that are shown: that about a host key has some hundred.
const QUESTION_LENGTH: usize = 4096;

/// The status that ssh exits with if it does not connect (ssh(1), EXIT STATUS).
const NOT_CONNECTED: i32 = 255;

/// The beginning of ssh's question about an unknown host key, and the ends of this one and of those that follow a wrong answer. What
/// is typed there is no secret. ssh does not say so, and what else it asks comes from the server.
const HOST_KEY: [(&str, &str); 2] =
    [("The authenticity of host ", "(yes/no/[fingerprint])?"), ("Please type 'yes'", ":")];

/// The person is gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// The terminal of a person.
pub(super) trait Terminal {
    /// What was typed. Cancel-safe.
    fn typed(&mut self) -> impl Future<Output = Result<Bytes, Gone>> + Send;

    /// Shows these bytes.
    fn show(&mut self, bytes: Vec<u8>) -> impl Future<Output = Result<(), Gone>> + Send;
}

/// Attends the login until it has ended. `changes` are those from before it began.
pub(super) async fn attend(
    terminal: &mut impl Terminal,
    tunnel: &TunnelStatus,
    mut login: Login,
    mut changes: Receiver<Change>,
    mut ending: Ending,
) -> Result<LoginEnd, Gone> {
    let longest = Instant::now() + LONGEST_LOGIN;
    let mut idle = Instant::now() + IDLE;
    let mut asked: Option<(Question, Line)> = None;
    let mut waits_for = String::new();
    show(terminal, &format!("Logging in to {} for {}.", tunnel.remote_host, tunnel.name)).await?;
    loop {
        let due = idle.min(longest);
        tokio::select! {
            typed = terminal.typed() => {
                idle = Instant::now() + IDLE;
                if answer(terminal, &mut asked, &typed?).await? == Typed::End {
                    return Ok(failed(LoginCode::Error, format!("the login for {} was given up", tunnel.name)));
                }
            }
            Some(update) = login.updates.recv(), if asked.is_none() => match update {
                Update::Said(line) => show(terminal, &line).await?,
                Update::Asked(question) => asked = ask(terminal, question).await?,
            },
            // ssh may stop asking, for a security key was touched or the server has given up.
            () = closed(&mut asked), if asked.is_some() => {
                asked = None;
                terminal.show(b"\r\n".to_vec()).await?;
            }
            outcome = &mut login.outcome => {
                while let Ok(Update::Said(line)) = login.updates.try_recv() {
                    show(terminal, &line).await?;
                }
                return Ok(end(tunnel, outcome.ok().flatten()));
            }
            change = changes.recv() => match change {
                Ok(Change::Tunnel(status)) if status.hash == tunnel.hash => {
                    if let Some(why) = held(&status).filter(|why| *why != waits_for) {
                        show(terminal, &why).await?;
                        waits_for = why;
                    }
                }
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(ended_with_the_daemon()),
            },
            () = sleep_until(due) => {
                let why = if due == longest { "took longer than" } else { "had no answer for" };
                let seconds = if due == longest { LONGEST_LOGIN } else { IDLE }.as_secs();
                let message = format!("the login for {} {why} {seconds} s; try again", tunnel.name);
                return Ok(LoginEnd { code: LoginCode::Timeout, message, exit_code: None });
            }
            () = ending.begun() => return Ok(ended_with_the_daemon()),
        }
    }
}

/// Resolves once nobody waits for the answer any more.
async fn closed(asked: &mut Option<(Question, Line)>) {
    if let Some((question, _)) = asked {
        question.reply.closed().await;
    }
}

/// Shows a question; one that wants no answer is none.
async fn ask(terminal: &mut impl Terminal, question: Question) -> Result<Option<(Question, Line)>, Gone> {
    let text = text::excerpt_lines(&question.text, QUESTION_LENGTH).replace('\n', "\r\n");
    match question.kind {
        QuestionKind::Notice => {
            terminal.show(format!("{text}\r\n").into_bytes()).await?;
            Ok(None)
        }
        QuestionKind::Confirm => {
            terminal.show(format!("{text} (yes/no) ").into_bytes()).await?;
            Ok(Some((question, Line::new(Echo::Shown))))
        }
        QuestionKind::Text => {
            let line = Line::new(echo(&question.text));
            let space = if text.ends_with(' ') { "" } else { " " };
            terminal.show(format!("{text}{space}").into_bytes()).await?;
            Ok(Some((question, line)))
        }
    }
}

fn echo(question: &str) -> Echo {
    let question = question.trim_end();
    let is_about_key = |(begin, end): &(&str, &str)| question.starts_with(begin) && question.ends_with(end);
    if HOST_KEY.iter().any(is_about_key) { Echo::Shown } else { Echo::Hidden }
}

/// What was typed goes to the question; without one it only counts if it gives up.
async fn answer(
    terminal: &mut impl Terminal,
    asked: &mut Option<(Question, Line)>,
    typed: &[u8],
) -> Result<Typed, Gone> {
    let mut shown = Vec::new();
    let result = match asked {
        Some((_, line)) => line.type_in(typed, &mut shown),
        None if typed.contains(&0x03) => Typed::End,
        None => Typed::Nothing,
    };
    if !shown.is_empty() {
        terminal.show(shown).await?;
    }
    if let Typed::Line(answer) = &result
        && let Some((question, _)) = asked.take()
    {
        // ssh may have gone meanwhile.
        let _ = question.reply.send(Secret(answer.clone()));
    }
    Ok(result)
}

async fn show(terminal: &mut impl Terminal, line: &str) -> Result<(), Gone> {
    terminal.show(format!("{}\r\n", text::line(line)).into_bytes()).await
}

/// What the tunnel waits for before its login can begin, or after it.
fn held(status: &TunnelStatus) -> Option<String> {
    let is_held = status.state == StateName::AwaitingPort && !status.held_by.is_empty();
    let why = is_held.then(|| explain(status, Timestamp::now())).flatten()?;
    Some(format!("{} {why}", status.name))
}

fn end(tunnel: &TunnelStatus, outcome: Option<Outcome>) -> LoginEnd {
    let name = &tunnel.name;
    match outcome {
        Some(Outcome::Done { status, .. }) => {
            let addresses = port::concise(&status.listeners).join(", ");
            let listens =
                if addresses.is_empty() { String::new() } else { format!(": it listens on {addresses}") };
            LoginEnd { code: LoginCode::Success, message: format!("{name} is up{listens}"), exit_code: None }
        }
        Some(Outcome::NotDone { status, failure }) => {
            let failure = status.last_error.unwrap_or(failure);
            failed(LoginCode::Error, format!("{name} is not up: {}", failure.message))
        }
        Some(Outcome::Unfinished { status }) => {
            failed(LoginCode::Error, format!("{name} is not up, but {}", status.state))
        }
        None => failed(LoginCode::Error, format!("{name} is gone from the configuration, or portward ends")),
    }
}

fn failed(code: LoginCode, message: String) -> LoginEnd {
    LoginEnd { code, message, exit_code: Some(NOT_CONNECTED) }
}

fn ended_with_the_daemon() -> LoginEnd {
    failed(LoginCode::Error, "portward is shutting down; try again once it is started".to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::sync::{broadcast, mpsc, oneshot, watch};

    use super::*;
    use crate::core::{Failure, FailureKind};
    use crate::protocol::Took;
    use crate::protocol::tests::tunnel;

    /// The ends of a dialogue that a test holds.
    struct Person {
        types: mpsc::UnboundedSender<Bytes>,
        sees: mpsc::UnboundedReceiver<Vec<u8>>,
        updates: mpsc::Sender<Update>,
        outcome: Option<oneshot::Sender<Option<Outcome>>>,
        changes: broadcast::Sender<Change>,
        _ending: watch::Sender<bool>,
        attended: tokio::task::JoinHandle<Result<LoginEnd, Gone>>,
    }

    struct Screen(mpsc::UnboundedReceiver<Bytes>, mpsc::UnboundedSender<Vec<u8>>);

    impl Terminal for Screen {
        async fn typed(&mut self) -> Result<Bytes, Gone> {
            self.0.recv().await.ok_or(Gone)
        }

        async fn show(&mut self, bytes: Vec<u8>) -> Result<(), Gone> {
            self.1.send(bytes).map_err(|_| Gone)
        }
    }

    impl Person {
        async fn comes() -> Self {
            let (types, keys) = mpsc::unbounded_channel();
            let (shows, sees) = mpsc::unbounded_channel();
            let (updates, read) = mpsc::channel(8);
            let (outcome, told) = oneshot::channel();
            let (ending, begun) = watch::channel(false);
            let changes = broadcast::Sender::new(8);
            let heard = changes.subscribe();
            let attended = tokio::spawn(async move {
                let login = Login { updates: read, outcome: told };
                attend(&mut Screen(keys, shows), &tunnel("web"), login, heard, Ending(begun)).await
            });
            let mut person =
                Self { types, sees, updates, outcome: Some(outcome), changes, _ending: ending, attended };
            person.sees("Logging in to").await;
            person
        }

        /// Waits until the terminal has shown this; returns all that it has shown until then.
        async fn sees(&mut self, wanted: &str) -> String {
            let mut shown = String::new();
            while !shown.contains(wanted) {
                let bytes = self.sees.recv().await.unwrap_or_else(|| panic!("no {wanted:?} in {shown:?}"));
                shown.push_str(&String::from_utf8(bytes).unwrap());
            }
            shown
        }

        fn types(&self, text: &str) {
            self.types.send(Bytes::copy_from_slice(text.as_bytes())).unwrap();
        }

        async fn is_asked(&mut self, kind: QuestionKind, text: &str) -> oneshot::Receiver<Secret> {
            let (reply, answer) = oneshot::channel();
            self.updates.send(Update::Asked(Question { kind, text: text.to_owned(), reply })).await.unwrap();
            answer
        }

        async fn end(self) -> Result<LoginEnd, Gone> {
            self.attended.await.unwrap()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_types_nothing_for_two_minutes_is_let_go_and_every_key_counts() {
        let person = Person::comes().await;
        let begun = Instant::now();
        let end = person.end().await.unwrap();
        assert_eq!((end.code, begun.elapsed()), (LoginCode::Timeout, IDLE));

        let mut person = Person::comes().await;
        let begun = Instant::now();
        let _answer = person.is_asked(QuestionKind::Text, "Password: ").await;
        person.sees("Password:").await;
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_secs(119)).await;
            person.types("x");
        }
        let end = person.end().await.unwrap();
        assert_eq!((end.code, begun.elapsed()), (LoginCode::Timeout, LONGEST_LOGIN));
        assert!(end.message.contains("300 s"), "{end:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn questions_are_answered_in_turn_and_secrets_not_shown() {
        let mut person = Person::comes().await;
        let password = person.is_asked(QuestionKind::Text, "root@db's password: ").await;
        let key = "The authenticity of host 'db' can't be established.\nED25519 key fingerprint is SHA256:x.\nAre you sure you want to continue connecting (yes/no/[fingerprint])? ";
        let trust = person.is_asked(QuestionKind::Text, key).await;
        person.sees("password:").await;
        person.types("s3cr");
        person.types("et\ryes\r");
        assert_eq!(password.await.unwrap(), Secret("s3cret".to_owned()));
        let shown = person.sees("(yes/no/[fingerprint])?").await;
        assert!(shown.contains("SHA256:x.\r\n") && !shown.contains("s3c"), "{shown}");
        person.types("yes\r");
        person.sees("yes\r\n").await;
        assert_eq!(
            trust.await.unwrap(),
            Secret("yes".to_owned()),
            "what was typed before it was asked is no answer"
        );
        let status = TunnelStatus { listeners: vec!["127.0.0.1:9443".parse().unwrap()], ..tunnel("web") };
        let done = Outcome::Done { status, took: Took::default() };
        person.outcome.take().unwrap().send(Some(done)).unwrap();
        let end = person.end().await.unwrap();
        assert_eq!(
            (end.code, &end.message[..]),
            (LoginCode::Success, "web is up: it listens on 127.0.0.1:9443")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_server_writes_steers_no_terminal_and_is_hidden_unless_it_is_about_a_key() {
        let mut person = Person::comes().await;
        let answer = person.is_asked(QuestionKind::Text, "\u{1b}[2JCode (yes/no/[fingerprint])?").await;
        let shown = person.sees("Code").await;
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
        person.types("123456\r");
        assert_eq!(answer.await.unwrap(), Secret("123456".to_owned()));
        let _notice = person.is_asked(QuestionKind::Notice, "Confirm user presence for key ED25519-SK").await;
        let shown = person.sees("presence").await;
        assert!(!shown.contains("123456"), "{shown}");
        // The next one is shown at once: nobody answers a notice.
        person.updates.send(Update::Said("Permission denied".to_owned())).await.unwrap();
        person.sees("Permission denied\r\n").await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_a_holder_and_giving_up_are_told() {
        let mut person = Person::comes().await;
        let held = TunnelStatus {
            state: StateName::AwaitingPort,
            held_by: vec![crate::protocol::tests::listener(crate::port::Holder::default())],
            ..tunnel("web")
        };
        person.changes.send(Change::Tunnel(held.into())).unwrap();
        person.sees("web waits for port").await;
        let failure = Failure::new(FailureKind::Auth, "refused");
        let not_done = Outcome::NotDone { status: tunnel("web"), failure };
        person.outcome.take().unwrap().send(Some(not_done)).unwrap();
        let end = person.end().await.unwrap();
        assert_eq!((end.code, end.exit_code), (LoginCode::Error, Some(255)));
        assert_eq!(end.message, "web is not up: refused");

        let person = Person::comes().await;
        person.types("\u{3}");
        assert_eq!(person.end().await.unwrap().code, LoginCode::Error);

        let mut person = Person::comes().await;
        drop(std::mem::replace(&mut person.types, mpsc::unbounded_channel().0));
        assert_eq!(person.end().await, Err(Gone));
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_nobody_waits_for_any_more_is_dropped() {
        let mut person = Person::comes().await;
        let answer = person.is_asked(QuestionKind::Text, "Password: ").await;
        person.sees("Password:").await;
        drop(answer);
        person.sees("\r\n").await;
        let second = person.is_asked(QuestionKind::Text, "Code: ").await;
        person.sees("Code:").await;
        person.types("1\r");
        assert_eq!(second.await.unwrap(), Secret("1".to_owned()));
    }
}
