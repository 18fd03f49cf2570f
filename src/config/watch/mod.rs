//! Hears of every change of the configuration file, however it is saved.
//!
//! The kernel tells of changes in directories, never of a path: so [`trail`] finds out through which directories the path
//! leads, [`directories`] watches those, and every event that names a part of the path opens a [`window`] of quiet, after
//! which the trail is looked up anew, the file is read, and its content compared with what was last reported.
//! While nothing happens, no timer is armed.

mod directories;
mod trail;
mod window;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::file::{self, ReadError};
use directories::Directories;
use window::Window;

/// The file cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot watch the configuration {path}: {source}; see fs.inotify.max_user_instances and max_user_watches",
    path = path.display()
)]
pub struct WatchError {
    /// The file.
    pub path: PathBuf,
    /// What inotify says.
    pub source: notify::Error,
}

/// Watches one configuration file.
#[derive(Debug)]
pub struct ConfigWatch {
    path: PathBuf,
    directories: Directories,
    /// Something about the path has changed.
    touched: Arc<Notify>,
    /// Open from the first change until it has been quiet for long enough.
    window: Option<Window>,
    /// What was reported last, an error as its text; `None` before the first time.
    reported: Option<Result<String, String>>,
}

impl ConfigWatch {
    /// Begins to watch `path`, which need not be there yet. Call [`Self::read_now`] for the content to begin with: what
    /// changes after this call is not missed.
    pub fn new(path: &Path) -> Result<Self, WatchError> {
        let failed = |source| WatchError { path: path.to_owned(), source };
        let path = std::path::absolute(path).map_err(|error| failed(notify::Error::io(error)))?;
        let touched = Arc::new(Notify::new());
        let mut directories = Directories::new(Arc::clone(&touched)).map_err(failed)?;
        directories.follow(&path).map_err(failed)?;
        Ok(Self { path, directories, touched, window: None, reported: None })
    }

    /// Waits until the content (or whether it can be read) differs from what was last reported, and reports it.
    /// Cancel-safe: a change whose wait was dropped is reported by the next one.
    pub async fn changed(&mut self) -> Result<String, ReadError> {
        loop {
            match self.window {
                None => {
                    self.touched.notified().await;
                    self.window = Some(Window::opened(Instant::now()));
                }
                Some(window) => tokio::select! {
                    () = self.touched.notified() => self.window = Some(window.touched(Instant::now())),
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

    /// Reads the file now, and takes it as reported.
    pub fn read_now(&mut self) -> Result<String, ReadError> {
        // Watched first and read then, so that no change falls between the two.
        if let Err(error) = self.directories.follow(&self.path) {
            tracing::warn!(
                path = %self.path.display(),
                "cannot watch the configuration any more: {error}; use `portward reload` after a change"
            );
        }
        let content = file::read(&self.path);
        self.reported = Some(content.as_ref().map(String::clone).map_err(ToString::to_string));
        content
    }
}

#[cfg(test)]
mod tests;
