//! Reads server-sent events.

use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::failure::Failed;

/// Marks the end of an event.
const END: &[u8] = b"\n\n";

/// A stream of events.
#[derive(Debug)]
pub(super) struct EventStream {
    body: Incoming,
    unread: Unread,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Event {
    /// Its name; empty for a line of a log.
    pub(super) name: String,
    /// Its data.
    pub(super) data: String,
}

/// Bytes that are not a complete event yet.
#[derive(Debug, Default)]
struct Unread(Vec<u8>);

impl EventStream {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, unread: Unread::default() }
    }

    /// The next event.
    pub(super) async fn next(&mut self) -> Result<Event, Failed> {
        loop {
            if let Some(event) = self.unread.take() {
                return Ok(event);
            }
            let Some(Ok(frame)) = self.body.frame().await else {
                let reason = "the daemon has ended the stream: it was stopped, the tunnel was removed, or nobody read for 30 s";
                return Err(Failed::NotDone(reason.to_owned()));
            };
            self.unread.0.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
    }
}

impl Unread {
    fn take(&mut self) -> Option<Event> {
        let end = self.0.windows(END.len()).position(|bytes| bytes == END)?;
        let text: Vec<u8> = self.0.drain(..end + END.len()).collect();
        let mut event = Event::default();
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
        let mut unread = Unread::default();
        unread.0.extend_from_slice(b"event: tunnel\nda");
        assert_eq!(unread.take(), None);
        unread.0.extend_from_slice(b"ta: {\"a\": 1}\n\ndata: a line: of a log\n\nevent");
        assert_eq!(unread.take(), Some(Event { name: "tunnel".to_owned(), data: "{\"a\": 1}".to_owned() }));
        assert_eq!(unread.take(), Some(Event { name: String::new(), data: "a line: of a log".to_owned() }));
        assert_eq!(unread.take(), None);
    }

    #[test]
    fn an_empty_line_of_a_log_is_empty_data() {
        let mut unread = Unread(b"data: \n\ndata:\n\n".to_vec());
        assert_eq!(unread.take(), Some(Event::default()));
        assert_eq!(unread.take(), Some(Event::default()));
    }
}
