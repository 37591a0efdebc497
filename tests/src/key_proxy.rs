//! A proxy in front of the gateway for clients that cannot send a key. It adds the header, and changes nothing else;
//! or it breaks one stream of events, as a network does, for clients that come back for the rest.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
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
    cuts: Arc<AtomicBool>,
    _serving: JoinSet<io::Result<()>>,
}

#[derive(Debug)]
struct Forward {
    authority: String,
    key: HeaderValue,
    pool: Pool<HttpConnector, Incoming>,
    cuts: Arc<AtomicBool>,
}

impl KeyProxy {
    /// Starts in front of `gateway` (`http://host:port`), on a port of the system's choice.
    ///
    /// # Errors
    /// A port that cannot be bound, or a key that is no header.
    pub async fn start(gateway: &str, key: &str) -> Result<Self, HarnessError> {
        Self::launch(gateway, key, false).await
    }

    /// As [`KeyProxy::start`]; the first stream that tells of progress twice is cut right there, and only that one.
    ///
    /// # Errors
    /// As [`KeyProxy::start`].
    pub async fn cutting_once(gateway: &str, key: &str) -> Result<Self, HarnessError> {
        Self::launch(gateway, key, true).await
    }

    async fn launch(gateway: &str, key: &str, cuts: bool) -> Result<Self, HarnessError> {
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
            cuts: Arc::new(AtomicBool::new(cuts)),
        };
        let cuts = Arc::clone(&forward.cuts);
        let mut serving = JoinSet::new();
        serving.spawn(serve::serve(listener, Arc::new(forward)));
        Ok(Self {
            url,
            cuts,
            _serving: serving,
        })
    }

    /// Whether the one stream has been cut, or never was to be.
    pub fn has_cut(&self) -> bool {
        !self.cuts.load(Ordering::Relaxed)
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
            Ok(answer) if self.cuts.load(Ordering::Relaxed) => {
                answer.map(|body| cut(body, Arc::clone(&self.cuts)))
            }
            Ok(answer) => answer.map(|body| body.map_err(io::Error::other).boxed_unsync()),
            Err(error) => failed(StatusCode::BAD_GATEWAY, &error.to_string()),
        }
    }
}

/// The body up to its second progress notification, where `armed` says so then.
fn cut(body: Incoming, armed: Arc<AtomicBool>) -> Body {
    let frames = futures_util::stream::unfold(Some((body, 0)), move |state| {
        let armed = Arc::clone(&armed);
        async move {
            let (mut body, told) = state?;
            if told >= 2 && armed.swap(false, Ordering::Relaxed) {
                return Some((Err(io::Error::other("cut as told")), None));
            }
            let frame = body.frame().await?.map_err(io::Error::other);
            let tells = frame.as_ref().is_ok_and(tells_progress);
            Some((frame, Some((body, told + usize::from(tells)))))
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

fn tells_progress(frame: &Frame<Bytes>) -> bool {
    let wanted = b"notifications/progress";
    frame
        .data_ref()
        .is_some_and(|data| data.windows(wanted.len()).any(|window| window == wanted))
}

fn failed(status: StatusCode, why: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(why.to_owned()));
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}
