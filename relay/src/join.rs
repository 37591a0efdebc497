//! `POST /v1/join` and `POST /v1/renew`: one HTTP/1 request on a connection of its own, handed to
//! the embedder. Who renews here has a leaf that has expired, and so cannot link any more; its
//! proof is inside the request, as it is over a link.
//!
//! The relay redeems nothing and knows no store: it bounds what a stranger may send, parses it,
//! and passes it on with a slot for the answer. Every refusal looks the same from outside.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use culvert_certs::{JoinAnswer, JoinRequest, PeerLeaf};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::limits::{
    JOIN_ANSWER_WAIT, JOIN_BODY_BYTES, JOIN_BODY_WAIT, JOIN_CONNECTION_WAIT, JOIN_HEAD_BYTES,
    JOIN_HEAD_WAIT,
};
use crate::metrics::Metrics;

/// Where newcomers redeem their tokens: JSON both ways.
pub const JOIN_PATH: &str = "/v1/join";
/// Where members renew whose leaf has expired: `culvert-certs`' renewal in, JSON out.
pub const RENEW_PATH: &str = "/v1/renew";

/// Something that only control can answer.
#[derive(Debug)]
pub enum ControlRequest {
    /// A stranger redeems a token.
    Join {
        /// What it sent.
        request: JoinRequest,
        /// Where it sent it from; shown, never trusted.
        source: SocketAddr,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<JoinAnswer, JoinRefusal>>,
    },
    /// An agent asks for a new certificate; the plane is a courier.
    Renew {
        /// The leaf that its connection proved; none where its leaf has expired and it has no link.
        leaf: Option<PeerLeaf>,
        /// What it sent, with its own proof inside; the bytes are `culvert-certs`' renewal.
        request: Bytes,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Bytes, JoinRefusal>>,
    },
}

/// Why nobody joined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefusal {
    /// The token, the proof or the request is not good; the caller learns nothing more.
    #[error("the join was refused")]
    Refused,
    /// Control cannot be asked now; the same request may be sent again.
    #[error("control cannot answer now")]
    Unavailable,
}

/// Serves join connections.
#[derive(Debug, Clone)]
pub(crate) struct JoinDesk {
    control: mpsc::Sender<ControlRequest>,
    metrics: Metrics,
}

/// What the caller is told.
#[derive(Debug)]
enum Outcome {
    /// With the answer's JSON.
    Joined(Vec<u8>),
    /// The same.
    Renewed(Bytes),
    NoSuchPath,
    WrongMethod,
    Malformed,
    TooLarge,
    TooSlow,
    Refused,
    Unavailable,
}

impl JoinDesk {
    pub(crate) fn new(control: mpsc::Sender<ControlRequest>, metrics: Metrics) -> Self {
        Self { control, metrics }
    }

