//! Files that went wrong: whatever the damage, there is an answer, it has a place, and it is quick.

use std::fs;
use std::path::Path;
use std::rc::Rc;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::{samples, whole_reference};
use crate::config::diagnose::Problems;
use crate::config::node::{self, Kind, Node};
use crate::config::{ReadError, load, parse};

/// One damage to a text, at a place given in thousandths of its length.
#[derive(Debug, Clone)]
enum Damage {
    CutOff(usize),
    Remove(usize, usize),
    Insert(usize, String),
    Repeat(usize, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let pieces = prop::sample::select(vec![
        "\t", "\n", "  ", ":", ": ", "- ", "[", "]", "{", "}", "*a", "&a ", "!x ", "\"", "'", "#", "---\n",
        "|\n", ">", "%", "\0", "\u{feff}", "\u{2028}", "ä", "-", "0", "99999", "~", "<<: *a\n", "? ",
    ]);
    prop_oneof![
        (0..1000usize).prop_map(Damage::CutOff),
        (0..1000usize, 1..40usize).prop_map(|(at, length)| Damage::Remove(at, length)),
        (0..1000usize, pieces).prop_map(|(at, piece)| Damage::Insert(at, piece.to_owned())),
        (0..1000usize, 1..200usize).prop_map(|(at, length)| Damage::Repeat(at, length)),
    ]
}

fn apply(text: &str, damage: &Damage) -> String {
    let letters: Vec<char> = text.chars().collect();
    let place = |thousandths: usize| letters.len() * thousandths / 1000;
    let end = |from: usize, length: usize| (from + length).min(letters.len());
    let join = |parts: &[&[char]]| parts.concat().into_iter().collect::<String>();
    match damage {
        Damage::CutOff(at) => join(&[&letters[..place(*at)]]),
        Damage::Remove(at, length) => {
            let from = place(*at);
            join(&[&letters[..from], &letters[end(from, *length)..]])
        }
        Damage::Insert(at, piece) => {
            let piece: Vec<char> = piece.chars().collect();
            join(&[&letters[..place(*at)], &piece, &letters[place(*at)..]])
        }
        Damage::Repeat(at, length) => {
            let from = place(*at);
            join(&[&letters[..end(from, *length)], &letters[from..]])
        }
    }
}

/// The same cases in every run: a failure must be there again tomorrow.
fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

#[test]
fn no_damage_makes_the_parser_panic() {
    let mut sources: Vec<String> = samples().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    sources.push(whole_reference());
    let strategy = (prop::sample::select(sources), prop::collection::vec(damage(), 1..6));
    let result = runner(500).run(&strategy, |(source, damages)| {
        let mangled = damages.iter().fold(source, |text, damage| apply(&text, damage));
        if let Err(diagnostics) = parse(&mangled, Path::new("config.yaml")) {
            prop_assert!(!diagnostics.problems.is_empty());
            prop_assert!(diagnostics.problems.iter().all(|problem| !problem.message.contains('\n')));
            prop_assert!(diagnostics.render(true).contains("error"));
        }
        Ok(())
    });
    result.unwrap();
}

#[test]
fn a_comment_or_an_empty_line_anywhere_changes_nothing() {
    let source = whole_reference();
    let path = Path::new("/etc/portward/config.yaml");
    let meant = parse(&source, path).unwrap();
    let lines: Vec<&str> = source.lines().collect();
    for at in 0..=lines.len() {
        for extra in ["# a comment", ""] {
            let mut lines = lines.clone();
            lines.insert(at, extra);
            assert_eq!(parse(&lines.join("\n"), path).unwrap(), meant, "{extra:?} in line {at}");
        }
    }
}

#[test]
fn our_tree_is_what_serde_yaml_reads() {
    let mut sources: Vec<String> = samples().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    sources.push(whole_reference());
    for source in sources {
        let tree = node::parse(&source, &Problems::default()).unwrap();
        let theirs: serde_yaml::Value = serde_yaml::from_str(&source).unwrap();
        assert_eq!(value(&tree), theirs);
    }
}

fn value(node: &Rc<Node>) -> serde_yaml::Value {
    match &node.kind {
        Kind::Scalar { text, plain: true } => serde_yaml::from_str(text).unwrap(),
        Kind::Scalar { text, plain: false } => text.as_str().into(),
        Kind::Sequence(elements) => elements.iter().map(value).collect::<Vec<_>>().into(),
        Kind::Mapping(entries) => {
            let entries = entries.iter().map(|entry| (value(&entry.key), value(&entry.value)));
            entries.collect::<serde_yaml::Mapping>().into()
        }
    }
}

#[test]
fn large_files_are_answered_briefly() {
    let deep = "[".repeat(500_000);
    let wide = format!("tunnels: [{}]", "a, ".repeat(100_000));
    let keys = (0..10_000).fold(String::new(), |keys, number| keys + &format!("key{number}: 1\n"));
    let same = "same: 1\n".repeat(50_000);
    let tunnels = "- {remote_host: h, remote_port: 1, local_port: 2}\n".repeat(2_000);
    let aliases = format!("a: &a [{}]\nb: [{}]\n", "x, ".repeat(5_000), "*a, ".repeat(5_000));
    for source in [deep, wide, keys, same, format!("tunnels:\n{tunnels}"), aliases] {
        let diagnostics = parse(&source, Path::new("config.yaml")).unwrap_err();
        assert!(diagnostics.render(false).len() < 200_000);
    }
}

#[test]
fn what_is_no_text_of_a_bearable_size_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    let error = |content: &[u8]| {
        fs::write(&file, content).unwrap();
        match load(&file).unwrap_err() {
            crate::config::ConfigError::Read(error) => error,
            crate::config::ConfigError::Invalid(error) => panic!("{error}"),
        }
    };
    assert!(matches!(error(&vec![b'#'; 1024 * 1024 + 1]), ReadError::TooLarge { .. }));
    assert!(matches!(error(b"tunnels: []\xff"), ReadError::NotUtf8 { valid: 11, .. }));
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let error = load(&file).unwrap_err();
    assert!(error.to_string().ends_with("is not a regular file"), "{error}");
}
