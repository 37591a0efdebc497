//! The keys of a service, each parsed where it stands.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;

use super::raw::{RawAllow, RawHealth, RawLimits, RawService};
use super::service::{HealthSpec, LimitSpec, MAX_MODEL_NAME_BYTES, MAX_MODELS, ServiceKind};
use super::url::ServiceUrl;
use super::{ConfigError, Sources, optional, parsed, restrictions, units, value, values};
use crate::headers::HeaderRules;
use crate::policy::{Allow, PathRule, Rules};

/// Backends of one service.
const MAX_URLS: usize = 64;
/// Longest name of a protocol, in bytes.
const MAX_PROTOCOL: usize = 64;
pub(super) fn urls(
    raw: &RawService,
    kind: ServiceKind,
    sources: &Sources,
) -> Result<Vec<ServiceUrl>, ConfigError> {
    match (&raw.url, &raw.urls) {
        (Some(url), None) => Ok(vec![parsed(url, sources, |t| ServiceUrl::parse(t, kind))?]),
        (None, Some(list)) if kind == ServiceKind::Mcp && list.value.len() > 1 => {
            Err(ConfigError::at(
                list,
                "an mcp service has one url: a session lives on the server that opened it",
            ))
        }
        (None, Some(list)) if list.value.is_empty() || list.value.len() > MAX_URLS => Err(
            ConfigError::at(list, format!("`urls` takes 1 to {MAX_URLS}")),
        ),
        (None, Some(list)) => list
            .value
            .iter()
            .map(|url| parsed(url, sources, |t| ServiceUrl::parse(t, kind)))
            .collect(),
        (Some(_), Some(list)) => Err(ConfigError::at(list, "either `url` or `urls`, not both")),
        (None, None) => Err(ConfigError::at(
            &raw.name,
            format!("the service `{}` has no `url`", raw.name.value),
        )),
    }
}

pub(super) fn headers(raw: &RawService, sources: &Sources) -> Result<HeaderRules, ConfigError> {
    let name = |text: &str| {
        HeaderName::try_from(text).map_err(|_| format!("`{text}` is not the name of a header"))
    };
    let mut inject = Vec::new();
    for (key, text) in &raw.headers {
        let key = name(key).map_err(|message| ConfigError::at(text, message))?;
        // The value is a secret: it is not repeated in the message.
        let content = HeaderValue::try_from(value(text, sources)?)
            .map_err(|_| ConfigError::at(text, format!("the value of `{key}` is not allowed")))?;
        inject.push((key, content));
    }
    let pass = raw
        .pass
        .iter()
        .map(|text| parsed(text, sources, name))
        .collect::<Result<_, _>>()?;
    HeaderRules::new(inject, pass)
        .map_err(|(name, error)| ConfigError::at(&raw.name, format!("the header `{name}` {error}")))
}

pub(super) fn rules(
    raw: &RawService,
    kind: ServiceKind,
    sources: &Sources,
) -> Result<Rules, ConfigError> {
    match (kind, &raw.allow) {
        (ServiceKind::Model, None) => Ok(Rules::Model),
        (ServiceKind::Mcp, None) => Ok(Rules::Mcp),
        (ServiceKind::Model | ServiceKind::Mcp, Some(allow)) => Err(ConfigError::at(
            allow,
            "`allow` is for http services; model and mcp have their own fixed rules",
        )),
        (ServiceKind::Http, Some(allow)) if !allow.value.is_empty() => {
            let entries = allow.value.iter();
            let mut allowed = entries
                .map(|entry| allow_entry(entry, sources))
                .collect::<Result<Vec<_>, _>>()?;
            if restrictions::is_read_only(raw) {
                restrictions::reading_only(&mut allowed, allow)?;
            }
            Ok(Rules::Http(allowed))
        }
        (ServiceKind::Http, _) => Err(ConfigError::at(
            &raw.name,
            "an http service needs `allow`: without it everything could be called",
        )),
    }
}

fn allow_entry(raw: &RawAllow, sources: &Sources) -> Result<Allow, ConfigError> {
    let methods = raw
        .methods
        .iter()
        .map(|text| parsed(text, sources, method))
        .collect::<Result<_, _>>()?;
    let paths = raw
        .paths
        .iter()
        .map(|text| {
            parsed(text, sources, |t| {
                PathRule::parse(t).map_err(|error| format!("`{t}`: {error}"))
            })
        })
        .collect::<Result<_, _>>()?;
    let upgrade = raw
        .upgrade
        .iter()
        .map(|text| parsed(text, sources, protocol))
        .collect::<Result<_, _>>()?;
    Ok(Allow {
        methods,
        paths,
        upgrade,
    })
}

