//! Commands that say too much, or what no terminal should be told: what is kept and logged is bounded in bytes, every line is
//! logged or counted, and the other tunnels do not notice.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use integration_tests::{Daemon, Lab, LogLine};
use portward::protocol::StateName;
use portward::text::is_unsafe;
use tokio::time::Instant;

/// Listens on `port` and runs `said` before, `after` afterwards; then it waits.
fn command(name: &str, port: u16, before: &str, after: &str) -> String {
    format!(
        "
  - name: {name}
    local_port: {port}
    command:
      - /usr/bin/python3
      - -c
      - |
        import os, signal, socket, sys, time
        def say(what):
            while what: what = what[os.write(1, what):]
        {before}
        listener = socket.create_server(('127.0.0.1', {port}))
        {after}
        signal.pause()
"
    )
}

fn is_output(line: &LogLine, tunnel: &str) -> bool {
    line.has("tunnel", tunnel) && line.has("event", "output")
}

/// How many lines of the tunnel's output the log says were dropped, in how many lines.
fn dropped(log: &[LogLine], tunnel: &str) -> (u64, usize) {
    let told: Vec<u64> = log
        .iter()
        .filter(|line| line.has("tunnel", tunnel))
        .filter_map(|line| line.field("dropped")?.as_u64())
        .collect();
    (told.iter().sum(), told.len())
}

fn assert_harmless(text: &str) {
    if let Some(letter) = text.chars().find(|letter| is_unsafe(*letter)) {
        panic!("{letter:?} in {}", text.escape_debug().take(1000).collect::<String>());
    }
}

#[tokio::test]
async fn thirty_commands_that_say_megabytes_of_escapes_take_little_memory_and_little_log() {
    const COMMANDS: u16 = 30;
    let lab = Lab::new();
    let mut tunnels = String::new();
    for index in 0..COMMANDS {
        tunnels += &command(&format!("t{index}"), 9400 + index, "say(b'\\x1b' * 4_000_000)", "");
    }
    let daemon = Daemon::start(&lab, &tunnels).await;
    for index in 0..COMMANDS {
        daemon.wait_state(&format!("t{index}"), StateName::Up).await;
    }
    for index in 0..COMMANDS {
        let name = format!("t{index}");
        daemon
            .wait_log(0, "that counts what was dropped", |line| {
                line.has("tunnel", &name) && line.has("event", "output_dropped")
            })
            .await;
        let kept = daemon.get(&format!("/logs/{name}?lines=100000")).await.json();
        let bytes: usize =
            kept["lines"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().len() + 1).sum();
        assert!(bytes <= 64 * 1024, "{bytes} bytes are kept of {name}");
    }
    let memory = daemon.peak_memory();
    let log = daemon.stop().await.log;
    let bytes: usize = log.iter().map(|line| line.raw.len() + 1).sum();
    println!("30 x 4 MB of ESC: peak memory {memory} KiB, log {bytes} bytes");
    assert!(memory < 100 * 1024, "{memory} KiB");
    assert!(bytes < 4 * 1024 * 1024, "{bytes} bytes of log");
    for index in 0..COMMANDS {
        let name = format!("t{index}");
        let pieces = 4_000_000_u64.div_ceil(4096);
        let logged = log.iter().filter(|line| is_output(line, &name)).count() as u64;
        assert_eq!(logged + dropped(&log, &name).0, pieces, "{name}");
    }
}

#[tokio::test]
async fn every_line_is_logged_or_counted_and_a_burst_is_told_at_its_beginning_and_its_end() {
    const LINES: u64 = 20_000;
    let lab = Lab::new();
    let say = format!("say(b''.join(b'line %d\\n' % number for number in range({LINES})))");
    let again = "time.sleep(2); say(b'after\\n')";
    let daemon = Daemon::start(&lab, &command("chatty", 9443, &say, again)).await;
    daemon.wait_log(0, "after the burst", |line| line.has("message", "after")).await;
    let log = daemon.stop().await.log;
    let numbers: Vec<u64> = log
        .iter()
        .filter(|line| is_output(line, "chatty"))
        .filter_map(|line| line.field("message")?.as_str()?.strip_prefix("line ")?.parse().ok())
        .collect();
    assert_eq!(numbers[..250], (0..250).collect::<Vec<_>>()[..], "the beginning is complete");
    let (count, told) = dropped(&log, "chatty");
    assert_eq!(numbers.len() as u64 + count, LINES);
    assert_eq!(told, 1, "once at the end of the burst");
    assert_eq!(log.iter().filter(|line| line.has("event", "output_limited")).count(), 1);
    let position = |wanted: &dyn Fn(&LogLine) -> bool| log.iter().position(wanted).unwrap();
    let end = position(&|line| line.has("event", "output_dropped"));
    assert!(position(&|line| line.has("event", "output_limited")) < end);
    assert!(end < position(&|line| line.has("message", "after")), "told when the burst ends, not later");
}

