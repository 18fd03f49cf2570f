//! How long to wait for the last of a burst of changes.

use std::time::Duration;

use tokio::time::Instant;

/// An editor or a copy is done when it has been quiet for so long.
const QUIET: Duration = Duration::from_millis(150);

/// A file that never rests is read nevertheless after this.
const AT_MOST: Duration = Duration::from_secs(1);

/// A burst of changes.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    first: Instant,
    last: Instant,
}

impl Window {
    /// A burst has begun.
    pub fn opened(now: Instant) -> Self {
        Self { first: now, last: now }
    }

    /// The burst goes on.
    #[must_use]
    pub fn touched(self, now: Instant) -> Self {
        Self { last: now, ..self }
    }

    /// When to read the file, if nothing more happens until then.
    pub fn closes(self) -> Instant {
        (self.last + QUIET).min(self.first + AT_MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_prolongs_the_window_up_to_its_most() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let window = Window::opened(start);
        assert_eq!(window.closes(), at(150));
        assert_eq!(window.touched(at(100)).closes(), at(250));
        assert_eq!(window.touched(at(950)).closes(), at(1000));
    }
}
