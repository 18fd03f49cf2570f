//! The imports of `src` run downwards, in the order that ARCHITECTURE.md gives, and no files use each other in a circle.
//!
//! The sources are read as text. A path in them counts wherever it stands: in a `use`, in an expression, in a macro.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

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

struct File {
    path: String,
    product: Vec<String>,
    tests: Vec<String>,
}

/// A path as it is written.
#[derive(Debug, PartialEq)]
struct Named {
    is_exported: bool,
    segments: Vec<String>,
}

#[test]
fn imports_run_downwards_and_in_no_circle() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let order = order(&fs::read_to_string(repository.join("ARCHITECTURE.md")).unwrap());
    let mut files = Vec::new();
    read_below(&repository.join("src"), "", &mut files);
    assert!(files.len() > 100, "{} files in src", files.len());
    let sources = Sources::new(files.iter().map(|(path, text)| (path.as_str(), text.as_str())));
    let violations = [sources.unordered(&order), sources.upwards(&order), sources.circles()].concat();
    assert!(
        violations.is_empty(),
        "against \"Order of imports\" in ARCHITECTURE.md:\n{}",
        violations.join("\n")
    );
}

fn read_below(directory: &Path, prefix: &str, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            read_below(&entry.path(), &format!("{name}/"), files);
        } else if name.ends_with(".rs") {
            files.push((name, fs::read_to_string(entry.path()).unwrap()));
        }
    }
}

