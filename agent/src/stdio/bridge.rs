//! Streamable HTTP in front of a server on stdio, in both eras of MCP on one url.
//!
//! ```text
//!  POST    a message    stateless protocol -> the one process for it; leaving cancels
//!                       initialize         -> a session, with a process of its own or shared
//!                       in a session       -> its process; leaving does not cancel
//!  GET     a session's own stream, or one that broke, from an event on
//!  DELETE  the end of a session
//! ```

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::answer::{self, Answer};
use super::body::Place;
use super::error::{Problem, StartError};
use super::instance::{Leaving, MAX_URI_BYTES, Untaken};
use super::media::{self, EVENTS, JSON};
use super::rpc::{Id, Message, Object, Raw, Request, raw};
use super::session::Session;
use super::spec::Sharing;
use super::stream::{Beginning, With};
use super::supply::NotStateless;
use super::{NotBegun, Stdio, hello, mirror, version};
use crate::backend::OutBody;

/// The header that names a session.
const SESSION: &str = "mcp-session-id";
/// The header that names the last event a client has.
const LAST_EVENT: &str = "last-event-id";

/// Why a call has another answer than that of the server.
#[derive(Debug)]
enum Otherwise {
    /// We answer it.
    Problem(Problem, Option<Raw>),
    /// Nothing of it has reached a process, or will.
    NotBegun(NotBegun),
}

type Answered = Result<Answer, Otherwise>;

impl From<Problem> for Otherwise {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem, None)
    }
}

impl Problem {
    /// As the answer to a request.
    fn of(self, id: &Id) -> Otherwise {
        Otherwise::Problem(self, Some(id.raw.clone()))
    }
}

impl Stdio {
    /// Answers one call. `leaving` ends streams that have no end of their own.
    ///
    /// # Errors
    /// [`NotBegun`]: no process has seen anything of it. Whatever else goes wrong is an answer.
    pub async fn call(
        &self,
        head: Parts,
        body: OutBody,
        leaving: &CancellationToken,
    ) -> Result<Answer, NotBegun> {
        let answered = match head.method {
            Method::POST => self.post(&head.headers, body, leaving).await,
            Method::GET => self.listen(&head.headers, leaving),
            Method::DELETE => self.delete(&head.headers),
            _ => Err(Problem::Method.into()),
        };
        match answered {
            Ok(answer) => Ok(answer),
            Err(Otherwise::Problem(problem, id)) => Ok(answer::problem(&problem, id.as_ref())),
            Err(Otherwise::NotBegun(why)) => Err(why),
        }
    }

    async fn post(
        &self,
        headers: &HeaderMap,
        body: OutBody,
        leaving: &CancellationToken,
    ) -> Answered {
        if !media::is_json(headers) {
            return Err(Problem::ContentType.into());
        }
        for wanted in [JSON, EVENTS] {
            if !media::accepts(headers, wanted) {
                return Err(Problem::Accept("application/json and text/event-stream").into());
            }
        }
        let (bytes, place) = self.collect(headers, body).await?;
        let message = Message::parse(&bytes).map_err(Problem::Message)?;
        if version::is_stateless_call(headers, Some(&message)) {
            return self.stateless(headers, (message, place), leaving).await;
        }
        match message {
            Message::Request(request) if request.method == "initialize" => {
                self.initialize(headers, request, place).await
            }
            Message::Request(request) => {
                let session = self.session(headers);
                let session = session.map_err(|problem| problem.of(&request.id))?;
                self.request(&session, request, place).await
            }
            Message::Notification { method, object } => {
                let session = self.session(headers)?;
                let sent = (object, place);
                let told = session.instance.notify(session.no, &method, sent).await;
                told.map_err(untaken)?;
                Ok(answer::empty(StatusCode::ACCEPTED))
            }
            Message::Response { id, object } => {
                let session = self.session(headers)?;
                let told = session.instance.respond(&id, &object, place).await;
                told.map_err(untaken)?;
                Ok(answer::empty(StatusCode::ACCEPTED))
            }
        }
    }

