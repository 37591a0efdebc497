//! The path of a call: decoded once, refused where two servers could read it differently,
//! and written again by us, so that what was matched is what is sent.

use std::fmt;

/// Longest path that is looked at, in bytes as it came.
pub const MAX_PATH_BYTES: usize = 8 * 1024;

/// A path that was decoded once and that has one reading only.
///
/// It holds no dot segment, no empty segment but a last one, and none of `/`, `\`, `;`
/// or control characters inside a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CleanPath {
    segments: Vec<String>,
}

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with `/`.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// More than [`MAX_PATH_BYTES`].
    #[error("the path is too long")]
    TooLong,
    /// A `%` that two hexadecimal digits do not follow, or bytes that are not UTF-8.
    #[error("the path has a wrong percent encoding")]
    Encoding,
    /// After one decoding something is left that a second decoding would change.
    #[error("the path is encoded twice")]
    EncodedTwice,
    /// `/`, `\`, `;`, NUL or another character that servers read differently.
    #[error("the path has a character that is not allowed")]
    Character,
    /// `.` or `..`, encoded or not.
    #[error("the path has a dot segment")]
    DotSegment,
    /// `//`.
    #[error("the path has an empty segment")]
    EmptySegment,
}

impl CleanPath {
    /// Its decoded segments; a last empty one stands for a trailing slash.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = &str> {
        self.segments.iter().map(String::as_str)
    }

    pub(crate) fn as_slice(&self) -> &[String] {
        &self.segments
    }

    /// The path without its first segment, if that is `first` and something follows it.
    pub(crate) fn below(&self, first: &str) -> Option<&[String]> {
        match self.segments.split_first() {
            Some((head, rest)) if head == first && !rest.is_empty() => Some(rest),
            _ => None,
        }
    }
}

/// Decodes and checks a raw path (without its query).
///
/// # Errors
/// [`PathError`] where the path has more than one reading.
pub fn decode_path(raw: &str) -> Result<CleanPath, PathError> {
    if raw.len() > MAX_PATH_BYTES {
        return Err(PathError::TooLong);
    }
    let inside = raw.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
    let count = inside.split('/').count();
    let segments = inside
        .split('/')
        .enumerate()
        .map(|(at, raw)| decode_segment(raw, at + 1 == count))
        .collect::<Result<_, _>>()?;
    Ok(CleanPath { segments })
}

fn decode_segment(raw: &str, last: bool) -> Result<String, PathError> {
    if raw.is_empty() {
        return if last {
            Ok(String::new())
        } else {
            Err(PathError::EmptySegment)
        };
    }
    let decoded = percent_decode(raw)?;
    let allowed = |c: char| !c.is_control() && !matches!(c, '/' | '\\' | ';');
    if !decoded.chars().all(allowed) {
        return Err(PathError::Character);
    }
    // Some servers trim a segment before they look at it.
    if matches!(decoded.trim(), "." | "..") {
        return Err(PathError::DotSegment);
    }
    if has_escape(&decoded) {
        return Err(PathError::EncodedTwice);
    }
    Ok(decoded)
}

fn percent_decode(raw: &str) -> Result<String, PathError> {
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let high = bytes.next().and_then(hex).ok_or(PathError::Encoding)?;
                let low = bytes.next().and_then(hex).ok_or(PathError::Encoding)?;
                out.push(high << 4 | low);
            }
            // A raw `?` or `#` cannot be part of a path, nor can what HTTP does not allow.
            b'?' | b'#' | 0..=0x20 | 0x7f.. => return Err(PathError::Character),
            _ => out.push(byte),
        }
    }
    // Overlong forms of `.` and `/` are not UTF-8, which is what refuses them.
    String::from_utf8(out).map_err(|_| PathError::Encoding)
}

fn has_escape(text: &str) -> bool {
    text.as_bytes()
        .windows(3)
        .any(|w| w[0] == b'%' && w[1].is_ascii_hexdigit() && w[2].is_ascii_hexdigit())
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// Writes segments as a path of our own encoding, each with its slash before it.
pub(crate) fn encode_segments(segments: &[String], out: &mut String) {
    for segment in segments {
        out.push('/');
        for byte in segment.bytes() {
            if is_plain(byte) {
                out.push(char::from(byte));
            } else {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                out.push('%');
                out.push(char::from(DIGITS[usize::from(byte >> 4)]));
                out.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
        }
    }
}

/// The characters of a segment (RFC 3986 `pchar`) but `;`.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte)
}

impl fmt::Display for CleanPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        encode_segments(&self.segments, &mut out);
        f.write_str(&out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_paths_pass() {
        for raw in [
            "/",
            "/v1/models",
            "/v1/models/meta-llama/Llama-3.1-8B",
            "/a%20b/",
            "/a/b.c/..d/d..",
            "/caf%C3%A9",
            "/100%25",
        ] {
            let clean = decode_path(raw).expect(raw);
            assert_eq!(decode_path(&clean.to_string()).as_ref(), Ok(&clean));
        }
    }

    #[test]
    fn paths_with_two_readings_are_refused() {
        use PathError::{Character, DotSegment, EmptySegment, EncodedTwice, Encoding, NotAbsolute};
        for (raw, why) in [
            ("", NotAbsolute),
            ("v1", NotAbsolute),
            ("/../api/delete", DotSegment),
            ("/v1/../../api", DotSegment),
            ("/v1/./x", DotSegment),
            ("/v1/..", DotSegment),
            ("/%2e%2e/api", DotSegment),
            ("/.%2E/api", DotSegment),
            ("/..%20/api", DotSegment),
            ("/v1//x", EmptySegment),
            ("//", EmptySegment),
            ("//evil/x", EmptySegment),
            ("/..;/manager", Character),
            ("/..%3b/manager", Character),
            ("/a;b=c", Character),
            ("/v1%2f..%2fapi", Character),
            ("/a%5c..%5cb", Character),
            ("/a\\b", Character),
            ("/a%00", Character),
            ("/a%0d%0ab", Character),
            ("/a b", Character),
            ("/a?b", Character),
            ("/a#b", Character),
            ("/\u{e9}", Character),
            ("/%c0%ae%c0%ae/x", Encoding),
            ("/%e0%80%af", Encoding),
            ("/%", Encoding),
            ("/%2", Encoding),
            ("/%zz", Encoding),
            ("/%252e%252e/x", EncodedTwice),
            ("/%25%32%65", EncodedTwice),
        ] {
            assert_eq!(decode_path(raw), Err(why), "{raw}");
        }
    }

    proptest! {
        /// What is sent decodes to what was matched, whatever came in.
        #[test]
        fn written_path_reads_the_same(raw in "(/|%2e|%2f|%5c|;|\\.|%25|%[0-9a-f]{2}|[ -~]|\\PC){0,40}") {
            if let Ok(clean) = decode_path(&format!("/{raw}")) {
                let written = clean.to_string();
                prop_assert_eq!(decode_path(&written), Ok(clean.clone()));
                prop_assert!(!written.contains("//"), "{}", written);
                for segment in clean.segments() {
                    prop_assert!(segment != "." && segment != "..");
                    prop_assert!(!segment.contains(['/', '\\', ';', '\0']));
                }
                // A server that normalises finds nothing to do.
                let url = url::Url::parse(&format!("http://h{written}")).expect("a url");
                prop_assert_eq!(url.path(), written);
            }
        }
    }
}
