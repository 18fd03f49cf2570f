//! Decodes server-sent events, in the form in which the daemon writes them.

/// Marks the end of an event.
const END: &[u8] = b"\n\n";

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SentEvent {
    /// Its name; empty for a line of a log.
    pub name: String,
    /// Its data.
    pub data: String,
}

/// Puts events together from the pieces in which they arrive.
#[derive(Debug, Default)]
pub struct Decoder {
    unread: Vec<u8>,
    /// Bytes of these in which no event ends: a snapshot of thousands of tunnels comes in many pieces.
    searched: usize,
}

impl Decoder {
    /// Takes the next piece of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// The next event, if it is complete.
    pub fn take(&mut self) -> Option<SentEvent> {
        let from = self.searched.saturating_sub(1);
        self.searched = self.unread.len();
        let end = from + self.unread[from..].windows(END.len()).position(|bytes| bytes == END)?;
        self.searched = 0;
        let text: Vec<u8> = self.unread.drain(..end + END.len()).collect();
        let mut event = SentEvent::default();
        for line in String::from_utf8_lossy(&text).lines() {
            // The daemon writes one line of data for each event, and one blank behind each colon.
            match line.split_once(": ") {
                Some(("event", name)) => name.clone_into(&mut event.name),
                Some(("data", data)) => data.clone_into(&mut event.data),
                _ => {}
            }
        }
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_put_together_from_pieces() {
        let mut decoder = Decoder::default();
        decoder.push(b"event: tunnel\nda");
        assert_eq!(decoder.take(), None);
        decoder.push(b"ta: {\"a\": 1}\n\ndata: a line: of a log\n\nevent");
        let event = |name: &str, data: &str| SentEvent { name: name.to_owned(), data: data.to_owned() };
        assert_eq!(decoder.take(), Some(event("tunnel", "{\"a\": 1}")));
        assert_eq!(decoder.take(), Some(event("", "a line: of a log")));
        assert_eq!(decoder.take(), None);
    }

    #[test]
    fn an_event_ends_between_two_pieces_as_well() {
        let mut decoder = Decoder::default();
        let mut found = Vec::new();
        for byte in b"data: a\n\ndata: b\n\n" {
            decoder.push(&[*byte]);
            found.extend(decoder.take().map(|event| event.data));
        }
        assert_eq!(found, ["a", "b"]);
    }

    #[test]
    fn an_empty_line_of_a_log_is_empty_data() {
        let mut decoder = Decoder::default();
        decoder.push(b"data: \n\ndata:\n\n");
        assert_eq!(decoder.take(), Some(SentEvent::default()));
        assert_eq!(decoder.take(), Some(SentEvent::default()));
    }
}
