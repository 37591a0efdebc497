//! One service of the file: parsed into what the agent works with.

use std::fmt;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;

use super::raw::{RawAllow, RawHealth, RawLimits, RawService};
use super::tls::{self, TlsSpec};
use super::url::ServiceUrl;
use super::{ConfigError, Sources, later, optional, parsed, units, value, values};
use crate::headers::HeaderRules;
use crate::policy::{Allow, PathRule, Rules};
use crate::reach::Reach;

/// Longest name of a model, in bytes, and of anything else on the wire.
pub(crate) const MAX_MODEL_NAME_BYTES: usize = 256;
/// Models of one service: the wire's limit.
pub(crate) const MAX_MODELS: usize = 1_000;
/// Backends of one service.
const MAX_URLS: usize = 64;
/// How long a connection to a backend may take, unless configured.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a backend is probed, unless configured.
const DEFAULT_PROBE_EVERY: Duration = Duration::from_secs(10);
/// Calls that may wait for their turn, unless configured.
const DEFAULT_QUEUE: u32 = 128;
/// How long one may wait, unless configured.
const DEFAULT_QUEUE_WAIT: Duration = Duration::from_secs(10);

/// A service, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceDef {
    /// Its name, `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`.
    pub name: String,
    /// What it is.
    pub kind: ServiceKind,
    /// Its backends, at least one.
    pub urls: Vec<ServiceUrl>,
    /// Which headers pass, and which are added.
    pub headers: HeaderRules,
    /// What can be called.
    pub rules: Rules,
    /// Its models, where the file names them; else they are discovered.
    pub models: Option<Vec<String>>,
    /// How it is probed.
    pub health: HealthSpec,
    /// How many calls at once.
    pub limits: LimitSpec,
    /// The networks that it may connect to, where the file names any.
    pub networks: Option<Vec<IpNet>>,
    /// Private CA, client certificate, SNI.
    pub tls: TlsSpec,
    /// Bound of one connection attempt.
    pub connect_timeout: Duration,
}

/// What a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceKind {
    /// Speaks a model API.
    Model,
    /// An MCP server over HTTP.
    Mcp,
    /// Anything else that speaks HTTP.
    Http,
}

/// `health: { path, every }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSpec {
    /// A path of the backend's origin that answers 2xx while it is well.
    pub path: Option<String>,
    /// How often.
    pub every: Duration,
}

/// `limits: { concurrency, queue, queue_wait }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSpec {
    /// Calls at once; no limit where there is none.
    pub concurrency: Option<u32>,
    /// Calls that may wait.
    pub queue: u32,
    /// How long one may wait.
    pub queue_wait: Duration,
}

impl ServiceDef {
    /// Where one of its backends may be: the rule for every address connected to.
    pub fn reach(&self, url: &ServiceUrl) -> Reach {
        Reach {
            networks: self.networks.clone(),
            loopback: url.loopback,
        }
    }
}

impl ServiceKind {
    /// The word of the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Mcp => "mcp",
            Self::Http => "http",
        }
    }
}

impl fmt::Display for ServiceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A service of a flag: `NAME=URL`.
pub(super) fn from_flag(kind: ServiceKind, text: &str) -> Result<ServiceDef, String> {
    let (name, url) = text
        .split_once('=')
        .ok_or("write NAME=URL, for example llama=http://localhost:8000/v1")?;
    Ok(ServiceDef {
        name: service_name(name)?,
        kind,
        urls: vec![ServiceUrl::parse(url, kind)?],
        headers: HeaderRules::new(Vec::new(), Vec::new())
            .map_err(|(name, error)| format!("{name} {error}"))?,
        rules: match kind {
            ServiceKind::Model => Rules::Model,
            ServiceKind::Mcp => Rules::Mcp,
            ServiceKind::Http => Rules::Http(vec![read_all()?]),
        },
        models: None,
        health: HealthSpec {
            path: None,
            every: DEFAULT_PROBE_EVERY,
        },
        limits: LimitSpec {
            concurrency: None,
            queue: DEFAULT_QUEUE,
            queue_wait: DEFAULT_QUEUE_WAIT,
        },
        networks: None,
        tls: TlsSpec::default(),
        connect_timeout: DEFAULT_CONNECT_TIMEOUT,
    })
}

/// What a flag allows of an http service: reading. Anything more stands in a file.
fn read_all() -> Result<Allow, String> {
    Ok(Allow {
        methods: FLAG_METHODS.to_vec(),
        paths: vec![PathRule::parse(FLAG_PATHS).map_err(|error| error.to_string())?],
    })
}

/// The methods that `--http` allows.
pub(super) const FLAG_METHODS: [Method; 2] = [Method::GET, Method::HEAD];
/// The paths that `--http` allows.
pub(super) const FLAG_PATHS: &str = "/**";

