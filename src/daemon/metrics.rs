//! All figures in the text of OpenMetrics: what is counted, and what the status shows when somebody asks.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::counts::{Counts, is_down};
use super::event_loop::EventLoop;
use crate::clock::Moment;
use crate::core::StateName;
use crate::observe::log;
use crate::protocol::TunnelStatus;

type Labels = Vec<(&'static str, String)>;

impl EventLoop {
    /// All figures.
    pub(super) fn metrics(&mut self) -> String {
        let now = self.clock.now();
        let mut registry = Registry::with_prefix("portward");
        self.register_own(&mut registry);
        self.register_tunnels(&mut registry, now);
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode_registry(&mut text, &registry).and_then(|()| encode_eof(&mut text));
        text
    }

    fn register_own(&self, registry: &mut Registry) {
        let build = Family::<Labels, Gauge>::default();
        build.get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").to_owned())]).set(1);
        registry.register("build_info", "The program; always 1", build);
        let is_valid = Gauge::<i64>::default();
        is_valid.set(i64::from(self.state.config_error.is_none()));
        registry.register("config_valid", "Whether all of the configuration file is in force", is_valid);
        let reloads = Family::<Labels, Counter>::default();
        for result in ["ok", "partly", "refused"] {
            let count = self.metrics.reloads.get(result).copied().unwrap_or_default();
            reloads.get_or_create(&vec![("result", result.to_owned())]).inc_by(count);
        }
        registry.register("reloads", "Times that the configuration was read after the start", reloads);
        let dropped = Counter::<u64>::default();
        dropped.inc_by(log::dropped());
        registry.register(
            "log_lines_dropped",
            "Log lines that were dropped, because nobody had read the earlier ones",
            dropped,
        );
        let logins = self.metrics.logins.clone();
        let about = "From the start of ssh until it is logged in";
        registry.register_with_unit("login", about, Unit::Seconds, logins);
        let verdicts = self.effects.verdicts().clone();
        let about = "How long the kernel was asked whether a port is unbound";
        registry.register_with_unit("verdict", about, Unit::Seconds, verdicts);
    }

    fn register_tunnels(&self, registry: &mut Registry, now: Moment) {
        let state = Family::<Labels, Gauge>::default();
        let up = Family::<Labels, Gauge>::default();
        let restarts = Family::<Labels, Counter>::default();
        let waits = Family::<Labels, Counter>::default();
        let down = Family::<Labels, Counter<f64, AtomicU64>>::default();
        let failed = Family::<Labels, Counter>::default();
        let clients = Family::<Labels, Gauge>::default();
        let bytes = Family::<Labels, Counter>::default();
        for status in self.snapshot().tunnels {
            let labels = vec![("tunnel", status.name.clone())];
            let with =
                |name: &'static str, value: &str| [labels.clone(), vec![(name, value.to_owned())]].concat();
            for one in StateName::ALL {
                state.get_or_create(&with("state", one.as_str())).set(i64::from(one == status.state));
            }
            up.get_or_create(&labels).set(i64::from(status.state.is_up()));
            failed
                .get_or_create(&labels)
                .inc_by(status.connection_errors.as_ref().map_or(0, |errors| errors.count));
            if let Some(served) = &status.clients {
                clients.get_or_create(&labels).set(i64::try_from(served.now).unwrap_or(i64::MAX));
                bytes.get_or_create(&with("direction", "sent")).inc_by(served.bytes_sent);
                bytes.get_or_create(&with("direction", "received")).inc_by(served.bytes_received);
            }
            let Some(counts) = self.counts_of(&status) else { continue };
            for (cause, count) in &counts.restarts {
                restarts.get_or_create(&with("cause", cause)).inc_by(*count);
            }
            for (kind, count) in &counts.waits {
                waits.get_or_create(&with("holder", kind)).inc_by(*count);
            }
            let present =
                if is_down(status.state) { self.time_in_state(&status, now) } else { Duration::ZERO };
            down.get_or_create(&labels).inc_by((counts.down + present).as_secs_f64());
        }
        registry.register("tunnel_state", "1 for the state that a tunnel is in", state);
        registry.register("tunnel_up", "Whether a tunnel listens", up);
        registry.register("tunnel_restarts", "Times that a tunnel was restarted", restarts);
        registry.register("tunnel_waits", "Times that a port was held when it was needed", waits);
        let about = "Time in which a tunnel was wanted and not up";
        registry.register_with_unit("tunnel_down", about, Unit::Seconds, down);
        registry.register(
            "tunnel_failed_connections",
            "Connections of clients that failed through a tunnel that was up",
            failed,
        );
        registry.register("tunnel_clients", "Clients of a held listener that are connected now", clients);
        let about = "What the clients of a held listener have sent and received";
        registry.register_with_unit("tunnel_client", about, Unit::Bytes, bytes);
    }

    fn counts_of(&self, status: &TunnelStatus) -> Option<&Counts> {
        let slot = self.state.slots.get(&status.hash)?;
        self.state.entries.get(slot).map(|entry| &entry.counts)
    }

    fn time_in_state(&self, status: &TunnelStatus, now: Moment) -> Duration {
        let tunnel = self.state.slots.get(&status.hash).and_then(|slot| self.state.view(*slot));
        tunnel.map(|tunnel| now.since(tunnel.state().1)).unwrap_or_default()
    }
}
