//! What callers meet, as far as it may change while the plane serves.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use culvert_certs::ConnectorName;
use culvert_control::resource::TargetPattern;
use culvert_wire::ServiceName;
use http::{Response, header::ORIGIN, request::Parts};
use rustls::ServerConfig;
use tokio::sync::watch;

use crate::{
    cors::{self, Cors},
    edge_tls::EdgeTls,
    error::Problem,
    hygiene::Granted,
    mcp::origin::Origins,
    route::{endpoint::Endpoint, resolve::Target},
    server::{Bounds, Server},
};

/// Silence after which a caller that asked for a stream is sent a comment, by default, so that nothing
/// on the way takes the connection for idle: proxies give up after 30 to 100 seconds.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What the operator says of the edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeSpec {
    /// Origins of web pages that may call.
    pub origins: Vec<String>,
    /// Silence that is filled with comments in streams; never where there is none.
    pub keep_alive: Option<Duration>,
    /// Targets whose streams get no comments.
    pub silent: Vec<TargetPattern>,
    /// Whether backends are asked to count the tokens of streams.
    pub ask_usage: bool,
    /// Targets that are not asked.
    pub unasked: Vec<TargetPattern>,
    /// Services whose cookies reach callers.
    pub cookies: Vec<TargetPattern>,
    /// Services that say themselves which web pages may read their answers.
    pub own_cors: Vec<TargetPattern>,
}

impl Default for EdgeSpec {
    fn default() -> Self {
        Self {
            origins: Vec::new(),
            keep_alive: Some(KEEP_ALIVE),
            silent: Vec::new(),
            ask_usage: true,
            unasked: Vec::new(),
            cookies: Vec::new(),
            own_cors: Vec::new(),
        }
    }
}

/// What the edge makes of it: a whole that is replaced as one.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Which web pages may call MCP servers.
    pub origins: Origins,
    /// Which web pages may call from a browser.
    pub cors: Cors,
    spec: EdgeSpec,
}

impl Settings {
    /// The settings of a gateway that is known by these names.
    pub fn new(spec: &EdgeSpec, own_names: &[String]) -> Self {
        Self {
            origins: Origins::new(spec.origins.clone(), own_names.to_vec()),
            cors: Cors::new(&spec.origins),
            spec: spec.clone(),
        }
    }

    /// Silence that is filled with comments, in streams from this target.
    pub fn keep_alive(&self, target: &Target) -> Option<Duration> {
        self.spec
            .keep_alive
            .filter(|_| !covers(&self.spec.silent, target))
    }

    /// Whether this target may be asked to count the tokens of a stream.
    pub fn may_ask_usage(&self, target: &Target) -> bool {
        self.spec.ask_usage && !covers(&self.spec.unasked, target)
    }

    /// The answer to a browser that asks whether a page may call: one of a listed origin, or a service
    /// that says itself in its answers who may read them. It comes without a key.
    pub fn preflight(
        &self,
        head: &Parts,
        endpoint: &Result<Endpoint, Problem>,
    ) -> Option<Response<Bytes>> {
        let mut answer = cors::preflight(head)?;
        if self.cors.listed(&head.headers).is_some() {
            return Some(answer);
        }
        let Ok(Endpoint::Http { service, .. }) = endpoint else {
            return None;
        };
        let granted = self.granted(&service.connector, &service.service);
        let origin = head.headers.get(ORIGIN).filter(|_| granted.cors)?;
        cors::mark(answer.headers_mut(), origin.clone());
        Some(answer)
    }

    /// What a service may say to callers beside what all may.
    pub fn granted(&self, connector: &ConnectorName, service: &ServiceName) -> Granted {
        let covered = |patterns: &[TargetPattern]| {
            let matches = |p: &TargetPattern| p.matches(connector, service.as_str(), None);
            patterns.iter().any(matches)
        };
        Granted {
            cookies: covered(&self.spec.cookies),
            cors: covered(&self.spec.own_cors),
        }
    }
}

