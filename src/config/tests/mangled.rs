//! Files that went wrong have an answer, it has a place, and it is quick. Damaged ones are the affair of `crate::fuzz`.

use std::fs;
use std::path::Path;
use std::rc::Rc;

use super::{samples, whole_reference};
use crate::config::diagnose::Problems;
use crate::config::node::{self, Kind, Node};
use crate::config::{ReadError, load, parse};

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
            let same = parse(&lines.join("\n"), path).unwrap();
            assert_ne!(same.version, meant.version);
            assert_eq!((&same.tunnels, &same.api), (&meant.tunnels, &meant.api), "{extra:?} in line {at}");
        }
    }
}

/// As Macs had it long ago, and as an editor that mixes line ends leaves it.
#[test]
fn a_carriage_return_alone_ends_a_line() {
    let diagnostics =
        parse("tunnels:\r  - name: a\r    prot: 1\r\n    x: 2\n", Path::new("config.yaml")).unwrap_err();
    let lines: Vec<usize> = diagnostics.problems.iter().map(|problem| problem.place.line).collect();
    assert!(lines.contains(&3) && lines.contains(&4), "{diagnostics:?}");
    let rendered = diagnostics.render(false);
    assert!(rendered.contains("3 |     prot: 1\n") && rendered.contains("4 |     x: 2\n"), "{rendered}");
}

#[test]
fn our_tree_is_what_serde_yaml_reads() {
    let mut sources: Vec<String> = samples().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    sources.push(whole_reference());
    for source in sources {
        let tree = node::parse(&source, &Problems::default()).unwrap().unwrap();
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
    let entries = format!("tunnels:{}", "\n  - x".repeat(50_000));
    let [words, word] = ["env ", "env"].map(|text| format!("tunnels: {}", text.repeat(250_000)));
    let all = [deep, wide, keys, same, format!("tunnels:\n{tunnels}"), aliases, entries, words, word];
    for source in all {
        let diagnostics = parse(&source, Path::new("config.yaml")).unwrap_err();
        assert!(diagnostics.render(false).len() < 200_000);
        assert!(diagnostics.without_secrets().render(false).len() < 200_000);
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
