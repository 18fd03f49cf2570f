//! The imports of `src` run downwards, in the order that ARCHITECTURE.md gives, and no files use each other in a circle.
//!
//! The sources are read as text. A path in them counts wherever it stands: in a `use`, in an expression, in a macro.

#![allow(clippy::unwrap_used, reason = "what surprises a test ends it")]

mod tokens;

use std::collections::{BTreeMap, BTreeSet};

use integration_tests::{read, read_below};
use tokens::{Named, named, split_tests, tokens};

/// A module's path from the root of the crate: `["port", "verdict"]`.
type Module = Vec<String>;

/// The sources, as tokens.
#[derive(Default)]
struct Sources {
    files: BTreeMap<Module, File>,
    /// Modules that exist for tests only.
    tests: BTreeSet<Module>,
    /// What the modules with children re-export, and the path that each name stands for.
    exported: BTreeMap<(Module, String), Vec<String>>,
}

/// Entries of `src` that do not import each other.
#[derive(Debug, PartialEq)]
struct Layer {
    names: Vec<String>,
    never: Vec<Module>,
    only: Option<Vec<Module>>,
}

struct File {
    path: String,
    product: Vec<String>,
    tests: Vec<String>,
}

#[test]
fn imports_run_downwards_and_in_no_circle() {
    let order = order(&read("ARCHITECTURE.md"));
    let files = read_below("src", "rs");
    assert!(files.len() > 100, "{} files in src", files.len());
    let sources = Sources::new(files.iter().map(|(path, text)| (path.as_str(), text.as_str())));
    let violations = [sources.unordered(&order), sources.upwards(&order), sources.circles()].concat();
    assert!(
        violations.is_empty(),
        "against \"Order of imports\" in ARCHITECTURE.md:\n{}",
        violations.join("\n")
    );
}