    /// A message of the stateless protocol.
    async fn stateless(
        &self,
        headers: &HeaderMap,
        (message, place): (Message, Place),
        leaving: &CancellationToken,
    ) -> Answered {
        let request = match message {
            Message::Request(request) => request,
            // The protocol has none that a server on HTTP is told.
            Message::Notification { .. } => return Ok(answer::empty(StatusCode::ACCEPTED)),
            Message::Response { .. } => return Err(Problem::Answer.into()),
        };
        let id = request.id.clone();
        let instance = match self.supply.stateless().await {
            Ok(instance) => instance,
            Err(NotStateless::Older) => return Err(Problem::OlderServer.of(&id)),
            Err(NotStateless::Start(error)) => return Err(not_begun(error)),
        };
        let checked = mirror::check(headers, &request.method, &request.object)
            .map_err(|problem| problem.of(&id))?;
        if request.method == "tools/call" {
            let checked = self.params.check(&instance, headers, &request.object).await;
            checked.map_err(|problem| problem.of(&id))?;
        }
        let listens = request.method == "subscriptions/listen";
        let stream = instance.stream(0, false);
        let taken = instance
            .request(0, (request, Some(place)), stream, true)
            .await;
        let mut reader = taken.map_err(|why| untaken(why).of(&id))?;
        if listens {
            reader.until(leaving);
        }
        let begun = timeout(self.supply.pace.head, reader.begun()).await;
        tracing::trace!(in_time = begun.is_ok(), "an answer begins");
        Ok(answer::begun(reader, |line| {
            mirror::status_of(line, checked)
        }))
    }

    /// The begin of a session.
    async fn initialize(&self, headers: &HeaderMap, request: Request, place: Place) -> Answered {
        if headers.contains_key(SESSION) {
            return Err(Problem::HasSession.of(&request.id));
        }
        let (session, mut answer) = match self.spec.instances {
            Sharing::PerSession => match self.begin_own(request, place).await? {
                (Some(session), answer) => (session, answer),
                (None, answer) => return Ok(answer),
            },
            Sharing::Shared => self.begin_shared(&request).await?,
        };
        let Some(name) = self.sessions.add(session) else {
            return Err(Otherwise::NotBegun(NotBegun::Full));
        };
        if let Ok(name) = HeaderValue::try_from(name) {
            answer.headers_mut().insert(SESSION, name);
        }
        Ok(answer)
    }

    /// A session with a process of its own, which is greeted by the client itself. None where
    /// the server does not want it.
    async fn begin_own(
        &self,
        request: Request,
        place: Place,
    ) -> Result<(Option<Arc<Session>>, Answer), Otherwise> {
        let id = &request.id.clone();
        // Said in the newer way it is a method that is not there any more.
        let newer = request.object.at(&version::IN_BODY).is_some();
        let after = self.supply.pace.makes_room;
        let started = self.supply.own(|| self.sessions.make_room(after)).await;
        let (instance, own) = started.map_err(not_begun)?;
        let no = self.sessions.number();
        let stream = instance.stream(0, false);
        let sent = (request, Some(place));
        let taken = instance.request(no, sent, stream, false).await;
        let reader = taken.map_err(|why| untaken(why).of(id))?;
        if timeout(self.supply.pace.start, reader.begun())
            .await
            .is_err()
        {
            self.supply.suspect();
            return Err(Problem::Start(StartError::Silent).of(id));
        }
        let line = match reader.beginning() {
            Beginning::Only(line) => line,
            Beginning::Failed(..) | Beginning::Nothing | Beginning::Events => {
                self.supply.suspect();
                let end = instance.ended().unwrap_or(super::error::End::NotRpc);
                return Err(Problem::Start(hello::ended(&end, &instance)).of(id));
            }
        };
        let greeting: Option<Object> = serde_json::from_slice(&line).ok();
        let version = greeting.and_then(|all| all.text_at(&["result", "protocolVersion"]));
        let session = version.map(|version| {
            Session::new(
                no,
                Arc::clone(&instance),
                version::primes(&version),
                Some(own),
            )
        });
        let status = match session {
            None if newer => mirror::status_of(&line, mirror::Checked::default()),
            None | Some(_) => StatusCode::OK,
        };
        Ok((session, answer::message(status, line)))
    }

    /// A session on the process that all share.
    async fn begin_shared(&self, request: &Request) -> Result<(Arc<Session>, Answer), Otherwise> {
        let (instance, greeting) = self.supply.shared().await.map_err(not_begun)?;
        if !self.sessions.has_room() {
            self.sessions.make_room(self.supply.pace.makes_room);
        }
        let wanted = request.object.text_at(&["params", "protocolVersion"]);
        let greeting = hello::greeting(&greeting, wanted.as_deref());
        let version = greeting.text_at(&["protocolVersion"]).unwrap_or_default();
        let session = Session::new(
            self.sessions.number(),
            instance,
            version::primes(&version),
            None,
        );
        Ok((session, result(&request.id, raw(&greeting))))
    }

