//! The parts of a form, found while its bytes come, wherever those are cut.
//!
//! The delimiter rules of RFC 2046 (5.1.1) are kept to the letter: a line end is CRLF. Readers exist
//! that are less strict, so whatever one of them could take for a delimiter and we do not is refused.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use memchr::memmem::{self, Finder};

use super::{
    FormError,
    part::{PartHead, PartKind},
};

/// Largest head of a part, in bytes: a name, a file's name and a type.
const MAX_PART_HEAD: usize = 8 * 1024;
/// Most parts of a form; the readers of common frameworks stop at 1,000 too.
const MAX_PARTS: usize = 1000;
/// Longest name of a model, in bytes: a connector's name, and a model's of 256 bytes.
const MAX_NAME: usize = 512;
/// Most blanks behind a delimiter.
const MAX_PADDING: usize = 32;

/// Looks through a form, and says which of its bytes may pass.
#[derive(Debug)]
pub(super) struct Scanner {
    /// `--boundary`
    needle: Finder<'static>,
    stage: Stage,
    /// What may not pass yet.
    buffer: BytesMut,
    /// Where the buffer begins in the form.
    at: u64,
    /// The two bytes before it.
    last: [u8; 2],
    /// Up to where bytes may pass.
    settled: u64,
    parts: usize,
    model: Option<Found>,
}

/// The `model` part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Its text.
    pub(super) name: String,
    /// Where that stands in the form.
    pub(super) at: Range<u64>,
    /// Where the digits of the part's own `content-length` stand, if it has one.
    pub(super) length: Option<Range<u64>>,
}

/// What comes next. Positions are those in the form.
#[derive(Clone, Debug)]
enum Stage {
    /// Text up to the next delimiter: of a part, or what comes before the first.
    Text { start: u64, next: u64 },
    /// The text of the `model` part.
    Model {
        start: u64,
        next: u64,
        length: Option<Range<u64>>,
    },
    /// The rest of a delimiter's line.
    Line { next: u64 },
    /// The head of a part.
    Head { start: u64, next: u64 },
    /// What comes behind the last delimiter.
    Over { start: u64, next: u64 },
}

impl Scanner {
    pub(super) fn new(boundary: &[u8]) -> Self {
        let needle = [b"--", boundary].concat();
        Self {
            needle: Finder::new(&needle).into_owned(),
            stage: Stage::Text { start: 0, next: 0 },
            buffer: BytesMut::new(),
            at: 0,
            last: [0; 2],
            settled: 0,
            parts: 0,
            model: None,
        }
    }

    /// The `model` part, once its end has been seen.
    pub(super) fn model(&self) -> Option<&Found> {
        self.model.as_ref()
    }

    /// Up to where bytes were handed out.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// Takes the next bytes, and hands out what may pass.
    pub(super) fn feed(&mut self, piece: &[u8]) -> Result<Bytes, FormError> {
        self.buffer.extend_from_slice(piece);
        while self.step()? {}
        let settled = self.index(self.settled);
        let out = self.buffer.split_to(settled).freeze();
        for byte in out.iter().skip(out.len().saturating_sub(2)) {
            self.last = [self.last[1], *byte];
        }
        self.at = self.settled;
        Ok(out)
    }

    /// The form has ended: hands out the rest, if it is whole.
    pub(super) fn finish(&mut self) -> Result<Bytes, FormError> {
        let whole = match &self.stage {
            Stage::Over { .. } => true,
            Stage::Line { next } => &self.buffer[self.index(*next)..] == b"--",
            Stage::Text { .. } | Stage::Model { .. } | Stage::Head { .. } => false,
        };
        if !whole {
            return Err(FormError::Incomplete);
        }
        self.settled = self.end();
        Ok(self.buffer.split().freeze())
    }

    /// Goes one step on; false where more bytes are needed.
    fn step(&mut self) -> Result<bool, FormError> {
        match self.stage.clone() {
            Stage::Text { start, next } => match self.delimiter(start, next)? {
                Search::At(end, after) => {
                    self.settled = end;
                    self.stage = Stage::Line { next: after };
                    Ok(true)
                }
                Search::Not(next) => {
                    self.settled = next;
                    self.stage = Stage::Text { start, next };
                    Ok(false)
                }
            },
            Stage::Model {
                start,
                next,
                length,
            } => self.model_text(start, next, length),
            Stage::Line { next } => self.line(next),
            Stage::Head { start, next } => self.head(start, next),
            Stage::Over { start, next } => match self.delimiter(start, next)? {
                Search::At(..) => Err(FormError::Delimiter),
                Search::Not(next) => {
                    self.settled = next;
                    self.stage = Stage::Over { start, next };
                    Ok(false)
                }
            },
        }
    }

