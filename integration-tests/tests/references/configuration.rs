//! docs/reference/configuration.md: every key, from the JSON schema of the configuration.

use std::collections::BTreeSet;
use std::iter;

use serde_json::{Map, Value};

use crate::markdown::{alternatives, capitalized, element, paragraph};

const HEAD: &str = "\
<!-- Written by the test `references` from config/portward.schema.json, whose source is the comments in src/config/raw.rs. -->

# Configuration

portward reads one YAML file: /etc/portward/config.yaml for root, and $XDG_CONFIG_HOME/portward/config.yaml (~/.config if unset)
for other users. `--config` and PORTWARD_CONFIG name another one. `config/config.yaml` in the repository shows every key in its
place, and `portward check` checks a file. A key that is not on this page is an error.

This page lists the keys of each mapping, those that are required first.

";

/// What the descriptions of `defaults` begin with.
const AS_IN_A_TUNNEL: &str = "See the tunnel's key";

/// What a description ends with, if there is a default.
const DEFAULT: &str = "Default: ";

/// A mapping of the file, and its keys.
struct Level<'s> {
    /// Of its definition; the file has none.
    name: &'s str,
    title: String,
    /// What a key of it is called elsewhere, before its name: `restart.` in `restart.drain`.
    prefix: String,
    schema: &'s Value,
}

/// The schema, whole: definitions are looked up in it.
#[derive(Clone, Copy)]
struct Schema<'s>(&'s Value);

/// The page. `sample` is config/config.yaml, which says how values are written.
pub(crate) fn page(schema: &Value, sample: &str) -> String {
    let file = Level { name: "", title: "The keys of the file".to_owned(), prefix: String::new(), schema };
    let schema = Schema(schema);
    let levels = schema.levels(file, &mut BTreeSet::new());
    let sections = levels.iter().map(|level| schema.section(level, &levels));
    let page: String = [HEAD.to_owned(), values(sample)].into_iter().chain(sections).collect();
    page.trim_end().to_owned() + "\n"
}

/// How values are written: the table at the head of config/config.yaml.
fn values(sample: &str) -> String {
    let (_, table) =
        sample.split_once("\n## Values\n").expect("config/config.yaml says how values are written");
    let mut kinds: Vec<String> = Vec::new();
    for line in table.lines().map_while(|line| line.strip_prefix("##   ")) {
        match (line.split_once("  "), kinds.last_mut()) {
            (Some((kind, text)), _) if !kind.is_empty() => {
                kinds.push(format!("{}: {text}", capitalized(kind)));
            }
            (_, Some(last)) => last.push_str(line),
            (_, None) => panic!("what kind of value is {line:?}?"),
        }
    }
    let list: String = kinds.iter().map(|kind| element(0, kind)).collect();
    format!("## Values\n\n{list}\n")
}

