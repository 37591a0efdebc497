//! A closed-loop driver: callers that each hold one HTTP/1 connection and send the next request when the last answer is whole.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::error::HarnessError;

/// One request, to be sent again and again.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) address: String,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) key: Option<String>,
    pub(super) body: Bytes,
}

/// What one round of one path gave.
#[derive(Debug)]
pub(super) struct Round {
    /// Latencies in order of size.
    pub(super) sorted: Vec<Duration>,
    /// How long the round took.
    pub(super) took: Duration,
}

impl Call {
    fn request(&self) -> Result<Request<Full<Bytes>>, HarnessError> {
        let mut builder = Request::builder()
            .method(self.method.clone())
            .uri(&self.path)
            .header("host", &self.address)
            .header("content-type", "application/json");
        if let Some(key) = &self.key {
            builder = builder.header("authorization", format!("Bearer {key}"));
        }
        builder
            .body(Full::new(self.body.clone()))
            .map_err(|error| HarnessError::Http(error.to_string()))
    }

    /// Opens a connection for one caller.
    pub(super) async fn connect(&self) -> Result<Caller, HarnessError> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            // Its end is seen by the sender.
            drop(connection.await);
        });
        Ok(Caller {
            call: self.clone(),
            sender,
            _task: task,
        })
    }
}

/// One caller with its connection.
pub(super) struct Caller {
    call: Call,
    sender: SendRequest<Full<Bytes>>,
    _task: JoinSet<()>,
}

impl Caller {
    /// Sends the request and gives the answer's head.
    pub(super) async fn open(&mut self) -> Result<Response<Incoming>, HarnessError> {
        self.sender.ready().await.map_err(http)?;
        let answer = self
            .sender
            .send_request(self.call.request()?)
            .await
            .map_err(http)?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(http)?.to_bytes();
        Err(HarnessError::Http(format!(
            "{} answered {status}: {}",
            self.call.path,
            String::from_utf8_lossy(&body)
        )))
    }

    /// One whole exchange.
    pub(super) async fn exchange(&mut self) -> Result<Duration, HarnessError> {
        let from = Instant::now();
        let mut body = self.open().await?.into_body();
        while let Some(frame) = body.frame().await {
            frame.map_err(http)?;
        }
        Ok(from.elapsed())
    }
}

/// Runs `callers` of `call` for `time`.
pub(super) async fn closed_loop(
    call: &Call,
    callers: usize,
    time: Duration,
) -> Result<Round, HarnessError> {
    let mut connected = Vec::with_capacity(callers);
    for _ in 0..callers {
        let mut caller = call.connect().await?;
        // The first exchange of a connection is no figure: sockets and pools are still cold.
        caller.exchange().await?;
        connected.push(caller);
    }
    let from = Instant::now();
    let mut tasks = JoinSet::new();
    for mut caller in connected {
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while from.elapsed() < time {
                latencies.push(caller.exchange().await?);
            }
            Ok::<_, HarnessError>(latencies)
        });
    }
    let mut sorted = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        sorted.extend(ended.map_err(std::io::Error::other)??);
    }
    let took = from.elapsed();
    sorted.sort_unstable();
    Ok(Round { sorted, took })
}

fn http(error: hyper::Error) -> HarnessError {
    HarnessError::Http(format!("{error:?}"))
}
