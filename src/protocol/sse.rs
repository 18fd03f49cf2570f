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
pub struct Decoder(Vec<u8>);

impl Decoder {
    /// Takes the next piece of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next event, if it is complete.
    pub fn take(&mut self) -> Option<SentEvent> {
        let end = self.0.windows(END.len()).position(|bytes| bytes == END)?;
        let text: Vec<u8> = self.0.drain(..end + END.len()).collect();
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
    fn an_empty_line_of_a_log_is_empty_data() {
        let mut decoder = Decoder(b"data: \n\ndata:\n\n".to_vec());
        assert_eq!(decoder.take(), Some(SentEvent::default()));
        assert_eq!(decoder.take(), Some(SentEvent::default()));
    }
}
