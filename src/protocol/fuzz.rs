//! Targets of the fuzzer: the two parsers of our own on the way of a request. HTTP itself is read by hyper.

#![allow(clippy::missing_panics_doc, reason = "a panic is how a target reports a fault")]

use std::time::Duration;

use super::sse::Decoder;
use super::timeout::Timeout;

/// `?timeout=` of a request.
pub fn timeout(text: &[u8]) {
    if let Ok(Timeout(timeout)) = String::from_utf8_lossy(text).parse() {
        assert!(timeout <= Duration::from_secs(5 * 60), "{timeout:?}");
    }
}

/// A stream of events, as the command line reads it: the same events in whichever pieces it comes. The first byte is their length.
pub fn events(bytes: &[u8]) {
    let Some((length, stream)) = bytes.split_first() else { return };
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut decoder, mut events) = (Decoder::default(), Vec::new());
        for piece in pieces {
            decoder.push(piece);
            events.extend(std::iter::from_fn(|| decoder.take()));
        }
        events
    };
    let whole = read(&mut std::iter::once(stream));
    assert_eq!(read(&mut stream.chunks(usize::from(*length).max(1))), whole);
}
