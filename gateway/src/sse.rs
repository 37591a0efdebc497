//! Where in a server-sent event stream we stand: whether something may be put in, or an end made.

use http::{HeaderMap, header};

/// Follows the bytes of a stream, without holding them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The last bytes, newest last; zeros before the first.
    last: [u8; 4],
    /// Whether an event had an id: then the client may resume the stream elsewhere.
    resumable: bool,
}

impl Default for Position {
    /// The beginning, which is like behind an empty line.
    fn default() -> Self {
        Self {
            last: *b"\n\n\n\n",
            resumable: false,
        }
    }
}

impl Position {
    /// Takes note of the next bytes.
    pub fn watch(&mut self, bytes: &[u8]) {
        let starts_line = matches!(self.last[3], b'\n' | b'\r');
        self.resumable |= (starts_line && bytes.starts_with(b"id:"))
            || memchr::memmem::find(bytes, b"\nid:").is_some();
        let mut window = [0; 8];
        let new = &bytes[bytes.len().saturating_sub(4)..];
        window[..4].copy_from_slice(&self.last);
        window[4..4 + new.len()].copy_from_slice(new);
        self.last.copy_from_slice(&window[new.len()..new.len() + 4]);
    }

    /// What must be written before another event; `None` in the middle of a line, where nothing may be.
    pub fn before_event(&self) -> Option<&'static str> {
        match self.last {
            [.., b'\n', b'\n'] | [.., b'\r', b'\r'] | [b'\r', b'\n', b'\r', b'\n'] => Some(""),
            [.., b'\n' | b'\r'] => Some("\n"),
            _ => None,
        }
    }

    /// Whether an event had an id.
    pub const fn is_resumable(&self) -> bool {
        self.resumable
    }
}

/// Whether an answer with these headers is an event stream that we can read and write into.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    let plain = headers
        .get(header::CONTENT_ENCODING)
        .is_none_or(|coding| coding == "identity");
    plain && media_type(headers).is_some_and(|kind| kind.eq_ignore_ascii_case("text/event-stream"))
}

/// The media type of an answer, without its parameters.
pub fn media_type(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    value.split(';').next().map(str::trim)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn after(pieces: &[&str]) -> Position {
        let mut position = Position::default();
        for piece in pieces {
            position.watch(piece.as_bytes());
        }
        position
    }

    #[test]
    fn boundaries() {
        for (text, wanted) in [
            ("", Some("")),
            ("data: x\n\n", Some("")),
            ("data: x\r\n\r\n", Some("")),
            ("data: x\r\r", Some("")),
            ("data: x\n", Some("\n")),
            ("data: x\r\n", Some("\n")),
            ("data: x", None),
            (": ping\n\nd", None),
        ] {
            assert_eq!(after(&[text]).before_event(), wanted, "{text:?}");
        }
    }

    #[test]
    fn ids_make_a_stream_resumable() {
        assert!(after(&["id: 1\ndata: x\n\n"]).is_resumable());
        assert!(after(&["data: x\n\n", "id: 1\n"]).is_resumable());
        assert!(!after(&["data: id:1\n\n", "data: {\"id:\":1}\n\n"]).is_resumable());
    }

    #[test]
    fn compressed_streams_are_left_alone() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("Text/Event-Stream; charset=utf-8"),
        );
        assert!(is_event_stream(&headers));
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(!is_event_stream(&headers));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[a\r\n]{0,12}", cut in 0_usize..12) {
            let cut = cut.min(text.len());
            let whole = after(&[&text]);
            let pieces = after(&[&text[..cut], &text[cut..]]);
            prop_assert_eq!(whole.before_event(), pieces.before_event());
        }
    }
}
