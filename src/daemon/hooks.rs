//! What the event loop does for the programs of `on_change`.

use super::event_loop::EventLoop;
use crate::core::Slot;

impl EventLoop {
    /// The tunnel may have changed: tells its program, if it has one.
    pub(super) fn run_hook(&mut self, slot: Slot) {
        let Some(tunnel) = self.state.view(slot) else { return };
        let Some(argv) = tunnel.entry.desired.on_change.clone() else { return };
        let status = tunnel.status(&self.clock);
        if let Some(entry) = self.state.entries.get_mut(&slot) {
            entry.hook.note(&argv, &status, entry.resources.reporter(), self.effects.hook_means());
        }
    }

    /// Nothing is left of the program.
    pub(super) fn hook_over(&mut self, slot: Slot) {
        if let Some(entry) = self.state.entries.get_mut(&slot) {
            entry.hook.over(entry.resources.reporter(), self.effects.hook_means());
        }
        self.forget_removed(slot);
    }
}