#[tokio::test]
async fn what_was_dropped_is_told_when_the_process_ends() {
    let lab = Lab::new();
    let say = "say(b'last words\\n' * 3000 + b'out of order\\n'); sys.exit(3)";
    let daemon = Daemon::start(&lab, &command("dying", 9443, say, "")).await;
    let failed = daemon.wait_status(0, "dying", "failing", |status| status.last_error.is_some()).await;
    let message = failed.last_error.unwrap().message;
    assert!(message.ends_with("ended with status 3: out of order"), "the decisive line is kept: {message}");
    daemon.wait_log(0, "its end", |line| line.has("event", "failure")).await;
    let log = daemon.log().all();
    let end = log.iter().position(|line| line.has("event", "failure")).unwrap();
    let logged = log[..end].iter().filter(|line| is_output(line, "dying")).count() as u64;
    assert_eq!(logged + dropped(&log[..end], "dying").0, 3001);
    daemon.post("/stop/dying?timeout=20s").await;
}

#[tokio::test]
async fn an_endless_flood_leaves_the_others_their_log_and_their_time() {
    let lab = Lab::new();
    let mut tunnels = command("flood", 9443, "", "while True: say(b'nothing new\\n' * 5000)");
    tunnels += &command("quiet", 9444, "say(b'I am here\\n')", "");
    let daemon = Daemon::start(&lab, &tunnels).await;
    daemon.wait_state("flood", StateName::Up).await;
    daemon.wait_state("quiet", StateName::Up).await;
    daemon.wait_log(0, "of the limit", |line| line.has("event", "output_limited")).await;

    let (start, used, logged) = (Instant::now(), daemon.processor_time(), daemon.log().mark());
    let mut restarts = Vec::new();
    for _ in 0..5 {
        let mark = daemon.log().mark();
        let asked = Instant::now();
        let answer = daemon.post("/restart/quiet?timeout=20s").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        restarts.push(asked.elapsed());
        for event in ["starting", "output", "state"] {
            daemon
                .wait_log(mark, event, |line| line.has("tunnel", "quiet") && line.has("event", event))
                .await;
        }
    }
    tokio::time::sleep(Duration::from_secs(3).saturating_sub(start.elapsed())).await;
    let (wall, used) = (start.elapsed(), daemon.processor_time().saturating_sub(used));
    let flood = daemon.log().since(logged).iter().filter(|line| is_output(line, "flood")).count();
    println!(
        "beside a flood: restarts {restarts:?}; {used:?} of processor in {wall:?}; {flood} lines of it logged"
    );
    assert!(used < wall / 2, "{used:?} of processor in {wall:?}");
    assert!(flood as u64 <= 100 * (wall.as_secs() + 1) + 250, "{flood} lines in {wall:?}");
    assert!(daemon.peak_memory() < 100 * 1024, "{} KiB", daemon.peak_memory());

    // What portward says of the flooding tunnel is not lost in the flood.
    let kept = daemon.cli(&["logs", "flood", "--lines", "1000"]).await;
    let kept = String::from_utf8(kept.stdout).unwrap();
    assert!(kept.contains("starting /usr/bin/python3") && kept.contains("up: "), "{kept}");
}

#[tokio::test]
async fn a_command_that_says_a_lot_before_it_listens_is_not_held_up() {
    let lab = Lab::new();
    let say = "say((b'x' * 79 + b'\\n') * 250_000)";
    let daemon = Daemon::start(&lab, &command("verbose", 9443, say, "")).await;
    daemon.wait_state("verbose", StateName::Up).await;
}

