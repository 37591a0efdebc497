//! MCP sessions over many replicas: the id that a caller gets is sealed, and names the server's own
//! id, the agent that has the session and the definition of its service. So any replica of any plane
//! that has the tenant's keys serves any request, and no table is shared.
//!
//! Whatever does not open is a session that has ended: 404, upon which clients begin a new one.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use culvert_certs::{AgentId, SessionKeyId, TenantName};
use culvert_control::{
    ConfigSnapshot, PlaneKey,
    session_keys::{SESSION_LIFETIME, WrappedKey},
};
use culvert_relay::{Affinity, Route};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::watch;

use super::era::Era;
use crate::{
    error::{CallerCode, Problem},
    route::endpoint::ServicePath,
};

/// The session of a request, and the one that an answer begins.
pub const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// Longest id of a server that is sealed, in bytes: with the seal it still fits any head.
const MAX_UPSTREAM: usize = 1_024;
/// What stands in front of the server's id: when, agent, definition.
const FIXED: usize = 8 + 16 + 32;

/// Seals and opens the session ids of a plane's callers.
#[derive(Clone, Debug)]
pub struct Sessions {
    config: watch::Receiver<Arc<ConfigSnapshot>>,
    plane: PlaneKey,
}

/// One request to an MCP server, as far as sessions go.
#[derive(Debug)]
pub struct Visit {
    sessions: Sessions,
    tenant: TenantName,
    route: String,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Without a session; the answer may begin one.
    Fresh,
    /// Of an era that has none.
    Stateless,
    /// Within a session, by the id that the caller presented.
    Within(HeaderValue, Session),
}

/// What a sealed id names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Session {
    issued: SystemTime,
    agent: AgentId,
    definition: [u8; 32],
    /// The server's own id.
    upstream: HeaderValue,
}

impl Sessions {
    /// Sessions under the keys that `config` has for whoever holds `plane`.
    pub const fn new(config: watch::Receiver<Arc<ConfigSnapshot>>, plane: PlaneKey) -> Self {
        Self { config, plane }
    }

    /// Looks at a request of `tenant` to the server at `path`, and has its headers name the session
    /// as the server knows it.
    pub fn visit(
        &self,
        tenant: &TenantName,
        path: &ServicePath,
        era: Era,
        headers: &mut HeaderMap,
    ) -> Result<Visit, Problem> {
        let route = format!("{}/{}", path.connector, path.service);
        let stage = match (era, headers.remove(SESSION_ID)) {
            (Era::Stateless, _) => Stage::Stateless,
            (Era::Sessions, None) => Stage::Fresh,
            (Era::Sessions, Some(presented)) => {
                let session = self.open(tenant, &route, &presented, SystemTime::now());
                let session = session.ok_or_else(gone)?;
                headers.insert(SESSION_ID, session.upstream.clone());
                Stage::Within(presented, session)
            }
        };
        Ok(Visit {
            sessions: self.clone(),
            tenant: tenant.clone(),
            route,
            stage,
        })
    }

    fn open(
        &self,
        tenant: &TenantName,
        route: &str,
        presented: &HeaderValue,
        now: SystemTime,
    ) -> Option<Session> {
        let text = presented.to_str().ok()?;
        let id = SessionKeyId::of(text)?;
        // Unwrapped at each use, which takes a microsecond: nothing has to be kept in step.
        let key = {
            let config = self.config.borrow();
            let keys = config.session_keys.get(tenant)?;
            let wrapped = keys.iter().find(|key| key.id == id)?;
            wrapped.open(tenant, &self.plane)?
        };
        let opened = key.open(tenant, route, text).ok()?;
        let session = Session::decode(&opened)?;
        // A clock that was set back makes a session younger, never endless.
        let age = now.duration_since(session.issued).unwrap_or_default();
        (age < SESSION_LIFETIME).then_some(session)
    }

    fn seal(
        &self,
        tenant: &TenantName,
        route: &str,
        session: &Session,
    ) -> Result<HeaderValue, Problem> {
        let config = Arc::clone(&self.config.borrow());
        let keys = config
            .session_keys
            .get(tenant)
            .map_or(&[][..], Vec::as_slice);
        let current = WrappedKey::current(keys, &self.plane, session.issued);
        let key = current.and_then(|wrapped| wrapped.open(tenant, &self.plane));
        let sealed = key.and_then(|key| key.seal(tenant, route, &session.encode()).ok());
        sealed
            .and_then(|text| HeaderValue::try_from(text).ok())
            .ok_or_else(|| {
                let what = "The keys for sessions are not here yet.";
                Problem::new(CallerCode::Overloaded, what)
            })
    }
}

impl Visit {
    /// Where the session is.
    pub fn affinity(&self) -> Option<Affinity> {
        match &self.stage {
            Stage::Fresh | Stage::Stateless => None,
            Stage::Within(_, session) => Some(Affinity {
                agent: session.agent,
                definition: session.definition,
            }),
        }
    }

    /// Has the head of an answer name the session as its caller knows it.
    pub fn answer(self, headers: &mut HeaderMap, route: &Route) -> Result<(), Problem> {
        let Some(upstream) = headers.remove(SESSION_ID) else {
            return Ok(());
        };
        let known = match self.stage {
            // There are none in that era, and what we did not seal could not come back.
            Stage::Stateless => return Ok(()),
            Stage::Fresh => None,
            Stage::Within(presented, session) => {
                (session.upstream == upstream).then_some(presented)
            }
        };
        if upstream.len() > MAX_UPSTREAM {
            let what = "The MCP server's session id is longer than 1,024 bytes.";
            return Err(Problem::new(CallerCode::BackendProtocol, what));
        }
        let id = match known {
            Some(presented) => presented,
            None => {
                let session = Session {
                    issued: SystemTime::now(),
                    agent: route.agent,
                    definition: route.definition,
                    upstream,
                };
                self.sessions.seal(&self.tenant, &self.route, &session)?
            }
        };
        headers.insert(SESSION_ID, id);
        Ok(())
    }
}

/// A session that its caller has to begin again.
pub fn gone() -> Problem {
    let what = "The MCP session has ended, or was not begun here.";
    Problem::new(CallerCode::SessionNotFound, what)
}

impl Session {
    fn encode(&self) -> Vec<u8> {
        let issued = self.issued.duration_since(UNIX_EPOCH).unwrap_or_default();
        [
            &issued.as_secs().to_be_bytes()[..],
            self.agent.as_bytes(),
            &self.definition,
            self.upstream.as_bytes(),
        ]
        .concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (fixed, upstream) = bytes.split_first_chunk::<FIXED>()?;
        let (issued, rest) = fixed.split_first_chunk::<8>()?;
        let (agent, definition) = rest.split_first_chunk::<16>()?;
        let issued = Duration::from_secs(u64::from_be_bytes(*issued));
        Some(Self {
            issued: UNIX_EPOCH.checked_add(issued)?,
            agent: AgentId::from_bytes(*agent),
            definition: definition.try_into().ok()?,
            upstream: HeaderValue::from_bytes(upstream).ok()?,
        })
    }
}
