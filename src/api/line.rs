//! The line discipline of a login's terminal: keystrokes become an answer, as a terminal makes a line of them.

/// Longest answer, in bytes: ssh takes no more than 1,023.
const LONGEST: usize = 1000;

const BELL: u8 = 0x07;

/// Whether what is typed is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Echo {
    Shown,
    Hidden,
}

/// What follows from what was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Typed {
    /// The line goes on.
    Nothing,
    /// The line is complete.
    Line(String),
    /// The person gives up: Ctrl-C, or Ctrl-D on an empty line.
    End,
}

/// A line that is being typed.
pub(super) struct Line {
    text: Vec<u8>,
    echo: Echo,
    escape: Escape,
}

/// Where in the sequence of a key without a character, such as an arrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    Outside,
    Began,
    Inside,
}

impl Line {
    pub(super) fn new(echo: Echo) -> Self {
        Self { text: Vec::new(), echo, escape: Escape::Outside }
    }

    /// Takes what was typed up to the end of the line, and adds to `shown` what the terminal is to show. What was typed after that
    /// end is thrown away: it was not typed for the next question.
    pub(super) fn type_in(&mut self, typed: &[u8], shown: &mut Vec<u8>) -> Typed {
        for byte in typed {
            match self.key(*byte, shown) {
                Typed::Nothing => {}
                end @ (Typed::Line(_) | Typed::End) => {
                    shown.extend_from_slice(b"\r\n");
                    return end;
                }
            }
        }
        Typed::Nothing
    }

    fn key(&mut self, byte: u8, shown: &mut Vec<u8>) -> Typed {
        match (self.escape, byte) {
            (_, 0x03) => return Typed::End,
            (_, 0x1b) => self.escape = Escape::Began,
            (Escape::Began, b'[' | b'O') => self.escape = Escape::Inside,
            (Escape::Began, _) | (Escape::Inside, 0x40..=0x7e) => self.escape = Escape::Outside,
            (Escape::Outside, 0x04) => {
                if self.text.is_empty() {
                    return Typed::End;
                }
            }
            (Escape::Outside, b'\r' | b'\n') => {
                let text = std::mem::take(&mut self.text);
                return Typed::Line(String::from_utf8_lossy(&text).into_owned());
            }
            (Escape::Outside, 0x08 | 0x7f) => self.erase_one(shown),
            // Ctrl-U.
            (Escape::Outside, 0x15) => {
                while !self.text.is_empty() {
                    self.erase_one(shown);
                }
            }
            (Escape::Inside, _) | (Escape::Outside, 0x00..=0x1f) => {}
            (Escape::Outside, _) if self.text.len() >= LONGEST => shown.push(BELL),
            (Escape::Outside, _) => {
                self.text.push(byte);
                if self.echo == Echo::Shown {
                    shown.push(byte);
                }
            }
        }
        Typed::Nothing
    }

    /// The last character goes, whatever its length.
    fn erase_one(&mut self, shown: &mut Vec<u8>) {
        let is_continued = |byte: u8| byte & 0xc0 == 0x80;
        let mut erased = false;
        while let Some(byte) = self.text.pop() {
            erased = true;
            if !is_continued(byte) {
                break;
            }
        }
        if erased && self.echo == Echo::Shown {
            shown.extend_from_slice(b"\x08 \x08");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn type_in(echo: Echo, typed: &[u8]) -> (Typed, String) {
        let (mut line, mut shown) = (Line::new(echo), Vec::new());
        let typed = line.type_in(typed, &mut shown);
        (typed, String::from_utf8_lossy(&shown).into_owned())
    }

    fn line(text: &str) -> Typed {
        Typed::Line(text.to_owned())
    }

    #[test]
    fn a_line_ends_with_cr_or_lf_and_is_shown_only_where_it_may_be() {
        assert_eq!(type_in(Echo::Shown, b"yes\r"), (line("yes"), "yes\r\n".to_owned()));
        assert_eq!(type_in(Echo::Hidden, b"s3cret\n"), (line("s3cret"), "\r\n".to_owned()));
        assert_eq!(type_in(Echo::Hidden, b"one\r\ntwo\r").0, line("one"), "the rest is thrown away");
    }

    #[test]
    fn keys_that_correct_do_so_by_whole_characters() {
        assert_eq!(type_in(Echo::Shown, "a\u{e4}\u{65e5}\x7f\x08b\r".as_bytes()).0, line("ab"));
        assert_eq!(type_in(Echo::Shown, b"\x7fwrong\x15right\r").0, line("right"));
        assert_eq!(type_in(Echo::Shown, b"ab\x7f").1, "ab\x08 \x08");
        assert_eq!(type_in(Echo::Hidden, b"ab\x7f\x15").1, "");
    }

    #[test]
    fn ctrl_c_gives_up_and_so_does_ctrl_d_on_an_empty_line() {
        assert_eq!(type_in(Echo::Hidden, b"secr\x03").0, Typed::End);
        assert_eq!(type_in(Echo::Hidden, b"\x04").0, Typed::End);
        assert_eq!(type_in(Echo::Hidden, b"a\x04b\r").0, line("ab"));
    }

    #[test]
    fn keys_without_a_character_are_no_part_of_the_answer() {
        assert_eq!(type_in(Echo::Shown, b"a\x1b[A\x1bOP\x1b[3~\tb\r"), (line("ab"), "ab\r\n".to_owned()));
    }

    proptest! {
        #[test]
        fn whatever_is_typed_is_bounded_and_a_secret_is_not_shown(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..8),
        ) {
            let (mut line, mut shown) = (Line::new(Echo::Hidden), Vec::new());
            for piece in pieces {
                let typed = line.type_in(&piece, &mut shown);
                prop_assert!(line.text.len() <= LONGEST);
                if let Typed::Line(text) = typed {
                    prop_assert!(text.len() <= 3 * LONGEST);
                    break;
                }
            }
            prop_assert!(shown.iter().all(|byte| [BELL, b'\r', b'\n'].contains(byte)));
        }
    }
}
