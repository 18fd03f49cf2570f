//! The log against a real journal: what arrives, and what happens when the journal does not read.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;

use portward::observe::log::{self, LogMode};
use portward::observe::recent::RecentLogs;

use crate::journal::{Follower, entries};
use crate::machine::{attempt, on_a_machine, run, text};
use crate::site::{self, CONFIG};

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
            ("CODE_FILE", file!()),
            ("SYSLOG_IDENTIFIER", "portward"),
        ];
        for (field, value) in expected {
            assert_eq!(entries[0].field(field), Some(value), "{field} in {entries:#?}");
        }
        assert_eq!(entries[0].field("ABSENT"), None);
        assert!(
            entries[0].field("CODE_LINE").is_some_and(|line| line.parse::<u32>().is_ok()),
            "{entries:#?}"
        );
        assert!(entries[1].has("PRIORITY", "6") && entries[1].has("MESSAGE", "plain"), "{entries:#?}");
    });
}

/// An entry may be larger than any datagram, as control characters take six bytes each once they are escaped.
#[test]
fn an_entry_too_large_for_a_datagram_arrives_whole() {
    const LETTERS: usize = 60_000;
    on_a_machine("log::an_entry_too_large_for_a_datagram_arrives_whole", || {
        let guard = log::start(LogMode::Journal, Arc::new(RecentLogs::default())).unwrap();
        tracing::info!(tunnel = "database", "{}", "\u{1b}".repeat(LETTERS));
        drop(guard);

        let entries = entries(&[OURS]);
        let message = format!("database: {}", "\\u{1b}".repeat(LETTERS));
        assert!(entries.len() == 1 && entries[0].has("MESSAGE", &message), "{} entries", entries.len());
        assert!(entries[0].has("TUNNEL", "database"));
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

/// journald drops lines of a service that says more than 10,000 within 30 s, whichever come next.
#[test]
fn flooding_commands_leave_the_journal_the_lines_of_portward_and_of_the_others() {
    const FLOODS: u16 = 12;
    on_a_machine("log::flooding_commands_leave_the_journal_the_lines_of_portward_and_of_the_others", || {
        site::build();
        let mut config = fs::read_to_string(CONFIG).unwrap();
        for index in 0..FLOODS {
            let port = 14000 + index;
            let flood = format!(
                "socat TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr - </dev/null & yes nothing new & wait"
            );
            writeln!(config, "  - {{name: flood{index}, local_port: {port}, command: [sh, -c, '{flood}']}}")
                .unwrap();
        }
        let quiet = "echo I am here; exec socat TCP-LISTEN:15000,bind=127.0.0.1,fork,reuseaddr - </dev/null";
        writeln!(config, "  - {{name: quiet, local_port: 15000, command: [sh, -c, '{quiet}']}}").unwrap();
        fs::write(CONFIG, config).unwrap();
        let mut journal = Follower::of("portward.service");
        run("systemctl", &["start", "portward.service"]);
        let mut coming: BTreeSet<String> = (0..FLOODS).map(|index| format!("flood{index}")).collect();
        coming.extend(["database".to_owned(), "quiet".to_owned()]);
        while !coming.is_empty() {
            let up = journal.wait(|entry| entry.has("STATE", "up"));
            coming.remove(up.field("TUNNEL").unwrap());
        }
        for _ in 0..3 {
            for tunnel in ["database", "quiet"] {
                run("portward", &["restart", tunnel]);
                journal.wait_up(tunnel);
            }
        }
        run("systemctl", &["stop", "portward.service"]);

        let of = |tunnel: &str, event: &str| {
            let entries = entries(&[OURS, &format!("TUNNEL={tunnel}"), &format!("EVENT={event}")]);
            entries.iter().filter_map(|entry| entry.field("MESSAGE")).map(str::to_owned).collect::<Vec<_>>()
        };
        for tunnel in ["database", "quiet"] {
            assert_eq!(of(tunnel, "starting").len(), 4, "{tunnel}");
        }
        assert_eq!(of("quiet", "output"), ["quiet: I am here"; 4]);
        let logged: Vec<usize> =
            (0..FLOODS).map(|index| of(&format!("flood{index}"), "output").len()).collect();
        println!("logged of each flood: {logged:?}");
        for index in 0..FLOODS {
            let tunnel = format!("flood{index}");
            assert_eq!(of(&tunnel, "output_limited").len(), of(&tunnel, "output_dropped").len(), "{tunnel}");
            assert!(!of(&tunnel, "output_dropped").is_empty(), "{tunnel}");
        }
        let all = run("journalctl", &["--unit=portward.service", "--output=cat", "--no-pager"]);
        assert!(!all.contains("Suppressed"), "journald has dropped lines");
    });
}

/// journalctl shows a text that it does not take for printable as `[5B blob data]`, and hands other characters to the terminal.
#[test]
fn the_journal_holds_nothing_that_steers_a_terminal() {
    on_a_machine("log::the_journal_holds_nothing_that_steers_a_terminal", || {
        let guard = log::start(LogMode::Journal, Arc::new(RecentLogs::default())).unwrap();
        let hostile = "\u{1b}[2J\u{9b}31m\u{202e}\u{200b}\0end\nsecond line";
        tracing::info!(tunnel = hostile, detail = hostile, "{hostile}");
        drop(guard);

        let entries = entries(&[OURS]);
        let safe = "\\u{1b}[2J\\u{9b}31m\\u{202e}\\u{200b}\\u{0}end";
        assert_eq!(entries[0].field("DETAIL"), Some(&*format!("{safe}\\nsecond line")));
        assert_eq!(entries[0].field("MESSAGE"), Some(&*format!("{safe}\\nsecond line: {safe}\nsecond line")));
    });
}

fn dropped(message: &str) -> Option<usize> {
    message.strip_suffix(" log lines were dropped: the log was not read fast enough")?.parse().ok()
}

#[test]
fn without_a_journal_asking_for_one_is_refused_with_a_hint() {
    on_a_machine("log::without_a_journal_asking_for_one_is_refused_with_a_hint", || {
        site::build();
        let no_journal = "mount -t tmpfs tmpfs /run/systemd && exec portward run --log journal";
        let refused = attempt("unshare", &["--mount", "sh", "-c", no_journal]);
        assert_eq!(refused.status.code(), Some(1));
        let said = text(&refused);
        assert!(said.contains("cannot log to the journal at /run/systemd/journal/socket"), "{said}");
        assert!(said.contains("use `--log text`"), "{said}");
    });
}