/// Whether one of the patterns covers a service of a target.
fn covers(patterns: &[TargetPattern], target: &Target) -> bool {
    let model = target.model.as_deref();
    target.services.iter().any(|service| {
        let matches = |p: &TargetPattern| p.matches(&target.connector, service.as_str(), model);
        patterns.iter().any(matches)
    })
}

/// The handles of a plane that serves.
#[derive(Clone, Debug)]
pub struct Live {
    /// By which names the gateway is known.
    pub own_names: Vec<String>,
    /// Where requests get the settings from.
    pub settings: watch::Sender<Arc<Settings>>,
    /// Where connections of callers get their certificate from.
    pub tls: EdgeTls,
    /// Who holds the connections.
    pub server: Server,
}

impl Live {
    /// Takes changes: requests under way go on as they began, connections that stand stay.
    pub fn take(&self, spec: &EdgeSpec, tls: Option<Arc<ServerConfig>>, bounds: Bounds) {
        let settings = Settings::new(spec, &self.own_names);
        self.settings.send_replace(Arc::new(settings));
        self.tls.give(tls);
        let (all, per_source) = (bounds.connections, bounds.per_source);
        self.server.set_connections(all, per_source);
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn target(services: &[&str], model: &str) -> Target {
        Target {
            connector: "dev".parse().unwrap(),
            services: services.iter().map(|name| name.parse().unwrap()).collect(),
            model: Some(model.to_owned()),
        }
    }

    fn patterns(texts: &[&str]) -> Vec<TargetPattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_said_of_a_target_holds_for_every_pool_that_it_is_in() {
        let spec = EdgeSpec {
            silent: patterns(&["dev/old"]),
            unasked: patterns(&["*/*:gpt2"]),
            ..EdgeSpec::default()
        };
        let settings = Settings::new(&spec, &[]);
        let (new, both) = (target(&["new"], "m"), target(&["new", "old"], "m"));
        assert_eq!(settings.keep_alive(&new), Some(KEEP_ALIVE));
        assert_eq!(settings.keep_alive(&both), None);
        assert!(settings.may_ask_usage(&both));
        assert!(!settings.may_ask_usage(&target(&["new"], "gpt2")));
        let off = EdgeSpec {
            keep_alive: None,
            ask_usage: false,
            ..EdgeSpec::default()
        };
        let settings = Settings::new(&off, &[]);
        assert_eq!(settings.keep_alive(&new), None);
        assert!(!settings.may_ask_usage(&new));
    }

    #[test]
    fn nothing_is_granted_unless_it_is_said() {
        let spec = EdgeSpec {
            cookies: patterns(&["dev/app"]),
            own_cors: patterns(&["*/site"]),
            ..EdgeSpec::default()
        };
        let settings = Settings::new(&spec, &[]);
        let granted = |connector: &str, service: &str| {
            let granted = settings.granted(&connector.parse().unwrap(), &service.parse().unwrap());
            (granted.cookies, granted.cors)
        };
        assert_eq!(granted("dev", "app"), (true, false));
        assert_eq!(granted("prod", "app"), (false, false));
        assert_eq!(granted("prod", "site"), (false, true));
        let asks = |method: &str, path: &str| {
            let request = Request::builder().method(method).uri(path);
            let request = request
                .header("origin", "https://any.example")
                .header("access-control-request-method", "GET");
            let (head, ()) = request.body(()).unwrap().into_parts();
            settings.preflight(&head, &Endpoint::parse(&head.method, &head.uri))
        };
        let answer = asks("OPTIONS", "/http/dev/site/x").unwrap();
        assert_eq!(
            answer.headers()["access-control-allow-origin"],
            "https://any.example"
        );
        for (method, path) in [
            ("OPTIONS", "/http/dev/app/x"),
            ("OPTIONS", "/mcp/dev/site"),
            ("OPTIONS", "/v1/models"),
            ("GET", "/http/dev/site/x"),
        ] {
            assert!(asks(method, path).is_none(), "{method} {path}");
        }
    }
}
