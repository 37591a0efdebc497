//! The head of one part of a form: what it is called, however it is written.

use std::ops::Range;

use percent_encoding::percent_decode;

use super::FormError;

/// The head of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PartHead {
    /// What the part is.
    pub(super) kind: PartKind,
    /// Where the digits of its own `content-length` stand in the head, if it has one.
    pub(super) length: Option<Range<usize>>,
}

/// What a part is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartKind {
    /// A text under the name `model`.
    Model,
    /// Something that a careless reader could take for `model`.
    LikeModel,
    /// Anything else.
    Other,
}

impl PartHead {
    /// Reads the lines of a head, without the empty line that ends it. What two readers could take for
    /// two different things is refused: we would authorise one model and a backend could obey another.
    pub(super) fn read(head: &[u8]) -> Result<Self, FormError> {
        let mut disposition = None;
        let mut length = None;
        let mut encoded = false;
        for (at, line) in lines(head)? {
            let colon = memchr::memchr(b':', line).ok_or(FormError::Head)?;
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            if !is_token(name) {
                return Err(FormError::Head);
            }
            if name.eq_ignore_ascii_case(b"content-disposition") {
                if disposition.replace(value).is_some() {
                    return Err(FormError::Head);
                }
            } else if name.eq_ignore_ascii_case(b"content-length") {
                let digits = value.trim_ascii();
                let start = at + colon + 1 + (value.len() - value.trim_ascii_start().len());
                length = Some(start..start + digits.len());
            } else if name.eq_ignore_ascii_case(b"content-transfer-encoding") {
                let plain = [&b"7bit"[..], b"8bit", b"binary"];
                let value = value.trim_ascii();
                encoded |= !plain.iter().any(|own| value.eq_ignore_ascii_case(own));
            }
        }
        let kind = match disposition {
            Some(value) => kind_of(value, encoded)?,
            None => PartKind::Other,
        };
        Ok(Self { kind, length })
    }
}

/// The lines of a head and where they begin. Only CRLF ends a line, and no line continues another.
fn lines(head: &[u8]) -> Result<Vec<(usize, &[u8])>, FormError> {
    let mut found = Vec::new();
    let mut at = 0;
    for line in head.split(|b| *b == b'\n') {
        let last = at + line.len() == head.len();
        let text = match line.strip_suffix(b"\r") {
            Some(text) if !last => text,
            None if last => line,
            Some(_) | None => return Err(FormError::Head),
        };
        let folded = text.first().is_some_and(|b| matches!(b, b' ' | b'\t'));
        if folded || text.iter().any(|b| matches!(b, b'\r' | 0)) {
            return Err(FormError::Head);
        }
        if !text.is_empty() {
            found.push((at, text));
        }
        at += line.len() + 1;
    }
    Ok(found)
}

fn kind_of(disposition: &[u8], encoded: bool) -> Result<PartKind, FormError> {
    // Some readers take `\"` for a quote, others for a backslash and the end of the text.
    let escaping = Disposition::read(disposition, true);
    let plain = Disposition::read(disposition, false);
    let (Some(escaping), Some(plain)) = (escaping, plain) else {
        return Err(FormError::Head);
    };
    if escaping.name != plain.name || escaping.file != plain.file || escaping.repeats {
        return Err(FormError::Head);
    }
    let Some(name) = escaping.name else {
        return Ok(PartKind::Other);
    };
    if name == b"model" && !escaping.file && !encoded {
        return Ok(PartKind::Model);
    }
    Ok(if is_like_model(&name) {
        PartKind::LikeModel
    } else {
        PartKind::Other
    })
}

/// Whether a reader that ignores case, decodes names or makes lists of `name[]` could see `model`.
fn is_like_model(name: &[u8]) -> bool {
    let decoded: Vec<u8> = percent_decode(name).collect();
    let stem = decoded.split(|b| *b == b'[').next().unwrap_or_default();
    stem.trim_ascii().eq_ignore_ascii_case(b"model")
}

/// The value of a parameter of a header, if it stands there once and in one notation. `value` begins
/// with the `;` before the first parameter.
pub(super) fn only(value: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let mut named = parameters(value, false)?.into_iter();
    let mut named = named.by_ref().filter(|(key, _)| key.starts_with(name));
    let (key, text) = named.next()?;
    (key == name && named.next().is_none()).then_some(text)
}

/// What a `content-disposition` says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Disposition {
    name: Option<Vec<u8>>,
    file: bool,
    /// A name was given twice, or in an extended notation that not every reader knows.
    repeats: bool,
}

impl Disposition {
    fn read(value: &[u8], escapes: bool) -> Option<Self> {
        let end = memchr::memchr(b';', value).unwrap_or(value.len());
        let mut found = Self::default();
        for (key, text) in parameters(&value[end..], escapes)? {
            match key.as_slice() {
                b"name" => found.repeats |= found.name.replace(text).is_some(),
                _ if key.starts_with(b"name*") => found.repeats = true,
                _ => found.file |= key.starts_with(b"filename"),
            }
        }
        Some(found)
    }
}

