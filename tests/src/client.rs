//! An HTTP client for tests: whole answers, streams of events, and exact bytes where a client library would tidy up.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::error::HarnessError;

/// No answer of a test takes longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// A client of one server, with or without a key.
#[derive(Clone, Debug)]
pub struct Client {
    base: String,
    bearer: Option<String>,
    pool: Pool<HttpConnector, Full<Bytes>>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Client {
    /// A client of `base` (`http://host:port`) that sends no key.
    pub fn new(base: impl Into<String>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self {
            base: base.into(),
            bearer: None,
            pool: Pool::builder(TokioExecutor::new()).build(connector),
        }
    }

    /// The same client with `key` as bearer.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self {
            bearer: Some(key.to_owned()),
            ..self.clone()
        }
    }

    /// Where it sends to.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A request to `path` with the key, to which the caller may add.
    pub fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let builder = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base));
        match &self.bearer {
            Some(key) => builder.header(AUTHORIZATION, format!("Bearer {key}")),
            None => builder,
        }
    }

    /// `GET path`.
    ///
    /// # Errors
    /// No answer.
    pub async fn get(&self, path: &str) -> Result<Reply, HarnessError> {
        self.send(self.request(Method::GET, path), Bytes::new())
            .await
    }

    /// `POST path` with JSON.
    ///
    /// # Errors
    /// No answer.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Reply, HarnessError> {
        let request = self
            .request(Method::POST, path)
            .header(CONTENT_TYPE, "application/json");
        self.send(request, Bytes::from(body.to_string())).await
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// No answer, or one that was cut.
    pub async fn send(
        &self,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<Reply, HarnessError> {
        let (parts, body) = self.open(request, body).await?.into_parts();
        let whole = tokio::time::timeout(ANSWER_LIMIT, body.collect()).await;
        let whole = whole.map_err(|_| HarnessError::Http("the answer did not end".to_owned()))?;
        let body = whole
            .map_err(|error| HarnessError::Http(format!("the answer was cut: {}", chain(&error))))?
            .to_bytes();
        Ok(Reply {
            status: parts.status,
            headers: parts.headers,
            body,
        })
    }

    /// Sends a request and gives the answer as soon as its head is there.
    ///
    /// # Errors
    /// No head.
    pub async fn open(
        &self,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<Response<Incoming>, HarnessError> {
        let request = request
            .body(Full::new(body))
            .map_err(|error| HarnessError::Http(error.to_string()))?;
        let what = format!("{} {}", request.method(), request.uri());
        let answer = tokio::time::timeout(ANSWER_LIMIT, self.pool.request(request)).await;
        let answer = answer
            .map_err(|_| HarnessError::Http(format!("{what}: no head within {ANSWER_LIMIT:?}")))?;
        answer.map_err(|error| HarnessError::Http(format!("{what}: {}", chain(&error))))
    }

    /// `POST path` with JSON, for a stream of events.
    ///
    /// # Errors
    /// No head.
    pub async fn stream(&self, path: &str, body: &Value) -> Result<Events, HarnessError> {
        let request = self
            .request(Method::POST, path)
            .header(CONTENT_TYPE, "application/json");
        Ok(Events::new(
            self.open(request, Bytes::from(body.to_string())).await?,
        ))
    }

    /// Sends exactly these lines with the key and without a body, on a connection of its own, and gives all bytes that come back.
    ///
    /// # Errors
    /// A connection that fails before any answer.
    pub async fn exact(
        &self,
        request_line: &str,
        headers: &[&str],
    ) -> Result<String, HarnessError> {
        self.exact_with_body(request_line, headers, "").await
    }

    /// As [`Client::exact`], with a body behind the lines; `headers` say how it is framed.
    ///
    /// # Errors
    /// A connection that fails before any answer.
    pub async fn exact_with_body(
        &self,
        request_line: &str,
        headers: &[&str],
        body: &str,
    ) -> Result<String, HarnessError> {
        let address = self.base.strip_prefix("http://").unwrap_or(&self.base);
        let mut stream = TcpStream::connect(address).await?;
        let mut text = format!("{request_line}\r\nhost: {address}\r\nconnection: close\r\n");
        if let Some(key) = &self.bearer {
            text.push_str(&format!("authorization: Bearer {key}\r\n"));
        }
        for header in headers {
            text.push_str(&format!("{header}\r\n"));
        }
        text.push_str("\r\n");
        text.push_str(body);
        stream.write_all(text.as_bytes()).await?;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(ANSWER_LIMIT, stream.read_to_end(&mut answer)).await;
        match read {
            Ok(Ok(_)) => Ok(String::from_utf8_lossy(&answer).into_owned()),
            // A reset behind an answer is what a server does that did not read everything.
            Ok(Err(_)) if !answer.is_empty() => Ok(String::from_utf8_lossy(&answer).into_owned()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(HarnessError::Http(format!(
                "{request_line}: no end within {ANSWER_LIMIT:?}"
            ))),
        }
    }
}

impl Reply {
    /// The body as JSON, or null.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value, or an empty text.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map(HeaderValue::to_str)
            .and_then(Result::ok)
            .unwrap_or_default()
    }
}

/// A stream of server-sent events.
#[derive(Debug)]
pub struct Events {
    /// The status of the answer.
    pub status: StatusCode,
    /// The headers of the answer.
    pub headers: HeaderMap,
    body: Incoming,
    buffer: Vec<u8>,
    ended: bool,
}

impl Events {
    /// Reads the body of `answer` as events.
    pub fn new(answer: Response<Incoming>) -> Self {
        let (parts, body) = answer.into_parts();
        Self {
            status: parts.status,
            headers: parts.headers,
            body,
            buffer: Vec::new(),
            ended: false,
        }
    }

    /// The next event as text without its blank line; `None` at a clean end.
    ///
    /// # Errors
    /// A stream that was cut.
    pub async fn next(&mut self) -> Result<Option<String>, HarnessError> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = self.buffer.drain(..end + 2).take(end).collect();
                return Ok(Some(String::from_utf8_lossy(&event).into_owned()));
            }
            if self.ended {
                return Ok(None);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self
                    .buffer
                    .extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Some(Err(error)) => {
                    return Err(HarnessError::Http(format!(
                        "the stream was cut: {}",
                        chain(&error)
                    )));
                }
                None => self.ended = true,
            }
        }
    }

    /// All events up to the end.
    ///
    /// # Errors
    /// A stream that was cut.
    pub async fn rest(&mut self) -> Result<Vec<String>, HarnessError> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await? {
            events.push(event);
        }
        Ok(events)
    }
}

/// An error with all of its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(&format!(": {next}"));
        cause = next.source();
    }
    text
}
