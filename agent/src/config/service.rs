//! One service of the file: parsed into what the agent works with.

use std::fmt;
use std::time::Duration;

use http::Method;
use ipnet::IpNet;

use super::raw::RawService;
use super::tls::{self, TlsSpec};
use super::url::ServiceUrl;
use super::{ConfigError, Sources, caller, fields, later, optional, parsed, restrictions, stdio};
use crate::caller::CallerRule;
use crate::headers::HeaderRules;
use crate::policy::{Allow, PathRule, Rules, ToolRules};
use crate::rate::RateSpec;
use crate::reach::Reach;
use crate::stdio::StdioSpec;

/// Longest name of a model, in bytes, and of anything else on the wire.
pub(crate) const MAX_MODEL_NAME_BYTES: usize = 256;
/// Models of one service: the wire's limit.
pub(crate) const MAX_MODELS: usize = 1_000;
/// How long a connection to a backend may take, unless configured.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A service, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceDef {
    /// Its name, `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`.
    pub name: String,
    /// What it is.
    pub kind: ServiceKind,
    /// Its backends, at least one where it has no command.
    pub urls: Vec<ServiceUrl>,
    /// The server that the agent runs, in the place of urls.
    pub stdio: Option<StdioSpec>,
    /// Which headers pass, and which are added.
    pub headers: HeaderRules,
    /// Whether it runs.
    pub enabled: bool,
    /// What can be called.
    pub rules: Rules,
    /// Which tools of an MCP server, where the file says anything about them.
    pub tools: Option<ToolRules>,
    /// Its models, where the file names them; else they are discovered.
    pub models: Option<Vec<String>>,
    /// Whose token has to come with a call, where the file says so.
    pub require_caller: Option<CallerRule>,
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

/// `limits: { concurrency, queue, queue_wait, rate }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSpec {
    /// Calls at once; no limit where there is none.
    pub concurrency: Option<u32>,
    /// Calls that may wait.
    pub queue: u32,
    /// How long one may wait.
    pub queue_wait: Duration,
    /// How many may begin in a time.
    pub rate: Option<RateSpec>,
}

impl Default for HealthSpec {
    fn default() -> Self {
        Self {
            path: None,
            every: Duration::from_secs(10),
        }
    }
}

impl Default for LimitSpec {
    fn default() -> Self {
        Self {
            concurrency: None,
            queue: 128,
            queue_wait: Duration::from_secs(10),
            rate: None,
        }
    }
}

impl ServiceDef {
    /// What is asked on our own behalf, with the rules that hold where nothing is said.
    pub(crate) fn our_own(url: ServiceUrl) -> Result<Self, String> {
        let mut def = bare(ServiceKind::Http, "own")?;
        def.urls = vec![url];
        Ok(def)
    }

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
    let mut def = bare(kind, name)?;
    def.urls = vec![ServiceUrl::parse(url, kind)?];
    Ok(def)
}

/// An MCP server of a flag: `NAME=command args`.
pub(super) fn from_command(text: &str) -> Result<ServiceDef, String> {
    let (name, words) = stdio::from_flag(text)?;
    let mut def = bare(ServiceKind::Mcp, name)?;
    def.stdio = Some(StdioSpec::new(words));
    Ok(def)
}

/// A service of which nothing else is said.
fn bare(kind: ServiceKind, name: &str) -> Result<ServiceDef, String> {
    Ok(ServiceDef {
        name: service_name(name)?,
        kind,
        urls: Vec::new(),
        stdio: None,
        headers: HeaderRules::new(Vec::new(), Vec::new())
            .map_err(|(name, error)| format!("{name} {error}"))?,
        rules: match kind {
            ServiceKind::Model => Rules::Model,
            ServiceKind::Mcp => Rules::Mcp,
            ServiceKind::Http => Rules::Http(vec![read_all()?]),
        },
        models: None,
        enabled: true,
        tools: None,
        require_caller: None,
        health: HealthSpec::default(),
        limits: LimitSpec::default(),
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
        upgrade: Vec::new(),
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
    let stdio = stdio::parse(raw, kind, sources)?;
    let require_caller = caller::parse(raw.require_caller.as_ref(), sources)?;
    Ok(ServiceDef {
        name,
        kind,
        urls: match stdio {
            Some(_) => Vec::new(),
            None => fields::urls(raw, kind, sources)?,
        },
        stdio,
        headers: match &require_caller {
            Some(rule) => fields::headers(raw, sources)?.with_private(rule.header.clone()),
            None => fields::headers(raw, sources)?,
        },
        rules: fields::rules(raw, kind, sources)?,
        enabled: raw.enabled.as_ref().is_none_or(|key| key.value),
        tools: restrictions::tools(raw, kind, sources)?,
        require_caller: require_caller.clone(),
        models: fields::models(raw, kind, sources)?,
        health: fields::health(raw.health.as_ref(), sources)?,
        limits: fields::limits(raw.limits.as_ref(), sources)?,
        networks: fields::networks(raw, sources)?,
        tls: tls::parse(raw.tls.as_ref(), sources)?,
        connect_timeout: optional(raw.connect_timeout.as_ref(), sources, fields::positive)?
            .unwrap_or(DEFAULT_CONNECT_TIMEOUT),
    })
}

fn refuse_later(raw: &RawService) -> Result<(), ConfigError> {
    later("proxy", raw.proxy.as_ref())
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
