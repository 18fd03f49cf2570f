//! The README stays true where a program can tell.

use std::collections::BTreeSet;
use std::path::Path;

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

/// Names under `[dependencies]` of the product's manifest.
fn dependencies() -> impl Iterator<Item = &'static str> {
    let section = MANIFEST.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let entries = section.take_while(|line| !line.starts_with('[')).filter(|line| !line.starts_with('#'));
    entries.filter_map(|line| line.split(['=', '.']).next()).map(str::trim).filter(|name| !name.is_empty())
}