#[tokio::test]
async fn nothing_that_steers_a_terminal_gets_into_a_log_or_an_answer() {
    let lab = Lab::new();
    let hostile = [
        "b'\\x00nul\\x00\\n'",
        "b'\\xff\\xfe\\x80 not UTF-8\\n'",
        "'C1 \\x9b31m, bidi \\u202e\\u2066, no width \\u200b\\ufeff\\n'.encode()",
        "b'\\x1b[2Jcleared\\rforged\\n'",
        "'tag \\U000e0041\\n'.encode()",
        "b'done\\n'",
        "b'y' * 1_000_000 + b'\\n'",
    ];
    let mut say = String::new();
    for said in hostile {
        write!(say, "say({said}); ").unwrap();
    }
    let daemon = Daemon::start(
        &lab,
        &command(
            "rude",
            9443,
            &say,
            "signal.signal(signal.SIGTERM, lambda *_: (say('\\u202e\\x1b[31m bye'.encode()), os._exit(9)))",
        ),
    )
    .await;
    daemon.wait_state("rude", StateName::Up).await;
    daemon.wait_log(0, "at the end", |line| line.has("message", "done")).await;
    let logs = daemon.get("/logs/rude?lines=1000").await;
    for said in
        ["nul", "not UTF-8", "\\\\u{9b}31m", "\\\\u{202e}", "\\\\u{200b}", "\\\\u{1b}[2J", "\\\\u{e0041}"]
    {
        daemon.wait_log(0, said, |line| is_output(line, "rude") && line.raw.contains(said)).await;
    }
    let longest =
        logs.json()["lines"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().len()).max();
    assert!(longest.unwrap() < 4200, "{longest:?}");

    // The last words of a process are its last error.
    let mark = daemon.mark();
    integration_tests::kill(daemon.tunnel_pid("rude").await, nix::sys::signal::Signal::SIGTERM);
    let failed = daemon.wait_status(mark, "rude", "failing", |status| status.last_error.is_some()).await;
    let message = failed.last_error.unwrap().message;
    assert!(message.contains("bye"), "{message}");
    assert_harmless(&message);
    for path in
        ["/status", "/logs/rude?lines=1000", "/health", "/nothing%E2%80%AE", "/start/%1b%5b2J?x=%C2%9B"]
    {
        assert_harmless(&daemon.get(path).await.body);
    }
    let printed = daemon.cli(&["logs", "rude", "--lines", "1000"]).await;
    for line in String::from_utf8(printed.stdout).unwrap().lines() {
        assert_harmless(line);
    }
    for line in daemon.stop().await.log {
        assert_harmless(&line.raw);
    }
}

#[tokio::test]
async fn errors_in_the_configuration_are_told_in_few_words_however_large_they_are() {
    let lab = Lab::new();
    let tunnels = command("steady", 9443, "", "");
    let daemon = Daemon::start(&lab, &tunnels).await;
    daemon.wait_state("steady", StateName::Up).await;
    let good = lab.config(&tunnels);
    let hostile = [
        ("500,000 brackets", "[".repeat(500_000)),
        ("500,000 brackets in a list", format!("{good}\n  - {}", "[".repeat(500_000))),
        ("an unknown anchor", format!("tunnels: *{}", "a".repeat(500_000))),
        ("a key of 100 kB", format!("{good}\n    {}: 1", "k".repeat(100_000))),
        ("a value of 900 kB", format!("{good}\n    stop_grace: {}", "v".repeat(900_000))),
        ("many problems", format!("{good}{}", "\n  - x".repeat(100_000))),
        ("many long problems", format!("{good}{}", format!("\n  - \"{}\"", "\\e".repeat(400)).repeat(900))),
        ("letters that hide", format!("{good}\n    wrong\u{202e}key\u{200b}: 1 # \u{9b}31m")),
    ];
    for (what, text) in hostile {
        let mark = daemon.log().mark();
        fs::write(lab.config_path(), text).unwrap();
        let asked = Instant::now();
        let answer = daemon.post("/reload").await;
        println!("{what}: {} bytes after {:?}", answer.body.len(), asked.elapsed());
        assert_eq!(answer.status, 422, "{what}: {answer:?}");
        assert!(answer.body.len() < 48 * 1024, "{what}: {} bytes", answer.body.len());
        assert_harmless(&answer.body);
        let health = daemon.get("/health").await;
        let told = health.json()["config_error"].as_str().unwrap().to_owned();
        assert!(told.contains("config.yaml"), "{what}: {told}");
        assert!(told.len() < 48 * 1024, "{what}: {} bytes in the status", told.len());
        let logged = daemon
            .wait_log(mark, "of the reload", |line| line.has("event", "reload") && line.has("level", "ERROR"))
            .await;
        assert!(logged.raw.len() < 64 * 1024, "{what}: {} bytes of log", logged.raw.len());
        assert_harmless(&logged.raw);
    }
    assert_eq!(daemon.status("steady").await.state, StateName::Up);
}
