//! What a path asks for: the first half of routing, from the request line alone.

use culvert_certs::name::ConnectorName;
use culvert_wire::ServiceName;
use http::{Method, Uri};
use percent_encoding::percent_decode_str;

use crate::error::{CallerCode, Problem};

/// Paths whose `POST` names the model in its body, and what such a body may be.
const MODEL_PATHS: [(&str, Shape); 16] = [
    ("/v1/chat/completions", Shape::Json),
    ("/v1/completions", Shape::Json),
    ("/v1/responses", Shape::Json),
    ("/v1/responses/compact", Shape::Json),
    ("/v1/responses/input_tokens", Shape::Json),
    ("/v1/embeddings", Shape::Json),
    ("/v1/rerank", Shape::Json),
    ("/v1/moderations", Shape::Json),
    ("/v1/audio/speech", Shape::Json),
    ("/v1/audio/transcriptions", Shape::Form),
    ("/v1/audio/translations", Shape::Form),
    ("/v1/images/generations", Shape::Json),
    ("/v1/images/edits", Shape::Form),
    ("/v1/images/variations", Shape::Form),
    ("/v1/messages", Shape::Json),
    ("/v1/messages/count_tokens", Shape::Json),
];

/// What the body of a model call may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A JSON object.
    Json,
    /// A multipart form; or a JSON object, as images may be named by their URLs.
    Form,
}

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A call of a model API whose body names the model.
    Model(Shape),
    /// A call about a stored response, by its id: nothing in it names a model.
    StoredResponse(String),
    /// The list of models.
    ModelList,
    /// One model of the list; the id is decoded.
    ModelEntry(String),
    /// A conversation over a WebSocket; its query names the model.
    Realtime,
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
            Self::Model(_) | Self::StoredResponse(_) | Self::Realtime => "model",
            Self::ModelList | Self::ModelEntry(_) => "models",
            Self::Mcp(_) => "mcp",
            Self::Http { .. } => "http",
        }
    }
}

fn model_api(method: &Method, path: &str) -> Option<Endpoint> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match path {
        "/v1/models" => return reads.then_some(Endpoint::ModelList),
        "/v1/realtime" => return (method == Method::GET).then_some(Endpoint::Realtime),
        _ => {}
    }
    if let Some(shape) = shape_of(path) {
        return (method == Method::POST).then_some(Endpoint::Model(shape));
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
    let known = stored_methods(action).contains(method);
    (known && !id.is_empty()).then(|| Endpoint::StoredResponse(id.to_owned()))
}

fn shape_of(path: &str) -> Option<Shape> {
    let listed = |(known, _): &&(&str, Shape)| *known == path;
    MODEL_PATHS.iter().find(listed).map(|(_, shape)| *shape)
}

/// What may be done with a stored response, by the last part of the path.
const fn stored_methods(action: &str) -> &'static [Method] {
    match action.as_bytes() {
        b"" => &[Method::GET, Method::DELETE],
        b"cancel" => &[Method::POST],
        b"input_items" => &[Method::GET],
        _ => &[],
    }
}

/// The methods of a path that exists.
fn methods_of(path: &str) -> &'static [Method] {
    if shape_of(path).is_some() {
        return &[Method::POST];
    }
    if path == "/v1/realtime" {
        return &[Method::GET];
    }
    if path == "/v1/models" || path.starts_with("/v1/models/") {
        return &[Method::GET, Method::HEAD];
    }
    match path.strip_prefix("/v1/responses/") {
        Some(rest) => stored_methods(rest.split_once('/').map_or("", |(_, action)| action)),
        None => &[],
    }
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
    let methods: Vec<&str> = methods_of(path).iter().map(Method::as_str).collect();
    let hint = if shown.starts_with("/mcp/") {
        "MCP servers are at /mcp/<connector>/<service> (POST, GET, DELETE).".to_owned()
    } else if shown.starts_with("/http/") {
        "HTTP services are at /http/<connector>/<service>/...".to_owned()
    } else if methods.is_empty() {
        "Served are the OpenAI and Anthropic paths under /v1, /mcp/<connector>/<service> and \
         /http/<connector>/<service>/..."
            .to_owned()
    } else {
        format!("The path takes {}.", methods.join(", "))
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
        for (path, shape) in MODEL_PATHS {
            let wanted = Some(Endpoint::Model(shape));
            assert_eq!(parse(Method::POST, path), wanted, "{path}");
            for method in [Method::HEAD, Method::PUT, Method::PATCH, Method::OPTIONS] {
                assert_eq!(parse(method, path), None, "{path}");
            }
        }
        assert_eq!(parse(Method::GET, "/v1/chat/completions"), None);
        assert_eq!(
            parse(Method::GET, "/v1/realtime?model=dev%2Fx"),
            Some(Endpoint::Realtime)
        );
        assert_eq!(parse(Method::POST, "/v1/realtime"), None);
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
    fn a_wrong_method_is_told_the_right_ones() {
        for (method, path, right) in [
            (Method::GET, "/v1/embeddings", "takes POST."),
            (Method::PUT, "/v1/responses/r1", "takes GET, DELETE."),
            (Method::GET, "/v1/responses/r1/cancel", "takes POST."),
            (Method::DELETE, "/v1/models/a/b", "takes GET, HEAD."),
            (Method::POST, "/v1/realtime", "takes GET."),
            (Method::GET, "/v1/nothing", "Served are"),
            (Method::GET, "/v1/responses/r1/x", "Served are"),
        ] {
            let problem = Endpoint::parse(&method, &path.parse().unwrap()).unwrap_err();
            assert_eq!(problem.code(), CallerCode::RouteNotFound);
            assert!(problem.message().contains(right), "{}", problem.message());
        }
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