/// The layers in the section of ARCHITECTURE.md, from top to bottom.
fn order(architecture: &str) -> Vec<Layer> {
    let (_, section) = architecture.split_once("## Order of imports\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    section.lines().filter_map(|line| line.strip_prefix("- ")).map(Layer::read).collect()
}

impl Layer {
    /// From an element of the list: its names in back quotes, a colon, a text, and what it never, or only, imports.
    fn read(element: &str) -> Self {
        let quoted =
            |text: &str| -> Vec<String> { text.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
        let paths = |word: &str| {
            let (_, list) = element.split_once(word)?;
            let path = |name: &String| name.split('/').map(str::to_owned).collect();
            Some(quoted(list).iter().map(path).collect())
        };
        Self {
            names: quoted(element.split(':').next().unwrap()),
            never: paths("; never ").unwrap_or_default(),
            only: paths("; only "),
        }
    }

    /// Whether this layer forbids the import of `definer`, which is below it.
    fn forbids(&self, definer: &Module) -> bool {
        let is_one_of = |paths: &[Module]| paths.iter().any(|path| definer.starts_with(path));
        is_one_of(&self.never) || self.only.as_ref().is_some_and(|only| !is_one_of(only))
    }
}

impl Sources {
    /// From the files' paths below `src` and their texts.
    fn new<'f>(files: impl IntoIterator<Item = (&'f str, &'f str)>) -> Self {
        let mut sources = Self::default();
        let mut test_modules = Vec::new();
        for (path, text) in files {
            let mut module: Module = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
            if module.last().is_some_and(|last| last == "mod") || module == ["lib"] {
                module.pop();
            }
            let (product, tests) = split_tests(tokens(text));
            for child in tests.windows(3).filter(|three| three[0] == "mod" && three[2] == ";") {
                test_modules.push([&module[..], &child[1..2]].concat());
            }
            sources.files.insert(module, File { path: format!("src/{path}"), product, tests });
        }
        let is_test = |module: &Module| {
            (1..=module.len()).any(|length| test_modules.contains(&module[..length].to_vec()))
        };
        sources.tests = sources.files.keys().filter(|module| is_test(module)).cloned().collect();
        let mut exported = BTreeMap::new();
        for (module, file) in sources.files.iter().filter(|(module, _)| sources.has_children(module)) {
            for Named { segments, .. } in named(&file.product).into_iter().filter(|named| named.is_exported) {
                if let Some(path) = sources.absolute(&segments, module, 0)
                    && let Some(name) = path.last().cloned()
                {
                    exported.insert((module.clone(), name), path);
                }
            }
        }
        sources.exported = exported;
        sources
    }

    fn has_children(&self, module: &Module) -> bool {
        self.files.keys().any(|child| child.len() > module.len() && child.starts_with(module))
    }

    /// A path from the root of the crate; `None` for what is not of this crate. `inner` inline modules are around it.
    fn absolute(&self, segments: &[String], module: &Module, inner: usize) -> Option<Vec<String>> {
        let ups = segments.iter().take_while(|segment| *segment == "super").count();
        let rest = &segments[ups..];
        let base = match segments[0].as_str() {
            "crate" => return Some(segments[1..].to_vec()),
            "self" => return Some([&module[..], &segments[1..]].concat()),
            "super" => &module[..module.len().checked_sub(ups.saturating_sub(inner))?],
            child if self.files.contains_key(&[&module[..], &[child.to_owned()]].concat()) => &module[..],
            _ => return None,
        };
        Some([base, rest].concat())
    }

    /// The module that defines what the path names.
    fn definer(&self, path: &[String]) -> Module {
        let mut path = path.to_vec();
        // A re-export may lead to another one.
        for _ in 0..8 {
            let length = (0..=path.len()).rev().find(|length| self.files.contains_key(&path[..*length]));
            let module = path[..length.unwrap_or(0)].to_vec();
            let Some(name) = path.get(module.len()) else { return module };
            match self.exported.get(&(module.clone(), name.clone())) {
                Some(exported) => path = [&exported[..], &path[module.len() + 1..]].concat(),
                None => return module,
            }
        }
        panic!("{path:?} is re-exported in a circle");
    }

    /// What each file names in this crate: the path as written, and the module that defines it.
    fn uses(&self, of_tests: bool) -> Vec<(&Module, String, Module)> {
        let mut uses = Vec::new();
        for (module, file) in &self.files {
            let (tokens, inner) = if of_tests { (&file.tests, 1) } else { (&file.product, 0) };
            for Named { is_exported, segments } in named(tokens) {
                let is_face = is_exported && self.has_children(module);
                match self.absolute(&segments, module, inner) {
                    Some(path) if !is_face && !module.is_empty() => {
                        uses.push((module, segments.join("::"), self.definer(&path)));
                    }
                    _ => {}
                }
            }
        }
        uses
    }

    /// Folders and files that no layer names, and names of layers that are not there.
    fn unordered(&self, order: &[Layer]) -> Vec<String> {
        let known: BTreeSet<&String> = order.iter().flat_map(|layer| &layer.names).collect();
        let there: BTreeSet<&String> = self.files.keys().filter_map(|module| module.first()).collect();
        let unnamed = there.difference(&known).map(|name| format!("src/{name} is in no layer"));
        let missing =
            known.difference(&there).map(|name| format!("the layers name src/{name}, which is not there"));
        unnamed.chain(missing).collect()
    }

    /// Imports that run upwards or sideways, or that a layer forbids; those of tests run downwards as well.
    fn upwards(&self, order: &[Layer]) -> Vec<String> {
        let layer = |name: &String| order.iter().position(|layer| layer.names.contains(name));
        let mut violations = Vec::new();
        for of_tests in [false, true] {
            for (module, written, definer) in self.uses(of_tests) {
                let Some(to) = definer.first().filter(|to| **to != module[0]) else { continue };
                let (from, to) = (layer(&module[0]), layer(to));
                let path = &self.files[module].path;
                let is_test = of_tests || self.tests.contains(module);
                if to <= from {
                    violations.push(format!("{path} uses {written}, which is not below it"));
                } else if !is_test && from.is_some_and(|from| order[from].forbids(&definer)) {
                    violations.push(format!("{path} uses {written}, which its layer forbids"));
                }
            }
        }
        violations
    }

    /// Circles between the files of a folder, tests excepted.
    fn circles(&self) -> Vec<String> {
        let mut edges: BTreeMap<&Module, BTreeMap<Module, String>> = BTreeMap::new();
        for (module, written, definer) in self.uses(false) {
            let is_within = definer.first() == module.first() && definer != *module;
            if is_within && !self.tests.contains(module) {
                edges.entry(module).or_default().entry(definer).or_insert(written);
            }
        }
        // A module that nothing in its way back uses is in no circle.
        let reaches = |from: &Module, to: &Module| {
            let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
            while let Some(module) = open.pop() {
                for next in edges.get(&module).into_iter().flat_map(BTreeMap::keys) {
                    if next == to {
                        return true;
                    }
                    if seen.insert(next) {
                        open.push(next);
                    }
                }
            }
            false
        };
        let mut circles = Vec::new();
        for (module, uses) in &edges {
            for (used, written) in uses.iter().filter(|(used, _)| reaches(used, module)) {
                let (from, to) = (&self.files[*module].path, &self.files[used].path);
                circles.push(format!("{from} uses {to} ({written}), which uses it in turn"));
            }
        }
        circles
    }
}

#[test]
fn an_import_upwards_or_sideways_is_found_wherever_it_stands() {
    let list = "- `top`: a\n- `left`, `right`: `b`; only `low/x`\n- `low`: c\n";
    let layers = order(&format!("# A\n\n## Order of imports\n\n{list}\n## Next\n- `no`\n"));
    let names: Vec<_> = layers.iter().map(|layer| layer.names.join(" ")).collect();
    assert_eq!(names, ["top", "left right", "low"]);
    let upwards = |path: &str, text: &str| {
        let files = [
            ("top.rs", ""),
            ("left/mod.rs", "mod a;"),
            ("right.rs", ""),
            ("low/mod.rs", "pub use x::X; pub use y::Y;"),
            ("low/x.rs", ""),
            ("low/y.rs", ""),
        ];
        Sources::new(files.into_iter().chain([(path, text)])).upwards(&layers).len()
    };
    assert_eq!(upwards("left/a.rs", "use crate::low::X;"), 0);
    assert_eq!(upwards("top.rs", "use crate::left::{a, b::{self, c}}; fn f() { crate::right::g(); }"), 0);
    assert_eq!(
        upwards(
            "left/a.rs",
            "use super::b; use std::fs; // crate::top::x\n const T: &str = \"crate::top::x\";"
        ),
        0
    );
    for text in [
        "use crate::{right, text};",
        "use crate::low::{X, Y};",
        "pub use crate::top::X as Y;",
        "fn f<'a>() -> &'a str { crate::top::g('\"') }",
        "macro_rules! m { () => { $crate::right::g() } }",
        "#[cfg(test)]\nmod tests {\n use crate::top::x;\n}",
        "fn f() { super::super::top::g() }",
    ] {
        assert_eq!(upwards("left/a.rs", text), 1, "{text}");
    }
    let files = ["top.rs", "left.rs", "right.rs", "other.rs"];
    let mistakes = Sources::new(files.map(|path| (path, ""))).unordered(&layers);
    assert_eq!(mistakes, ["src/other is in no layer", "the layers name src/low, which is not there"]);
}

#[test]
fn a_circle_within_a_folder_is_found_through_the_re_exports_of_its_mod() {
    let circles = |module: &str, a: &str, b: &str| {
        Sources::new([("f/mod.rs", module), ("f/a.rs", a), ("f/b.rs", b)]).circles().len()
    };
    let face = "mod a; mod b; pub use a::A; pub use b::B;";
    assert_eq!(circles(face, "use super::B;", ""), 0);
    assert_eq!(circles(face, "use super::B;", "use super::a::A;"), 2);
    assert_eq!(circles(face, "use crate::f::B;", "fn f() { super::a::g() }"), 2);
    assert_eq!(circles(face, "use super::B;", "#[cfg(test)] mod tests { use super::super::A; }"), 0);
    // What the mod.rs defines itself is of the mod.rs, which may then use none of those that use it.
    assert_eq!(circles("mod a; mod b; struct S;", "use super::S;", "use super::S;"), 0);
    assert_eq!(circles("mod a; mod b; struct S; fn f() { a::g() }", "use super::S;", ""), 2);
}
