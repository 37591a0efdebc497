//! What a path asks for: the first half of routing, from the request line alone.

use culvert_certs::name::ConnectorName;
use culvert_wire::ServiceName;
use http::{Method, Uri};
use percent_encoding::percent_decode_str;

use crate::error::{CallerCode, Problem};

/// Paths whose `POST` has a JSON body that names the model.
const MODEL_PATHS: [&str; 16] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/responses/compact",
    "/v1/responses/input_tokens",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/moderations",
    "/v1/audio/speech",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/images/variations",
    "/v1/messages",
    "/v1/messages/count_tokens",
];

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A call of a model API whose body names the model.
    Model,
    /// A call about a stored response, by its id: nothing in it names a model.
    StoredResponse(String),
    /// The list of models.
    ModelList,
    /// One model of the list; the id is decoded.
    ModelEntry(String),
    /// A single MCP server.
    Mcp(ServicePath),
    /// An HTTP service.
    Http {
        /// Whose.
        service: ServicePath,
        /// Path and query behind the service's name, as the caller wrote them; begins with `/`.
        target: String,
    },
}

/// A service that is named by the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePath {
    /// The connector.
    pub connector: ConnectorName,
    /// The service, as its agent's file names it.
    pub service: ServiceName,
}

impl ServicePath {
    /// Reads `<connector>/<service>`.
    pub fn parse(text: &str) -> Option<Self> {
        let (connector, service) = text.split_once('/')?;
        named(connector, service)
    }
}

impl Endpoint {
    /// Reads the request line.
    pub fn parse(method: &Method, uri: &Uri) -> Result<Self, Problem> {
        let path = uri.path();
        let found = if let Some(rest) = path.strip_prefix("/mcp/") {
            mcp(method, rest)
        } else if let Some(rest) = path.strip_prefix("/http/") {
            service(rest, uri.query())
        } else {
            model_api(method, path)
        };
        found.ok_or_else(|| not_found(method, path))
    }

    /// The closed set of names that metrics and records use.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Model | Self::StoredResponse(_) => "model",
            Self::ModelList | Self::ModelEntry(_) => "models",
            Self::Mcp(_) => "mcp",
            Self::Http { .. } => "http",
        }
    }
}

fn model_api(method: &Method, path: &str) -> Option<Endpoint> {
    if method == Method::POST && MODEL_PATHS.contains(&path) {
        return Some(Endpoint::Model);
    }
    let reads = matches!(*method, Method::GET | Method::HEAD);
    if path == "/v1/models" && reads {
        return Some(Endpoint::ModelList);
    }
    if let Some(id) = path
        .strip_prefix("/v1/models/")
        .filter(|id| reads && !id.is_empty())
    {
        let id = percent_decode_str(id).decode_utf8().ok()?;
        return Some(Endpoint::ModelEntry(id.into_owned()));
    }
    let rest = path.strip_prefix("/v1/responses/")?;
    let (id, action) = rest.split_once('/').unwrap_or((rest, ""));
    let known = match action {
        "" => matches!(*method, Method::GET | Method::DELETE),
        "cancel" => method == Method::POST,
        "input_items" => method == Method::GET,
        _ => false,
    };
    (known && !id.is_empty()).then(|| Endpoint::StoredResponse(id.to_owned()))
}

fn mcp(method: &Method, rest: &str) -> Option<Endpoint> {
    let served = matches!(*method, Method::POST | Method::GET | Method::DELETE);
    let (connector, service) = rest.split_once('/')?;
    (served && !service.contains('/')).then(|| named(connector, service).map(Endpoint::Mcp))?
}