/// The layers in the section of ARCHITECTURE.md, from top to bottom: the names in back quotes that begin the elements of its list.
fn order(architecture: &str) -> Vec<Vec<String>> {
    let (_, section) = architecture.split_once("## Order of imports\n").expect("a section of this name");
    let section = section.split("\n## ").next().unwrap();
    let elements = section.lines().filter_map(|line| line.strip_prefix("- "));
    let names = |element: &str| {
        let head = element.split(':').next().unwrap();
        head.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    elements.map(names).collect()
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

    /// Folders and files that no layer names.
    fn unordered(&self, order: &[Vec<String>]) -> Vec<String> {
        let known: BTreeSet<&String> = order.iter().flatten().collect();
        let there: BTreeSet<&String> = self.files.keys().filter_map(|module| module.first()).collect();
        there.difference(&known).map(|name| format!("src/{name} is in no layer")).collect()
    }

    /// Imports that run upwards or sideways, those of tests included.
    fn upwards(&self, order: &[Vec<String>]) -> Vec<String> {
        let layer = |name: &String| order.iter().position(|layer| layer.contains(name));
        let uses = [self.uses(false), self.uses(true)].concat();
        let runs_upwards = |(module, _, definer): &&(&Module, String, Module)| {
            definer.first().is_some_and(|to| *to != module[0] && layer(to) <= layer(&module[0]))
        };
        let describe = |(module, written, _): &(&Module, String, Module)| {
            format!("{} uses {written}, which is not below it", self.files[*module].path)
        };
        uses.iter().filter(runs_upwards).map(describe).collect()
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

/// Words, `::` and single signs; without comments, texts and letters.
fn tokens(text: &str) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    let at = |index: usize| letters.get(index).copied().unwrap_or('\0');
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut tokens = Vec::new();
    let mut index = 0;
    while index < letters.len() {
        let begin = index;
        match (at(index), at(index + 1)) {
            ('/', '/') => index = (index..letters.len()).find(|i| at(*i) == '\n').unwrap_or(letters.len()),
            ('/', '*') => {
                index = (index + 2..letters.len()).find(|i| (at(*i), at(*i + 1)) == ('*', '/')).unwrap() + 2;
            }
            ('"', _) => {
                index += 1;
                while at(index) != '"' {
                    index += if at(index) == '\\' { 2 } else { 1 };
                }
                index += 1;
            }
            ('r', '"' | '#') if at(index + 1) == '"' || matches!(at(index + 2), '"' | '#') => {
                let hashes = (index + 1..).take_while(|i| at(*i) == '#').count();
                let ends = |i: &usize| at(*i) == '"' && (1..=hashes).all(|more| at(*i + more) == '#');
                index = (index + hashes + 2..letters.len()).find(ends).unwrap() + 1 + hashes;
            }
            // A letter, unless it is a lifetime.
            ('\'', '\\') => index = (index + 3..).find(|i| at(*i) == '\'').unwrap() + 1,
            ('\'', _) if at(index + 2) == '\'' => index += 3,
            (':', ':') => {
                index += 2;
                tokens.push("::".to_owned());
            }
            (letter, _) if is_word(letter) => {
                index = (index..=letters.len()).find(|i| !is_word(at(*i))).unwrap();
                let word: String = letters[begin..index].iter().collect();
                // `b"..."` and its kin: the prefix is no word.
                if !(matches!(word.as_str(), "b" | "c") && at(index) == '"') {
                    tokens.push(word);
                }
            }
            (letter, _) => {
                index += 1;
                if !letter.is_whitespace() {
                    tokens.push(letter.to_string());
                }
            }
        }
    }
    tokens
}

/// The items that are compiled for tests only, apart from all others.
fn split_tests(mut product: Vec<String>) -> (Vec<String>, Vec<String>) {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut tests = Vec::new();
    while let Some(begin) = product.windows(MARK.len()).position(|tokens| tokens == MARK) {
        let mut depth = 0;
        let mut end = begin + MARK.len();
        loop {
            match product[end].as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            end += 1;
            if depth == 0 && matches!(product[end - 1].as_str(), "}" | ";") {
                break;
            }
        }
        tests.extend(product.drain(begin..end).skip(MARK.len()));
    }
    (product, tests)
}

/// All paths of more than one segment, in `use` and elsewhere.
fn named(tokens: &[String]) -> Vec<Named> {
    let token = |index: usize| tokens.get(index).map_or("", String::as_str);
    let is_word = |text: &str| text.starts_with(|letter: char| letter.is_alphabetic() || letter == '_');
    let mut found = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        let before = if index == 0 { "" } else { token(index - 1) };
        if token(index) == "use" && token(index + 1) != "<" {
            let is_exported = before == "pub" || before == ")";
            index = read_tree(tokens, index + 1, &[], &mut |segments| {
                found.push(Named { is_exported, segments });
            });
        } else if is_word(token(index)) && token(index + 1) == "::" && !matches!(before, "::" | ".") {
            let mut segments = vec![tokens[index].clone()];
            while token(index + 1) == "::" && is_word(token(index + 2)) {
                segments.push(tokens[index + 2].clone());
                index += 2;
            }
            index += 1;
            found.push(Named { is_exported: false, segments });
        } else {
            index += 1;
        }
    }
    found
}

/// Reads one tree of a `use` from `index` on, and returns where it ends.
fn read_tree(
    tokens: &[String],
    mut index: usize,
    prefix: &[String],
    found: &mut impl FnMut(Vec<String>),
) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens[index].as_str() {
            "::" => index += 1,
            "{" => {
                index += 1;
                while tokens[index] != "}" {
                    index = read_tree(tokens, index, &path, found);
                    index += usize::from(tokens[index] == ",");
                }
                return index + 1;
            }
            // The name that it is given here is of no interest.
            "as" => index += 2,
            "," | "}" | ";" => {
                found(path);
                return index;
            }
            // `a::{self}` is `a`.
            "self" if !path.is_empty() => index += 1,
            word => {
                path.push(word.to_owned());
                index += 1;
            }
        }
    }
}

#[test]
fn an_import_upwards_or_sideways_is_found_wherever_it_stands() {
    let layers =
        order("# A\n\n## Order of imports\n\n- `top`: a\n- `left`, `right`: `b`\n\n## Next\n- `no`\n");
    assert_eq!(layers, [vec!["top".to_owned()], vec!["left".to_owned(), "right".to_owned()]]);
    let upwards = |path: &str, text: &str| {
        let files = [("top.rs", ""), ("left/mod.rs", "mod a;"), ("left/a.rs", ""), ("right.rs", "")];
        Sources::new(files.into_iter().chain([(path, text)])).upwards(&layers).len()
    };
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
        "pub use crate::top::X as Y;",
        "fn f<'a>() -> &'a str { crate::top::g('\"') }",
        "macro_rules! m { () => { $crate::right::g() } }",
        "#[cfg(test)]\nmod tests {\n use crate::top::x;\n}",
        "fn f() { super::super::top::g() }",
    ] {
        assert_eq!(upwards("left/a.rs", text), 1, "{text}");
    }
    let unknown = Sources::new([("other.rs", "")]).unordered(&layers);
    assert_eq!(unknown, ["src/other is in no layer"]);
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
