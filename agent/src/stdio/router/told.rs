//! Whom a server tells something: it seldom says.

use super::super::rpc::Object;
use super::{Kind, Routed, Router, SUBSCRIPTION, key, ours};

impl<S: Clone> Router<S> {
    /// Where a notification of the server goes.
    pub(super) fn tell(
        &mut self,
        method: &str,
        object: Object,
        listens: impl Fn(&S) -> bool,
    ) -> Routed<S> {
        if method == "notifications/progress" {
            return self.progress(object);
        }
        match self.kind {
            Kind::Session => {
                let changes =
                    method.ends_with("list_changed") || method == "notifications/resources/updated";
                match self.newest(listens).filter(|_| !changes) {
                    Some(to) => Routed::Part {
                        to,
                        line: object.line(),
                        must: false,
                    },
                    None => Routed::General {
                        line: object.line(),
                        must: false,
                    },
                }
            }
            Kind::Shared => match method {
                "notifications/resources/updated" => match object.text_at(&["params", "uri"]) {
                    Some(uri) => Routed::Updated {
                        uri,
                        line: object.line(),
                    },
                    None => Routed::Nowhere("an update of no resource"),
                },
                _ if method.ends_with("list_changed") => Routed::General {
                    line: object.line(),
                    must: false,
                },
                _ => Routed::Nowhere("it does not say whose it is"),
            },
            Kind::Stateless => self.tell_one(method, object),
        }
    }

    /// Of the stateless protocol: what names no subscription reaches nobody.
    fn tell_one(&mut self, method: &str, mut object: Object) -> Routed<S> {
        let subscription = object.at(&["params", "_meta", SUBSCRIPTION]);
        if let Some(ours) = subscription.as_deref().and_then(ours) {
            return match self.pending.get(&ours) {
                Some(pending) => {
                    let id = pending.id.raw.clone();
                    object.replace(&["params", "_meta", SUBSCRIPTION], id);
                    Routed::Part {
                        to: pending.to.clone(),
                        line: object.line(),
                        must: false,
                    }
                }
                None => Routed::Nowhere("a subscription that has ended"),
            };
        }
        if method == "notifications/cancelled" {
            let ended = object
                .at(&["params", "requestId"])
                .and_then(|id| ours(&id))
                .filter(|ours| self.pending.get(ours).is_some_and(|p| p.listens))
                .and_then(|ours| self.forget(ours));
            return match ended {
                Some(pending) => Routed::Close { to: pending.to },
                None => Routed::Nowhere("it cancels nothing that goes on"),
            };
        }
        // Even where one caller waits alone: it may be about a request before.
        Routed::Nowhere("it does not say whose it is")
    }

    fn progress(&self, mut object: Object) -> Routed<S> {
        let token = object.at(&["params", "progressToken"]);
        let pending = token
            .and_then(|token| self.tokens.get(&key(&token)))
            .and_then(|ours| self.pending.get(ours))
            .filter(|pending| !pending.greets);
        match (pending, self.kind) {
            (Some(pending), _) => {
                if let Some(token) = &pending.token {
                    object.replace(&["params", "progressToken"], token.raw.clone());
                }
                Routed::Part {
                    to: pending.to.clone(),
                    line: object.line(),
                    must: false,
                }
            }
            (None, Kind::Session) => Routed::General {
                line: object.line(),
                must: false,
            },
            (None, Kind::Shared | Kind::Stateless) => {
                Routed::Nowhere("progress of nothing that goes on")
            }
        }
    }
}