    fn model_text(
        &mut self,
        start: u64,
        next: u64,
        length: Option<Range<u64>>,
    ) -> Result<bool, FormError> {
        let (end, then) = match self.delimiter(start, next)? {
            Search::At(end, after) => (end, Some(after)),
            Search::Not(next) => {
                self.stage = Stage::Model {
                    start,
                    next,
                    length: length.clone(),
                };
                (next, None)
            }
        };
        let text = &self.buffer[self.index(start)..self.index(end.max(start))];
        if text.len() > MAX_NAME {
            return Err(FormError::NotText);
        }
        let Some(after) = then else {
            return Ok(false);
        };
        let name = std::str::from_utf8(text).map_err(|_| FormError::NotText)?;
        if name.is_empty() {
            return Err(FormError::NotText);
        }
        self.model = Some(Found {
            name: name.to_owned(),
            at: start..end,
            length,
        });
        self.settled = end;
        self.stage = Stage::Line { next: after };
        Ok(true)
    }

    /// What stands behind a boundary: the end of the line, or `--` for the last.
    fn line(&mut self, next: u64) -> Result<bool, FormError> {
        let rest = &self.buffer[self.index(next)..];
        let blank = |b: &&u8| matches!(b, b' ' | b'\t');
        let padding = rest.iter().take_while(blank).count();
        if padding > MAX_PADDING {
            return Err(FormError::Delimiter);
        }
        match &rest[padding..] {
            [] | [b'\r'] => Ok(false),
            [b'-'] | [b'-', b'-'] if padding == 0 => Ok(false),
            [b'\r', b'\n', ..] => {
                self.parts += 1;
                if self.parts > MAX_PARTS {
                    return Err(FormError::TooManyParts);
                }
                let start = next + padding as u64 + 2;
                self.stage = Stage::Head { start, next: start };
                Ok(true)
            }
            [b'-', b'-', b'\r' | b' ' | b'\t', ..] if padding == 0 => {
                let start = next + 2;
                self.stage = Stage::Over { start, next: start };
                Ok(true)
            }
            [_, ..] => Err(FormError::Delimiter),
        }
    }

    fn head(&mut self, start: u64, next: u64) -> Result<bool, FormError> {
        let (from, to) = (self.index(start), self.index(next));
        let bytes = &self.buffer[from..];
        let (head, text) = if bytes.starts_with(b"\r\n") {
            (&bytes[..0], start + 2)
        } else if let Some(found) = memmem::find(&self.buffer[to..], b"\r\n\r\n") {
            (&bytes[..to - from + found], next + found as u64 + 4)
        } else {
            if bytes.len() > MAX_PART_HEAD {
                return Err(FormError::HeadTooLarge);
            }
            let next = self.end().saturating_sub(3).max(start);
            self.stage = Stage::Head { start, next };
            return Ok(false);
        };
        if head.len() > MAX_PART_HEAD {
            return Err(FormError::HeadTooLarge);
        }
        let PartHead { kind, length } = PartHead::read(head)?;
        let (start, next) = (text, text);
        self.stage = match kind {
            PartKind::Model if self.model.is_some() => return Err(FormError::Duplicate),
            PartKind::LikeModel => return Err(FormError::LikeModel),
            // The head stays: the length that it declares may have to change.
            PartKind::Model => Stage::Model {
                start,
                next,
                length: length.map(|at| from_head(&at, self.at + from as u64)),
            },
            PartKind::Other => {
                self.settled = text;
                Stage::Text { start, next }
            }
        };
        Ok(true)
    }

    /// Looks for a delimiter in a text that began at `start`, from `next` on.
    fn delimiter(&self, start: u64, mut next: u64) -> Result<Search, FormError> {
        while let Some(found) = self.needle.find(&self.buffer[self.index(next)..]) {
            let at = next + found as u64;
            let end = match (self.before(at, 2), self.before(at, 1)) {
                (_, None) => at,
                (Some(b'\r'), Some(b'\n')) if at >= start + 2 => at - 2,
                (_, Some(b'\r' | b'\n')) => return Err(FormError::Delimiter),
                (_, Some(_)) => {
                    next = at + 1;
                    continue;
                }
            };
            return Ok(Search::At(end, at + self.needle.needle().len() as u64));
        }
        Ok(Search::Not(self.unsure().max(start)))
    }

    /// Where the bytes begin that could be the beginning of a delimiter.
    fn unsure(&self) -> u64 {
        let needle = self.needle.needle();
        let bytes = &self.buffer[..];
        let first = bytes.len().saturating_sub(needle.len() + 1);
        let could_be = |at: &usize| {
            let tail = &bytes[*at..];
            let behind_line = |from: &[u8]| {
                tail.strip_prefix(from)
                    .is_some_and(|rest| needle.starts_with(rest))
            };
            tail == b"\r" || behind_line(b"\r\n") || behind_line(b"")
        };
        let sure = (first..bytes.len()).find(could_be);
        self.at + sure.unwrap_or(bytes.len()) as u64
    }

