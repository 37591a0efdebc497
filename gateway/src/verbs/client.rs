//! One request to the admin API on a connection of its own, over TCP or TLS.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use culvert_certs::SecretText;
use culvert_control::{DevFile, api::ErrorBody};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use url::Url;

use crate::{cli::AdminArgs, dev, exit::Failure};

/// Time for one whole request.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer that is read, in bytes: a page of documents.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// The admin API, and whose part of it is meant.
#[derive(Debug)]
pub(super) struct Client {
    url: Url,
    key: SecretText,
    tenant: Option<String>,
}

/// What the API answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// The body, `null` where it is empty.
    pub(super) body: Value,
}

impl Client {
    /// Takes flags and environment, and what is missing from `dev.json`.
    ///
    /// # Errors
    /// An address or a key is in neither.
    pub(super) fn open(args: &AdminArgs) -> Result<Self, Failure> {
        let dev = dev_file(args)?;
        let url = args.admin.clone().or_else(|| dev.as_ref()?.admin.clone());
        let key = args.admin_key.clone().map(SecretText::from);
        let key = key.or_else(|| dev.as_ref().map(|dev| dev.admin_key.clone()));
        let tenant = args
            .tenant
            .clone()
            .or_else(|| Some(dev.as_ref()?.tenant.to_string()));
        let missing = |what: &str| {
            Failure::Usage(format!(
                "no {what}: give it, or run `culvert-gateway dev` first"
            ))
        };
        let url = url.ok_or_else(|| missing("--admin URL (CULVERT_ADMIN_URL)"))?;
        let url =
            Url::parse(&url).map_err(|error| Failure::Usage(format!("--admin {url}: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(Failure::Usage(format!(
                "--admin {url}: not an http or https URL"
            )));
        }
        let key = key.ok_or_else(|| missing("--admin-key (CULVERT_ADMIN_KEY)"))?;
        Ok(Self { url, key, tenant })
    }

    /// The tenant that is meant.
    ///
    /// # Errors
    /// None is named.
    pub(super) fn tenant(&self) -> Result<&str, Failure> {
        let none = || Failure::Usage("which tenant? Give --tenant NAME (CULVERT_TENANT)".into());
        self.tenant.as_deref().ok_or_else(none)
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// The API cannot be reached, or refuses.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: HeaderMap,
    ) -> Result<Answer, Failure> {
        let request = self.request(method, path, body, headers)?;
        let late = |_| Failure::Unreachable(format!("{}: no answer within 30 s", self.url));
        let (status, bytes) = timeout(PATIENCE, self.exchange(request))
            .await
            .map_err(late)??;
        if !status.is_success() {
            return Err(refusal(status, &bytes));
        }
        if bytes.is_empty() {
            return Ok(Answer { body: Value::Null });
        }
        let odd = |error| Failure::Unreachable(format!("{}: not an admin API: {error}", self.url));
        serde_json::from_slice(&bytes)
            .map(|body| Answer { body })
            .map_err(odd)
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: HeaderMap,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let bytes = body
            .map(|body| Bytes::from(body.to_string()))
            .unwrap_or_default();
        let host = self.url.host_str().unwrap_or_default();
        let host = self
            .url
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", self.key.expose()))
            .map_err(|_| Failure::Usage("the admin key is not one".into()))?;
        bearer.set_sensitive(true);
        let base = self.url.path().trim_end_matches('/');
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{base}{path}"))
            .header(header::HOST, host)
            .header(header::AUTHORIZATION, bearer)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(bytes))
            .map_err(|error| Failure::Usage(format!("{path}: {error}")))?;
        request.headers_mut().extend(headers);
        Ok(request)
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let cannot = |error: std::io::Error| Failure::Unreachable(format!("{}: {error}", self.url));
        let host = self.url.host_str().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.url.port_or_known_default().unwrap_or(443);
        let stream = TcpStream::connect((bare, port)).await.map_err(cannot)?;
        if self.url.scheme() == "http" {
            return self.speak(stream, request).await;
        }
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|error| Failure::Usage(format!("--admin {}: {error}", self.url)))?;
        let connector = TlsConnector::from(tls()?);
        let stream = connector.connect(name, stream).await.map_err(cannot)?;
        self.speak(stream, request).await
    }

    async fn speak<S>(
        &self,
        stream: S,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken = |error: hyper::Error| {
            Failure::Unreachable(format!("{}: {}", self.url, crate::exit::chain(&error)))
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(broken)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            let body =
                body.map_err(|error| Failure::Unreachable(format!("{}: {error}", self.url)))?;
            Ok((status, body.to_bytes()))
        };
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            answer = exchange.as_mut() => answer,
            ended = connection => match ended {
                Ok(()) => exchange.await,
                Err(error) => Err(broken(error)),
            },
        }
    }
}

impl Answer {
    /// The body as what it should be.
    ///
    /// # Errors
    /// It is something else.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_value(self.body.clone()).map_err(|error| {
            Failure::Internal(format!("the admin API answered otherwise: {error}"))
        })
    }
}

/// What `dev` left, unless flags say all.
fn dev_file(args: &AdminArgs) -> Result<Option<DevFile>, Failure> {
    if args.admin.is_some() && args.admin_key.is_some() {
        return Ok(None);
    }
    let path = dev::dev_file(&dev::place(args.data_dir.as_deref())?);
    DevFile::read(&path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

/// Certificates of the system, and a CA of ours that a gateway's operator has put there.
fn tls() -> Result<Arc<ClientConfig>, Failure> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|e| Failure::internal(&e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// What the API's error means for the exit code, and all of what it says.
fn refusal(status: StatusCode, bytes: &[u8]) -> Failure {
    let text = match serde_json::from_slice::<ErrorBody>(bytes) {
        Ok(ErrorBody { error }) => {
            let details = error.details.iter().map(|detail| {
                let line = if detail.line > 0 {
                    format!("line {}: ", detail.line)
                } else {
                    String::new()
                };
                format!("\n  {line}{}: {}", detail.path, detail.message)
            });
            format!(
                "{} ({}){}",
                error.message,
                error.code,
                details.collect::<String>()
            )
        }
        Err(_) => format!("the admin API answered {status}"),
    };
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::Refused(text),
        status if status.is_server_error() => Failure::Unreachable(text),
        _ => Failure::Usage(text),
    }
}
