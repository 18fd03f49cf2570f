//! The health of tunnels: what their links do is told to the machine that decides about checks, and what that orders is carried
//! out.

use super::event_loop::EventLoop;
use super::held::HeldListener;
use super::narrate;
use super::timers::Timer;
use crate::core::{CheckNumber, Event, Health, HealthAction, HealthEvent, Slot};
use crate::health::Probe;

impl EventLoop {
    /// Tells the machine what has become of the tunnel. Without health checks there is none to tell.
    pub(super) fn observe_health(&mut self, slot: Slot) {
        let Some(tunnel) = self.state.view(slot).filter(|tunnel| tunnel.entry.health.is_some()) else {
            return;
        };
        let connection = tunnel.listening().map(|(connection, _)| connection);
        self.hear_health(slot, HealthEvent::Observed(tunnel.state().0, connection));
    }

    /// Lets the machine hear of an event, and carries out what follows.
    pub(super) fn hear_health(&mut self, slot: Slot, event: HealthEvent) {
        let now = self.clock.now();
        let Some(entry) = self.state.entries.get_mut(&slot) else { return };
        let Some(health) = &mut entry.health else { return };
        self.state.touched.insert(slot);
        let failures = health.failures();
        let actions = health.hear(event, now, &entry.desired.policy);
        self.arm_health(slot);
        let mut restart = false;
        for action in actions {
            let Some(entry) = self.state.entries.get_mut(&slot) else { return };
            match action {
                HealthAction::StartCheck(number) => self.start_check(slot, number),
                HealthAction::AbandonCheck => entry.checks.abandon(),
                HealthAction::ReportPassing => narrate::passing(entry),
                HealthAction::ReportFailing => narrate::failing(entry, failures + 1, narrate::Step::Marked),
                HealthAction::ReportHeld(wait) => {
                    narrate::failing(entry, failures + 1, narrate::Step::Held(wait));
                }
                HealthAction::Restart => {
                    narrate::failing(entry, failures + 1, narrate::Step::Restarted);
                    restart = true;
                }
            }
        }
        if restart {
            self.hear(slot, Event::RestartRequested(slot));
        }
    }

    /// Nothing is left of a check.
    pub(super) fn check_over(&mut self, slot: Slot, number: CheckNumber) {
        if let Some(entry) = self.state.entries.get_mut(&slot) {
            entry.checks.over(number);
        }
        self.forget_removed(slot);
    }

    /// The file asks for other checks of a tunnel than before, or for none. This restarts nothing.
    pub(super) fn redefine_health(&mut self, slot: Slot) {
        let Some(entry) = self.state.entries.get_mut(&slot) else { return };
        match (&entry.desired.health, &mut entry.health) {
            (Some(wanted), Some(health)) => drop(health.redefine(wanted.policy)),
            (Some(wanted), none) => *none = Some(Box::new(Health::new(wanted.policy, slot.0))),
            (None, health) => *health = None,
        }
        // Also that of checks which are not made any more.
        entry.checks.abandon();
        self.arm_health(slot);
    }

    fn start_check(&mut self, slot: Slot, number: CheckNumber) {
        let Some(entry) = self.state.entries.get_mut(&slot) else { return };
        let wants_to_know = entry.desired.policy.on_demand.is_some();
        let announcer = entry.resources.held().filter(|_| wants_to_know).map(HeldListener::announcer);
        if let Some(probe) = Probe::new(&entry.desired, &entry.listeners, announcer) {
            let reporter = entry.resources.reporter().clone();
            entry.checks.start(number, probe, reporter, self.effects.pace());
        }
    }

    fn arm_health(&mut self, slot: Slot) {
        let health = self.state.entries.get(&slot).and_then(|entry| entry.health.as_ref());
        match health.and_then(|health| health.deadline()) {
            Some(deadline) => self.state.timers.arm(Timer::Health(slot), deadline),
            None => self.state.timers.disarm(Timer::Health(slot)),
        }
    }
}
