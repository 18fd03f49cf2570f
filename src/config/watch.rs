//! Reports every change of the configuration file, however it is saved.
//!
//! Each event about a directory or link on the path, or about the file itself, opens a [`Window`]. When no further event has
//! arrived for a while, the path is resolved again, the file is read, and its content is compared with what was reported last.
//! While nothing happens, no timer is armed.

use std::path::{Path, PathBuf};

use tokio::time::{Instant, sleep_until};

use super::file::{self, ReadError};
use crate::watch::{Followed, Scope, Watcher, Window};

/// Watches one configuration file.
#[derive(Debug)]
pub struct ConfigWatch {
    path: PathBuf,
    followed: Followed,
    /// Open from the first change until it has been quiet for long enough.
    window: Option<Window>,
    /// What was reported last, an error as its text; `None` before the first time.
    reported: Option<Result<String, String>>,
}

impl ConfigWatch {
    /// Starts to watch `path`, which need not exist yet. Call [`Self::read_now`] for the initial content: no change after this
    /// call is missed unless [`Self::trouble`] reports a reason. Must be called within a tokio runtime.
    pub fn new(watcher: &Watcher, path: &Path) -> Self {
        // Without a working directory nothing else is known of the path.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let followed = Followed::new(watcher, vec![path.clone()], Scope::Content);
        Self { path, followed, window: None, reported: None }
    }

    /// Waits until the content (or whether it can be read) differs from what was last reported, and reports it.
    /// Cancel-safe: a change whose wait was dropped is reported by the next one.
    pub async fn changed(&mut self) -> Result<String, ReadError> {
        loop {
            match self.window {
                None => {
                    self.followed.touched().await;
                    self.window = Some(Window::opened(Instant::now()));
                }
                Some(window) => tokio::select! {
                    () = self.followed.touched() => self.window = Some(window.touched(Instant::now())),
                    () = sleep_until(window.closes()) => {
                        self.window = None;
                        let before = self.reported.take();
                        let content = self.read_now();
                        if self.reported != before {
                            return content;
                        }
                    }
                },
            }
        }
    }

    /// Reads the file now, and marks its content as reported.
    pub fn read_now(&mut self) -> Result<String, ReadError> {
        // Watch first and read afterwards, so that no change is missed in between.
        self.followed.follow();
        let content = file::read(&self.path);
        self.reported = Some(content.as_ref().map(String::clone).map_err(ToString::to_string));
        content
    }

    /// Why changes may go unnoticed, and what to do then.
    pub fn trouble(&self) -> Option<String> {
        let trouble = self.followed.trouble()?;
        Some(format!(
            "changes of {} are not noticed, run `portward reload` after each: {trouble}",
            self.path.display()
        ))
    }
}

#[cfg(test)]
mod tests;
