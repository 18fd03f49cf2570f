//! A source file as tokens, and the paths in it.

/// A path as it is written.
#[derive(Debug, PartialEq)]
pub(crate) struct Named {
    /// It stands in a `pub use`.
    pub(crate) is_exported: bool,
    pub(crate) segments: Vec<String>,
}

/// Words, `::` and single signs; without comments, texts and letters.
pub(crate) fn tokens(text: &str) -> Vec<String> {
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
                let hashes = letters[index + 1..].iter().take_while(|letter| **letter == '#').count();
                let ends = |i: &usize| at(*i) == '"' && (1..=hashes).all(|more| at(*i + more) == '#');
                index = (index + hashes + 2..letters.len()).find(ends).unwrap() + 1 + hashes;
            }
            // A letter, unless it is a lifetime.
            ('\'', '\\') => index = (index + 3..letters.len()).find(|i| at(*i) == '\'').unwrap() + 1,
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
pub(crate) fn split_tests(mut product: Vec<String>) -> (Vec<String>, Vec<String>) {
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
pub(crate) fn named(tokens: &[String]) -> Vec<Named> {
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