    /// Answers one request, then closes.
    pub(crate) async fn serve(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        source: SocketAddr,
    ) {
        let service = service_fn(|request: Request<Incoming>| async move {
            let outcome = self.answer(request, source).await;
            self.metrics.joined(outcome.name());
            tracing::info!(%source, outcome = outcome.name(), "join");
            Ok::<_, Infallible>(outcome.into_response())
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(JOIN_HEAD_WAIT)
            .keep_alive(false)
            .max_buf_size(JOIN_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        match timeout(JOIN_CONNECTION_WAIT, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%source, %error, "a join connection broke"),
            Err(_) => tracing::debug!(%source, "a join connection took too long"),
        }
    }

    async fn answer(&self, request: Request<Incoming>, source: SocketAddr) -> Outcome {
        let renews = match request.uri().path() {
            JOIN_PATH => false,
            RENEW_PATH => true,
            _ => return Outcome::NoSuchPath,
        };
        if request.method() != Method::POST {
            return Outcome::WrongMethod;
        }
        let body = match timeout(JOIN_BODY_WAIT, collect(request.into_body())).await {
            Ok(Ok(body)) => body,
            Ok(Err(outcome)) => return outcome,
            Err(_) => return Outcome::TooSlow,
        };
        if renews {
            return renewed(&self.control, body).await;
        }
        match serde_json::from_slice::<JoinRequest>(&body) {
            Ok(request) => self.ask(request, source).await,
            Err(_) => Outcome::Malformed,
        }
    }

    async fn ask(&self, request: JoinRequest, source: SocketAddr) -> Outcome {
        let (reply, answer) = oneshot::channel();
        let asked = ControlRequest::Join {
            request,
            source,
            reply,
        };
        match ask_control(&self.control, asked, answer, JOIN_ANSWER_WAIT).await {
            Ok(answer) => serde_json::to_vec(&answer).map_or(Outcome::Unavailable, Outcome::Joined),
            Err(JoinRefusal::Refused) => Outcome::Refused,
            Err(JoinRefusal::Unavailable) => Outcome::Unavailable,
        }
    }
}

/// What control says of a renewal.
async fn renewed(control: &mpsc::Sender<ControlRequest>, request: Bytes) -> Outcome {
    let (reply, answer) = oneshot::channel();
    let asked = ControlRequest::Renew {
        leaf: None,
        request,
        reply,
    };
    match ask_control(control, asked, answer, JOIN_ANSWER_WAIT).await {
        Ok(answer) => Outcome::Renewed(answer),
        Err(JoinRefusal::Refused) => Outcome::Refused,
        Err(JoinRefusal::Unavailable) => Outcome::Unavailable,
    }
}

/// Puts a question to control; a full queue, a dropped slot and silence are all [`JoinRefusal::Unavailable`].
pub(crate) async fn ask_control<A>(
    control: &mpsc::Sender<ControlRequest>,
    request: ControlRequest,
    answer: oneshot::Receiver<Result<A, JoinRefusal>>,
    wait: Duration,
) -> Result<A, JoinRefusal> {
    control
        .try_send(request)
        .map_err(|_| JoinRefusal::Unavailable)?;
    match timeout(wait, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) | Err(_) => Err(JoinRefusal::Unavailable),
    }
}

async fn collect(body: Incoming) -> Result<Bytes, Outcome> {
    match Limited::new(body, JOIN_BODY_BYTES).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Outcome::TooLarge),
        Err(_) => Err(Outcome::Malformed),
    }
}

impl Outcome {
    /// The word for logs, metrics and the answer's `code`.
    fn name(&self) -> &'static str {
        match self {
            Self::Joined(_) => "joined",
            Self::Renewed(_) => "renewed",
            Self::NoSuchPath => "not_found",
            Self::WrongMethod => "method_not_allowed",
            Self::Malformed => "bad_request",
            Self::TooLarge => "body_too_large",
            Self::TooSlow => "timeout",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Joined(_) | Self::Renewed(_) => StatusCode::OK,
            Self::NoSuchPath => StatusCode::NOT_FOUND,
            Self::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Refused => StatusCode::FORBIDDEN,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn message(&self) -> &'static str {
        match self {
            Self::Joined(_) | Self::Renewed(_) => "",
            Self::NoSuchPath => "only /v1/join and /v1/renew are served here",
            Self::WrongMethod => "joining and renewing are a POST",
            Self::Malformed => "the body is not a join request",
            Self::TooLarge => "the body is larger than such a request can be",
            Self::TooSlow => "the body did not arrive in time",
            Self::Refused => "the request was refused; ask for a new token",
            Self::Unavailable => "this is not possible at the moment; try again",
        }
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let (status, code) = (self.status(), self.name());
        let message = self.message();
        let body = match self {
            Self::Joined(answer) => answer.into(),
            Self::Renewed(answer) => answer,
            Self::NoSuchPath
            | Self::WrongMethod
            | Self::Malformed
            | Self::TooLarge
            | Self::TooSlow
            | Self::Refused
            | Self::Unavailable => {
                let error = serde_json::json!({ "code": code, "message": message });
                serde_json::json!({ "error": error }).to_string().into()
            }
        };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        match status {
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(header::ALLOW, HeaderValue::from_static("POST"))
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"))
            }
            _ => None,
        };
        response
    }
}
