//! Multipart forms, read as JSON: what a field says, and of a file its name, length and digest.

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use serde_json::{Map, Value, json};

/// The fields of a form as an object; a field that comes several times is a list. `None` where it is no well-formed form.
pub(super) fn to_json(content_type: &str, body: &[u8]) -> Option<Value> {
    let boundary = content_type.split(';').skip(1).find_map(|parameter| {
        let value = parameter.trim().strip_prefix("boundary=")?;
        Some(value.trim_matches('"').to_owned())
    })?;
    let mut fields: Map<String, Value> = Map::new();
    for part in parts(body, &boundary)? {
        let (name, value) = field(part)?;
        match fields.get_mut(&name) {
            None => {
                fields.insert(name, value);
            }
            Some(Value::Array(several)) => several.push(value),
            Some(one) => *one = json!([one.take(), value]),
        }
    }
    Some(Value::Object(fields))
}

/// What stands between the delimiters (RFC 2046, section 5.1.1).
fn parts<'a>(body: &'a [u8], boundary: &str) -> Option<Vec<&'a [u8]>> {
    let delimiter = format!("--{boundary}");
    let mut rest = body.strip_prefix(delimiter.as_bytes())?;
    let next = format!("\r\n{delimiter}");
    let mut parts = Vec::new();
    while !rest.starts_with(b"--") {
        rest = rest.strip_prefix(b"\r\n")?;
        let end = find(rest, next.as_bytes())?;
        parts.push(&rest[..end]);
        rest = &rest[end + next.len()..];
    }
    Some(parts)
}

fn field(part: &[u8]) -> Option<(String, Value)> {
    let head_end = find(part, b"\r\n\r\n")?;
    let head = std::str::from_utf8(&part[..head_end]).ok()?;
    let content = &part[head_end + 4..];
    let line = |wanted: &str| {
        head.split("\r\n").find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    };
    let disposition = line("content-disposition")?;
    let name = parameter(disposition, "name")?;
    let value = match parameter(disposition, "filename") {
        None => json!(String::from_utf8_lossy(content)),
        Some(file) => {
            let hash = digest::digest(&digest::SHA256, content);
            json!({"file": file, "type": line("content-type"), "bytes": content.len(), "sha256": HEXLOWER.encode(hash.as_ref())})
        }
    };
    Some((name.trim_end_matches("[]").to_owned(), value))
}

fn parameter(disposition: &str, wanted: &str) -> Option<String> {
    disposition.split(';').find_map(|parameter| {
        let (name, value) = parameter.trim().split_once('=')?;
        (name == wanted).then(|| value.trim_matches('"').to_owned())
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_files() {
        let body = b"--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b\r\n\
            Content-Disposition: form-data; name=\"image[]\"; filename=\"a.png\"\r\nContent-Type: image/png\r\n\r\n\r\n--\0\r\n--b\r\n\
            content-disposition: form-data; name=\"image[]\"; filename=\"b.png\"\r\n\r\n\r\n--b--\r\n";
        let form = to_json("multipart/form-data; boundary=b", body).unwrap();
        assert_eq!(form["model"], "m");
        assert_eq!(form["image"][0]["bytes"], 5);
        assert_eq!(form["image"][0]["type"], "image/png");
        assert_eq!(form["image"][1]["file"], "b.png");
        assert_eq!(form["image"][1]["bytes"], 0);
    }

    #[test]
    fn what_is_no_form() {
        for (kind, body) in [
            ("multipart/form-data", &b"--b--"[..]),
            ("multipart/form-data; boundary=b", b"--c--"),
            ("multipart/form-data; boundary=b", b"--b\r\nno end"),
            (
                "multipart/form-data; boundary=b",
                b"--b\r\n\r\nno name\r\n--b--",
            ),
        ] {
            assert_eq!(to_json(kind, body), None, "{kind} {body:?}");
        }
    }
}
