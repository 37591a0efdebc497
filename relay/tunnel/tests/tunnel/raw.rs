//! Peers that do not keep to the protocol, on bare quinn.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use culvert_certs::{Expect, tls};
use culvert_tunnel::{Connection, Dialer, UdpOptions};
use culvert_wire::CallFrame;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, RecvStream, SendStream, ServerConfig, TransportConfig};

use crate::world::{Relay, Town, done, target};

/// A relay of ours, and an agent that does as the test likes.
pub(crate) struct RawAgent {
    pub(crate) relay: Connection,
    pub(crate) agent: quinn::Connection,
    _listener: Relay,
    _endpoint: Endpoint,
}

impl RawAgent {
    pub(crate) async fn up() -> Self {
        let town = Town::new();
        let mut listener = Relay::bind(&town, UdpOptions::default());
        let endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let tls = tls::agent_link_client(&town.agent()).unwrap();
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        config.transport_config(generous());
        let connecting = endpoint
            .connect_with(config, listener.address, "127.0.0.1")
            .unwrap();
        let up = done("link up", async {
            tokio::join!(connecting, listener.accept())
        })
        .await;
        let (agent, relay) = (up.0.unwrap(), up.1);
        Self {
            relay,
            agent,
            _listener: listener,
            _endpoint: endpoint,
        }
    }
}

/// An agent of ours, and a relay that does as the test likes.
pub(crate) struct RawRelay {
    pub(crate) agent: Connection,
    pub(crate) relay: quinn::Connection,
    _dialer: Dialer,
    _endpoint: Endpoint,
}

impl RawRelay {
    pub(crate) async fn up() -> Self {
        let town = Town::new();
        let tls = tls::link_server(&town.plane()).unwrap();
        let crypto = QuicServerConfig::try_from(tls).unwrap();
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(generous());
        let endpoint = Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let target = target(endpoint.local_addr().unwrap());
        let dialer = Dialer::new(UdpOptions::default());
        let tls = tls::agent_link_client(&town.agent()).unwrap();
        let verify = town.verify(Expect::Plane);
        let dialled = dialer.dial(&target, tls, &verify);
        let accepted = async { endpoint.accept().await.unwrap().await.unwrap() };
        let (agent, relay) = done("link up", async { tokio::join!(dialled, accepted) }).await;
        Self {
            agent: agent.unwrap(),
            relay,
            _dialer: dialer,
            _endpoint: endpoint,
        }
    }

    /// Opens a stream and writes frames, or anything else.
    pub(crate) async fn open(&self, bytes: &[u8]) -> (SendStream, RecvStream) {
        let (mut send, recv) = self.relay.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        (send, recv)
    }
}

pub(crate) fn encoded(frames: &[CallFrame]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    for frame in frames {
        frame.encode(&mut bytes).unwrap();
    }
    bytes.to_vec()
}

/// A transport that permits what ours would not.
fn generous() -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config.max_concurrent_bidi_streams(10_000_u32.into());
    config.max_concurrent_uni_streams(10_000_u32.into());
    Arc::new(config)
}
