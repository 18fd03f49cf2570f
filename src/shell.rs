//! Words for a shell, in lines that a person pastes.

use std::path::Path;

/// A path as one word of a shell.
pub fn path(path: &Path) -> String {
    word(&path.display().to_string())
}

/// A text as one word of a shell.
pub fn word(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "_-./:@%+=,".contains(letter);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_word_is_one_word_whatever_is_in_it() {
        for text in ["plain-1.2/@x", "", "two words", "it's", "$HOME `id` \"q\" \\ ; # *", "a\nb", "[::1]:22"]
        {
            let output =
                Command::new("/bin/sh").args(["-c", &format!("printf %s {}", word(text))]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
        assert_eq!(word("/etc/portward/config.yaml"), "/etc/portward/config.yaml");
    }
}
