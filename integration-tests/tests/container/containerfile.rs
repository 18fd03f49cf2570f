//! What the Containerfile says, as far as it uses the language of such files.

use std::collections::BTreeMap;

/// An instruction of the image itself, with `$NAME` of its arguments and variables replaced where the builder does that.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Instruction {
    /// A line for `/bin/sh -c`.
    Run(String),
    /// Paths of an earlier stage or of the repository, and where they go.
    Copy { from: Option<String>, sources: Vec<String>, target: String },
}

/// The stage that becomes the image.
#[derive(Debug, Default)]
pub(crate) struct Image {
    /// What makes its file system, in order.
    pub(crate) instructions: Vec<Instruction>,
    /// Arguments of the build, for `RUN`.
    pub(crate) arguments: BTreeMap<String, String>,
    /// The environment of everything that runs in it.
    pub(crate) environment: BTreeMap<String, String>,
    /// `UID:GID`.
    pub(crate) user: String,
    /// A line for `/bin/sh -c`.
    pub(crate) health_check: String,
    /// Program and arguments.
    pub(crate) start: Vec<String>,
}

/// The files of the repository that the first stage copies, and the image, built with `arguments`.
pub(crate) fn read(text: &str, arguments: &[(&str, String)]) -> (Vec<String>, Image) {
    let mut stages = 0;
    let mut sources = Vec::new();
    let mut image = Image::default();
    for line in instructions(text) {
        let (word, rest) = line.split_once(' ').unwrap_or_else(|| panic!("an instruction alone: {line}"));
        if word == "FROM" {
            stages += 1;
        } else if stages == 1 {
            if word == "COPY" {
                let mut words: Vec<_> = rest.split(' ').map(str::to_owned).collect();
                words.pop();
                sources.extend(words);
            }
        } else {
            image.add(word, rest, arguments);
        }
    }
    assert_eq!(stages, 2, "a stage that builds, and the image");
    (sources, image)
}

/// Lines that go on after a backslash joined, comments left out.
fn instructions(text: &str) -> Vec<String> {
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    let joined = lines.join("\n").replace("\\\n", "");
    joined.lines().map(str::to_owned).collect()
}

impl Image {
    fn add(&mut self, word: &str, rest: &str, arguments: &[(&str, String)]) {
        match word {
            "RUN" => self.instructions.push(Instruction::Run(rest.to_owned())),
            "COPY" => {
                let mut words: Vec<_> = self.expand(rest).split(' ').map(str::to_owned).collect();
                let from = words[0].strip_prefix("--from=").map(str::to_owned);
                let target = words.pop().unwrap();
                let sources = words.split_off(usize::from(from.is_some()));
                self.instructions.push(Instruction::Copy { from, sources, target });
            }
            "ARG" => {
                let (name, default) = rest.split_once('=').expect("an argument with a default");
                let given = arguments.iter().find(|(given, _)| *given == name);
                let value = given.map_or(default.to_owned(), |(_, value)| value.clone());
                self.arguments.insert(name.to_owned(), value);
            }
            "ENV" => {
                let (name, value) = rest.split_once('=').expect("a variable with its value");
                self.environment.insert(name.to_owned(), self.expand(value));
            }
            "USER" => self.user = self.expand(rest),
            "HEALTHCHECK" => rest.strip_prefix("CMD ").expect("a command").clone_into(&mut self.health_check),
            "ENTRYPOINT" => self.start = serde_json::from_str(rest).unwrap(),
            "CMD" => self.start.extend(serde_json::from_str::<Vec<String>>(rest).unwrap()),
            other => panic!("the test does not know {other}"),
        }
    }

    fn expand(&self, text: &str) -> String {
        let variables = self.arguments.iter().chain(&self.environment);
        variables.fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${name}"), value))
    }
}
