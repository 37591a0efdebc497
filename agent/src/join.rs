//! Joining: one HTTPS POST on TCP, to a plane whose chain ends in a root that the token pins. A member
//! whose leaf has expired renews in the same way: it has no link to renew over.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use culvert_certs::{
    HostPort, JoinAnswer, JoinRequest, JoinToken, KeyPair, RootPin, TrustBundle, tls,
};
use data_encoding::BASE64;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::chain;

/// For one address: connection, handshake, and control's own time.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
/// For the connection and the handshake among it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer, in bytes: a chain and a bundle.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// Why it gave nothing.
#[derive(Debug)]
pub enum JoinFailure {
    /// Nobody answers, or nobody can answer now: worth another try.
    Unreachable(String),
    /// Control said no, and will again.
    Refused {
        /// Its code.
        code: String,
        /// In its words.
        message: String,
        /// Control's signed statement, where it says that there is one; not looked at yet.
        signed: Option<Vec<u8>>,
    },
    /// Something is wrong with one of us.
    Broken(String),
}

/// Asks each address of the token once. The answer is still to be checked against the token.
///
/// # Errors
/// [`JoinFailure`]: a refusal by the first that refuses, else the last address's.
pub async fn once(token: &JoinToken, key: &KeyPair) -> Result<JoinAnswer, JoinFailure> {
    let broken = |error: &dyn std::error::Error| JoinFailure::Broken(chain(error));
    let csr = key.csr().map_err(|error| broken(&error))?;
    let request = JoinRequest::new(token, csr).map_err(|error| broken(&error))?;
    let body = serde_json::to_vec(&request).map_err(|error| broken(&error))?;
    let config =
        tls::join_client(&token.pins, &token.trust_domain).map_err(|error| broken(&error))?;
    ask_each(&token.addresses, &config, &JOIN, body.into()).await
}

/// Asks each address once for a new certificate. The answer is still to be checked.
///
/// # Errors
/// As [`once`].
pub(crate) async fn renew(
    addresses: &[HostPort],
    bundle: &TrustBundle,
    request: Bytes,
) -> Result<JoinAnswer, JoinFailure> {
    let mut pins = bundle.pins().to_vec();
    pins.extend(bundle.roots().iter().filter_map(RootPin::of));
    let config = tls::join_client(&pins, bundle.trust_domain())
        .map_err(|error| JoinFailure::Broken(chain(&error)))?;
    ask_each(addresses, &config, &RENEW, request).await
}

/// What is asked for at the door of those who have no link.
struct Errand {
    path: &'static str,
    content_type: &'static str,
}

const JOIN: Errand = Errand {
    path: "/v1/join",
    content_type: "application/json",
};

const RENEW: Errand = Errand {
    path: "/v1/renew",
    content_type: "application/cbor",
};

async fn ask_each(
    addresses: &[HostPort],
    config: &Arc<rustls::ClientConfig>,
    errand: &Errand,
    body: Bytes,
) -> Result<JoinAnswer, JoinFailure> {
    let mut last = JoinFailure::Unreachable("no address is known".to_owned());
    for address in addresses {
        let asking = ask(address, config, errand, body.clone());
        last = match tokio::time::timeout(JOIN_TIMEOUT, asking).await {
            Ok(Ok(joined)) => return Ok(joined),
            Ok(Err(refused @ JoinFailure::Refused { .. })) => return Err(refused),
            Ok(Err(failure)) => failure,
            Err(_) => JoinFailure::Unreachable(format!("{address}: no answer in time")),
        };
    }
    Err(last)
}

async fn ask(
    address: &HostPort,
    config: &Arc<rustls::ClientConfig>,
    errand: &Errand,
    body: Bytes,
) -> Result<JoinAnswer, JoinFailure> {
    let unreachable = |what: &str, error: &dyn std::error::Error| {
        JoinFailure::Unreachable(format!("{address}: {what}: {}", chain(error)))
    };
    let connecting = async {
        let tcp = TcpStream::connect((address.host(), address.port()))
            .await
            .map_err(|error| unreachable("no TCP connection", &error))?;
        TlsConnector::from(Arc::clone(config))
            .connect(address.server_name(), tcp)
            .await
            .map_err(|error| unreachable("the plane is not the token's", &error))
    };
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .map_err(|_| JoinFailure::Unreachable(format!("{address}: no connection in time")))??;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable("no HTTP", &error))?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(errand.path)
        .header(header::HOST, address.to_string())
        .header(header::CONTENT_TYPE, errand.content_type)
        .body(Full::new(body))
        .map_err(|error| JoinFailure::Broken(error.to_string()))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await;
        Ok::<_, hyper::Error>((status, body.map(http_body_util::Collected::to_bytes)))
    };
    // The connection is driven for as long as the exchange lasts.
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    let no_answer = |error: hyper::Error| unreachable("no answer", &error);
    let (status, body) = tokio::select! {
        biased;
        done = &mut exchange => done,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error),
        },
    }
    .map_err(no_answer)?;
    let body = body.map_err(|error| unreachable("no whole answer", &*error))?;
    read(status, &body).map_err(|failure| match failure {
        JoinFailure::Unreachable(reason) => {
            JoinFailure::Unreachable(format!("{address}: {reason}"))
        }
        failure @ (JoinFailure::Refused { .. } | JoinFailure::Broken(_)) => failure,
    })
}

#[derive(Default, Deserialize)]
struct Refused {
    error: RefusedError,
}

#[derive(Default, Deserialize)]
struct RefusedError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
    /// Base64.
    #[serde(default)]
    signed: Option<String>,
}

fn read(status: StatusCode, body: &[u8]) -> Result<JoinAnswer, JoinFailure> {
    match status {
        StatusCode::OK => serde_json::from_slice(body)
            .map_err(|error| JoinFailure::Broken(format!("the answer cannot be read: {error}"))),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Err(JoinFailure::Unreachable(format!("answers {status}")))
        }
        _ if status.is_client_error() => {
            let refused: Refused = serde_json::from_slice(body).unwrap_or_default();
            let or = |text: String, other: &str| {
                if text.is_empty() {
                    other.to_owned()
                } else {
                    text
                }
            };
            Err(JoinFailure::Refused {
                code: or(refused.error.code, status.as_str()),
                message: or(refused.error.message, "the join was refused"),
                signed: refused
                    .error
                    .signed
                    .and_then(|text| BASE64.decode(text.as_bytes()).ok()),
            })
        }
        _ => Err(JoinFailure::Unreachable(format!("answers {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_from_troubles() {
        let body = br#"{"error":{"code":"refused","message":"ask for a new token"}}"#;
        match read(StatusCode::FORBIDDEN, body) {
            Err(JoinFailure::Refused { code, message, .. }) => {
                assert_eq!(
                    (code.as_str(), message.as_str()),
                    ("refused", "ask for a new token")
                );
            }
            other => panic!("{other:?}"),
        }
        for status in [408, 429, 500, 503, 302] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert!(
                matches!(read(status, b""), Err(JoinFailure::Unreachable(_))),
                "{status}"
            );
        }
        assert!(matches!(
            read(StatusCode::OK, b"{}"),
            Err(JoinFailure::Broken(_))
        ));
    }
}
