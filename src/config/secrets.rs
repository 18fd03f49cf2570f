//! Problems of a file for those who may not read it: a log and the API have other readers than the file. Without the lines of
//! `env`, whose values may be secret, and without what a message repeats of them.

use super::diagnose::{self, Diagnostic, Diagnostics};

/// Stands for what is left out.
const LEFT_OUT: &str = "\u{2026}";

impl Diagnostics {
    /// The same problems, without what the file says under `env`.
    #[must_use]
    pub fn without_secrets(self) -> Self {
        let lines = diagnose::lines(&self.source);
        let problems = self.problems.into_iter().map(|problem| hide(problem, &lines)).collect();
        let source: Vec<String> = (0..lines.len()).map(|index| shown(&lines, index)).collect();
        Self { path: self.path, problems, source: source.join("\n") }
    }
}

fn hide(problem: Diagnostic, lines: &[&str]) -> Diagnostic {
    let Some(secret) = lines.get(problem.place.line - 1).and_then(|_| secret(lines, problem.place.line - 1))
    else {
        return problem;
    };
    let column = lines[problem.place.line - 1][..secret].chars().count();
    // What is wrong with the key itself repeats no value.
    if problem.place.column <= column {
        return problem;
    }
    Diagnostic {
        message: "an error under `env`; its line is not shown here, because it may hold a secret".to_owned(),
        hint: Some("`portward check` shows it".to_owned()),
        ..problem
    }
}

fn shown(lines: &[&str], index: usize) -> String {
    match secret(lines, index) {
        Some(from) => format!("{}{LEFT_OUT}", &lines[index][..from]),
        None => lines[index].to_owned(),
    }
}

/// From which byte on the line is part of `env`.
fn secret(lines: &[&str], index: usize) -> Option<usize> {
    let line = lines[index];
    if is_under_env(lines, index) { Some(indentation(line)) } else { value_of_env(line) }
}

/// Whether one of the lines above, each indented less than those below it, has the key.
fn is_under_env(lines: &[&str], index: usize) -> bool {
    let mut depth = indentation(lines[index]);
    for line in lines[..index].iter().rev() {
        let is_text = !line.trim().is_empty() && !line.trim_start().starts_with('#');
        if is_text && indentation(line) < depth {
            if value_of_env(line).is_some() {
                return true;
            }
            depth = indentation(line);
        }
        if depth == 0 {
            break;
        }
    }
    false
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Where the value of a key that begins with `env` begins: `environment` and the like are wrong, and meant to be it.
fn value_of_env(line: &str) -> Option<usize> {
    line.match_indices("env").find_map(|(at, _)| {
        let is_inside =
            line[..at].ends_with(|before: char| before.is_alphanumeric() || "_-".contains(before));
        let key = line[at..].find(|letter: char| !letter.is_alphanumeric() && !"_\"' ".contains(letter))?;
        (!is_inside && line[at + key..].starts_with([':', '='])).then_some(at + key + 1)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::parse;

    /// What a log says of this file, which is wrong.
    fn told(source: &str) -> String {
        let diagnostics = parse(source, Path::new("c.yaml")).unwrap_err().without_secrets();
        format!("{diagnostics}\n{}", diagnostics.render(false))
    }

    #[test]
    fn no_way_to_write_env_wrongly_shows_a_value() {
        let tunnel = "tunnels:\n  - name: a\n    command: [serve]\n    local_port: 9443\n";
        for env in [
            "    env: TOKEN=s3cret\n",
            "    env: [TOKEN=s3cret]\n",
            "    env: [TOKEN, s3cret\n",
            "    env: {A=B: s3cret}\n",
            "    env: {TOKEN: [s3cret]}\n",
            "    env:\n      TOKEN: [s3cret]\n",
            "    env:\n      - TOKEN=s3cret\n",
            "    env:\n      # its token\n\n      TOKEN: {x: s3cret}\n",
            "    env:\n      TOKEN: \"s3cret\n",
            "    env:\n      TOKEN: 's3cret' x\n",
            "    env:\n      TOKEN: \"s3cret\\q\"\n",
            "    env:\n      NOTIFY_SOCKET: s3cret\n",
            "    env:\n      A: 1\n      A: s3cret\n",
            "    env:\n      TOKEN: *s3cret\n",
            "    env:\n      TOKEN: ${TOKEN}s3cret\n    wrong: 1\n",
            "    \"env\": {NOTIFY_SOCKET: s3cret}\n",
            "    environment: [TOKEN=s3cret]\n",
            "    envs: {TOKEN: s3cret}\n",
            "    wrong: {env: {TOKEN: s3cret}}\n",
        ] {
            let told = told(&format!("{tunnel}{env}"));
            assert!(!told.contains("s3cret"), "{env}{told}");
            assert!(told.contains("error"), "{told}");
        }
        for line in [
            "tunnels: [{command: [x], local_port: 1, env: {TOKEN: [s3cret]}}]",
            "defaults: {env: {TOKEN: [s3cret]}}\ntunnels: []",
            "tunnels:\n  - {command: [x], prot: 1, env: {TOKEN: s3cret}}",
            "tunnels:\n  - env: {TOKEN: s3cret, B: [1]}\n    command: [x]\n    local_port: 1",
        ] {
            let told = told(line);
            assert!(!told.contains("s3cret"), "{told}");
        }
    }

    #[test]
    fn what_is_not_under_env_is_shown() {
        let told = told(
            "tunnels:\n  - name: envelope\n    command: [serve, --env]\n    env: {A: b}\n    local_prot: 9443\n    x-env-y: 2\n",
        );
        assert!(told.contains("    local_prot: 9443\n") && told.contains("did you mean"), "{told}");
    }
}
