//! Multipart uploads: the `model` part is found and its text replaced; everything else passes as it
//! was written, and what comes behind that part passes while it comes.
//!
//! No crate for forms does this: they hand out decoded parts, and a form that is written again is not
//! byte for byte the caller's.

mod body;
mod part;
mod scan;

pub use body::{Form, FormUp};

use http::{HeaderMap, header::CONTENT_TYPE};

use crate::{
    error::{CallerCode, Problem},
    held::MAX_HELD_BODY,
};

/// Longest boundary (RFC 2046, section 5.1.1), in bytes.
const MAX_BOUNDARY: usize = 70;

/// Why a form is refused. None of these repeats bytes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// The `content-type` names no boundary, or not just one.
    #[error("The `content-type` does not name one boundary.")]
    Boundary,
    /// A boundary stands where readers of forms do not agree what it means.
    #[error("The form's boundary stands where it is neither a delimiter nor just text.")]
    Delimiter,
    /// The head of a part can be read in more than one way.
    #[error("The head of a part of the form is malformed.")]
    Head,
    /// The head of a part is too large.
    #[error("The head of a part of the form is larger than 8 KiB.")]
    HeadTooLarge,
    /// There are too many parts.
    #[error("The form has more than 1,000 parts.")]
    TooManyParts,
    /// More than one part `model`.
    #[error("The form has the part `model` more than once.")]
    Duplicate,
    /// A part that some readers would take for `model`.
    #[error("A part of the form has a name or encoding that could be taken for `model`.")]
    LikeModel,
    /// The part `model` is empty, too long, or not text.
    #[error("The part `model` must be a text of 1 to 512 bytes.")]
    NotText,
    /// No part `model`.
    #[error("The form has no part `model`.")]
    Missing,
    /// Too much comes before the part `model`.
    #[error("The part `model` does not come within the first {} MiB of the form: put it before the files.", MAX_HELD_BODY / (1024 * 1024))]
    TooLate,
    /// The form ends before its last delimiter.
    #[error("The form ends before its last boundary.")]
    Incomplete,
}

impl From<FormError> for Problem {
    fn from(error: FormError) -> Self {
        let code = match error {
            FormError::TooLate => CallerCode::BodyTooLarge,
            FormError::Boundary
            | FormError::Delimiter
            | FormError::Head
            | FormError::HeadTooLarge
            | FormError::TooManyParts
            | FormError::Duplicate
            | FormError::LikeModel
            | FormError::NotText
            | FormError::Missing
            | FormError::Incomplete => CallerCode::BadRequest,
        };
        // The rest of the form is not read.
        Self::new(code, error.to_string()).about("model").closing()
    }
}

/// The boundary of a form; nothing where the body is something else.
pub fn boundary(headers: &HeaderMap) -> Result<Option<Vec<u8>>, FormError> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let Some(first) = types.next() else {
        return Ok(None);
    };
    let value = first.as_bytes();
    let end = memchr::memchr(b';', value).unwrap_or(value.len());
    if !value[..end]
        .trim_ascii()
        .eq_ignore_ascii_case(b"multipart/form-data")
    {
        return Ok(None);
    }
    let found = part::only(&value[end..], b"boundary").filter(|text| is_boundary(text));
    match (found, types.next()) {
        (Some(boundary), None) => Ok(Some(boundary)),
        (_, _) => Err(FormError::Boundary),
    }
}

fn is_boundary(text: &[u8]) -> bool {
    let permitted = |b: &u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(b);
    (1..=MAX_BOUNDARY).contains(&text.len()) && text.iter().all(permitted) && !text.ends_with(b" ")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(types: &[&str]) -> Result<Option<Vec<u8>>, FormError> {
        let values = types
            .iter()
            .filter_map(|kind| HeaderValue::from_str(kind).ok());
        boundary(&values.map(|value| (CONTENT_TYPE, value)).collect())
    }

    #[test]
    fn boundaries() {
        for (kind, wanted) in [
            ("multipart/form-data; boundary=abc", "abc"),
            (
                "Multipart/Form-Data;charset=utf-8; Boundary=\"a b:c\" ",
                "a b:c",
            ),
            (
                "multipart/form-data; boundary=----WebKitFormBoundaryX9",
                "----WebKitFormBoundaryX9",
            ),
        ] {
            assert_eq!(of(&[kind]), Ok(Some(wanted.into())), "{kind}");
        }
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["application/json"]), Ok(None));
        for kind in [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=a; boundary=b",
            "multipart/form-data; boundary*=UTF-8''a",
            "multipart/form-data; boundary=a; boundary*0=b",
            "multipart/form-data; boundary=\"a\\b\"",
            "multipart/form-data; boundary=\"a",
            "multipart/form-data; boundary=\"a \"",
            &format!("multipart/form-data; boundary={}", "a".repeat(71)),
        ] {
            assert_eq!(of(&[kind]), Err(FormError::Boundary), "{kind}");
        }
        let twice = ["multipart/form-data; boundary=a"; 2];
        assert_eq!(of(&twice), Err(FormError::Boundary));
    }
}
