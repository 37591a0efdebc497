//! A stream of server-sent events, cut into events.
//!
//! An event is passed on as soon as its last line is there, and byte for byte unless its data
//! is replaced.

use bytes::{Buf as _, Bytes, BytesMut};

/// Longest event that is held until it is whole, in bytes.
pub(super) const MAX_EVENT_BYTES: usize = 4 << 20;

/// The stream so far.
#[derive(Debug, Default)]
pub struct Events {
    held: BytesMut,
    /// How much of it was looked at.
    seen: usize,
    /// Bytes of the line that is not over.
    line: usize,
    /// A line feed that follows belongs to the line before.
    after_return: bool,
}

/// An event is longer than can be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of more than {MAX_EVENT_BYTES} bytes")]
pub struct TooLong;

impl Events {
    /// More of the stream has come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next whole event, in all its lines.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn next_event(&mut self) -> Result<Option<Bytes>, TooLong> {
        while let Some(byte) = self.held.get(self.seen) {
            self.seen += 1;
            let is_end = match byte {
                b'\n' if self.after_return => {
                    self.after_return = false;
                    continue;
                }
                b'\n' | b'\r' => std::mem::take(&mut self.line) == 0,
                _ => {
                    self.line += 1;
                    false
                }
            };
            self.after_return = *byte == b'\r';
            if is_end {
                let event = self.held.split_to(std::mem::take(&mut self.seen));
                return Ok(Some(event.freeze()));
            }
        }
        match self.held.len() > MAX_EVENT_BYTES {
            true => Err(TooLong),
            false => Ok(None),
        }
    }

    /// What is left when the stream ends: an event that is not over.
    pub fn rest(&mut self) -> Option<Bytes> {
        self.seen = 0;
        let rest = self.held.split();
        rest.has_remaining().then(|| rest.freeze())
    }
}

/// The data of an event that is a message; none where it is another, or has none.
pub(super) fn message(event: &[u8]) -> Option<Vec<u8>> {
    let mut data: Option<Vec<u8>> = None;
    let mut is_message = true;
    for (field, value) in lines(event).map(field) {
        match field {
            b"data" => match &mut data {
                None => data = Some(value.to_vec()),
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
            },
            b"event" => is_message = value.is_empty() || value == b"message",
            _ => {}
        }
    }
    data.filter(|data| is_message && !data.trim_ascii().is_empty())
}

/// The event with other data, which has no line break.
pub(super) fn with_data(event: &[u8], data: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(event.len());
    for line in lines(event).filter(|line| !line.is_empty() && field(line).0 != b"data") {
        out.extend_from_slice(line);
        out.extend_from_slice(b"\n");
    }
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(data.as_bytes());
    out.extend_from_slice(b"\n\n");
    out.freeze()
}

/// Lines end with a line feed, a carriage return, or both; one may be empty.
fn lines(event: &[u8]) -> impl Iterator<Item = &[u8]> {
    let event = event.strip_prefix(b"\xef\xbb\xbf").unwrap_or(event);
    event.split(|byte| matches!(byte, b'\n' | b'\r'))
}

/// A line's field and its value.
fn field(line: &[u8]) -> (&[u8], &[u8]) {
    let Some(at) = line.iter().position(|byte| *byte == b':') else {
        return (line, b"");
    };
    let value = &line[at + 1..];
    (&line[..at], value.strip_prefix(b" ").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<Bytes> {
        let mut events = Events::default();
        let mut out = Vec::new();
        for piece in pieces {
            events.push(piece);
            while let Some(event) = events.next_event().expect("short") {
                out.push(event);
            }
        }
        out.extend(events.rest());
        out
    }

    #[test]
    fn an_event_ends_with_an_empty_line() {
        assert_eq!(
            events(&[b": ping\n\nid: 1\r\ndata: a\r\n\r\ndata: b\r\rdata: c"]),
            [
                &b": ping\n\n"[..],
                b"id: 1\r\ndata: a\r\n\r",
                b"\ndata: b\r\r",
                b"data: c"
            ]
        );
    }

    #[test]
    fn the_data_of_messages_is_found() {
        let data =
            |event: &str| message(event.as_bytes()).map(|d| String::from_utf8(d).expect("text"));
        assert_eq!(
            data("data: {\"a\":\ndata:1}\n\n").as_deref(),
            Some("{\"a\":\n1}")
        );
        assert_eq!(data("\u{feff}data: x\n\n").as_deref(), Some("x"));
        assert_eq!(
            data("\nevent: message\r\ndata:x\r\n\r").as_deref(),
            Some("x")
        );
        assert_eq!(data("event: endpoint\ndata: /messages\n\n"), None);
        assert_eq!(data(": comment\n\n"), None);
        assert_eq!(data("id: 7\ndata: \n\n"), None);
        assert_eq!(data("data\n\n"), None);
    }

    #[test]
    fn data_is_replaced_and_the_rest_stays() {
        let event = b"\nid: 7\r\nevent: message\r\ndata: a\r\ndata: b\r\nretry: 5\r\n\r";
        assert_eq!(
            with_data(event, "{}"),
            "id: 7\nevent: message\nretry: 5\ndata: {}\n\n"
        );
    }

    #[test]
    fn an_event_without_an_end_is_not_held_for_ever() {
        let mut events = Events::default();
        let piece = [b'x'; 1 << 16];
        for _ in 0..MAX_EVENT_BYTES / piece.len() {
            events.push(&piece);
            assert_eq!(events.next_event(), Ok(None));
        }
        events.push(b"x");
        assert_eq!(events.next_event(), Err(TooLong));
    }

    proptest! {
        /// However it comes in pieces, the events are the same, and nothing is lost.
        #[test]
        fn pieces_change_nothing(text in "([a-c: ]|\n|\r|data:|\r\n){0,40}", cuts in proptest::collection::vec(0_usize..40, 0..6)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.sort_unstable();
            cuts.insert(0, 0);
            cuts.push(bytes.len());
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            let whole = events(&[bytes]);
            prop_assert_eq!(&events(&pieces), &whole);
            prop_assert_eq!(whole.concat(), bytes);
        }
    }
}
