//! One request sent twice, to a server itself and through the tunnel, and what differs between the answers.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What a caller speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// What the gateway says of its own, what belongs to one connection, and the time: not compared.
const OURS: [&str; 11] = [
    "connection",
    "content-security-policy",
    "date",
    "keep-alive",
    "server-timing",
    "trailer",
    "transfer-encoding",
    "x-content-type-options",
    "x-culvert-region",
    "x-culvert-zone",
    "x-request-id",
];
/// What the gateway adds to `vary`.
const OUR_VARY: &str = "authorization, x-api-key";
/// Size of the pieces of a large request.
const PIECE_BYTES: usize = 64 * 1024;
/// Room for heads.
const HEAD_BYTES: usize = 256 * 1024;
/// No exchange takes longer: 1 GiB at 2 MB/s.
const PATIENCE: Duration = Duration::from_secs(540);

/// A request that can be sent again.
#[derive(Clone, Debug)]
pub struct Case {
    /// For whoever reads a failure.
    pub name: String,
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Headers, in order.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub upload: Upload,
}

/// The body of a request.
#[derive(Clone, Debug)]
pub enum Upload {
    /// None.
    Nothing,
    /// So many bytes by the pattern, with a `content-length` or in chunks.
    Pattern(u64, Framing),
}

/// How a length is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// In the head.
    Length,
    /// By the end.
    Chunks,
}

/// An answer, with its body as length, hash by position, and beginning.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// What is compared of the headers, by name.
    pub headers: Vec<(String, Vec<String>)>,
    /// How many bytes the body has.
    pub bytes: u64,
    /// A sum over the body's bytes and their places.
    pub sum: u64,
    /// The first bytes of the body.
    pub beginning: String,
    /// The trailers, by name.
    pub trailers: Vec<(String, Vec<String>)>,
}

impl Case {
    /// A request without a body.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        let path = path.into();
        Self {
            name: format!("{method} {path}"),
            method,
            path,
            headers: Vec::new(),
            upload: Upload::Nothing,
        }
    }

    /// The same with another header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((HeaderName::from_static(name), value));
        }
        self
    }

    /// The same with a body.
    #[must_use]
    pub fn carrying(mut self, upload: Upload) -> Self {
        write!(self.name, " {upload:.40?}").unwrap_or_default();
        self.upload = upload;
        self
    }

    /// Sends it to `address`, below `prefix`, with `key`.
    ///
    /// # Errors
    /// What went wrong, as a text: a difference too.
    pub async fn send(
        &self,
        speaks: Speaks,
        address: &str,
        prefix: &str,
        key: Option<&str>,
    ) -> Result<Answer, String> {
        let sent = self.exchange(speaks, address, prefix, key);
        let done = tokio::time::timeout(PATIENCE, sent).await;
        done.unwrap_or_else(|_| Err(format!("not within {PATIENCE:?}")))
    }

    async fn exchange(
        &self,
        speaks: Speaks,
        address: &str,
        prefix: &str,
        key: Option<&str>,
    ) -> Result<Answer, String> {
        let stream = TcpStream::connect(address).await.map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        let io = TokioIo::new(stream);
        let mut tasks = JoinSet::new();
        let path = format!("{prefix}{}", self.path);
        let response = match speaks {
            Speaks::Http1 => {
                let (mut sender, connection) = http1::Builder::new()
                    .max_headers(600)
                    .max_buf_size(HEAD_BYTES)
                    .handshake(io)
                    .await
                    .map_err(text)?;
                tasks.spawn(async move { drop(connection.await) });
                let request = self.request(&path, Some(address), key)?;
                sender.send_request(request).await.map_err(text)?
            }
            Speaks::Http2 => {
                let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
                    .max_header_list_size(256 * 1024)
                    .initial_stream_window_size(1024 * 1024)
                    .handshake(io)
                    .await
                    .map_err(text)?;
                tasks.spawn(async move { drop(connection.await) });
                let uri = format!("http://{address}{path}");
                let request = self.request(&uri, None, key)?;
                sender.send_request(request).await.map_err(text)?
            }
        };
        read(response).await
    }

    fn request(
        &self,
        uri: &str,
        host: Option<&str>,
        key: Option<&str>,
    ) -> Result<Request<UnsyncBoxBody<Bytes, io::Error>>, String> {
        let mut request = Request::builder().method(self.method.clone()).uri(uri);
        if let Some(host) = host {
            request = request.header(http::header::HOST, host);
        }
        if let Some(key) = key {
            request = request.header("x-culvert-key", key);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Upload::Pattern(length, Framing::Length) = self.upload {
            request = request.header(http::header::CONTENT_LENGTH, length);
        }
        request.body(self.upload.body()).map_err(text)
    }
}

impl Upload {
    fn body(&self) -> UnsyncBoxBody<Bytes, io::Error> {
        match self {
            Self::Nothing => http_body_util::Empty::new()
                .map_err(|never| match never {})
                .boxed_unsync(),
            Self::Pattern(length, _) => {
                let length = *length;
                let pieces = stream::unfold(0, move |from| async move {
                    (from < length).then(|| {
                        let to = length.min(from + PIECE_BYTES as u64);
                        let piece: Vec<u8> = (from..to).map(at).collect();
                        (Ok(Frame::data(piece.into())), to)
                    })
                });
                StreamBody::new(pieces).boxed_unsync()
            }
        }
    }
}

/// The byte of the pattern at a place; its period fits no buffer's size.
fn at(place: u64) -> u8 {
    u8::try_from(place % 251).unwrap_or(0)
}

async fn read(response: http::Response<hyper::body::Incoming>) -> Result<Answer, String> {
    let (head, mut body) = response.into_parts();
    let mut answer = Answer {
        status: head.status,
        headers: compared(&head.headers),
        bytes: 0,
        sum: 0,
        beginning: String::new(),
        trailers: Vec::new(),
    };
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("cut after {}: {error}", answer.bytes))?;
        match frame.into_data() {
            Ok(data) => {
                if answer.beginning.is_empty() {
                    let shown = &data[..data.len().min(200)];
                    answer.beginning = String::from_utf8_lossy(shown).into_owned();
                }
                for byte in &data {
                    answer.bytes += 1;
                    let weighed = u64::from(*byte).wrapping_mul(answer.bytes | 1);
                    answer.sum = answer.sum.rotate_left(5) ^ weighed;
                }
            }
            Err(frame) => {
                answer.trailers = compared(&frame.into_trailers().unwrap_or_default());
            }
        }
    }
    // Where the pieces are cut is nobody's business.
    answer.beginning.truncate(20);
    Ok(answer)
}

/// The headers that must be the same: values in their order, by name.
fn compared(headers: &HeaderMap) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for name in headers.keys().filter(|name| !OURS.contains(&name.as_str())) {
        let values = headers.get_all(name).iter();
        let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let values: Vec<String> = values.filter(|value| value != OUR_VARY).collect();
        if !values.is_empty() {
            found.push((name.to_string(), values));
        }
    }
    found.sort();
    found
}

fn text(error: impl std::error::Error) -> String {
    let mut out = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        write!(out, ": {next}").unwrap_or_default();
        cause = next.source();
    }
    out
}
