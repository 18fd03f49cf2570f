//! `portward man-pages`, with which packages make their man pages: one of portward and one of each command, from the same
//! definition as `--help`.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::arguments::{ManPagesArguments, definition};
use super::failure::Failed;

/// Writes all pages into a directory.
pub(super) fn man_pages(arguments: &ManPagesArguments) -> Result<(), Failed> {
    let directory = &arguments.directory;
    for (name, page) in
        pages().map_err(|error| Failed::NotDone(format!("cannot make a man page: {error}")))?
    {
        write(&directory.join(name), &page)?;
    }
    Ok(())
}

fn write(path: &Path, page: &[u8]) -> Result<(), Failed> {
    fs::write(path, page)
        .map_err(|error| Failed::NotDone(format!("cannot write {}: {error}", path.display())))
}

/// The file name and the text of each page.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut left = vec![definition()];
    while let Some(command) = left.pop() {
        left.extend(command.get_subcommands().filter(|command| !command.is_hide_set()).cloned());
        found.push(page(command)?);
    }
    Ok(found)
}

/// As clap_mangen renders it, except for the texts that `--help` shows in columns: it would run their lines together.
fn page(command: clap::Command) -> io::Result<(String, Vec<u8>)> {
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let after = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let has_commands = command.get_subcommands().any(|command| !command.is_hide_set());
    let is_portward = command.get_name() == "portward";
    let man = Man::new(command);
    let file = man.get_filename();
    let mut page = Vec::new();
    // Without a date: the same sources make the same page.
    let title = file.trim_end_matches(".1");
    writeln!(page, ".TH {title} 1 \"\" \"portward {}\" \"User Commands\"", env!("CARGO_PKG_VERSION"))?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    writeln!(page, ".SH DESCRIPTION")?;
    page.extend(text(&about)?);
    man.render_options_section(&mut page)?;
    if has_commands {
        man.render_subcommands_section(&mut page)?;
    }
    page.extend(text(&after)?);
    if !is_portward {
        writeln!(page, ".SH SEE ALSO\n.BR portward (1)")?;
    }
    Ok((file, page))
}

/// A text of `--help`: lines of capitals are headings, indented lines stay as they are, and the others form paragraphs.
fn text(help: &str) -> io::Result<Vec<u8>> {
    let mut roff = Roff::new();
    let mut is_indented = false;
    for line in help.lines() {
        let indented = line.starts_with("  ");
        if indented != is_indented {
            roff.control(if indented { "nf" } else { "fi" }, []);
        }
        is_indented = indented;
        if line.is_empty() {
            roff.control("PP", []);
        } else if line.chars().all(|letter| letter.is_ascii_uppercase() || letter == ' ') {
            roff.control("SH", [line]);
        } else {
            roff.text([roman(line)]);
        }
    }
    if is_indented {
        roff.control("fi", []);
    }
    let mut page = Vec::new();
    roff.to_writer(&mut page)?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_of(name: &str) -> String {
        let (_, page) = pages().unwrap().into_iter().find(|(file, _)| file == name).expect("the page");
        String::from_utf8(page).unwrap()
    }

    #[test]
    fn there_is_a_page_for_portward_and_for_each_command_that_help_shows() {
        let mut expected: Vec<_> = definition()
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
            .map(|command| format!("portward-{}.1", command.get_name()))
            .collect();
        expected.push("portward.1".to_owned());
        let files: Vec<_> = pages().unwrap().into_iter().map(|(file, _)| file).collect();
        for file in expected {
            assert!(files.contains(&file), "{file} in {files:?}");
        }
        assert!(!files.contains(&"portward-man-pages.1".to_owned()));
    }

    #[test]
    fn the_columns_of_help_stay_columns_and_its_headings_are_sections() {
        let page = page_of("portward.1");
        assert!(page.contains("\n.SH \"EXIT CODES\"\n.nf\n  0  done\n  1  failed;"), "{page}");
        let checks: Vec<_> = page_of("portward-doctor.1").lines().map(str::to_owned).collect();
        let first = checks.iter().position(|line| line.starts_with("  daemon ")).expect("the first check");
        assert_eq!(checks[first - 1], ".nf");
        assert!(checks[first + 1].starts_with("  configuration "));
    }
}
