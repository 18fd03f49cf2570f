//! What the event loop does about portward itself: the watch of the configuration, and the runtime directory.

use super::event_loop::EventLoop;
use crate::protocol::Change;

impl EventLoop {
    /// Takes note of whether changes of the configuration are noticed.
    pub(super) fn note_config_watch(&mut self) {
        let now = self.config.trouble();
        let before = std::mem::replace(&mut self.state.warnings.config, now);
        if before == self.state.warnings.config {
            return;
        }
        if let Some(trouble) = &self.state.warnings.config {
            tracing::warn!(event = "watch", "{trouble}");
        } else {
            tracing::info!(event = "watch", "changes of the configuration are noticed again");
        }
        self.tell_warnings();
    }

    /// Makes again what is missing in the runtime directory.
    pub(super) fn restore_runtime(&mut self) {
        if self.state.stopping {
            return;
        }
        let effects = &mut self.effects;
        let restored = self.runtime.restore(|is_locked| effects.restore_control(is_locked));
        let now = restored.err().map(|error| format!("{error}; portward tries again by itself"));
        let before = std::mem::replace(&mut self.state.warnings.runtime, now);
        if before == self.state.warnings.runtime {
            return;
        }
        if let Some(trouble) = &self.state.warnings.runtime {
            tracing::error!(event = "runtime", "the tunnels keep running, but {trouble}");
        } else {
            tracing::info!(event = "runtime", "the runtime directory is complete again");
        }
        self.tell_warnings();
    }

    fn tell_warnings(&self) {
        // Nobody following is not an error.
        let _ = self.changes.send(Change::Warnings(self.state.warnings.list()));
    }
}
