//! `require_caller`: what the end user's token has to say.

use std::collections::BTreeMap;
use std::path::PathBuf;

use http::HeaderName;
use http::header::AUTHORIZATION;
use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::Spanned;

use super::raw::Text;
use super::service::{ServiceDef, ServiceKind};
use super::url::{Scheme, ServiceUrl};
use super::{ConfigError, Sources, optional, parsed, value, values};
use crate::caller::{CallerRule, KeySource};

/// `require_caller: { issuer, jwks, audience, claims, header }`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawCaller {
    issuer: Text,
    jwks: Text,
    audience: Spanned<Vec<Text>>,
    #[serde(default)]
    claims: BTreeMap<String, Spanned<RawClaim>>,
    header: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RawClaim {
    Many(Vec<Value>),
    One(Value),
}

pub(super) fn parse(
    raw: Option<&Spanned<RawCaller>>,
    sources: &Sources,
) -> Result<Option<CallerRule>, ConfigError> {
    let Some(place) = raw else {
        return Ok(None);
    };
    let raw = &place.value;
    let audience = values(&raw.audience.value, sources)?;
    if audience.is_empty() {
        return Err(ConfigError::at(
            &raw.audience,
            "without an audience a token for anything else would do",
        ));
    }
    Ok(Some(CallerRule {
        issuer: value(&raw.issuer, sources)?,
        keys: parsed(&raw.jwks, sources, source)?,
        audience,
        claims: raw
            .claims
            .iter()
            .map(|(name, claim)| Ok((name.clone(), wanted(claim)?)))
            .collect::<Result<_, ConfigError>>()?,
        header: optional(raw.header.as_ref(), sources, header)?.unwrap_or(AUTHORIZATION),
    }))
}

fn source(text: &str) -> Result<KeySource, String> {
    if text.starts_with('/') {
        return Ok(KeySource::File(PathBuf::from(text)));
    }
    let url = ServiceUrl::parse(text, ServiceKind::Mcp)?;
    match url.scheme {
        Scheme::Http if !url.loopback => {
            Err("keys that come over plain http prove nothing; write https".to_owned())
        }
        Scheme::Http | Scheme::Https => Ok(KeySource::Url(Box::new(ServiceDef::our_own(url)?))),
    }
}

fn wanted(claim: &Spanned<RawClaim>) -> Result<Vec<Value>, ConfigError> {
    let values = match &claim.value {
        RawClaim::Many(values) => values.clone(),
        RawClaim::One(value) => vec![value.clone()],
    };
    let is_plain =
        |value: &Value| value.is_string() || value.is_boolean() || value.is_i64() || value.is_u64();
    if values.is_empty() || !values.iter().all(is_plain) {
        return Err(ConfigError::at(
            claim,
            "a claim is a text, a number, true or false, or a list of them",
        ));
    }
    Ok(values)
}

fn header(text: &str) -> Result<HeaderName, String> {
    let name =
        HeaderName::try_from(text).map_err(|_| format!("`{text}` is not the name of a header"))?;
    if name.as_str().starts_with("x-culvert-") || name.as_str().contains('_') {
        return Err(format!("`{text}` does not come through a gateway"));
    }
    Ok(name)
}
