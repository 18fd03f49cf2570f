//! A person comes to log in, and leaves.

use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::sync::{mpsc, oneshot};

use super::entry::View;
use super::event_loop::EventLoop;
use super::handle::{Login, NoLogin, Outcome};
use super::narrate;
use super::reporter::{LinkReport, Report};
use super::timers::Timer;
use super::waiter::Waiter;
use crate::core::{Event, LONGEST_LOGIN, LinkId, Slot};
use crate::protocol::Verb;
use crate::ssh::Askpass;
use crate::text;

/// Lines of ssh and questions that a person may not have read yet. Further lines are in the log only.
const UNREAD: usize = 64;

/// Whoever attends is let go after [`LONGEST_LOGIN`]; this much later, an answer is due in any case.
const MARGIN: Duration = Duration::from_secs(5);

impl EventLoop {
    /// A person is there for the tunnel. One login serves all tunnels that share its connection.
    pub(super) fn log_in(&mut self, hash: &str) -> Result<Login, NoLogin> {
        let slot = *self.state.slots.get(hash).ok_or(NoLogin::Unknown)?;
        let View { entry, .. } = self.state.view(slot).ok_or(NoLogin::Unknown)?;
        let id = entry.link;
        if !entry.desired.interactive {
            return Err(NoLogin::NotInteractive { name: entry.desired.name.clone() });
        }
        self.state.logins.check(id)?;
        let token = token()?;
        narrate::attended(entry);
        let (updates, unread) = mpsc::channel(UNREAD);
        let askpass = Askpass::new(self.runtime.socket().to_owned(), token);
        let number = self.state.logins.begin(id, askpass, updates.clone());
        let report = self.report.clone();
        tokio::spawn(async move {
            updates.closed().await;
            // After the end of the loop nobody is there to hear it.
            let _ = report.send(Report::Link(id, LinkReport::PersonLeft(number)));
        });
        let is_served = |other: &Slot| {
            *other == slot || self.state.entries.get(other).is_some_and(|entry| entry.desired.enabled)
        };
        let served: Vec<_> = self.state.slots_of(id).into_iter().filter(is_served).collect();
        for served in served {
            self.hear(served, Event::PersonCame(served));
        }
        Ok(Login { updates: unread, outcome: self.await_login(slot) })
    }

    /// What becomes of the login; dropped, if the tunnel is gone.
    fn await_login(&mut self, slot: Slot) -> oneshot::Receiver<Option<Outcome>> {
        let (reply, outcome) = oneshot::channel();
        let asked = self.clock.now();
        let Some(View { link, .. }) = self.state.view(slot) else { return outcome };
        let (awaited, deadline) = (link.link.awaited(), asked.after(LONGEST_LOGIN + MARGIN));
        self.state.last_request += 1;
        let request = self.state.last_request;
        self.state.timers.arm(Timer::Request(slot, request), deadline);
        let waiter = Waiter { verb: Verb::Start, awaited, asked, deadline, reply };
        self.state.waiters.insert((slot, request), waiter);
        outcome
    }

    /// The person who attended this login is gone.
    pub(super) fn person_left(&mut self, id: LinkId, number: u64) {
        if self.state.logins.end(id, number) {
            self.hear_of_link(id, Event::PersonLeft);
        }
    }
}

/// A token that nobody can guess.
fn token() -> Result<String, NoLogin> {
    let mut bytes = [0; 16];
    match getrandom(&mut bytes[..], GetRandomFlags::empty()) {
        Ok(16) => Ok(text::hex(&bytes)),
        Ok(fewer) => Err(NoLogin::NoToken(format!("{fewer} random bytes instead of 16"))),
        Err(error) => Err(NoLogin::NoToken(error.to_string())),
    }
}
