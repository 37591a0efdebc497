//! Callers over TLS.

use std::{io, net::SocketAddr, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::world::PATIENCE;

/// A handshake with a caller who trusts these roots and calls the gateway `localhost`.
pub(crate) async fn connect(
    address: SocketAddr,
    trusted: &[CertificateDer<'static>],
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for root in trusted {
        roots.add(root.clone()).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    timeout(PATIENCE, connector.connect(name, stream))
        .await
        .unwrap()
}

/// Whether a request on this connection is answered; `false` where the gateway closes it.
pub(crate) async fn is_served(caller: &mut TlsStream<TcpStream>) -> bool {
    let get = b"GET /v1/models HTTP/1.1\r\nhost: gw\r\n\r\n";
    let mut first = [0; 12];
    let asked = async {
        caller.write_all(get).await?;
        caller.read_exact(&mut first).await
    };
    let asked = timeout(PATIENCE, asked).await.unwrap();
    asked.is_ok() && &first == b"HTTP/1.1 401"
}
