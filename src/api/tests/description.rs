//! The description of the API.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::Served;

/// Every `$ref` below a value.
fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[tokio::test]
async fn every_operation_says_what_it_does_and_every_reference_leads_somewhere() {
    let api = Served::new().get("/openapi.json").await;
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["summary"].as_str().is_some_and(|text| text.ends_with('.')), "{method} {path}");
            assert!(operation["responses"]["default"].is_object(), "{method} {path}");
            for answer in operation["responses"].as_object().unwrap().values() {
                assert_ne!(answer["description"], "", "{method} {path}");
            }
        }
    }
    let text = api.to_string();
    assert!(!text.contains("[`") && !text.contains("`None`"), "that is for readers of the code");
    let mut found = Vec::new();
    references(&api, &mut found);
    assert!(found.len() > 50, "{found:?}");
    for reference in found {
        assert!(api.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
}

/// `UPDATE_SCHEMA=1 cargo test --lib the_committed_description` updates it.
#[tokio::test]
async fn the_committed_description_is_current() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/openapi.json");
    let api = Served::new().get("/openapi.json").await;
    let current = serde_json::to_string_pretty(&api).unwrap() + "\n";
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(&file, &current).unwrap();
    }
    assert!(
        fs::read_to_string(&file).unwrap_or_default() == current,
        "run `UPDATE_SCHEMA=1 cargo test --lib the_committed_description` and commit {}",
        file.display()
    );
}
