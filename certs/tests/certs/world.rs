//! A small world with an authority, and two connections pumped in memory.

use std::sync::Arc;
use std::time::SystemTime;

use culvert_certs::{
    AgentId, AgentIdentity, Authority, Credentials, Identity, LEAF_LIFETIME, PlaneIdentity,
    ReplicaId,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

pub(crate) struct World {
    pub(crate) authority: Authority,
    pub(crate) now: SystemTime,
}

impl World {
    pub(crate) fn new() -> Self {
        let now = SystemTime::now();
        let authority = Authority::create("culvert.test".parse().unwrap(), now).unwrap();
        Self { authority, now }
    }

    pub(crate) fn agent_identity(&self) -> AgentIdentity {
        AgentIdentity {
            trust_domain: self.authority.trust_domain().clone(),
            tenant: "acme".parse().unwrap(),
            connector: "prod-vpc".parse().unwrap(),
            agent: AgentId::random(),
        }
    }

    pub(crate) fn plane_identity(&self) -> PlaneIdentity {
        PlaneIdentity {
            trust_domain: self.authority.trust_domain().clone(),
            region: "US".parse().unwrap(),
            zone: "ORF".parse().unwrap(),
            replica: ReplicaId::random(),
        }
    }

    pub(crate) fn agent(&self) -> Credentials {
        self.enroll(self.agent_identity().into())
    }

    pub(crate) fn plane(&self) -> Credentials {
        self.enroll(self.plane_identity().into())
    }

    fn enroll(&self, identity: Identity) -> Credentials {
        self.authority
            .enroll(
                &identity,
                &["localhost".to_owned()],
                LEAF_LIFETIME,
                self.now,
            )
            .unwrap()
    }
}

#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
}

/// What each end made of a handshake that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) client: Option<rustls::Error>,
    pub(crate) server: Option<rustls::Error>,
}

/// A handshake that has to succeed.
pub(crate) fn complete(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Pair {
    handshake(client, server).expect("the handshake completes")
}

/// Carries flights both ways until neither end has anything to say.
pub(crate) fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> Result<Pair, Box<Failure>> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut pair = Pair {
        client: ClientConnection::new(client, name).unwrap(),
        server: ServerConnection::new(server).unwrap(),
    };
    let mut failure = Failure {
        client: None,
        server: None,
    };
    // TLS 1.3 takes three flights; an alert is one more.
    for _ in 0..4 {
        let mut wire = Vec::new();
        while pair.client.wants_write() {
            pair.client.write_tls(&mut wire).unwrap();
        }
        let mut unread = &wire[..];
        while !unread.is_empty() && pair.server.read_tls(&mut unread).unwrap() > 0 {
            failure.server = failure.server.or(pair.server.process_new_packets().err());
        }
        let mut wire = Vec::new();
        while pair.server.wants_write() {
            pair.server.write_tls(&mut wire).unwrap();
        }
        let mut unread = &wire[..];
        while !unread.is_empty() && pair.client.read_tls(&mut unread).unwrap() > 0 {
            failure.client = failure.client.or(pair.client.process_new_packets().err());
        }
    }
    if failure.client.is_some() || failure.server.is_some() {
        return Err(Box::new(failure));
    }
    assert!(!pair.client.is_handshaking() && !pair.server.is_handshaking());
    Ok(pair)
}
