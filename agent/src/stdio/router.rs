//! Where a message goes: a pure map between the callers of a process and its two streams, which
//! carry everything of everybody.
//!
//! Ids of callers are replaced by ours, so that they cannot collide, and given back. What a
//! server says without naming a request belongs to the one session of its process; of a process
//! that serves several callers it reaches nobody whom it might not be meant for.

mod told;

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;

use super::rpc::{Id, Message, Object, Raw, Request, raw};

/// Requests that a process works on at once: each holds its caller's stream.
const MAX_PENDING: usize = 1_024;
/// Requests of a server that its client has not answered yet.
const MAX_ASKED: usize = 64;

const TOKEN: [&str; 3] = ["params", "_meta", "progressToken"];
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// Whom a process serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One session of its own.
    Session,
    /// Several sessions.
    Shared,
    /// The requests of the stateless protocol, whoever makes them.
    Stateless,
}

/// The map of one process. `S` is where a caller listens.
#[derive(Debug)]
pub(super) struct Router<S> {
    kind: Kind,
    next: u64,
    pending: BTreeMap<u64, Pending<S>>,
    /// By the progress token that the server was given.
    tokens: HashMap<String, u64>,
    /// What the server has asked its client.
    asked: HashSet<String>,
}

/// A request that the server works on.
#[derive(Debug)]
pub(super) struct Pending<S> {
    /// The caller's id.
    pub(super) id: Id,
    /// Where the caller listens.
    pub(super) to: S,
    owner: u64,
    token: Option<Token>,
    listens: bool,
    /// Its answer begins a session: until then nothing is said to anybody.
    greets: bool,
}

#[derive(Debug)]
struct Token {
    /// The caller's own.
    raw: Raw,
    /// What the server was given instead.
    key: String,
}

/// Where a message of the server goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Routed<S> {
    /// It is the answer of a request, which is over.
    Answer { to: S, line: Bytes },
    /// It belongs to a request that goes on.
    Part { to: S, line: Bytes, must: bool },
    /// The server ends a subscription.
    Close { to: S },
    /// To the session, or to all of them, outside of any request.
    General { line: Bytes, must: bool },
    /// To the sessions that have subscribed to a resource.
    Updated { uri: String, line: Bytes },
    /// The server gets an answer at once.
    Reply(Bytes),
    /// To nobody.
    Nowhere(&'static str),
}