    /// The byte so many places before a position; `None` before the beginning.
    fn before(&self, at: u64, places: u64) -> Option<u8> {
        let at = at.checked_sub(places)?;
        match at.checked_sub(self.at) {
            Some(index) => self.buffer.get(usize::try_from(index).ok()?).copied(),
            None if self.at - at == 1 => Some(self.last[1]),
            None => Some(self.last[0]),
        }
    }

    fn end(&self) -> u64 {
        self.at + self.buffer.len() as u64
    }

    /// The place of a position in the buffer; no position lies behind its end.
    fn index(&self, position: u64) -> usize {
        let index = usize::try_from(position.saturating_sub(self.at));
        index.map_or(self.buffer.len(), |index| index.min(self.buffer.len()))
    }
}

/// What a look for a delimiter brings.
enum Search {
    /// It ends the text there; its line goes on at the second position.
    At(u64, u64),
    /// None begins before that position.
    Not(u64),
}

fn from_head(at: &Range<usize>, head: u64) -> Range<u64> {
    head + at.start as u64..head + at.end as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDARY: &str = "B-1";

    /// `|` is a line end.
    fn text(form: &str) -> Vec<u8> {
        form.replace('|', "\r\n").into_bytes()
    }

    fn part(name: &str, value: &str) -> String {
        format!("--{BOUNDARY}|Content-Disposition: form-data; name=\"{name}\"||{value}|")
    }

    fn form(parts: &[(&str, &str)]) -> Vec<u8> {
        let parts: String = parts
            .iter()
            .map(|(name, value)| part(name, value))
            .collect();
        text(&format!("{parts}--{BOUNDARY}--|"))
    }

    /// Feeds the pieces; what passed, and what was found.
    fn scan<'a>(
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(Vec<u8>, Option<Found>), FormError> {
        let mut scanner = Scanner::new(BOUNDARY.as_bytes());
        let mut passed = Vec::new();
        for piece in pieces {
            passed.extend_from_slice(&scanner.feed(piece)?);
            assert_eq!(scanner.position(), passed.len() as u64);
        }
        passed.extend_from_slice(&scanner.finish()?);
        Ok((passed, scanner.model().cloned()))
    }

    fn whole(form: &[u8]) -> Result<Option<Found>, FormError> {
        scan([form]).map(|(passed, found)| {
            assert_eq!(passed, form);
            found
        })
    }

    #[test]
    fn the_model_is_found_wherever_it_stands() {
        for parts in [
            &[("model", "dev/whisper")][..],
            &[("file", "RIFF"), ("model", "dev/whisper"), ("x", "")],
            &[("model", "dev/whisper"), ("file", "\r\n--B\r\n--B-\r\n--")],
        ] {
            let form = form(parts);
            let found = whole(&form).unwrap().unwrap();
            assert_eq!(found.name, "dev/whisper");
            let at =
                usize::try_from(found.at.start).unwrap()..usize::try_from(found.at.end).unwrap();
            assert_eq!(&form[at], b"dev/whisper");
        }
        assert_eq!(whole(&form(&[("file", "x")])), Ok(None));
    }

    #[test]
    fn legal_oddities_pass() {
        for odd in [
            "preamble, even --B-1 in a line|--B-1|Content-Disposition: form-data; name=\"model\"||m|--B-1--",
            "|--B-1|Content-Disposition: form-data; name=\"model\"||m|--B-1--|epilogue|",
            "--B-1 \t|Content-Disposition: form-data; name=\"model\"||m|--B-1--  |",
            "--B-1||no head|--B-1|Content-Disposition: form-data; name=\"model\"||m|--B-1--",
            "--B-1|Content-Length: 1|Content-Disposition: form-data; name=\"model\"||m|--B-1--",
        ] {
            let found = whole(&text(odd)).unwrap();
            assert_eq!(found.map(|found| found.name).as_deref(), Some("m"), "{odd}");
        }
    }

    #[test]
    fn what_a_less_strict_reader_would_see_is_refused() {
        let model = "Content-Disposition: form-data; name=\"model\"||m|--B-1--";
        for twofold in [
            format!("--B-1||a\n--B-1|{model}"),
            format!("--B-1||a\r--B-1|{model}"),
            format!("--B-1||a|--B-12|{model}"),
            format!("--B-1||a|--B-1-|{model}"),
            format!("--B-1||a|--B-1\n{model}"),
            format!("--B-1||a|--B-1x|{model}"),
            format!("--B-1||a|--B-1--x|{model}"),
            format!("--B-1||a|--B-1{}|{model}", " ".repeat(MAX_PADDING + 1)),
            format!("--B-1|a: b||--B-1|{model}"),
            format!("--B-1|{model}|--B-1|a: b||c|--B-1--"),
        ] {
            assert_eq!(
                whole(&text(&twofold)),
                Err(FormError::Delimiter),
                "{twofold:?}"
            );
        }
    }

    #[test]
    fn a_second_model_is_refused() {
        let twice = form(&[("model", "a"), ("x", "y"), ("model", "b")]);
        assert_eq!(whole(&twice), Err(FormError::Duplicate));
        for like in ["Model", "model[]", "mod%65l"] {
            let form = form(&[("model", "a"), (like, "b")]);
            assert_eq!(whole(&form), Err(FormError::LikeModel));
        }
    }

    #[test]
    fn limits_are_kept() {
        assert_eq!(whole(&form(&[("model", "")])), Err(FormError::NotText));
        let long = "m".repeat(MAX_NAME);
        assert!(whole(&form(&[("model", &long)])).is_ok());
        let long = "m".repeat(MAX_NAME + 1);
        assert_eq!(whole(&form(&[("model", &long)])), Err(FormError::NotText));
        let bytes = form(&[("model", "m?")]);
        let bytes: Vec<u8> = bytes
            .iter()
            .map(|b| if *b == b'?' { 0xff } else { *b })
            .collect();
        assert_eq!(whole(&bytes), Err(FormError::NotText));
        let head = text(&format!("--B-1|a: {}", "b".repeat(MAX_PART_HEAD)));
        assert_eq!(whole(&head), Err(FormError::HeadTooLarge));
        let many = form(&vec![("x", ""); MAX_PARTS + 1]);
        assert_eq!(whole(&many), Err(FormError::TooManyParts));
    }

    #[test]
    fn a_form_without_its_end_is_not_whole() {
        let form = form(&[("model", "m"), ("file", "x")]);
        for end in 0..form.len() - 2 {
            let cut = whole(&form[..end]);
            assert_eq!(cut, Err(FormError::Incomplete), "{end}");
        }
        assert!(whole(&form[..form.len() - 2]).is_ok());
    }

    #[test]
    fn bytes_pass_as_soon_as_they_are_sure() {
        let mut scanner = Scanner::new(BOUNDARY.as_bytes());
        let begun = text(&(part("model", "m") + "--B-1|a: b||"));
        assert_eq!(scanner.feed(&begun).unwrap().len(), begun.len());
        assert_eq!(&scanner.feed(b"audio").unwrap()[..], b"audio");
        assert_eq!(&scanner.feed(b"au-dio\r\n--").unwrap()[..], b"au-dio");
        assert_eq!(&scanner.feed(b"B-").unwrap()[..], b"");
        assert_eq!(&scanner.feed(b"x").unwrap()[..], b"\r\n--B-x");
        assert_eq!(&scanner.feed(b"\r").unwrap()[..], b"");
        // A head passes when it has been read to its end.
        assert_eq!(&scanner.feed(b"\n--B-1\r\nc: d").unwrap()[..], b"");
        assert_eq!(
            &scanner.feed(b"\r\n\r\n").unwrap()[..],
            b"\r\n--B-1\r\nc: d\r\n\r\n"
        );
    }

    fn any_text() -> impl Strategy<Value = String> {
        // Rich in what delimiters are made of.
        let piece = prop_oneof![
            Just("\r\n".to_owned()),
            Just("\r\n--".to_owned()),
            Just("\r\n--B-".to_owned()),
            Just("--B-1".to_owned()),
            Just("\r".to_owned()),
            Just("-".to_owned()),
            "[a-z]{1,5}",
        ];
        prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        /// However a form is cut, the same is found, the same passes, and the same is refused.
        #[test]
        fn cuts_change_nothing(
            before in prop::collection::vec(("[a-l]{1,4}", any_text()), 0..3),
            model in "[a-z/]{1,8}",
            after in prop::collection::vec(("[a-z]{1,5}", any_text()), 0..3),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut parts: Vec<(&str, &str)> = Vec::new();
            parts.extend(before.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            parts.push(("model", &model));
            parts.extend(after.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            let form = form(&parts);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(form.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&form[from..cut]);
                from = cut;
            }
            pieces.push(&form[from..]);
            let in_pieces = scan(pieces);
            let bytewise = scan(form.chunks(1));
            prop_assert_eq!(&in_pieces, &scan([form.as_slice()]));
            prop_assert_eq!(&in_pieces, &bytewise);
            if let Ok((passed, found)) = in_pieces {
                prop_assert_eq!(passed, form);
                prop_assert_eq!(found.map(|found| found.name), Some(model));
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), size in 1usize..40) {
            drop(scan(bytes.chunks(size)));
        }
    }
}
