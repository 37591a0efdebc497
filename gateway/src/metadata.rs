//! `x-tfy-metadata`: what a caller says about a request, and what the plane adds to it.

use std::collections::BTreeMap;

use culvert_certs::name::{Region, Zone};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::error::{CallerCode, Problem};

/// The header, both ways.
pub const METADATA: HeaderName = HeaderName::from_static("x-tfy-metadata");
/// The region of the plane that took the request.
const REGION: &str = "tfy_gateway_region";
/// The zone of the plane that took the request.
const ZONE: &str = "tfy_gateway_zone";
/// Prefixes of keys that only a gateway may write.
const OURS: [&str; 2] = ["tfy_", "culvert_"];
/// Entries of one request: each is matched by rules and stored in its record.
const ENTRIES: usize = 64;
/// Characters of a value, as other gateways of this header have it; a key is bound likewise.
const CHARACTERS: usize = 128;

/// The metadata of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(BTreeMap<String, String>);

impl Metadata {
    /// Reads the caller's header, drops what callers may not say, and adds where we are.
    pub fn read(headers: &HeaderMap, region: &Region, zone: &Zone) -> Result<Self, Problem> {
        let mut values = headers.get_all(METADATA).iter();
        let mut entries = match (values.next(), values.next()) {
            (None, _) => BTreeMap::new(),
            (Some(value), None) => parse(value)?,
            (Some(_), Some(_)) => return Err(refused("is sent more than once")),
        };
        entries.retain(|key, _| !OURS.iter().any(|prefix| key.starts_with(prefix)));
        entries.insert(REGION.into(), region.to_string());
        entries.insert(ZONE.into(), zone.to_string());
        Ok(Self(entries))
    }

    /// The entries, sorted by key.
    pub const fn entries(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// The header for the agent: JSON in ASCII.
    pub fn header(&self) -> Option<HeaderValue> {
        let json = serde_json::to_string(&self.0).ok()?;
        let mut ascii = String::with_capacity(json.len());
        for c in json.chars() {
            if c.is_ascii() {
                ascii.push(c);
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
        HeaderValue::from_str(&ascii).ok()
    }
}

fn parse(value: &HeaderValue) -> Result<BTreeMap<String, String>, Problem> {
    let entries: BTreeMap<String, String> = serde_json::from_slice(value.as_bytes())
        .map_err(|_| refused("is not a JSON object of strings"))?;
    if entries.len() > ENTRIES {
        return Err(refused("has more than 64 entries"));
    }
    let long = |text: &String| text.chars().count() > CHARACTERS;
    if entries.iter().any(|(key, value)| long(key) || long(value)) {
        return Err(refused("has a key or value of more than 128 characters"));
    }
    Ok(entries)
}

fn refused(why: &str) -> Problem {
    Problem::new(
        CallerCode::BadRequest,
        format!("The header `x-tfy-metadata` {why}."),
    )
    .about("x-tfy-metadata")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(METADATA, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn place() -> (Region, Zone) {
        ("US".parse().unwrap(), "ORF".parse().unwrap())
    }

    fn read(values: &[&str]) -> Result<Metadata, Problem> {
        let (region, zone) = place();
        Metadata::read(&headers(values), &region, &zone)
    }

    #[test]
    fn every_request_says_where_it_entered() {
        let header = read(&[]).unwrap().header().unwrap();
        assert_eq!(
            header,
            r#"{"tfy_gateway_region":"US","tfy_gateway_zone":"ORF"}"#
        );
    }

    #[test]
    fn ours_overwrite_and_reserved_keys_are_dropped() {
        let sent =
            r#"{"team":"a","tfy_gateway_region":"EU","tfy_x":"1","culvert_y":"2","tfyx":"3"}"#;
        let metadata = read(&[sent]).unwrap();
        let pairs: Vec<_> = metadata
            .entries()
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        assert_eq!(
            pairs,
            [
                "team=a",
                "tfy_gateway_region=US",
                "tfy_gateway_zone=ORF",
                "tfyx=3"
            ]
        );
    }

    #[test]
    fn text_beyond_ascii_survives() {
        let metadata = read(&[r#"{"name":"Zoë 😀"}"#]).unwrap();
        let header = metadata.header().unwrap();
        assert!(header.to_str().is_ok());
        let back: BTreeMap<String, String> = serde_json::from_slice(header.as_bytes()).unwrap();
        assert_eq!(&back, metadata.entries());
    }

    #[test]
    fn what_is_not_strings_is_refused() {
        let many: BTreeMap<String, String> =
            (0..65).map(|i| (i.to_string(), String::new())).collect();
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(129));
        for bad in [
            "",
            "x",
            "[]",
            r#"{"a":1}"#,
            r#"{"a":null}"#,
            &serde_json::to_string(&many).unwrap(),
            &long,
        ] {
            assert_eq!(
                read(&[bad]).unwrap_err().code(),
                CallerCode::BadRequest,
                "{bad}"
            );
        }
        assert!(read(&["{}", "{}"]).is_err());
    }
}
