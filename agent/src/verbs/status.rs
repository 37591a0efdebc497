//! `status`: asks the running agent on its loopback listener.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::print;
use crate::error::AgentError;
use crate::present::summary;
use crate::status::Status;

/// For the whole question.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest document, in bytes.
const MAX_BYTES: usize = 16 << 20;

pub(super) async fn status(addr: SocketAddr, json: bool) -> Result<(), AgentError> {
    let (status, body) = read(addr).await?;
    if json {
        return print(String::from_utf8_lossy(&body).trim_end());
    }
    print(&summary(&status))
}

/// The status of the running agent.
pub(super) async fn current(addr: SocketAddr) -> Result<Status, AgentError> {
    read(addr).await.map(|(status, _)| status)
}

/// The status, and as it came.
async fn read(addr: SocketAddr) -> Result<(Status, Bytes), AgentError> {
    let none =
        |reason: String| AgentError::Unreachable(format!("no agent answers on {addr}: {reason}"));
    let body = tokio::time::timeout(TIMEOUT, ask(addr))
        .await
        .map_err(|_| none("no answer in time".to_owned()))?
        .map_err(none)?;
    let status = serde_json::from_slice(&body)
        .map_err(|error| none(format!("something else answers: {error}")))?;
    Ok((status, body))
}

async fn ask(addr: SocketAddr) -> Result<Bytes, String> {
    let text = |error: &dyn std::error::Error| crate::error::chain(error);
    let stream = TcpStream::connect(addr).await.map_err(|e| text(&e))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| text(&e))?;
    let request = Request::get("/status")
        .header(header::HOST, addr.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(|e| text(&e))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| text(&e))?;
        if !response.status().is_success() {
            return Err(format!(
                "it answers {}; status is for loopback only",
                response.status()
            ));
        }
        let body = Limited::new(response.into_body(), MAX_BYTES)
            .collect()
            .await;
        body.map(http_body_util::Collected::to_bytes)
            .map_err(|e| text(&*e))
    };
    let (exchanged, _) = tokio::join!(exchange, connection);
    exchanged
}
