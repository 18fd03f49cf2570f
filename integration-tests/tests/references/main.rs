//! The pages of reference are what the schema, the definition of the command line and the description of the API say, and the recording
//! is fit to be shown.
//!
//! `UPDATE_EXPECTED=1 cargo test -p integration-tests --test references` writes the pages anew, to be read in the difference before
//! they are committed.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "what surprises a test ends it")]

mod commands;
mod configuration;
mod http_api;
mod markdown;
mod recording;

use std::fs;

use integration_tests::{read, repository};

#[test]
fn the_reference_of_the_configuration_is_what_the_schema_says() {
    let schema = serde_json::from_str(&read("config/portward.schema.json")).unwrap();
    is_current("docs/reference/configuration.md", &configuration::page(&schema, &read("config/config.yaml")));
}

#[test]
fn the_reference_of_the_commands_is_what_help_says() {
    is_current("docs/reference/commands.md", &commands::page(&portward::cli::definition()));
}

#[test]
fn the_requests_and_objects_of_the_http_api_are_what_its_description_says() {
    const FILE: &str = "docs/reference/http-api.md";
    let api = serde_json::from_str(&read("docs/reference/openapi.json")).unwrap();
    is_current(FILE, &http_api::page(&api, &read(FILE)));
}

fn is_current(file: &str, page: &str) {
    let path = repository().join(file);
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, page).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == page,
        "run `UPDATE_EXPECTED=1 cargo test -p integration-tests --test references`, read the difference, and commit {file}"
    );
}
