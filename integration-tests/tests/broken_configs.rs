//! Every broken configuration in `broken-configs/` is refused with exactly the message beside it.
//!
//! `UPDATE_EXPECTED=1 cargo test -p integration-tests --test broken_configs` writes the messages anew, to be read in the
//! difference before they are committed.

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_broken_configuration_is_refused_with_its_message() {
    let update = std::env::var_os("UPDATE_EXPECTED").is_some();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("broken-configs");
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(files.len() >= 40, "only {} broken configurations", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let source = fs::read_to_string(&file).unwrap();
        // The name alone, so that the message is the same on every machine.
        let name = Path::new(file.file_name().unwrap());
        let rendered = match portward::config::parse(&source, name) {
            Ok(_) => "accepted\n".to_owned(),
            Err(diagnostics) => format!("{diagnostics}\n\n{}\n", diagnostics.render(false)),
        };
        let expected_file = file.with_extension("expected");
        if update {
            fs::write(&expected_file, &rendered).unwrap();
        }
        let expected = fs::read_to_string(&expected_file).unwrap_or_default();
        if rendered != expected || rendered == "accepted\n" {
            wrong.push(format!("{}: expected\n{expected}\nbut got\n{rendered}", name.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
