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
        let secret = secret(&lines);
        let problems = self.problems.into_iter().map(|problem| hide(problem, &lines, &secret)).collect();
        let shown = lines.iter().zip(&secret).map(|(line, secret)| match secret {
            Some(from) => format!("{}{LEFT_OUT}", &line[..*from]),
            None => (*line).to_owned(),
        });
        let source = shown.collect::<Vec<_>>().join("\n");
        Self { path: self.path, problems, source }
    }
}

fn hide(problem: Diagnostic, lines: &[&str], secret: &[Option<usize>]) -> Diagnostic {
    let index = problem.place.line - 1;
    let Some(from) = secret.get(index).copied().flatten() else { return problem };
    // What is wrong with the key itself repeats no value.
    if problem.place.column <= lines[index][..from].chars().count() {
        return problem;
    }
    Diagnostic {
        message: "an error under `env`; its line is not shown here, because it may hold a secret".to_owned(),
        hint: Some("`portward check` shows it".to_owned()),
        ..problem
    }
}

/// From which byte on each line is part of `env`; `None`: none of it is. A line is if one above, indented less, has the key.
fn secret(lines: &[&str]) -> Vec<Option<usize>> {
    // The indentation of the lines that the present one is below, and whether they have the key or are below one that has.
    let mut above: Vec<(usize, bool)> = Vec::new();
    let of_line = |line: &&str| {
        let text = line.trim_start();
        let indentation = line.len() - text.len();
        let is_text = !text.is_empty() && !text.starts_with('#');
        if is_text {
            while above.pop_if(|(other, _)| *other >= indentation).is_some() {}
        }
        let is_under = above.last().is_some_and(|(other, is_env)| *is_env && *other < indentation);
        let value = value_of_env(line);
        if is_text {
            above.push((indentation, is_under || value.is_some()));
        }
        if is_under { Some(indentation) } else { value }
    };
    lines.iter().map(of_line).collect()
}

/// Where the value of a key that begins with `env` begins: `environment` and the like are wrong, and meant to be it.
fn value_of_env(line: &str) -> Option<usize> {
    line.match_indices("env").find_map(|(at, _)| {
        if line[..at].ends_with(|before: char| before.is_alphanumeric() || "_-".contains(before)) {
            return None;
        }
        let behind = line[at..].trim_start_matches(|letter: char| letter.is_alphanumeric() || letter == '_');
        let behind = behind.trim_start_matches(['"', '\'', ' ']);
        behind.starts_with([':', '=']).then(|| line.len() - behind.len() + 1)
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
            "    env :\n      TOKEN: [s3cret]\n",
            "    env:\n      TOKEN: >\n        a\n        s3cret\n    wrong: 1\n",
            "    env:\n      TOKEN: [a,\n     s3cret]\n",
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
