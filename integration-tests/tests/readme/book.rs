//! docs/ is a book, which mdBook builds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use integration_tests::repository;
use mdbook_driver::MDBook;
use tempfile::tempdir;

use crate::pages::{self, Page};

#[test]
fn every_page_is_in_the_summary() {
    let listed: BTreeSet<String> =
        Page::read("docs/SUMMARY.md").links().iter().map(|target| format!("docs/{target}")).collect();
    let there: BTreeSet<String> = pages::of_the_book().into_iter().map(|page| page.path).collect();
    assert_eq!(listed, there);
}

#[test]
fn the_book_builds_and_each_of_its_links_leads_somewhere() {
    let directory = tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let mut book = MDBook::load(repository().join("docs")).unwrap();
    root.clone_into(&mut book.config.build.build_dir);
    book.build().unwrap();
    let pages = html(&root);
    assert!(pages.len() > pages::of_the_book().len(), "only {} pages", pages.len());
    let broken: Vec<String> = pages.iter().flat_map(|(path, text)| broken(&pages, path, text)).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The pages below a directory, as text. Left out are the page for printing, which has all others in it, and the one for links
/// that lead nowhere, which may be shown anywhere.
fn html(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut pages = BTreeMap::new();
    for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            pages.append(&mut html(&path));
        } else if path.extension().is_some_and(|extension| extension == "html")
            && !["print.html", "404.html"].iter().any(|name| path.ends_with(name))
        {
            let text = fs::read_to_string(&path).unwrap();
            pages.insert(path, text);
        }
    }
    pages
}

/// Links of a page to a file that is not there, or to a place that it does not have.
fn broken(pages: &BTreeMap<PathBuf, String>, path: &Path, text: &str) -> Vec<String> {
    let links = ["href=\"", "src=\""].into_iter().flat_map(|attribute| text.split(attribute).skip(1));
    let targets = links.filter_map(|rest| rest.split('"').next());
    let is_broken = |target: &&str| {
        let (file, place) = target.split_once('#').unwrap_or((target, ""));
        let Ok(linked) = path.with_file_name(file).canonicalize() else { return !file.is_empty() };
        let text = if file.is_empty() { Some(text) } else { pages.get(&linked).map(String::as_str) };
        !place.is_empty() && text.is_some_and(|text| !text.contains(&format!("id=\"{place}\"")))
    };
    let inner = targets.filter(|target| !target.contains("://") && !target.starts_with("data:"));
    inner.filter(is_broken).map(|target| format!("{}: {target}", path.display())).collect()
}