pub(super) fn parse(raw: &RawService, sources: &Sources) -> Result<ServiceDef, ConfigError> {
    refuse_later(raw)?;
    let name = parsed(&raw.name, sources, service_name)?;
    let kind = parsed(&raw.kind, sources, |text| match text {
        "model" => Ok(ServiceKind::Model),
        "mcp" => Ok(ServiceKind::Mcp),
        "http" => Ok(ServiceKind::Http),
        _ => Err(format!("`{text}` is none of model, mcp, http")),
    })?;
    Ok(ServiceDef {
        name,
        kind,
        urls: urls(raw, kind, sources)?,
        headers: headers(raw, sources)?,
        rules: rules(raw, kind, sources)?,
        models: models(raw, kind, sources)?,
        health: health(raw.health.as_ref(), sources)?,
        limits: limits(raw.limits.as_ref(), sources)?,
        networks: networks(raw, sources)?,
        tls: tls::parse(raw.tls.as_ref(), sources)?,
        connect_timeout: optional(raw.connect_timeout.as_ref(), sources, positive)?
            .unwrap_or(DEFAULT_CONNECT_TIMEOUT),
    })
}

fn refuse_later(raw: &RawService) -> Result<(), ConfigError> {
    for (key, found) in [
        ("tools", &raw.tools),
        ("read_only", &raw.read_only),
        ("require_caller", &raw.require_caller),
        ("proxy", &raw.proxy),
        ("command", &raw.command),
        ("args", &raw.args),
        ("env", &raw.env),
        ("cwd", &raw.cwd),
        ("user", &raw.user),
        ("instances", &raw.instances),
        ("enabled", &raw.enabled),
    ] {
        later(key, found.as_ref())?;
    }
    let rate = raw.limits.as_ref().and_then(|limits| limits.rate.as_ref());
    later("limits.rate", rate)
}

fn service_name(text: &str) -> Result<String, String> {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    let ok = matches!(bytes, [first, ..] if plain(*first))
        && matches!(bytes, [.., last] if plain(*last))
        && bytes.len() <= 63
        && bytes.iter().all(|c| plain(*c) || *c == b'-');
    if ok {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is not a name: lower-case letters, digits and inner hyphens, at most 63"
        ))
    }
}

fn urls(
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

fn headers(raw: &RawService, sources: &Sources) -> Result<HeaderRules, ConfigError> {
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

fn rules(raw: &RawService, kind: ServiceKind, sources: &Sources) -> Result<Rules, ConfigError> {
    match (kind, &raw.allow) {
        (ServiceKind::Model, None) => Ok(Rules::Model),
        (ServiceKind::Mcp, None) => Ok(Rules::Mcp),
        (ServiceKind::Model | ServiceKind::Mcp, Some(allow)) => Err(ConfigError::at(
            allow,
            "`allow` is for http services; model and mcp have their own fixed rules",
        )),
        (ServiceKind::Http, Some(allow)) if !allow.value.is_empty() => allow
            .value
            .iter()
            .map(|entry| allow_entry(entry, sources))
            .collect::<Result<_, _>>()
            .map(Rules::Http),
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
    Ok(Allow { methods, paths })
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

fn models(
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

fn health(raw: Option<&RawHealth>, sources: &Sources) -> Result<HealthSpec, ConfigError> {
    let default = RawHealth::default();
    let raw = raw.unwrap_or(&default);
    Ok(HealthSpec {
        path: optional(raw.path.as_ref(), sources, |text| {
            let ok = text.starts_with('/') && http::uri::PathAndQuery::try_from(text).is_ok();
            ok.then(|| text.to_owned())
                .ok_or_else(|| format!("`{text}` is not a path"))
        })?,
        every: optional(raw.every.as_ref(), sources, positive)?.unwrap_or(DEFAULT_PROBE_EVERY),
    })
}

fn limits(raw: Option<&RawLimits>, sources: &Sources) -> Result<LimitSpec, ConfigError> {
    let default = RawLimits::default();
    let raw = raw.unwrap_or(&default);
    if let Some(zero) = raw.concurrency.as_ref().filter(|c| c.value == 0) {
        return Err(ConfigError::at(zero, "0 calls at once would serve none"));
    }
    Ok(LimitSpec {
        concurrency: raw.concurrency.as_ref().map(|c| c.value),
        queue: raw.queue.as_ref().map_or(DEFAULT_QUEUE, |q| q.value),
        queue_wait: optional(raw.queue_wait.as_ref(), sources, units::duration)?
            .unwrap_or(DEFAULT_QUEUE_WAIT),
    })
}

fn networks(raw: &RawService, sources: &Sources) -> Result<Option<Vec<IpNet>>, ConfigError> {
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

fn positive(text: &str) -> Result<Duration, String> {
    let duration = units::duration(text)?;
    if duration.is_zero() {
        return Err("has to be more than zero".to_owned());
    }
    Ok(duration)
}
