//! Logins that a person attends: who is there for which link, and where the questions of its ssh go.

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use super::handle::{NoLogin, Update};
use crate::core::LinkId;
use crate::ssh::Askpass;

/// Logins at a time, as autossh-tunnel has it.
const MOST: usize = 5;

/// The logins.
#[derive(Debug, Default)]
pub(super) struct Logins {
    attended: BTreeMap<LinkId, Attended>,
    last: u64,
}

/// A person is there for a link.
#[derive(Debug, Clone)]
pub(super) struct Attended {
    number: u64,
    pub(super) askpass: Askpass,
    pub(super) updates: mpsc::Sender<Update>,
}

impl Logins {
    /// The login that is attended for this link.
    pub(super) fn of(&self, link: LinkId) -> Option<&Attended> {
        self.attended.get(&link)
    }

    /// Whether somebody may come for this link.
    pub(super) fn check(&self, link: LinkId) -> Result<(), NoLogin> {
        if self.attended.contains_key(&link) {
            return Err(NoLogin::Attended);
        }
        if self.attended.len() >= MOST {
            return Err(NoLogin::TooMany);
        }
        Ok(())
    }

    /// Somebody is there for the link; returns the number of the login.
    pub(super) fn begin(&mut self, link: LinkId, askpass: Askpass, updates: mpsc::Sender<Update>) -> u64 {
        self.last += 1;
        self.attended.insert(link, Attended { number: self.last, askpass, updates });
        self.last
    }

    /// The login with this number is attended no more; whether it was until now.
    pub(super) fn end(&mut self, link: LinkId, number: u64) -> bool {
        let is_this = self.of(link).is_some_and(|attended| attended.number == number);
        if is_this {
            self.forget(link);
        }
        is_this
    }

    /// The link is gone.
    pub(super) fn forget(&mut self, link: LinkId) {
        self.attended.remove(&link);
    }

    /// Where the questions of the login with this token go.
    pub(super) fn asked(&self, token: &str) -> Option<mpsc::Sender<Update>> {
        let of_token = self.attended.values().find(|attended| attended.askpass.is(token))?;
        Some(of_token.updates.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Slot;

    #[test]
    fn each_link_has_one_login_and_five_have_one_at_a_time() {
        let (mut logins, (updates, _unread)) = (Logins::default(), mpsc::channel(1));
        let link = |number| LinkId(Slot(number));
        let mut numbers = Vec::new();
        for number in 0..5 {
            assert_eq!(logins.check(link(number)), Ok(()));
            let askpass = Askpass::new("/run/portward.sock".into(), format!("token {number}"));
            numbers.push(logins.begin(link(number), askpass, updates.clone()));
            assert_eq!(logins.check(link(number)), Err(NoLogin::Attended));
        }
        assert_eq!(logins.check(link(5)), Err(NoLogin::TooMany));
        assert!(logins.asked("token 3").is_some() && logins.asked("token").is_none());
        assert!(!logins.end(link(3), numbers[2]), "that is another one");
        assert!(logins.end(link(3), numbers[3]));
        assert!(logins.asked("token 3").is_none());
        assert_eq!(logins.check(link(5)), Ok(()));
    }
}
