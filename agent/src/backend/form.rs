//! How a request names its target, in either version of HTTP.

use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderValue, Request, header};

use super::OutBody;

/// HTTP/1.1: path and query, and a `Host`.
pub(super) fn in_origin_form(request: &mut Request<OutBody>) {
    let Some(authority) = request.uri().authority() else {
        return;
    };
    if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
        request.headers_mut().insert(header::HOST, host);
    }
    let path = path_and_query(request.uri());
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = http::Version::HTTP_11;
}

/// HTTP/2: `:scheme` and `:authority` in place of a `Host`.
pub(super) fn in_absolute_form(request: &mut Request<OutBody>) {
    let Some(authority) = request
        .headers()
        .get(header::HOST)
        .and_then(|host| Authority::try_from(host.as_bytes()).ok())
    else {
        return;
    };
    let uri = Uri::builder()
        .scheme(Scheme::HTTPS)
        .authority(authority)
        .path_and_query(path_and_query(request.uri()))
        .build();
    if let Ok(uri) = uri {
        request.headers_mut().remove(header::HOST);
        *request.uri_mut() = uri;
        *request.version_mut() = http::Version::HTTP_2;
    }
}

fn path_and_query(uri: &Uri) -> PathAndQuery {
    uri.path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"))
}
