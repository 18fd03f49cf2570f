//! Any file with comments and odd layout, and any edit: what was asked for is what has changed, and nothing else.

use std::path::Path;

use proptest::prelude::*;

use super::*;

/// A tunnel, and how it is written.
#[derive(Debug, Clone)]
struct Written {
    /// Comments and blank lines above it.
    above: Vec<Line>,
    /// Spaces behind the dash; 0: the first key is on the next line.
    gap: usize,
    /// How the values are quoted.
    quotes: [Quotes; 4],
    /// Comments and blank lines behind a key.
    between: Option<(usize, Line)>,
    /// A comment at the end of a line.
    remark: Option<usize>,
    /// Other keys.
    more: Vec<&'static str>,
}

#[derive(Debug, Clone)]
enum Line {
    Blank,
    /// Indented by this many spaces.
    Comment(usize, &'static str),
}

#[derive(Debug, Clone, Copy)]
enum Quotes {
    None,
    Single,
    Double,
    Block,
    NextLine,
}

#[derive(Debug, Clone)]
struct File {
    head: Vec<Line>,
    tunnels: Vec<Written>,
    indentation: usize,
    tail: Vec<Line>,
    /// Above the tunnels, and below.
    sections: [bool; 2],
    has_returns: bool,
    is_ended: bool,
}

fn line() -> impl Strategy<Value = Line> {
    let texts = vec!["# c", "#", "# name: x", "#- {", "# äöü 'q\"", "# # x: y", "#\ttab"];
    prop_oneof![
        Just(Line::Blank),
        (0..9usize, proptest::sample::select(texts)).prop_map(|(spaces, text)| Line::Comment(spaces, text)),
    ]
}

fn lines() -> impl Strategy<Value = Vec<Line>> {
    proptest::collection::vec(line(), 0..3)
}

fn written() -> impl Strategy<Value = Written> {
    let quotes = || {
        proptest::sample::select(vec![
            Quotes::None,
            Quotes::None,
            Quotes::Single,
            Quotes::Double,
            Quotes::Block,
            Quotes::NextLine,
        ])
    };
    let more = vec![
        "enabled: false",
        "stop_grace: 1s",
        "on_change: [x, 'y']",
        "on_change:\n- x # c\n- y",
        "ssh:\n  options:\n    A: b\n\n    # in\n    C: \"d # e\"",
        "restart: {min_delay: 1s,\n  max_delay: 2s}",
        "env:\n  A: |\n    text\n     more\n  B: >-\n    folded\n    text",
    ];
    let quotes = [quotes(), quotes(), quotes(), quotes()];
    let more = proptest::sample::subsequence(more, 0..3);
    let between = proptest::option::of((0..4usize, line()));
    (lines(), 0..4usize, quotes, between, proptest::option::of(0..4usize), more.prop_shuffle()).prop_map(
        |(above, gap, quotes, between, remark, more)| Written { above, gap, quotes, between, remark, more },
    )
}

fn file() -> impl Strategy<Value = File> {
    let tunnels = proptest::collection::vec(written(), 0..4);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (lines(), tunnels, proptest::sample::select(vec![0, 2, 4]), lines(), flags).prop_map(
        |(head, tunnels, indentation, tail, (section_above, section_below, has_returns, is_ended))| File {
            head,
            tunnels,
            indentation,
            tail,
            sections: [section_above, section_below],
            has_returns,
            is_ended,
        },
    )
}

fn key(out: &mut Vec<String>, indentation: usize, key: &str, value: &str, quotes: Quotes) {
    let pad = " ".repeat(indentation);
    match quotes {
        Quotes::None => out.push(format!("{pad}{key}: {value}")),
        Quotes::Single => out.push(format!("{pad}{key}: '{value}'")),
        Quotes::Double => out.push(format!("{pad}\"{key}\":  \"{value}\"")),
        Quotes::Block => out.extend([format!("{pad}{key}: |-"), format!("{pad}  {value}")]),
        Quotes::NextLine => out.extend([format!("{pad}{key}:"), format!("{pad}  {value}")]),
    }
}

/// Comments that are indented by at most so many spaces: below a block scalar, others would be a part of it.
fn push(out: &mut Vec<String>, lines: &[Line], most: usize) {
    out.extend(lines.iter().map(|line| match line {
        Line::Blank => String::new(),
        Line::Comment(spaces, text) => format!("{:width$}{text}", "", width = (*spaces).min(most)),
    }));
}

impl File {
    /// Its text, and for each tunnel the lines that are its own.
    fn text(&self) -> (String, Vec<std::ops::Range<usize>>) {
        let mut out = Vec::new();
        let mut own = Vec::new();
        push(&mut out, &self.head, 9);
        let mut most = 9;
        if self.sections[0] {
            out.push("defaults: {share: true} # above".to_owned());
        }
        out.push(if self.tunnels.is_empty() { "tunnels: [] # none" } else { "tunnels: # all" }.to_owned());
        for (index, tunnel) in self.tunnels.iter().enumerate() {
            push(&mut out, &tunnel.above, most);
            let start = out.len();
            let dash = format!("{:width$}-", "", width = self.indentation);
            let inner = self.indentation + 1 + tunnel.gap.max(1);
            most = inner;
            let name = format!("t{index}");
            let port = (1000 + index).to_string();
            let keys = [
                ("name", &*name),
                ("remote_host", "user@host"),
                ("remote_port", "80"),
                ("local_port", &*port),
            ];
            for (number, (name, value)) in keys.into_iter().enumerate() {
                key(&mut out, inner, name, value, tunnel.quotes[number]);
                if tunnel.remark == Some(number) && !matches!(tunnel.quotes[number], Quotes::Block) {
                    out.last_mut().unwrap().push_str("  # remark");
                }
                if let Some((place, line)) = &tunnel.between
                    && *place == number
                {
                    push(&mut out, std::slice::from_ref(line), most);
                }
            }
            for more in &tunnel.more {
                // The same key is not there twice.
                let name = more.split(':').next().unwrap();
                let pad = " ".repeat(inner);
                if !out[start..].iter().any(|line| line.trim_start().starts_with(name)) {
                    let lines = more.lines();
                    out.extend(
                        lines
                            .map(|line| if line.is_empty() { String::new() } else { format!("{pad}{line}") }),
                    );
                }
            }
            if tunnel.gap == 0 {
                out.insert(start, dash);
            } else {
                let first = out[start].trim_start().to_owned();
                out[start] = format!("{dash}{}{first}", " ".repeat(tunnel.gap));
            }
            // What follows the last value is around the tunnel.
            let is_around = |line: &String| line.is_empty() || line.trim_start().starts_with('#');
            let around = out.iter().rev().take_while(|line| is_around(line)).count();
            own.push(start..out.len() - around);
        }
        push(&mut out, &self.tail, most);
        if self.sections[1] {
            out.push("api: # below".to_owned());
            out.push("  socket: /run/p.sock".to_owned());
        }
        let end = if self.has_returns { "\r\n" } else { "\n" };
        let mut text = out.join(end);
        if self.is_ended {
            text.push_str(end);
        }
        (text, own)
    }
}

#[derive(Debug, Clone)]
enum Asked {
    Set(usize, &'static str, &'static str),
    Add,
    Remove(usize),
}

fn asked() -> impl Strategy<Value = Asked> {
    let values = vec![
        ("name", "new name"),
        ("name", "1e3"),
        ("name", "a: b # c"),
        ("remote_host", "other"),
        ("remote_port", "8080"),
        ("remote_port", "[::1]:90"),
        ("local_port", "2000"),
        ("local_port", "127.0.0.1:2000"),
        ("direction", "local_to_remote"),
        ("interactive", "true"),
        ("stop_grace", "3s"),
    ];
    prop_oneof![
        4 => (any::<usize>(), proptest::sample::select(values)).prop_map(|(index, (key, value))| Asked::Set(index, key, value)),
        1 => Just(Asked::Add),
        2 => any::<usize>().prop_map(Asked::Remove),
    ]
}

fn comments(lines: &[&str]) -> Vec<String> {
    lines.iter().filter(|line| line.trim_start().starts_with('#')).map(ToString::to_string).collect()
}

/// The lines of `text` without those of the tunnel at `index`.
fn outside<'t>(text: &'t str, own: &[std::ops::Range<usize>], index: Option<usize>) -> Vec<&'t str> {
    let is_own = |number: usize| index.is_some_and(|index| own[index].contains(&number));
    text.lines().enumerate().filter(|(number, _)| !is_own(*number)).map(|(_, line)| line).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn an_edit_changes_what_it_is_asked_to_and_nothing_else(file in file(), asked in asked()) {
        let (text, own) = file.text();
        let count = file.tunnels.len();
        let path = Path::new("/etc/portward/config.yaml");
        let document = Document::open(&text, path).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        let before = document.tunnels().to_vec();
        prop_assert_eq!(before.len(), count);
        let (edit, index) = match &asked {
            Asked::Set(index, key, value) if count > 0 => {
                (Edit::Set(index % count, vec![Change::new(key, value).unwrap()]), Some(index % count))
            }
            Asked::Remove(index) if count > 0 => (Edit::Remove(index % count), Some(index % count)),
            Asked::Set(..) | Asked::Add | Asked::Remove(_) => {
                let fields = [("name", "new"), ("remote_host", "h"), ("remote_port", "1"), ("local_port", "2000")];
                (Edit::Add(fields.map(|(key, value)| Change::new(key, value).unwrap()).to_vec()), None)
            }
        };
        let Edited { text: new, desired } =
            document.apply(std::slice::from_ref(&edit)).map_err(|error| TestCaseError::fail(format!("{error}\n{edit:?}\n{text}")))?;
        let mut after = desired.tunnels;
        let kept = outside(&text, &own, index);
        // The comments outside of the tunnel are all there, byte for byte and in their order.
        let found = comments(&new.lines().collect::<Vec<_>>());
        let mut rest = found.iter();
        for comment in comments(&kept) {
            prop_assert!(rest.any(|found| *found == comment), "{comment:?} in\n{new}");
        }
        prop_assert_eq!(new.contains('\r'), text.contains('\r'));
        match edit {
            Edit::Add(_) => {
                let added = after.pop().unwrap();
                prop_assert_eq!((&*added.name, &*added.written.local_port), ("new", "2000"));
                prop_assert_eq!(after, before);
            }
            Edit::Remove(index) => {
                let mut wanted = before;
                wanted.remove(index);
                prop_assert_eq!(after, wanted);
                // But for `[]` where nothing is left, the other lines are what they were.
                if count > 1 {
                    prop_assert_eq!(new.lines().collect::<Vec<_>>(), kept);
                }
            }
            Edit::Set(index, changes) => {
                let changed = after.remove(index);
                let mut others = before;
                let old = others.remove(index);
                prop_assert_eq!(after, others);
                let Change { key, value } = &changes[0];
                let text = match &**key {
                    "name" => changed.name.clone(),
                    "remote_host" => changed.written.remote_host.clone(),
                    "remote_port" => changed.written.remote_port.clone(),
                    "local_port" => changed.written.local_port.clone(),
                    "direction" => changed.written.direction.clone(),
                    "interactive" => changed.interactive.to_string(),
                    "stop_grace" => format!("{:?}", changed.policy.stop_grace),
                    key => panic!("{key}"),
                };
                prop_assert_eq!(&text, &value.text());
                prop_assert_eq!((changed.enabled, &changed.on_change), (old.enabled, &old.on_change));
            }
        }
    }
}
