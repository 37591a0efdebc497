//! A stranger at the link port: joins by hand, with whatever it likes to send.

use std::sync::Arc;

use culvert_certs::{Identity, JoinAnswer, JoinRequest, JoinToken, KeyPair, tls};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::attacker::{Papers, other};
use crate::error::HarnessError;

/// What the join endpoint answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinReply {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Joins by hand with `token`: real papers in the wrong hands, and the identity on them.
///
/// # Errors
/// A join that is refused.
pub async fn join_by_hand(token: &JoinToken) -> Result<(Papers, Identity), HarnessError> {
    let key = KeyPair::generate().map_err(other)?;
    let request = JoinRequest::new(token, key.csr().map_err(other)?).map_err(other)?;
    let reply = post_join(token, &serde_json::to_string(&request).map_err(other)?).await?;
    if reply.status != 200 {
        return Err(HarnessError::Http(format!("join: {reply:?}")));
    }
    let answer: JoinAnswer = serde_json::from_str(&reply.body).map_err(other)?;
    let papers = Papers {
        chain: answer.chain,
        key: PrivatePkcs8KeyDer::from(key.pkcs8().to_vec()).into(),
    };
    Ok((papers, answer.id))
}

/// Sends `body` to the join endpoint that `token` names, trusting the pins of `token`.
///
/// # Errors
/// A connection or a handshake that fails.
pub async fn post_join(token: &JoinToken, body: &str) -> Result<JoinReply, HarnessError> {
    let address = token
        .addresses
        .first()
        .ok_or_else(|| HarnessError::Http("the token has no address".to_owned()))?;
    post_join_to(&address.to_string(), token, body).await
}

/// As [`post_join`], at another address.
///
/// # Errors
/// A connection or a handshake that fails.
pub async fn post_join_to(
    address: &str,
    token: &JoinToken,
    body: &str,
) -> Result<JoinReply, HarnessError> {
    let config = tls::join_client(&token.pins, &token.trust_domain)
        .map_err(|error| HarnessError::Http(error.to_string()))?;
    let stream = connect(address, config, token).await?;
    exchange(stream, body).await
}

async fn connect(
    address: &str,
    config: Arc<rustls::ClientConfig>,
    token: &JoinToken,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, HarnessError> {
    let name = token.addresses.first().map_or(
        ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()),
        |address| address.server_name(),
    );
    let stream = TcpStream::connect(address).await?;
    Ok(TlsConnector::from(config).connect(name, stream).await?)
}

async fn exchange(
    mut stream: tokio_rustls::client::TlsStream<TcpStream>,
    body: &str,
) -> Result<JoinReply, HarnessError> {
    let head = format!(
        "POST /v1/join HTTP/1.1\r\nhost: join\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer).await {
        // A server may close without a goodbye of TLS once its answer is out.
        Ok(_) | Err(_) if !answer.is_empty() => {}
        Ok(_) => return Err(HarnessError::Http("closed without an answer".to_owned())),
        Err(error) => return Err(error.into()),
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_default();
    Ok(JoinReply {
        status,
        body: body.to_owned(),
    })
}
