//! The README and the other documents stay true where a program can check it.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "what surprises a test ends it")]

mod book;
mod examples;
mod links;
mod lists;
mod pages;

use std::collections::BTreeSet;
use std::fs;

use integration_tests::{read, repository};
use pages::Page;

#[test]
fn the_readme_can_be_read_in_one_go() {
    let lines = read("README.md").lines().count();
    assert!(lines < 150, "README.md has {lines} lines: what is longer belongs to the book");
}

#[test]
fn the_readme_says_of_every_dependency_what_it_is_for() {
    let readme = read("README.md");
    let (_, section) =
        readme.split_once("\n## Dependencies\n").expect("the README has a section on dependencies");
    let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let listed: BTreeSet<&str> =
        cells.flat_map(|cell| cell.split(", ")).filter(|cell| *cell != "crate").collect();
    let manifest = read("Cargo.toml");
    assert_eq!(listed, dependencies(&manifest).collect());
}

/// Names under `[dependencies]` of the product's manifest.
fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    let section = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let entries = section.take_while(|line| !line.starts_with('[')).filter(|line| !line.starts_with('#'));
    entries.filter_map(|line| line.split(['=', '.']).next()).map(str::trim).filter(|name| !name.is_empty())
}

/// Documents that name a test for each of their claims, and how many they name at least.
const WITNESSED: [(&str, usize); 3] =
    [("docs/kernel-facts.md", 50), ("docs/reliability.md", 30), ("docs/security.md", 90)];

#[test]
fn every_test_that_the_documents_name_exists() {
    for (document, least) in WITNESSED {
        let codes = Page::read(document).codes();
        let named: Vec<_> = codes.iter().filter_map(|code| code.split_once(".rs::")).collect();
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