/// The parameters of a header, their names in lower case.
fn parameters(value: &[u8], escapes: bool) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut rest = value;
    while let Some(parameter) = rest.strip_prefix(b";") {
        let parameter = parameter.trim_ascii_start();
        if parameter.is_empty() {
            return Some(found);
        }
        let equals = memchr::memchr(b'=', parameter)?;
        let key = parameter[..equals].trim_ascii_end();
        if !is_token(key) {
            return None;
        }
        let (text, after) = text(parameter[equals + 1..].trim_ascii_start(), escapes)?;
        found.push((key.to_ascii_lowercase(), text));
        rest = after.trim_ascii_start();
    }
    rest.is_empty().then_some(found)
}

/// A token or a quoted text, and what follows it.
fn text(value: &[u8], escapes: bool) -> Option<(Vec<u8>, &[u8])> {
    let Some(quoted) = value.strip_prefix(b"\"") else {
        let end = memchr::memchr(b';', value).unwrap_or(value.len());
        let token = value[..end].trim_ascii_end();
        return (!token.contains(&b'"')).then(|| (token.to_vec(), &value[end..]));
    };
    let mut out = Vec::new();
    let mut bytes = quoted.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((out, &quoted[at + 1..])),
            b'\\' if escapes => out.push(*bytes.next()?.1),
            _ => out.push(*byte),
        }
    }
    None
}

fn is_token(name: &[u8]) -> bool {
    !name.is_empty()
        && name
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(head: &str) -> Result<PartKind, FormError> {
        PartHead::read(head.as_bytes()).map(|head| head.kind)
    }

    fn form(parameters: &str) -> Result<PartKind, FormError> {
        kind(&format!("Content-Disposition: form-data; {parameters}"))
    }

    #[test]
    fn names_as_clients_write_them() {
        for model in [
            r#"name="model""#,
            "name=model",
            r#" NAME = "model" "#,
            r#"name="model";"#,
        ] {
            assert_eq!(form(model), Ok(PartKind::Model), "{model}");
        }
        for other in [
            r#"name="file"; filename="model""#,
            r#"name="file"; filename="a;b=c\\d.mp3""#,
            r#"name="models""#,
            r#"name="file"; filename*=UTF-8''mod%C3%A9l"#,
            r#"name="image[]"; filename="x.png""#,
            r#"name="""#,
        ] {
            assert_eq!(form(other), Ok(PartKind::Other), "{other}");
        }
        let whole =
            "content-type: text/plain\r\nCONTENT-DISPOSITION: form-data; name=\"model\"\r\nx: y";
        assert_eq!(kind(whole), Ok(PartKind::Model));
        assert_eq!(kind(""), Ok(PartKind::Other));
        assert_eq!(kind("Content-Type: text/plain"), Ok(PartKind::Other));
    }

    #[test]
    fn what_a_careless_reader_takes_for_it() {
        for like in [
            r#"name="Model""#,
            r#"name=MODEL"#,
            r#"name="mod%65l""#,
            r#"name="model[]""#,
            r#"name="model[0]""#,
            r#"name=" model""#,
            r#"name="model"; filename="x""#,
        ] {
            assert_eq!(form(like), Ok(PartKind::LikeModel), "{like}");
        }
        let encoded =
            "Content-Disposition: form-data; name=\"model\"\r\nContent-Transfer-Encoding: base64";
        assert_eq!(kind(encoded), Ok(PartKind::LikeModel));
        let plain =
            "Content-Disposition: form-data; name=\"model\"\r\nContent-Transfer-Encoding: 8BIT";
        assert_eq!(kind(plain), Ok(PartKind::Model));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for twice in [
            r#"name="a"; name="model""#,
            r#"name*=UTF-8''model"#,
            r#"name="x"; name*0="mod"; name*1="el""#,
            r#"name="a\"; filename="; name="model""#,
            r#"name="mo\del""#,
            r#"name="model"#,
            r#"name="model"x"#,
            r#"name=mo"del"#,
            r#"name"#,
        ] {
            assert_eq!(form(twice), Err(FormError::Head), "{twice}");
        }
        for head in [
            "Content-Disposition: form-data;\r\n name=\"model\"",
            "Content-Disposition: form-data; name=\"a\"\nContent-Disposition: form-data; name=\"model\"",
            "Content-Disposition: form-data; name=\"a\"\r\nContent-Disposition: form-data; name=\"model\"",
            "Content-Disposition : form-data; name=\"model\"",
            "no colon",
            "a: b\rc: d",
            "a: b\r",
        ] {
            assert_eq!(kind(head), Err(FormError::Head), "{head:?}");
        }
    }

    #[test]
    fn its_own_length_is_found() {
        let text = "Content-Length:  12 \r\nContent-Disposition: form-data; name=\"model\"";
        let head = PartHead::read(text.as_bytes()).unwrap();
        assert_eq!(&text[head.length.unwrap()], "12");
    }
}
