//! The log against a real journal: what arrives, and what happens when the journal does not read.

use std::sync::Arc;

use portward::observe::log::{self, LogMode};
use portward::observe::recent::RecentLogs;

use crate::journal::entries;
use crate::machine::{attempt, on_a_machine, run, text};

const OURS: &str = "SYSLOG_IDENTIFIER=portward";

#[test]
fn each_fact_is_a_field_of_the_entry() {
    on_a_machine("log::each_fact_is_a_field_of_the_entry", || {
        let guard = log::start(LogMode::Journal, Arc::new(RecentLogs::default())).unwrap();
        let nothing: Option<u32> = None;
        tracing::warn!(
            tunnel = "database",
            tunnel_hash = "0123456789abcdef0123456789abcdef",
            port = 13306_u16,
            state = "awaiting_port",
            event = "held",
            error_kind = %"local_port_held",
            holder_pid = Some(4711_u32),
            duration_ms = 1.5,
            absent = nothing,
            "held by\nsomebody"
        );
        tracing::info!("plain");
        tracing::debug!("not asked for");
        drop(guard);

        let entries = entries(&[OURS]);
        assert_eq!(entries.len(), 2, "{entries:#?}");
        let expected = [
            ("PRIORITY", "4"),
            ("TUNNEL", "database"),
            ("TUNNEL_HASH", "0123456789abcdef0123456789abcdef"),
            ("PORT", "13306"),
            ("STATE", "awaiting_port"),
            ("EVENT", "held"),
            ("ERROR_KIND", "local_port_held"),
            ("HOLDER_PID", "4711"),
            ("DURATION_MS", "1.5"),
            ("MESSAGE", "database: held by\nsomebody"),
            ("TARGET", "systemd::log"),
        ];
        for (field, value) in expected {
            assert_eq!(entries[0].field(field), Some(value), "{field} in {entries:#?}");
        }
        assert_eq!(entries[0].field("ABSENT"), None);
        assert!(entries[1].has("PRIORITY", "6") && entries[1].has("MESSAGE", "plain"), "{entries:#?}");
    });
}

/// While the journal is stopped, every socket to it fills up after some lines: were the log to wait, this would never end.
#[test]
fn a_stalled_journal_stops_nobody_and_the_lines_lost_are_counted() {
    const LOGGED: usize = 5_000;
    on_a_machine("log::a_stalled_journal_stops_nobody_and_the_lines_lost_are_counted", || {
        let guard = log::start(LogMode::Journal, Arc::new(RecentLogs::default())).unwrap();
        run("systemctl", &["kill", "--signal=STOP", "systemd-journald"]);
        for number in 0..LOGGED {
            tracing::info!(number, "a line");
        }
        run("systemctl", &["kill", "--signal=CONT", "systemd-journald"]);
        drop(guard);

        let entries = entries(&[OURS]);
        let written = entries.iter().filter(|entry| entry.has("MESSAGE", "a line")).count();
        let dropped: usize =
            entries.iter().filter_map(|entry| entry.field("MESSAGE")).filter_map(dropped).sum();
        assert!(dropped > 0, "{written} of {LOGGED} were written");
        assert_eq!(written + dropped, LOGGED);
    });
}

fn dropped(message: &str) -> Option<usize> {
    message.strip_suffix(" log lines were dropped: the log was not read fast enough")?.parse().ok()
}

#[test]
fn without_a_journal_asking_for_one_is_refused_with_a_hint() {
    on_a_machine("log::without_a_journal_asking_for_one_is_refused_with_a_hint", || {
        crate::site::build();
        let no_journal = "mount -t tmpfs tmpfs /run/systemd && exec portward run --log journal";
        let refused = attempt("unshare", &["--mount", "sh", "-c", no_journal]);
        assert_eq!(refused.status.code(), Some(1));
        let said = text(&refused);
        assert!(said.contains("cannot log to the journal at /run/systemd/journal/socket"), "{said}");
        assert!(said.contains("use `--log text`"), "{said}");
    });
}
