//! Splits lines that were written for a shell into words, as far as that is possible without one.

/// Characters with a special meaning for a shell, outside of quotes.
const SYNTAX: &str = "|&;<>()$`*?[]{}#~!\n";

/// The words of `line`, with quotes and backslashes as sh(1) reads them; `None` if only a shell can expand it.
pub(super) fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ' ' | '\t' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next()? {
                        '\'' => break,
                        letter => word.push(letter),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next()? {
                        '"' => break,
                        '$' | '`' => return None,
                        '\\' => match letters.next()? {
                            '\n' => {}
                            letter @ ('"' | '\\' | '$' | '`') => word.push(letter),
                            letter => word.extend(['\\', letter]),
                        },
                        letter => word.push(letter),
                    }
                }
            }
            '\\' => match letters.next()? {
                // The line goes on.
                '\n' => words.extend(word.take()),
                letter => word.get_or_insert_default().push(letter),
            },
            // A variable for the program alone.
            '=' if words.is_empty() => return None,
            letter if SYNTAX.contains(letter) => return None,
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    (!words.is_empty()).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_that_a_shell_would_hand_over() {
        for (line, expected) in [
            ("kubectl port-forward  svc/x 80:80", &["kubectl", "port-forward", "svc/x", "80:80"][..]),
            ("sh -c 'sleep 1; socat X Y'", &["sh", "-c", "sleep 1; socat X Y"]),
            (r#"a "b \"c\" d" ''"#, &["a", "b \"c\" d", ""]),
            ("a \\\n  b\\ c", &["a", "b c"]),
        ] {
            assert_eq!(words(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn what_only_a_shell_can_tell_is_left_to_it() {
        for line in
            ["a | b", "a && b", "a > b", "a $B", "a \"$B\"", "a *.c", "A=1 b", "a 'b", "a\nb", "a `b`", ""]
        {
            assert_eq!(words(line), None, "{line}");
        }
    }
}
