//! The `edge` section: what callers meet.

use std::{fmt::Display, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use culvert_control::resource::{Span, TargetPattern};
use serde::{Deserialize, Deserializer, de};

use crate::{
    server::{Bounds, MAX_CONNECTIONS},
    settings::{EdgeSpec, KEEP_ALIVE},
};

/// Shortest silence that is filled with comments: below, they would be most of a slow stream.
const MIN_KEEP_ALIVE: Duration = Duration::from_secs(1);

/// What callers meet.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EdgeFile {
    /// Plain HTTP for callers behind a balancer that ends TLS; off by default.
    pub plain_listen: Option<SocketAddr>,
    /// Connections of callers at once.
    pub max_connections: usize,
    /// Connections of one source address over TLS; by default a quarter of all.
    pub max_connections_per_source: Option<usize>,
    /// The file of records; by default they go to the log.
    pub records: Option<PathBuf>,
    /// Web pages that may call.
    pub cors: CorsFile,
    /// Comments in silent streams.
    pub keep_alive: KeepAliveFile,
    /// Token counts of streams.
    pub usage: UsageFile,
    /// What single services may say to callers.
    pub pass: PassFile,
}

/// Web pages that may call.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CorsFile {
    /// Whole origins, such as `https://app.example`.
    pub origins: Vec<String>,
}

/// Comments in silent streams.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeepAliveFile {
    /// Silence that is filled, such as `15s`; `off`: never.
    #[serde(deserialize_with = "span_or_off")]
    pub every: Option<Duration>,
    /// Targets whose streams get none, as `connector/service` or `connector/service:model`.
    #[serde(deserialize_with = "targets")]
    pub except: Vec<TargetPattern>,
}

impl Default for KeepAliveFile {
    fn default() -> Self {
        Self {
            every: Some(KEEP_ALIVE),
            except: Vec::new(),
        }
    }
}

/// Token counts of streams.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UsageFile {
    /// Whether backends are asked for them where the caller did not ask.
    pub ask: bool,
    /// Targets that are not asked.
    #[serde(deserialize_with = "targets")]
    pub except: Vec<TargetPattern>,
}

impl Default for UsageFile {
    fn default() -> Self {
        Self {
            ask: true,
            except: Vec::new(),
        }
    }
}

/// What single services may say to callers.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PassFile {
    /// Services whose cookies reach callers.
    #[serde(deserialize_with = "targets")]
    pub cookies: Vec<TargetPattern>,
    /// Services that say themselves which web pages may read their answers.
    #[serde(deserialize_with = "targets")]
    pub cors: Vec<TargetPattern>,
}

impl EdgeFile {
    /// What callers' connections may take up.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            connections: self.max_connections,
            per_source: self.max_connections_per_source,
            ..Bounds::default()
        }
    }

    /// What of it may change while the plane serves.
    pub fn spec(&self) -> EdgeSpec {
        EdgeSpec {
            origins: self.cors.origins.clone(),
            keep_alive: self.keep_alive.every,
            silent: self.keep_alive.except.clone(),
            ask_usage: self.usage.ask,
            unasked: self.usage.except.clone(),
            cookies: self.pass.cookies.clone(),
            own_cors: self.pass.cors.clone(),
        }
    }

    /// What types cannot say.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.max_connections == 0 {
            return Err("edge.max_connections: must be at least 1".into());
        }
        if self.max_connections_per_source == Some(0) {
            return Err("edge.max_connections_per_source: must be at least 1".into());
        }
        if self
            .keep_alive
            .every
            .is_some_and(|every| every < MIN_KEEP_ALIVE)
        {
            return Err("edge.keep_alive.every: must be at least 1s, or off".into());
        }
        let origin = |text: &String| {
            text.parse::<http::Uri>()
                .is_ok_and(|uri| uri.scheme().is_some())
        };
        if let Some(bad) = self.cors.origins.iter().find(|text| !origin(text)) {
            return Err(format!(
                "edge.cors.origins: `{bad}` is not an origin such as https://app.example"
            ));
        }
        Ok(())
    }
}

fn span_or_off<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "off" {
        return Ok(None);
    }
    let span: Span = read(&text)?;
    Ok(Some(span.duration()))
}

fn targets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TargetPattern>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| read(text)).collect()
}

fn read<T: FromStr<Err: Display>, E: de::Error>(text: &str) -> Result<T, E> {
    text.parse()
        .map_err(|error| E::custom(format!("{text}: {error}")))
}

impl Default for EdgeFile {
    fn default() -> Self {
        Self {
            plain_listen: None,
            max_connections: MAX_CONNECTIONS,
            max_connections_per_source: None,
            records: None,
            cors: CorsFile::default(),
            keep_alive: KeepAliveFile::default(),
            usage: UsageFile::default(),
            pass: PassFile::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(text: &str) -> EdgeFile {
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn what_is_not_said_is_as_documented() {
        let spec = edge("{}").spec();
        assert_eq!(spec, EdgeSpec::default());
        assert_eq!((spec.keep_alive, spec.ask_usage), (Some(KEEP_ALIVE), true));
    }

    #[test]
    fn comments_and_usage_are_turned_off_for_all_or_for_some() {
        let off = edge("keep_alive: { every: off }\nusage: { ask: false }").spec();
        assert_eq!((off.keep_alive, off.ask_usage), (None, false));
        let text = "keep_alive: { every: 30s, except: [dev/a] }\nusage: { except: ['dev/*:m'] }";
        let some = edge(text).spec();
        assert_eq!(some.keep_alive, Some(Duration::from_secs(30)));
        assert_eq!(some.silent, ["dev/a".parse().unwrap()]);
        assert_eq!(some.unasked, ["dev/*:m".parse().unwrap()]);
    }
}