fn service(rest: &str, query: Option<&str>) -> Option<Endpoint> {
    let (connector, rest) = rest.split_once('/')?;
    let (service, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    let target = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    Some(Endpoint::Http {
        service: named(connector, service)?,
        target,
    })
}

fn named(connector: &str, service: &str) -> Option<ServicePath> {
    Some(ServicePath {
        connector: connector.parse().ok()?,
        service: service.parse().ok()?,
    })
}

/// Names what exists, and repeats of the caller's path no more than fits a log line.
fn not_found(method: &Method, path: &str) -> Problem {
    let shown: String = path.chars().take(100).collect();
    let hint = if shown.starts_with("/mcp/") {
        "MCP servers are at /mcp/<connector>/<service> (POST, GET, DELETE)."
    } else if shown.starts_with("/http/") {
        "HTTP services are at /http/<connector>/<service>/..."
    } else {
        "Served are the OpenAI and Anthropic paths under /v1, /mcp/<connector>/<service> and \
         /http/<connector>/<service>/..."
    };
    Problem::new(
        CallerCode::RouteNotFound,
        format!("{method} {shown} is not served here. {hint}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, uri: &str) -> Option<Endpoint> {
        Endpoint::parse(&method, &uri.parse().unwrap()).ok()
    }

    fn dev(service: &str) -> ServicePath {
        ServicePath {
            connector: "dev".parse().unwrap(),
            service: service.parse().unwrap(),
        }
    }

    #[test]
    fn model_paths_are_exact() {
        for path in MODEL_PATHS {
            assert_eq!(parse(Method::POST, path), Some(Endpoint::Model), "{path}");
            assert_ne!(parse(Method::GET, path), Some(Endpoint::Model), "{path}");
        }
        for path in [
            "/v1/chat",
            "/v1/chat/completions/",
            "//v1/chat/completions",
            "/v1/Chat/completions",
            "/",
            "/v2/x",
        ] {
            assert_eq!(parse(Method::POST, path), None, "{path}");
        }
    }

    #[test]
    fn model_ids_may_have_slashes_raw_or_encoded() {
        for path in ["/v1/models/dev/meta/llama", "/v1/models/dev%2Fmeta%2fllama"] {
            assert_eq!(
                parse(Method::GET, path),
                Some(Endpoint::ModelEntry("dev/meta/llama".into()))
            );
        }
        assert_eq!(parse(Method::GET, "/v1/models"), Some(Endpoint::ModelList));
        assert_eq!(parse(Method::GET, "/v1/models/"), None);
        assert_eq!(parse(Method::DELETE, "/v1/models/x"), None);
    }

    #[test]
    fn stored_responses() {
        for (method, path) in [
            (Method::GET, "/v1/responses/r1"),
            (Method::DELETE, "/v1/responses/r1"),
            (Method::POST, "/v1/responses/r1/cancel"),
            (Method::GET, "/v1/responses/r1/input_items"),
        ] {
            assert_eq!(
                parse(method, path),
                Some(Endpoint::StoredResponse("r1".into())),
                "{path}"
            );
        }
        assert_eq!(parse(Method::POST, "/v1/responses/r1"), None);
        assert_eq!(parse(Method::GET, "/v1/responses/"), None);
    }

    #[test]
    fn mcp_is_one_url() {
        assert_eq!(
            parse(Method::POST, "/mcp/dev/tickets?x=1"),
            Some(Endpoint::Mcp(dev("tickets")))
        );
        for path in [
            "/mcp/dev",
            "/mcp/dev/",
            "/mcp/dev/tickets/x",
            "/mcp/Dev/tickets",
            "/mcp/../x/y",
            "/mcp//x",
        ] {
            assert_eq!(parse(Method::POST, path), None, "{path}");
        }
        assert_eq!(parse(Method::PUT, "/mcp/dev/tickets"), None);
    }

    #[test]
    fn http_targets_are_kept_as_written() {
        for (uri, target) in [
            ("/http/dev/billing", "/"),
            ("/http/dev/billing/", "/"),
            ("/http/dev/billing?a=b", "/?a=b"),
            (
                "/http/dev/billing/v1/%2e%2e//x;y?q=%20&r",
                "/v1/%2e%2e//x;y?q=%20&r",
            ),
            ("/http/dev/billing/../x", "/../x"),
        ] {
            let wanted = Endpoint::Http {
                service: dev("billing"),
                target: target.into(),
            };
            assert_eq!(parse(Method::PATCH, uri), Some(wanted), "{uri}");
        }
        assert_eq!(parse(Method::GET, "/http/dev/"), None);
        assert_eq!(parse(Method::GET, "/http/dev"), None);
    }
}