/// Too many requests at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl<S: Clone> Router<S> {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            next: 1,
            pending: BTreeMap::new(),
            tokens: HashMap::new(),
            asked: HashSet::new(),
        }
    }

    /// The process turns out to serve others than was thought.
    pub(super) fn become_(&mut self, kind: Kind) {
        self.kind = kind;
    }

    /// Takes a request of `owner`; gives our id, and what the server reads.
    pub(super) fn request(
        &mut self,
        owner: u64,
        request: Request,
        to: S,
    ) -> Result<(u64, Bytes), Full> {
        if self.pending.len() >= MAX_PENDING {
            return Err(Full);
        }
        let Request {
            id,
            method,
            mut object,
        } = request;
        let ours = self.next;
        self.next += 1;
        object.set("id", raw(&ours));
        let token = object.at(&TOKEN).map(|token| self.token(ours, token));
        if let Some(token) = &token {
            if self.kind != Kind::Session {
                object.replace(&TOKEN, raw(&ours));
            }
            self.tokens.insert(token.key.clone(), ours);
        }
        let pending = Pending {
            id,
            to,
            owner,
            token,
            listens: method == "subscriptions/listen",
            greets: method == "initialize",
        };
        self.pending.insert(ours, pending);
        Ok((ours, object.line()))
    }

    /// A session keeps its own tokens: those of tasks outlive their requests.
    fn token(&self, ours: u64, token: Raw) -> Token {
        let key = match self.kind {
            Kind::Session => key(&token),
            Kind::Shared | Kind::Stateless => ours.to_string(),
        };
        Token { raw: token, key }
    }

    /// Takes a notification of `owner`: what the server reads, if anything, and the request that
    /// it ends.
    pub(super) fn notification(
        &mut self,
        owner: u64,
        method: &str,
        mut object: Object,
    ) -> (Option<Bytes>, Option<S>) {
        match (method, self.kind) {
            ("notifications/cancelled", _) => {
                let wanted = object
                    .at(&["params", "requestId"])
                    .and_then(|id| Id::new(&id));
                let found = wanted.and_then(|id| self.find(owner, &id));
                // It may have been answered in the meantime.
                let Some(ours) = found else {
                    return (None, None);
                };
                object.replace(&["params", "requestId"], raw(&ours));
                let ended = self.forget(ours).map(|pending| pending.to);
                (Some(object.line()), ended)
            }
            // We are its client: what single callers are is not said.
            (_, Kind::Shared) => (None, None),
            (_, Kind::Session | Kind::Stateless) => (Some(object.line()), None),
        }
    }

    /// Takes a client's answer to what the server has asked: what the server reads, if it has.
    pub(super) fn response(&mut self, id: &Id, object: &Object) -> Option<Bytes> {
        self.asked.remove(&id.key).then(|| object.line())
    }

    /// The caller of one of our ids has left: what the server reads, if it still works on it.
    pub(super) fn cancel(&mut self, ours: u64) -> Option<Bytes> {
        self.forget(ours)?;
        let message = json!({
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": ours, "reason": "the caller has left"},
        });
        Some(Bytes::from(message.to_string()))
    }

    /// Whether nobody waits for an answer.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// All requests that will have no answer.
    pub(super) fn take_all(&mut self) -> Vec<Pending<S>> {
        self.tokens.clear();
        self.asked.clear();
        std::mem::take(&mut self.pending).into_values().collect()
    }

    /// Where a message of the server goes. `listens` says whether somebody is at a caller's end.
    pub(super) fn route(&mut self, message: Message, listens: impl Fn(&S) -> bool) -> Routed<S> {
        match message {
            Message::Response { id, object } => self.answer(&id, object),
            Message::Notification { method, object } => self.tell(&method, object, listens),
            Message::Request(request) => self.ask(request, listens),
        }
    }

    fn answer(&mut self, id: &Id, mut object: Object) -> Routed<S> {
        let Some(pending) = ours(&id.raw).and_then(|ours| self.forget(ours)) else {
            return Routed::Nowhere("an answer to nothing that was asked, or not any more");
        };
        object.set("id", pending.id.raw.clone());
        if pending.listens {
            object.replace(&["result", "_meta", SUBSCRIPTION], pending.id.raw);
        }
        Routed::Answer {
            to: pending.to,
            line: object.line(),
        }
    }

    fn ask(&mut self, request: Request, listens: impl Fn(&S) -> bool) -> Routed<S> {
        let Request { id, method, object } = request;
        let error = |code: i32, message: &str| {
            let id = &id.raw;
            Routed::Reply(Bytes::from(
                json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
                    .to_string(),
            ))
        };
        if method == "ping" {
            let pong = json!({"jsonrpc": "2.0", "id": id.raw, "result": {}});
            return Routed::Reply(Bytes::from(pong.to_string()));
        }
        if self.kind != Kind::Session {
            return error(
                -32601,
                "this server serves several callers: it asks none of them",
            );
        }
        if self.asked.len() >= MAX_ASKED {
            return error(-32603, "too many requests wait for the client's answer");
        }
        self.asked.insert(id.key);
        let line = object.line();
        match self.newest(listens) {
            Some(to) => Routed::Part {
                to,
                line,
                must: true,
            },
            None => Routed::General { line, must: true },
        }
    }

    /// The newest request whose caller is there: what the server says is most likely about it.
    fn newest(&self, listens: impl Fn(&S) -> bool) -> Option<S> {
        let mut newest_first = self.pending.values().rev();
        newest_first
            .find(|pending| !pending.greets && listens(&pending.to))
            .map(|pending| pending.to.clone())
    }

    fn find(&self, owner: u64, id: &Id) -> Option<u64> {
        let mut all = self.pending.iter();
        all.find(|(_, pending)| pending.owner == owner && pending.id.key == id.key)
            .map(|(ours, _)| *ours)
    }

    fn forget(&mut self, ours: u64) -> Option<Pending<S>> {
        let pending = self.pending.remove(&ours)?;
        if let Some(token) = &pending.token
            && self.tokens.get(&token.key) == Some(&ours)
        {
            self.tokens.remove(&token.key);
        }
        Some(pending)
    }
}

/// One of our ids.
fn ours(id: &RawValue) -> Option<u64> {
    id.get().parse().ok()
}

/// A token in one spelling.
fn key(token: &RawValue) -> String {
    Id::new(token).map_or_else(|| token.get().to_owned(), |id| id.key)
}

#[cfg(test)]
mod tests;
