//! The README and the other documents stay true where a program can check it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use portward::doctor::{CHECKS, Check};

const README: &str = include_str!("../../README.md");
const MANIFEST: &str = include_str!("../../Cargo.toml");

#[test]
fn every_config_in_the_readme_is_valid() {
    let blocks: Vec<&str> =
        README.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 2, "the README shows configs as ```yaml blocks, found {}", blocks.len());
    for block in blocks {
        // A block may show `defaults` alone; a file must say which tunnels there are.
        let file =
            if block.contains("tunnels:") { block.to_owned() } else { format!("{block}tunnels: []\n") };
        if let Err(mistakes) = portward::config::parse(&file, Path::new("README.md")) {
            panic!("{}", mistakes.render(false));
        }
    }
}

#[test]
fn the_readme_lists_every_check_of_doctor() {
    let (_, section) =
        README.split_once("| check | makes sure that |\n|---|---|\n").expect("the table of checks");
    let listed: Vec<&str> = section.lines().take_while(|line| line.starts_with('|')).collect();
    let row = |check: &Check| format!("| `{}` | {} |", check.name, check.about);
    assert_eq!(listed, CHECKS.iter().map(row).collect::<Vec<_>>());
}

#[test]
fn the_readme_says_of_every_dependency_what_it_is_for() {
    let (_, section) =
        README.split_once("## Dependencies").expect("the README has a section on dependencies");
    let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let listed: BTreeSet<&str> =
        cells.flat_map(|cell| cell.split(", ")).filter(|cell| *cell != "crate").collect();
    assert_eq!(listed, dependencies().collect());
}

/// Documents that name a test for each of their claims, and how many they name at least.
const WITNESSED: [(&str, usize); 3] =
    [("docs/kernel-facts.md", 50), ("docs/reliability.md", 30), ("docs/security.md", 90)];

#[test]
fn every_test_that_the_documents_name_exists() {
    for (document, least) in WITNESSED {
        let text = read(document);
        let code = text.split('`').skip(1).step_by(2);
        let named: Vec<_> = code.filter_map(|code| code.split_once(".rs::")).collect();
        assert!(named.len() >= least, "{document} names only {} tests", named.len());
        for (file, function) in named {
            let below = match file.split('/').next() {
                Some("src") => "",
                Some("benches") => "integration-tests/",
                _ => "integration-tests/tests/",
            };
            let source = read(&format!("{below}{file}.rs"));
            let is_there = source.contains(&format!("fn {function}("));
            assert!(is_there, "{document}: {below}{file}.rs has no function {function}");
        }
    }
}

/// Each fault is in the document, where its figures belong.
#[test]
fn every_fault_that_is_tested_is_in_docs_reliability() {
    let document = read("docs/reliability.md");
    let folder = repository().join("integration-tests/tests/faults");
    for file in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap();
        for test in fs::read_to_string(&file).unwrap().split("#[tokio::test]\nasync fn ").skip(1) {
            let (test, _) = test.split_once('(').unwrap();
            assert!(
                document.contains(&format!("`faults/{name}::{test}`")),
                "docs/reliability.md lacks {name}::{test}"
            );
        }
    }
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let documents = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "docs/kernel-facts.md",
        "docs/security.md",
        "docs/reliability.md",
    ];
    for document in documents {
        let text = read(document);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.starts_with("https://")) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file =
                repository().join(document).with_file_name(if file.is_empty() { document } else { file });
            assert!(file.exists(), "{document} links to {target}, which is not there");
            if !heading.is_empty() {
                let headings = fs::read_to_string(file).unwrap();
                let mut headings = headings.lines().filter_map(|line| line.strip_prefix('#'));
                assert!(
                    headings.any(|line| anchor(line) == heading),
                    "{document} links to {target}, and there is no such heading"
                );
            }
        }
    }
}

/// What a heading is linked by.
fn anchor(heading: &str) -> String {
    heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-")
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Names under `[dependencies]` of the product's manifest.
fn dependencies() -> impl Iterator<Item = &'static str> {
    let section = MANIFEST.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let entries = section.take_while(|line| !line.starts_with('[')).filter(|line| !line.starts_with('#'));
    entries.filter_map(|line| line.split(['=', '.']).next()).map(str::trim).filter(|name| !name.is_empty())
}