impl<'s> Schema<'s> {
    /// `level` and all below it, each definition once.
    fn levels(self, level: Level<'s>, seen: &mut BTreeSet<&'s str>) -> Vec<Level<'s>> {
        let mut levels = Vec::new();
        for (key, property) in keys(level.schema) {
            let Some(name) = mapping(property).filter(|&name| self.is_mapping(name) && seen.insert(name))
            else {
                continue;
            };
            let schema = self.definition(name);
            let (title, prefix) = if property.get("items").is_some() {
                (format!("The keys of a {}", name.to_lowercase()), String::new())
            } else {
                (format!("The keys of `{key}`"), format!("{key}."))
            };
            levels.extend(self.levels(Level { name, title, prefix, schema }, seen));
        }
        levels.insert(0, level);
        levels
    }

    fn section(self, level: &Level<'s>, levels: &[Level<'s>]) -> String {
        let head = format!("## {}\n\n{}", level.title, paragraphs(text(level.schema, "description")));
        let of_a_tunnel: Option<String> =
            keys(level.schema).map(|(key, property)| as_in_a_tunnel(key, property)).collect();
        let entry = |(key, property): (&str, &'s Value)| self.entry(level, key, property, levels);
        head + &of_a_tunnel.unwrap_or_else(|| keys(level.schema).map(entry).collect())
    }

    fn entry(self, level: &Level<'s>, key: &str, property: &'s Value, levels: &[Level<'s>]) -> String {
        let (description, default) = parted(text(property, "description"));
        let is_required = required(level.schema).any(|required| required == key);
        let facts = [
            Some(capitalized(&self.kind(property))),
            is_required.then(|| "required".to_owned()),
            default.map(|default| format!("default: {default}")),
        ];
        let facts = facts.into_iter().flatten().collect::<Vec<_>>().join("; ");
        let values: String =
            self.values(property).map(|(word, text)| element(0, &format!("`{word}`: {text}"))).collect();
        let values = if values.is_empty() { values } else { values + "\n" };
        let below = levels.iter().find(|level| mapping(property) == Some(level.name));
        let below = below.map_or_else(String::new, |level| paragraph(&link(&level.title, &level.title)));
        let heading = format!("### `{}{key}`\n\n", level.prefix);
        [heading, paragraph(&format!("*{facts}.*")), paragraphs(&description), values, below].concat()
    }

    /// What a value may be, in words.
    fn kind(self, schema: &Value) -> String {
        if let Some(title) = schema.get("title") {
            return title.as_str().unwrap().to_owned();
        }
        if let Some(one_of) = schema.get("anyOf").and_then(Value::as_array) {
            return alternatives(&one_of.iter().map(|schema| self.kind(schema)).collect::<Vec<_>>());
        }
        if let Some(value) = schema.get("const") {
            return format!("`{}`", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
        if let Some(name) = reference(schema) {
            let words: Vec<String> = self.values(schema).map(|(word, _)| format!("`{word}`")).collect();
            return if self.is_mapping(name) { "mapping".to_owned() } else { alternatives(&words) };
        }
        match types(schema)[..] {
            ["boolean"] => "`true` or `false`".to_owned(),
            ["integer"] => format!("number from {} to {}", schema["minimum"], schema["maximum"]),
            ["string"] => "string".to_owned(),
            ["array", ..] => format!("list of {}s", self.kind(&schema["items"])),
            ["object"] => "mapping of names to values".to_owned(),
            _ => panic!("no words for {schema}"),
        }
    }

    /// The words of an enumeration, and what they mean.
    fn values(self, schema: &Value) -> impl Iterator<Item = (&'s str, &'s str)> {
        let definition = reference(schema).map(|name| self.definition(name));
        let words =
            definition.and_then(|definition| definition.get("oneOf")?.as_array()).into_iter().flatten();
        words.filter_map(|word| Some((word.get("const")?.as_str()?, text(word, "description"))))
    }

    fn definition(self, name: &str) -> &'s Value {
        &self.0["$defs"][name]
    }

    fn is_mapping(self, name: &str) -> bool {
        self.definition(name).get("properties").is_some()
    }
}

/// The keys of a mapping, those that are required first.
fn keys(schema: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::iter);
    let mut keys: Vec<_> = properties.map(|(key, property)| (key.as_str(), property)).collect();
    keys.sort_by_key(|(key, _)| !required(schema).any(|required| required == *key));
    keys.into_iter()
}

fn required(schema: &Value) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// The definition that a property, the elements of a list or one of several forms refers to.
fn mapping(property: &Value) -> Option<&str> {
    let forms = property.get("anyOf").and_then(Value::as_array).into_iter().flatten();
    iter::once(property).chain(property.get("items")).chain(forms).find_map(reference)
}

fn reference(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix("#/$defs/")
}

/// A property may have one type or several.
fn types(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn text<'s>(schema: &'s Value, key: &str) -> &'s str {
    schema[key].as_str().unwrap_or_else(|| panic!("no {key} in {schema}"))
}

fn paragraphs(text: &str) -> String {
    text.split("\n\n").map(paragraph).collect()
}

/// The description without the default, and the default.
fn parted(description: &str) -> (String, Option<String>) {
    let paragraphs: Vec<String> =
        description.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect();
    let mut default = None;
    let without = paragraphs.iter().map(|paragraph| match paragraph.split_once(DEFAULT) {
        Some((before, after)) => {
            default = Some(after.trim_end_matches('.').to_owned());
            before.trim_end()
        }
        None => paragraph,
    });
    (without.collect::<Vec<_>>().join("\n\n"), default)
}

/// A key that means what the tunnel's means; `None`: it says something else.
fn as_in_a_tunnel(key: &str, property: &Value) -> Option<String> {
    let rest = text(property, "description").strip_prefix(AS_IN_A_TUNNEL)?;
    let rest = rest.trim_start_matches([';', ' ']).trim_end_matches('.');
    let link = link(&format!("`{key}`"), key);
    Some(element(0, &if rest.is_empty() { link } else { format!("{link}: {rest}") }))
}

/// A link to a heading of the page.
fn link(text: &str, heading: &str) -> String {
    format!("[{text}](#{})", heading.to_lowercase().replace(' ', "-").replace('`', ""))
}