    /// A request in a session. Its caller may come back for the answer.
    async fn request(&self, session: &Arc<Session>, request: Request, place: Place) -> Answered {
        if self.spec.instances == Sharing::Shared
            && let Some(answer) = subscribe(session, &request).map_err(|why| why.of(&request.id))?
        {
            return Ok(answer);
        }
        let id = request.id.clone();
        let (stream, instance) = (session.stream(), &session.instance);
        let sent = (request, Some(place));
        let taken = instance.request(session.no, sent, stream, false).await;
        let reader = taken.map_err(|why| untaken(why).of(&id))?;
        let begun = timeout(self.supply.pace.head, reader.begun()).await;
        tracing::trace!(in_time = begun.is_ok(), "an answer begins");
        session.touch();
        if matches!(reader.beginning(), Beginning::Events | Beginning::Nothing) {
            session.keep(Arc::clone(reader.stream()));
            if session.primes {
                reader.stream().prime();
            }
        }
        Ok(answer::begun(reader, |_| StatusCode::OK))
    }

    /// What a session hears outside of requests, or again.
    fn listen(&self, headers: &HeaderMap, leaving: &CancellationToken) -> Answered {
        if version::is_stateless_call(headers, None) {
            return Err(Problem::Method.into());
        }
        if !media::accepts(headers, EVENTS) {
            return Err(Problem::Accept(EVENTS).into());
        }
        let session = self.session(headers)?;
        let with = With {
            hold: Some(session.instance.hold(Leaving::GoesOn)),
            until: Some(leaving.clone()),
        };
        let reader = match headers.get(LAST_EVENT) {
            None => session.general.read(None, with),
            Some(id) => {
                let id = id.to_str().map_err(|_| Problem::Event)?;
                let (stream, event) = session.event(id).ok_or(Problem::Event)?;
                stream.read(Some(event), with)
            }
        };
        Ok(answer::events(reader.ok_or(Problem::Event)?))
    }

    fn delete(&self, headers: &HeaderMap) -> Answered {
        if version::is_stateless_call(headers, None) {
            return Err(Problem::Method.into());
        }
        let id = session_id(headers).ok_or(Problem::NoSession)?;
        if !self.sessions.remove(id) {
            return Err(Problem::UnknownSession.into());
        }
        Ok(answer::empty(StatusCode::NO_CONTENT))
    }

    /// The session that a call names.
    fn session(&self, headers: &HeaderMap) -> Result<Arc<Session>, Problem> {
        let id = session_id(headers).ok_or(Problem::NoSession)?;
        let session = self.sessions.get(id).ok_or(Problem::UnknownSession)?;
        match headers.get(version::HEADER).map(HeaderValue::to_str) {
            None => Ok(session),
            Some(Ok(named)) if version::is_known(named) => Ok(session),
            Some(Ok(_) | Err(_)) => Err(Problem::Version),
        }
    }
}

/// Sessions that share a process share its subscriptions: the last one ends one.
fn subscribe(session: &Session, request: &Request) -> Result<Option<Answer>, Problem> {
    let wants = match request.method.as_str() {
        "resources/subscribe" => true,
        "resources/unsubscribe" => false,
        _ => return Ok(None),
    };
    let Some(uri) = request.object.text_at(&["params", "uri"]) else {
        return Ok(None);
    };
    if uri.len() > MAX_URI_BYTES {
        return Err(Problem::Uri(MAX_URI_BYTES));
    }
    let others = session.instance.subscribed(session.no, &uri, wants);
    let others = others.map_err(untaken)?;
    Ok((!wants && others).then(|| result(&request.id, raw(&serde_json::json!({})))))
}

/// An answer of ours to a request.
fn result(id: &Id, result: Raw) -> Answer {
    let mut answer = Object::default();
    answer.set("jsonrpc", raw(&"2.0"));
    answer.set("id", id.raw.clone());
    answer.set("result", result);
    answer::message(StatusCode::OK, answer.line())
}

fn session_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(SESSION)?.to_str().ok()
}

fn untaken(why: Untaken) -> Problem {
    match why {
        Untaken::Full => Problem::Busy,
        Untaken::Ended(end) => Problem::Ended(end),
    }
}

fn not_begun(error: StartError) -> Otherwise {
    Otherwise::NotBegun(match error {
        StartError::Full => NotBegun::Full,
        StartError::Spawn(_)
        | StartError::Ended { .. }
        | StartError::Silent
        | StartError::Refused(_)
        | StartError::Waits(_)
        | StartError::Stopped => NotBegun::Unreachable(error.reason()),
    })
}
