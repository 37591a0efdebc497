//! MCP sessions over many replicas: the id that a caller gets is sealed, and names the server's own
//! id, the agent that has the session and the definition of its service. So any replica of any plane
//! that has the tenant's keys serves any request, and no table is shared.
//!
//! Whatever does not open is a session that has ended: 404, upon which clients begin a new one.
//!
//! Clients of the older HTTP+SSE transport have no id but an endpoint, `?endpoint=<agent>.<random>`: a
//! reference that the agent made in the place of what its server announced, and that only it knows.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use culvert_certs::{AgentId, SessionKeyId, TenantName};
use culvert_control::{
    ConfigSnapshot, PlaneKey,
    session_keys::{SESSION_LIFETIME, WrappedKey},
    snapshot::KeyView,
};
use culvert_relay::{Affinity, CallFailed, FailCause, NoTarget, Route};
use culvert_wire::Code;
use http::{HeaderMap, HeaderName, HeaderValue, header::ACCEPT_ENCODING};
use tokio::sync::watch;

use super::{era::Era, peek::Peek};
use crate::{
    error::{CallerCode, Problem},
    hygiene,
    intake::Terms,
    route::endpoint::ServicePath,
};

/// The session of a request, and the one that an answer begins.
pub const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// Longest id of a server that is sealed, in bytes: with the seal it still fits any head.
const MAX_UPSTREAM: usize = 1_024;
/// Names the endpoint of a client of the older transport in a query.
const ENDPOINT: &str = "endpoint=";
/// Longest endpoint that is looked at, in bytes: twice what agents make.
const MAX_ENDPOINT: usize = 128;
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
    /// What a session is bound to beside its tenant: the path, and the caller's key.
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
    /// To an endpoint that this agent has announced.
    Announced(AgentId, String),
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

    /// Looks at a request with `key` to the server at `path`, and has its headers name the session as
    /// the server knows it.
    pub fn arrive(
        &self,
        key: &KeyView,
        path: &ServicePath,
        message: Option<&Peek>,
        terms: &mut Terms,
    ) -> Result<Visit, Problem> {
        let era = Era::of(&terms.headers, message);
        // Agents read what servers announce in their streams.
        terms.headers.remove(ACCEPT_ENCODING);
        let query = terms.path.split_once('?').map(|(_, query)| query);
        self.visit(key, path, era, query, &mut terms.headers)
    }

    fn visit(
        &self,
        key: &KeyView,
        path: &ServicePath,
        era: Era,
        query: Option<&str>,
        headers: &mut HeaderMap,
    ) -> Result<Visit, Problem> {
        // Whoever else of the tenant learns an id is not in the session.
        let route = format!("{}/{} {}", path.connector, path.service, key.id);
        let presented = headers.remove(SESSION_ID);
        hygiene::remove_spelled(headers, &SESSION_ID);
        let stage = match (query.and_then(endpoint), era, presented) {
            (Some(endpoint), _, _) => {
                let (agent, _) = endpoint.split_once('.').ok_or_else(gone)?;
                let agent = agent.parse().map_err(|_| gone())?;
                Stage::Announced(agent, endpoint.to_owned())
            }
            (None, Era::Stateless, _) => Stage::Stateless,
            (None, Era::Sessions, None) => Stage::Fresh,
            (None, Era::Sessions, Some(presented)) => {
                let session = self.open(&key.tenant, &route, &presented, SystemTime::now());
                let session = session.ok_or_else(gone)?;
                headers.insert(SESSION_ID, session.upstream.clone());
                Stage::Within(presented, session)
            }
        };
        Ok(Visit {
            sessions: self.clone(),
            tenant: key.tenant.clone(),
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
                definition: Some(session.definition),
            }),
            Stage::Announced(agent, _) => Some(Affinity {
                agent: *agent,
                definition: None,
            }),
        }
    }

    /// What the agent is asked for: the one url of its server, or an endpoint that it announced.
    pub fn target(&self) -> String {
        match &self.stage {
            Stage::Fresh | Stage::Stateless | Stage::Within(..) => "/".to_owned(),
            Stage::Announced(_, endpoint) => format!("/?{ENDPOINT}{endpoint}"),
        }
    }

    /// What is said of a call that found its session gone.
    pub fn failed(&self, failed: &CallFailed) -> Option<Problem> {
        let ended = match failed.cause {
            FailCause::NoTarget(NoTarget::OtherDefinition) => true,
            // The agent knows no such endpoint any more, or has nobody's there but another's.
            FailCause::Agent(Code::UnknownService) => matches!(self.stage, Stage::Announced(..)),
            FailCause::NoTarget(_)
            | FailCause::Head(_)
            | FailCause::AtCap
            | FailCause::Agent(_)
            | FailCause::LinkLost
            | FailCause::Deadline
            | FailCause::Caller
            | FailCause::Leaving => false,
        };
        ended.then(gone)
    }

    /// Has the head of an answer name the session as its caller knows it.
    pub fn answer(self, headers: &mut HeaderMap, route: &Route) -> Result<(), Problem> {
        let Some(upstream) = headers.remove(SESSION_ID) else {
            return Ok(());
        };
        let known = match self.stage {
            // There are none in that era, and what we did not seal could not come back.
            Stage::Stateless => return Ok(()),
            Stage::Fresh | Stage::Announced(..) => None,
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

/// The endpoint that a query names, should it: what only our own agents make.
fn endpoint(query: &str) -> Option<&str> {
    let mut pairs = query.split('&');
    let named = pairs.find_map(|pair| pair.strip_prefix(ENDPOINT))?;
    let made = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'.';
    Some(if named.len() <= MAX_ENDPOINT && named.bytes().all(made) {
        named
    } else {
        ""
    })
}

/// A session that its caller has to begin again.
fn gone() -> Problem {
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

#[cfg(test)]
mod tests {
    use culvert_control::{AuthorityKey, Control, ControlConfig, resource::Allow};
    use culvert_relay::Transport;
    use culvert_wire::{ServiceKind, SessionId};
    use tempfile::TempDir;

    use super::*;

    struct World {
        folder: TempDir,
        control: Control,
        key: KeyView,
        sessions: Sessions,
    }

    impl World {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let sealing = folder.path().join("authority.key");
            let sealing = AuthorityKey::from_file(&sealing, true).unwrap();
            let domain = "culvert.test".parse().unwrap();
            let store = folder.path().join("culvert.redb");
            let config = ControlConfig::embedded(&store, sealing, domain)
                .await
                .unwrap();
            let control = Control::open(config).await.unwrap();
            let dev = control.bootstrap_dev(None).await.unwrap();
            control.refresh().await.unwrap();
            let plane = plane_key(&folder, "plane.key");
            control.mint_session_keys(&plane).await.unwrap();
            Self {
                sessions: Sessions::new(control.snapshot(), plane),
                folder,
                control,
                key: key(dev.tenant, "ci"),
            }
        }

        fn visit(&self, path: &str, headers: &mut HeaderMap) -> Result<Visit, Problem> {
            let path = ServicePath::parse(path).unwrap();
            self.sessions
                .visit(&self.key, &path, Era::Sessions, None, headers)
        }

        /// The id that the caller gets when the server at `dev/tickets` says `upstream`.
        fn begun(&self, upstream: &'static str) -> HeaderValue {
            let visit = self.visit("dev/tickets", &mut HeaderMap::new()).unwrap();
            assert_eq!(visit.affinity(), None);
            let mut answer = with(HeaderValue::from_static(upstream));
            visit.answer(&mut answer, &route()).unwrap();
            answer.remove(SESSION_ID).unwrap()
        }

        fn is_gone(&self, path: &str, id: &HeaderValue) -> bool {
            match self.visit(path, &mut with(id.clone())) {
                Ok(_) => false,
                Err(problem) => problem.code() == CallerCode::SessionNotFound,
            }
        }
    }

    fn key(tenant: TenantName, id: &str) -> KeyView {
        KeyView {
            tenant,
            id: id.to_owned(),
            allow: Allow::All,
            expires: None,
        }
    }

    fn plane_key(folder: &TempDir, name: &str) -> PlaneKey {
        PlaneKey::from_file(&folder.path().join(name), true).unwrap()
    }

    fn with(id: HeaderValue) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(SESSION_ID, id);
        headers
    }

    fn route() -> Route {
        Route {
            connector: "dev".parse().unwrap(),
            service: "tickets".parse().unwrap(),
            kind: ServiceKind::Mcp,
            definition: [7; 32],
            agent: AgentId::from_bytes([3; 16]),
            session: SessionId::from_bytes([1; 16]),
            transport: Transport::Quic,
            attempts: 1,
        }
    }

    #[tokio::test]
    async fn a_session_is_the_servers_upstream_and_sealed_to_its_caller() {
        let world = World::new().await;
        let id = world.begun("secret-42");
        let text = id.to_str().unwrap();
        assert!(
            text.starts_with("cs1.") && !text.contains("secret"),
            "{text}"
        );
        let mut request = with(id.clone());
        let visit = world.visit("dev/tickets", &mut request).unwrap();
        assert_eq!(request[SESSION_ID], "secret-42");
        let affinity = visit.affinity().unwrap();
        assert_eq!(affinity.agent, route().agent);
        assert_eq!(affinity.definition, Some(route().definition));
        // A server that repeats its id changes nothing for the caller.
        let mut answer = with(HeaderValue::from_static("secret-42"));
        visit.answer(&mut answer, &route()).unwrap();
        assert_eq!(answer[SESSION_ID], id);
        let visit = world.visit("dev/tickets", &mut with(id.clone())).unwrap();
        let mut other = with(HeaderValue::from_static("another"));
        visit.answer(&mut other, &route()).unwrap();
        assert_ne!(other[SESSION_ID], id);
        let visit = world.visit("dev/tickets", &mut with(id)).unwrap();
        let mut silent = HeaderMap::new();
        visit.answer(&mut silent, &route()).unwrap();
        assert!(silent.is_empty());
    }

    #[tokio::test]
    async fn what_was_not_sealed_for_this_caller_and_path_is_no_session() {
        let world = World::new().await;
        let id = world.begun("s");
        assert!(!world.is_gone("dev/tickets", &id));
        assert!(world.is_gone("dev/other", &id));
        assert!(world.is_gone("prod/tickets", &id));
        for made_up in ["s", "cs1", "cs1.0011223344556677.AAAA", "cs2.x.y"] {
            assert!(world.is_gone("dev/tickets", &HeaderValue::from_static(made_up)));
        }
        let text = id.to_str().unwrap();
        let cut = HeaderValue::from_str(&text[..text.len() - 2]).unwrap();
        assert!(world.is_gone("dev/tickets", &cut));
        let path = ServicePath::parse("dev/tickets").unwrap();
        for other in [
            key("other".parse().unwrap(), "ci"),
            key(world.key.tenant.clone(), "laptop"),
        ] {
            let (headers, era) = (&mut with(id.clone()), Era::Sessions);
            let foreign = world.sessions.visit(&other, &path, era, None, headers);
            assert_eq!(foreign.unwrap_err().code(), CallerCode::SessionNotFound);
        }
        // A plane that the keys were not wrapped for.
        let elsewhere = plane_key(&world.folder, "other.key");
        let elsewhere = Sessions::new(world.control.snapshot(), elsewhere);
        let headers = &mut with(id);
        let foreign = elsewhere.visit(&world.key, &path, Era::Sessions, None, headers);
        assert_eq!(foreign.unwrap_err().code(), CallerCode::SessionNotFound);
        let fresh = elsewhere.visit(
            &world.key,
            &path,
            Era::Sessions,
            None,
            &mut HeaderMap::new(),
        );
        let sealed = fresh
            .unwrap()
            .answer(&mut with(HeaderValue::from_static("s")), &route());
        assert_eq!(sealed.unwrap_err().code(), CallerCode::Overloaded);
    }

    #[tokio::test]
    async fn a_session_lasts_a_day_and_no_longer() {
        let world = World::new().await;
        for (age, is_gone) in [
            (SESSION_LIFETIME - Duration::from_secs(60), false),
            (SESSION_LIFETIME, true),
        ] {
            let session = Session {
                issued: SystemTime::now() - age,
                agent: route().agent,
                definition: [0; 32],
                upstream: HeaderValue::from_static("s"),
            };
            let sealed = world
                .sessions
                .seal(&world.key.tenant, "dev/tickets ci", &session);
            assert_eq!(world.is_gone("dev/tickets", &sealed.unwrap()), is_gone);
        }
    }

    #[tokio::test]
    async fn requests_without_sessions_neither_send_nor_get_one() {
        let world = World::new().await;
        let mut request = with(world.begun("s"));
        let path = ServicePath::parse("dev/tickets").unwrap();
        let visit = world
            .sessions
            .visit(&world.key, &path, Era::Stateless, None, &mut request);
        let visit = visit.unwrap();
        assert!(request.is_empty() && visit.affinity().is_none());
        let mut answer = with(HeaderValue::from_static("s"));
        visit.answer(&mut answer, &route()).unwrap();
        assert!(answer.is_empty());
    }

    #[tokio::test]
    async fn an_endpoint_leads_to_its_agent_and_to_nobody_else() {
        let world = World::new().await;
        let path = ServicePath::parse("dev/tickets").unwrap();
        let visit = |query: &str| {
            let headers = &mut HeaderMap::new();
            world
                .sessions
                .visit(&world.key, &path, Era::Sessions, Some(query), headers)
        };
        let agent = AgentId::from_bytes([9; 16]);
        let named = format!("endpoint={agent}.00ff");
        for query in [named.clone(), format!("a=b&{named}&c")] {
            let to = visit(&query).unwrap();
            let affinity = to.affinity().unwrap();
            assert_eq!((affinity.agent, affinity.definition), (agent, None));
            assert_eq!(to.target(), format!("/?{named}"));
        }
        for made_up in [
            "endpoint=",
            "endpoint=x",
            "endpoint=x.y",
            "endpoint=../x",
            "endpoint=%00",
        ] {
            let refused = visit(made_up).unwrap_err();
            assert_eq!(refused.code(), CallerCode::SessionNotFound, "{made_up}");
        }
        assert_eq!(visit("a=b").unwrap().target(), "/");
    }

    #[tokio::test]
    async fn an_id_that_would_not_fit_a_head_is_the_servers_fault() {
        let world = World::new().await;
        let visit = world.visit("dev/tickets", &mut HeaderMap::new()).unwrap();
        let long = HeaderValue::from_str(&"x".repeat(MAX_UPSTREAM + 1)).unwrap();
        let refused = visit.answer(&mut with(long), &route()).unwrap_err();
        assert_eq!(refused.code(), CallerCode::BackendProtocol);
    }

    #[test]
    fn what_a_session_is_comes_back_as_it_was() {
        let session = Session {
            issued: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            agent: AgentId::from_bytes([1; 16]),
            definition: [2; 32],
            upstream: HeaderValue::from_static("id"),
        };
        assert_eq!(Session::decode(&session.encode()), Some(session));
        for short in 0..FIXED {
            assert_eq!(Session::decode(&vec![0xff; short]), None);
        }
        assert_eq!(Session::decode(&[0xff; FIXED + 3]), None);
    }
}
