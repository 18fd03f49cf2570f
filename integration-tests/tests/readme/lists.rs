//! Lists of the book are those of the code.

use std::collections::BTreeSet;

use integration_tests::{read, read_below};
use portward::config::ssh_options::SSH_OPTIONS;
use portward::doctor::{CHECKS, Check};
use portward::protocol::StateName;

use crate::pages::Page;

#[test]
fn the_table_of_doctor_has_every_check() {
    let row = |check: &Check| format!("| `{}` | {} |", check.name, check.about);
    assert_eq!(
        rows("docs/guide/systemd.md", "| check | makes sure that |"),
        CHECKS.iter().map(row).collect::<Vec<_>>()
    );
}

#[test]
fn the_table_of_ssh_options_has_every_one_that_is_refused() {
    let refused = SSH_OPTIONS.iter().filter(|option| option.is_reserved());
    assert_eq!(
        rows("docs/migrating/systemd-unit.md", "| option | |"),
        refused.map(|option| format!("| `{}` | {} |", option.name, option.why)).collect::<Vec<_>>()
    );
}

const JOURNAL: &str = "docs/reference/journal.md";

#[test]
fn the_journal_page_has_every_event() {
    let mut events = BTreeSet::new();
    for source in sources() {
        for mark in ["event = \"", "OUTPUT: &str = \"", "(\"event\", Some(Value::Text(\""] {
            events.extend(
                source.split(mark).skip(1).filter_map(|rest| Some(rest.split('"').next()?.to_owned())),
            );
        }
    }
    assert!(events.contains("output") && events.contains("log_dropped") && events.len() > 25, "{events:?}");
    assert_eq!(first_cells(JOURNAL, "| `EVENT` | the line says |"), events);
}

#[test]
fn the_journal_page_has_every_field() {
    let mut fields = BTreeSet::from(["TUNNEL", "TUNNEL_HASH", "PORT"].map(str::to_owned));
    for source in sources() {
        let calls = source.split("log!(").chain(source.split("tracing::")).skip(1);
        fields.extend(calls.flat_map(fields_of).map(|name| name.to_uppercase()));
    }
    assert!(fields.contains("HOLDER_PID") && fields.contains("DROPPED"), "{fields:?}");
    assert_eq!(first_cells(JOURNAL, "| field | value |"), fields);
}

/// The fields of a log line, from what follows the beginning of the macro: `event = "held", holder_pid, "text"`.
fn fields_of(call: &str) -> Vec<String> {
    const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
    let head = call.trim_start();
    let is_log = LEVELS.iter().any(|level| head.starts_with(level));
    let end = head.find(");").unwrap_or(head.len());
    let parts = head[..end].trim_start_matches(char::is_alphabetic).trim_start_matches(['!', '(', ',']);
    let name = |part: &str| {
        let name = part.split('=').next()?.trim().trim_start_matches(['%', '?']);
        let is_field =
            !name.is_empty() && name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_');
        (is_field && name != "identity").then(|| name.to_owned())
    };
    let parts = parts.split(',').take_while(|part| !part.trim_start().starts_with('"'));
    if is_log { parts.filter_map(name).collect() } else { Vec::new() }
}

#[test]
fn the_journal_page_has_every_state_and_every_class() {
    let states: BTreeSet<String> = StateName::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(first_cells(JOURNAL, "| state | |"), states);
    for (heading, file) in [
        ("## Classes of failures", "src/core/failure.rs"),
        ("## Classes of failed connections", "src/ssh/connection_errors.rs"),
        ("## Classes of failed health checks", "src/core/check_error.rs"),
    ] {
        let page = read(JOURNAL);
        let (_, section) = page.split_once(&format!("{heading}\n")).expect("the section");
        let table = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
        let listed: BTreeSet<String> =
            table.take_while(|line| line.starts_with('|')).flat_map(first_cell).collect();
        assert_eq!(listed, words(file), "{heading}, {file}");
    }
}

/// The words that the enum of a file has in JSON.
fn words(file: &str) -> BTreeSet<String> {
    let source = read(file);
    let (_, body) = source.split_once("fn as_str(self)").expect("the words");
    let body = body.split("\n    }\n").next().unwrap();
    let words: BTreeSet<_> =
        body.split("=> \"").skip(1).filter_map(|rest| Some(rest.split('"').next()?.to_owned())).collect();
    assert!(words.len() > 3, "{file}: {words:?}");
    words
}

#[test]
fn the_page_of_metrics_has_every_metric_and_every_alert() {
    let codes = Page::read("docs/guide/metrics.md").codes();
    let is_named = |name: &str| codes.iter().any(|code| code == name);
    let source = read("src/daemon/metrics.rs");
    let metrics: Vec<&str> = source
        .split("register(")
        .chain(source.split("register_with_unit("))
        .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
        .collect();
    assert!(metrics.len() >= 14, "{metrics:?}");
    for metric in metrics {
        let endings = ["", "_total", "_seconds", "_seconds_total", "_bytes_total"];
        assert!(endings.iter().any(|ending| is_named(&format!("portward_{metric}{ending}"))), "{metric}");
    }
    let alerts = read("examples/prometheus/alerts.yaml");
    for alert in alerts.lines().filter_map(|line| line.trim_start().strip_prefix("- alert: ")) {
        assert!(is_named(alert), "{alert}");
    }
}

#[test]
fn the_page_of_on_change_has_every_variable() {
    let source = read("src/daemon/hook.rs");
    let variables = source.split("(\"PORTWARD_").skip(1).filter_map(|rest| rest.split('"').next());
    let variables: BTreeSet<String> = variables.map(|name| format!("PORTWARD_{name}")).collect();
    assert!(variables.len() > 8, "{variables:?}");
    assert_eq!(first_cells("docs/guide/hooks.md", "| variable | value | set |"), variables);
}

/// The rows of the table with this head.
fn rows(page: &str, head: &str) -> Vec<String> {
    let text = read(page);
    let (_, table) =
        text.split_once(&format!("{head}\n")).unwrap_or_else(|| panic!("{page}: no table {head}"));
    table.lines().skip(1).take_while(|line| line.starts_with('|')).map(str::to_owned).collect()
}

/// What the first cells of that table name.
fn first_cells(page: &str, head: &str) -> BTreeSet<String> {
    let rows = rows(page, head);
    rows.iter().flat_map(|row| first_cell(row)).collect()
}

fn first_cell(row: &str) -> Vec<String> {
    row.split('|').nth(1).unwrap().split(',').map(|name| name.trim().trim_matches('`').to_owned()).collect()
}

/// The sources of the product, without their tests.
fn sources() -> Vec<String> {
    let is_test = |name: &str| name.split('/').any(|part| ["tests", "fuzz", "tests.rs"].contains(&part));
    let files = read_below("src", "rs").into_iter().filter(|(name, _)| !is_test(name));
    let product = |text: String| text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
    let sources: Vec<_> = files.map(|(_, text)| product(text)).collect();
    assert!(sources.len() > 100, "{} sources", sources.len());
    sources
}
