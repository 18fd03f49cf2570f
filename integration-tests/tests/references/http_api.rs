//! The second half of docs/reference/http-api.md: every request and object, from docs/reference/openapi.json.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::markdown;

/// What is behind this line of the page is made from the description.
const MARK: &str = "<!-- From here on made from openapi.json. -->\n";

/// The order in which the methods of a path are listed.
const METHODS: [&str; 4] = ["get", "post", "put", "delete"];

/// The page as it is to be; what is written by hand is that of `page`.
pub(crate) fn page(api: &Value, page: &str) -> String {
    let (written, _) = page.split_once(MARK).expect("the line before what is made");
    [written, MARK, &requests(api), &objects(api)].concat()
}

fn requests(api: &Value) -> String {
    let mut page = "\n## Requests\n".to_owned();
    for (path, item) in map(&api["paths"]) {
        for method in METHODS.into_iter().filter(|method| item.get(method).is_some()) {
            let operation = &item[method];
            writeln!(page, "\n### {} {path}\n\n{}", method.to_uppercase(), text(&operation["summary"]))
                .unwrap();
            let description = text(&operation["description"]);
            if !description.is_empty() {
                writeln!(page, "\n{description}").unwrap();
            }
            page += &parameters(operation);
            page += &answers(operation);
        }
    }
    page
}

/// What a request takes, as a table.
fn parameters(operation: &Value) -> String {
    let mut rows = String::new();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let (name, place) = (text(&parameter["name"]), text(&parameter["in"]));
        let (kind, about) = (kind(&parameter["schema"]), text(&parameter["description"]));
        writeln!(rows, "| `{name}` | {place} | {kind} | {} |", line(about)).unwrap();
    }
    if let Some(content) = operation["requestBody"]["content"].as_object() {
        for (media, body) in content {
            writeln!(rows, "| | body | {} | {media} |", kind(&body["schema"])).unwrap();
        }
    }
    if rows.is_empty() {
        rows
    } else {
        format!("\n| parameter | in | type | meaning |\n|---|---|---|---|\n{rows}")
    }
}

/// What a request is answered with, as a table. That it may be refused is said once for all of them.
fn answers(operation: &Value) -> String {
    let mut rows = "\n| answer | meaning | body |\n|---|---|---|\n".to_owned();
    for (status, answer) in map(&operation["responses"]).iter().filter(|(status, _)| *status != "default") {
        let bodies = answer["content"].as_object().into_iter().flatten();
        let bodies = bodies.map(|(media, body)| match media.as_str() {
            "application/json" => kind(&body["schema"]),
            media => media.to_owned(),
        });
        let bodies = bodies.collect::<Vec<_>>().join(", or ");
        writeln!(rows, "| {status} | {} | {bodies} |", line(text(&answer["description"]))).unwrap();
    }
    rows
}

fn objects(api: &Value) -> String {
    let mut page = "\n## Objects\n".to_owned();
    for (name, schema) in map(&api["components"]["schemas"]) {
        writeln!(page, "\n### {name}\n").unwrap();
        let about = text(&schema["description"]);
        if !about.is_empty() {
            writeln!(page, "{about}\n").unwrap();
        }
        let parts = schema["allOf"].as_array().or_else(|| schema["oneOf"].as_array());
        match parts {
            Some(parts)
                if parts.iter().all(|part| part["properties"].is_object() || part["$ref"].is_string()) =>
            {
                for part in parts {
                    page += &fields(part);
                }
            }
            _ => page += &fields(schema),
        }
    }
    page
}

/// The fields of an object as a table, or in one line what else a value is.
fn fields(schema: &Value) -> String {
    let Some(properties) = schema["properties"].as_object() else { return format!("{}\n", kind(schema)) };
    let mut table = "| field | type | meaning |\n|---|---|---|\n".to_owned();
    for (name, field) in properties {
        let about = [&field["description"], &field["oneOf"][0]["description"]];
        let about = about.into_iter().find_map(Value::as_str).unwrap_or_default();
        writeln!(table, "| `{name}` | {} | {} |", kind(field), line(about)).unwrap();
    }
    table
}

/// The type of a value.
fn kind(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(choices) = schema["enum"].as_array() {
        return alternatives(choices.iter().map(|choice| format!("`{}`", text(choice))));
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        return alternatives(choices.iter().map(kind));
    }
    match &schema["type"] {
        Value::Array(types) => alternatives(types.iter().map(|one| {
            let mut schema = map(schema).clone();
            schema.insert("type".to_owned(), one.clone());
            kind(&Value::Object(schema))
        })),
        Value::String(word) => match (word.as_str(), text(&schema["format"])) {
            ("string", "date-time") => "time (RFC 3339)".to_owned(),
            ("string", _) => "text".to_owned(),
            ("integer", _) => "number".to_owned(),
            ("number", _) => "number with a fraction".to_owned(),
            ("boolean", _) => "`true` or `false`".to_owned(),
            ("array", _) => format!("list of {}", kind(&schema["items"])),
            (other, _) => other.to_owned(),
        },
        other => panic!("a type that this does not know: {other} in {schema}"),
    }
}

/// `null` comes last.
fn alternatives(kinds: impl Iterator<Item = String>) -> String {
    let (null, mut others): (Vec<_>, Vec<_>) = kinds.partition(|kind| kind == "null");
    others.extend(null);
    markdown::alternatives(&others)
}

/// A text as a cell of a table.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn map(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap_or_else(|| panic!("no object: {value}"))
}