/// A protocol that a call may change to. One that carries HTTP or TLS again would carry requests that
/// nothing has compared with `allow`.
fn protocol(text: &str) -> Result<String, String> {
    let name = text.to_ascii_lowercase();
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&b);
    if name.is_empty() || name.len() > MAX_PROTOCOL || !name.bytes().all(is_token) {
        return Err(format!("`{text}` is not the name of a protocol"));
    }
    let stem = name.split('/').next().unwrap_or_default();
    if ["h2c", "h2", "h3", "http", "tls"].contains(&stem) {
        return Err(format!(
            "`{text}` would carry calls that nothing compares with `allow`"
        ));
    }
    Ok(name)
}

fn method(text: &str) -> Result<Method, String> {
    let method: Method = text
        .parse()
        .map_err(|_| format!("`{text}` is not a method"))?;
    match method {
        Method::CONNECT | Method::TRACE => Err(format!("{method} is never carried")),
        ref other if other.as_str() != other.as_str().to_ascii_uppercase() => {
            Err(format!("`{text}`: methods are written in capitals"))
        }
        other => Ok(other),
    }
}

pub(super) fn models(
    raw: &RawService,
    kind: ServiceKind,
    sources: &Sources,
) -> Result<Option<Vec<String>>, ConfigError> {
    let Some(list) = &raw.models else {
        return Ok(None);
    };
    if kind != ServiceKind::Model {
        return Err(ConfigError::at(
            &raw.name,
            "`models` is for model services only",
        ));
    }
    let models = values(list, sources)?;
    let bad = |name: &&String| name.is_empty() || name.len() > MAX_MODEL_NAME_BYTES;
    if models.len() > MAX_MODELS || models.iter().any(|name| bad(&name)) {
        return Err(ConfigError::at(
            &raw.name,
            format!("at most {MAX_MODELS} models, of 1 to {MAX_MODEL_NAME_BYTES} bytes each"),
        ));
    }
    Ok(Some(models))
}

pub(super) fn health(
    raw: Option<&RawHealth>,
    sources: &Sources,
) -> Result<HealthSpec, ConfigError> {
    let well = HealthSpec::default();
    let Some(raw) = raw else {
        return Ok(well);
    };
    Ok(HealthSpec {
        path: optional(raw.path.as_ref(), sources, |text| {
            let ok = text.starts_with('/') && http::uri::PathAndQuery::try_from(text).is_ok();
            ok.then(|| text.to_owned())
                .ok_or_else(|| format!("`{text}` is not a path"))
        })?,
        every: optional(raw.every.as_ref(), sources, positive)?.unwrap_or(well.every),
    })
}

pub(super) fn limits(raw: Option<&RawLimits>, sources: &Sources) -> Result<LimitSpec, ConfigError> {
    let default = LimitSpec::default();
    let Some(raw) = raw else {
        return Ok(default);
    };
    if let Some(zero) = raw.concurrency.as_ref().filter(|c| c.value == 0) {
        return Err(ConfigError::at(zero, "0 calls at once would serve none"));
    }
    Ok(LimitSpec {
        concurrency: raw.concurrency.as_ref().map(|c| c.value),
        queue: raw.queue.as_ref().map_or(default.queue, |q| q.value),
        queue_wait: optional(raw.queue_wait.as_ref(), sources, units::duration)?
            .unwrap_or(default.queue_wait),
        rate: optional(raw.rate.as_ref(), sources, units::rate)?,
    })
}

pub(super) fn networks(
    raw: &RawService,
    sources: &Sources,
) -> Result<Option<Vec<IpNet>>, ConfigError> {
    let Some(list) = &raw.networks else {
        return Ok(None);
    };
    list.iter()
        .map(|text| {
            parsed(text, sources, |t| {
                t.parse::<IpNet>()
                    .or_else(|_| t.parse::<std::net::IpAddr>().map(IpNet::from))
                    .map_err(|_| format!("`{t}` is not a network; write for example 10.0.0.0/8"))
            })
        })
        .collect::<Result<_, _>>()
        .map(Some)
}

pub(super) fn positive(text: &str) -> Result<Duration, String> {
    let duration = units::duration(text)?;
    if duration.is_zero() {
        return Err("has to be more than zero".to_owned());
    }
    Ok(duration)
}
