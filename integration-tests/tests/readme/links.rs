//! Links of the documents, and the files that they name.

use integration_tests::repository;

use crate::pages::{self, Page};

/// Documents that are not of the book.
const OTHERS: [&str; 5] =
    ["ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs/SUMMARY.md"];

/// Folders of the repository. What begins with one of these, between back quotes, is a file.
const FOLDERS: [&str; 7] =
    ["config/", "docs/", "examples/", "fuzz/", "integration-tests/", "packaging/", "src/"];

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let documents = pages::all().into_iter().chain(OTHERS.map(Page::read));
    let broken: Vec<String> = documents.flat_map(|page| broken(&page)).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The links of a page that lead nowhere.
fn broken(page: &Page) -> Vec<String> {
    let links = page.links().into_iter().filter(|target| !target.starts_with("https://"));
    links
        .filter_map(|target| Some(format!("{}: {target} {}", page.path, why_broken(page, &target)?)))
        .collect()
}

fn why_broken(page: &Page, target: &str) -> Option<&'static str> {
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    let here = repository().join(&page.path);
    let path = if file.is_empty() { here } else { here.with_file_name(file) };
    let Ok(path) = path.canonicalize() else { return Some("is not there") };
    if heading.is_empty() {
        return None;
    }
    let linked = Page::read(path.strip_prefix(repository()).unwrap().to_str().unwrap());
    let is_there = linked.anchors().iter().any(|anchor| anchor == heading);
    (!is_there).then_some("has no such heading")
}

/// Pages of the book cannot link to files outside of it, and name them.
#[test]
fn every_file_of_the_repository_that_a_page_names_is_there() {
    let mut missing = Vec::new();
    for page in pages::all() {
        let codes = page.codes();
        let named = codes.iter().filter(|code| FOLDERS.iter().any(|folder| code.starts_with(folder)));
        let files = named.filter_map(|code| code.split(['*', ' ']).next()?.split("::").next());
        let absent = files.filter(|file| !repository().join(file).exists());
        missing.extend(absent.map(|file| format!("{}: {file}", page.path)));
    }
    assert!(missing.is_empty(), "these are not there:\n{}", missing.join("\n"));
}
