//! A proxy in front of the gateway for clients that cannot send a key. It adds the header, and changes nothing else.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::error::HarnessError;
use crate::fault_io::FaultSwitch;
use crate::serve::{self, Body, Handler};

const KEY_HEADER: HeaderName = HeaderName::from_static("x-culvert-key");

/// A proxy that runs until it is dropped.
#[derive(Debug)]
pub struct KeyProxy {
    url: String,
    _serving: JoinSet<io::Result<()>>,
}

#[derive(Debug)]
struct Forward {
    authority: String,
    key: HeaderValue,
    pool: Pool<HttpConnector, Incoming>,
}

impl KeyProxy {
    /// Starts in front of `gateway` (`http://host:port`), on a port of the system's choice.
    ///
    /// # Errors
    /// A port that cannot be bound, or a key that is no header.
    pub async fn start(gateway: &str, key: &str) -> Result<Self, HarnessError> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let forward = Forward {
            authority: gateway
                .strip_prefix("http://")
                .unwrap_or(gateway)
                .to_owned(),
            key: HeaderValue::try_from(key)
                .map_err(|error| HarnessError::Http(error.to_string()))?,
            pool: Pool::builder(TokioExecutor::new()).build(connector),
        };
        let mut serving = JoinSet::new();
        serving.spawn(serve::serve(listener, Arc::new(forward)));
        Ok(Self {
            url,
            _serving: serving,
        })
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Handler for Forward {
    /// A caller who leaves drops this, or the body that it gave: either ends the request to the gateway.
    async fn handle(&self, mut request: Request<Incoming>, _: FaultSwitch) -> Response<Body> {
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str());
        let Ok(uri) = Uri::try_from(format!("http://{}{path}", self.authority)) else {
            return failed(StatusCode::BAD_REQUEST, "no path");
        };
        *request.uri_mut() = uri;
        request.headers_mut().insert(KEY_HEADER, self.key.clone());
        match self.pool.request(request).await {
            Ok(answer) => answer.map(|body| body.map_err(io::Error::other).boxed_unsync()),
            Err(error) => failed(StatusCode::BAD_GATEWAY, &error.to_string()),
        }
    }
}

fn failed(status: StatusCode, why: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(why.to_owned()));
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}
