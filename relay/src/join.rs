//! `POST /v1/join` and `POST /v1/renew`: one HTTP/1 request on a connection of its own, handed to
//! the embedder. Who renews here is an agent whose leaf has expired, so that it cannot link any
//! more; its proof is inside the request, as it is over a link, and is looked at before control is
//! asked.
//!
//! The relay redeems nothing and knows no store: it bounds what a stranger may send, parses it,
//! and passes it on with a slot for the answer. Every refusal looks the same from outside, but
//! that an agent which has proven itself is told in control's signed words that it was revoked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_certs::{Credentials, JoinAnswer, JoinRequest, RenewRequest};
use culvert_tunnel::Source;
use data_encoding::BASE64;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::limits::{
    JOIN_ANSWER_WAIT, JOIN_BODY_BYTES, JOIN_CONNECTION_WAIT, JOIN_HEAD_BYTES, JOIN_REQUEST_WAIT,
    MAX_JOINS, MAX_JOINS_PER_SOURCE,
};
use crate::metrics::Metrics;
use crate::renewal::Renewals;
use crate::slots::Slots;

/// Where newcomers redeem their tokens: JSON both ways.
pub const JOIN_PATH: &str = "/v1/join";
/// Where agents renew whose leaf has expired: `culvert-certs`' renewal in, JSON out.
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
        /// Where it sent it from; shown, never trusted.
        source: SocketAddr,
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
    /// The agent that renews was revoked, in control's own signed words.
    #[error("the identity was revoked")]
    Revoked(Bytes),
    /// Control cannot be asked now; the same request may be sent again.
    #[error("control cannot answer now")]
    Unavailable,
}

/// Serves join connections.
#[derive(Debug)]
pub(crate) struct JoinDesk {
    inputs: JoinInputs,
    /// Places of those whom control works for.
    joins: Arc<Slots<Source>>,
}

/// What a desk shares with the rest of the relay.
#[derive(Debug)]
pub(crate) struct JoinInputs {
    pub(crate) control: mpsc::Sender<ControlRequest>,
    /// For the roots that renewals are judged by.
    pub(crate) credentials: watch::Receiver<Arc<Credentials>>,
    pub(crate) renewals: Renewals,
    pub(crate) metrics: Metrics,
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
    /// With control's statement.
    Revoked(Bytes),
    Unavailable,
}

impl JoinDesk {
    pub(crate) fn new(inputs: JoinInputs) -> Self {
        Self {
            inputs,
            joins: Slots::new(MAX_JOINS, MAX_JOINS_PER_SOURCE),
        }
    }

    /// Answers one request, then closes.
    pub(crate) async fn serve(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        source: SocketAddr,
    ) {
        let by = Instant::now() + JOIN_REQUEST_WAIT;
        let service = service_fn(|request: Request<Incoming>| async move {
            let outcome = self.answer(request, source, by).await;
            self.inputs.metrics.joined(outcome.name());
            tracing::info!(%source, outcome = outcome.name(), "join");
            Ok::<_, Infallible>(outcome.into_response())
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(JOIN_REQUEST_WAIT)
            .keep_alive(false)
            .max_buf_size(JOIN_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        match timeout(JOIN_CONNECTION_WAIT, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%source, %error, "a join connection broke"),
            Err(_) => tracing::debug!(%source, "a join connection took too long"),
        }
    }

    /// The whole request has to be there `by` then.
    async fn answer(&self, request: Request<Incoming>, source: SocketAddr, by: Instant) -> Outcome {
        let renews = match request.uri().path() {
            JOIN_PATH => false,
            RENEW_PATH => true,
            _ => return Outcome::NoSuchPath,
        };
        if request.method() != Method::POST {
            return Outcome::WrongMethod;
        }
        let body = match timeout_at(by, collect(request.into_body())).await {
            Ok(Ok(body)) => body,
            Ok(Err(outcome)) => return outcome,
            Err(_) => return Outcome::TooSlow,
        };
        if renews {
            return self.renewed(body, source).await;
        }
        match serde_json::from_slice::<JoinRequest>(&body) {
            Ok(request) => self.joined(request, source).await,
            Err(_) => Outcome::Malformed,
        }
    }

    async fn joined(&self, request: JoinRequest, source: SocketAddr) -> Outcome {
        let Some(_place) = self.joins.take(&Source::of(source)) else {
            return Outcome::Unavailable;
        };
        let (reply, answer) = oneshot::channel();
        let asked = ControlRequest::Join {
            request,
            source,
            reply,
        };
        match ask_control(&self.inputs.control, asked, answer, JOIN_ANSWER_WAIT).await {
            Ok(answer) => serde_json::to_vec(&answer).map_or(Outcome::Unavailable, Outcome::Joined),
            Err(refusal) => refusal.into(),
        }
    }

    /// What control says of a renewal, where it has to be asked.
    async fn renewed(&self, body: Bytes, source: SocketAddr) -> Outcome {
        let Ok(request) = RenewRequest::decode(&body) else {
            return Outcome::Malformed;
        };
        let bundle = Arc::clone(&self.inputs.credentials.borrow().bundle);
        let now = SystemTime::now();
        let Ok(verified) = request.verify(&bundle, now) else {
            return Outcome::Refused;
        };
        let Some(agent) = verified.leaf.identity.agent() else {
            return Outcome::Refused;
        };
        // Who is alive has links to renew over; one whose clock is ahead is not so for long.
        if verified.leaf.not_after > now {
            return Outcome::Unavailable;
        }
        let Some(turn) = self.inputs.renewals.begin(agent) else {
            return Outcome::Unavailable;
        };
        let Some(_place) = self.joins.take(&Source::of(source)) else {
            return Outcome::Unavailable;
        };
        let carried = turn.carry(&self.inputs.control, source, body, JOIN_ANSWER_WAIT);
        carried.await.map_or_else(Outcome::from, Outcome::Renewed)
    }
}

impl From<JoinRefusal> for Outcome {
    fn from(refusal: JoinRefusal) -> Self {
        match refusal {
            JoinRefusal::Refused => Self::Refused,
            JoinRefusal::Revoked(signed) => Self::Revoked(signed),
            JoinRefusal::Unavailable => Self::Unavailable,
        }
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
            Self::Revoked(_) => "revoked",
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
            Self::Refused | Self::Revoked(_) => StatusCode::FORBIDDEN,
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
            Self::Revoked(_) => "the identity was revoked",
            Self::Unavailable => "this is not possible at the moment; try again",
        }
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let (status, code) = (self.status(), self.name());
        let message = self.message();
        let body = match self {
            Self::Joined(answer) => answer.into(),
            Self::Renewed(answer) => answer,
            Self::Revoked(signed) => {
                let signed = BASE64.encode(&signed);
                let error =
                    serde_json::json!({ "code": code, "message": message, "signed": signed });
                serde_json::json!({ "error": error }).to_string().into()
            }
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
