//! The operator's verbs: each is one or two requests to the admin API, and what to print.

mod client;
mod given;
mod show;
mod snippets;

use std::path::Path;

use culvert_control::{
    api::{
        AuditListing, CreateKeyAnswer, CreateKeyRequest, Listing, Status, TokenAnswer, TokenRequest,
    },
    resource::{Document, ResourceKind, read_file},
};
use http::{HeaderMap, HeaderValue, Method, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Map, Value, json};

use self::{
    client::{Answer, Client},
    given::{key_spec, kind_of, read},
    snippets::Offer,
};
use crate::{
    cli::{AdminArgs, AgentVerb, ConnectorVerb, KeyVerb, Output, PlaneVerb, Verb},
    exit::Failure,
    out,
};

/// Pages of a listing that are fetched: far more documents than a person reads.
const MAX_PAGES: usize = 100;

/// Does what the operator asked for.
///
/// # Errors
/// See [`Failure`].
pub async fn run(verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Apply { file, admin } => Desk::open(&admin)?.apply(&file).await,
        Verb::Get {
            kind,
            name: Some(name),
            output: Some(Output::Client),
            admin,
        } => Desk::open(&admin)?.snippets(&kind, &name).await,
        Verb::Get {
            kind, name, admin, ..
        } => Desk::open(&admin)?.get(&kind, name.as_deref()).await,
        Verb::Delete { kind, name, admin } => Desk::open(&admin)?.delete(&kind, &name).await,
        Verb::Connector { verb, admin } => {
            let desk = Desk::open(&admin)?;
            match verb {
                ConnectorVerb::Create { name } => desk.create_connector(&name).await,
                ConnectorVerb::Token { name, lifetime } => {
                    desk.token(ResourceKind::Connector, &name, lifetime).await
                }
                ConnectorVerb::Revoke { name } => desk.revoke(ResourceKind::Connector, &name).await,
            }
        }
        Verb::Agent {
            verb: AgentVerb::List,
            admin,
        } => Desk::open(&admin)?.get("agent", None).await,
        Verb::Agent {
            verb: AgentVerb::Revoke { id },
            admin,
        } => Desk::open(&admin)?.revoke(ResourceKind::Agent, &id).await,
        Verb::Plane {
            verb: PlaneVerb::Token { zone, lifetime },
            admin,
        } => {
            Desk::open(&admin)?
                .token(ResourceKind::Plane, &zone, lifetime)
                .await
        }
        Verb::Key { verb, admin } => {
            let desk = Desk::open(&admin)?;
            match verb {
                KeyVerb::Revoke { name } => desk.revoke(ResourceKind::Key, &name).await,
                KeyVerb::Create {
                    name,
                    allow,
                    all,
                    expires,
                    description,
                } => {
                    desk.create_key(name, key_spec(allow, all, expires, description))
                        .await
                }
            }
        }
        Verb::Status { admin } => Desk::open(&admin)?.status().await,
        Verb::Audit { since, admin } => Desk::open(&admin)?.audit(since.as_deref()).await,
        Verb::Backup { action, .. } => Err(Failure::Usage(format!(
            "backup {action}: not in this version. Stop the gateway and copy its store and its keys instead"
        ))),
    }
}

/// The admin API, and how its answers are shown.
struct Desk {
    client: Client,
    as_json: bool,
}

impl Desk {
    fn open(args: &AdminArgs) -> Result<Self, Failure> {
        Ok(Self {
            client: Client::open(args)?,
            as_json: args.json,
        })
    }

    async fn apply(&self, file: &Path) -> Result<(), Failure> {
        let text = read(file)?;
        let documents = read_file(&text).map_err(|errors| {
            let lines = errors
                .iter()
                .map(|error| format!("\n  {}:{error}", file.display()));
            Failure::Usage(format!("nothing was applied:{}", lines.collect::<String>()))
        })?;
        for document in documents {
            let document = self.with_tenant(document.document)?;
            let path = self.path(
                document.kind,
                document.tenant.as_ref().map(AsRef::as_ref),
                document.name.as_str(),
            );
            let body = value(&document)?;
            self.client
                .send(Method::PUT, &path, Some(&body), HeaderMap::new())
                .await?;
            self.say(&format!(
                "{} `{}` applied",
                document.kind.word(),
                document.name
            ))?;
        }
        Ok(())
    }

    /// A document that leaves its tenant out means the operator's.
    fn with_tenant(&self, mut document: Document) -> Result<Document, Failure> {
        if document.kind.has_tenant() && document.tenant.is_none() {
            let tenant = self.client.tenant()?;
            document.tenant = Some(tenant.parse().map_err(|e| Failure::usage(&e))?);
        }
        Ok(document)
    }

    async fn get(&self, kind: &str, name: Option<&str>) -> Result<(), Failure> {
        let kind = kind_of(kind)?;
        if let Some(name) = name {
            let path = self.own_path(kind, name)?;
            let found = self
                .client
                .send(Method::GET, &path, None, HeaderMap::new())
                .await?;
            return if self.as_json {
                self.json(&found)
            } else {
                print(&show::document(&found.body)?)
            };
        }
        let mut items = Vec::new();
        let mut after = None;
        for _ in 0..MAX_PAGES {
            let query = after.map_or_else(String::new, |key: String| {
                format!("?after={}", escape(&key))
            });
            let path = format!("{}{query}", self.own_kind(kind)?);
            let answer = self
                .client
                .send(Method::GET, &path, None, HeaderMap::new())
                .await?;
            let page: Listing = answer.parse()?;
            items.extend(page.items);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        if self.as_json {
            print(&value(&items)?.to_string())
        } else {
            print(&show::table(kind, &items))
        }
    }

    /// What those need who call a connector.
    async fn snippets(&self, kind: &str, name: &str) -> Result<(), Failure> {
        if kind_of(kind)? != ResourceKind::Connector {
            return Err(Failure::Usage("-o client is for connectors".into()));
        }
        let headers = HeaderMap::new();
        let answer = self.client.send(Method::GET, "/v1/status", None, headers);
        let status: Status = answer.await?.parse()?;
        let offer = Offer::of(&status.links, self.client.tenant()?, name);
        let offer = offer.ok_or_else(|| {
            Failure::Unreachable(format!(
                "no agent of connector `{name}` is connected: there is nothing to call now"
            ))
        })?;
        print(&if self.as_json {
            snippets::printable(&offer.json().to_string())
        } else {
            offer.text()
        })
    }

    async fn delete(&self, kind: &str, name: &str) -> Result<(), Failure> {
        let kind = kind_of(kind)?;
        let path = self.own_path(kind, name)?;
        self.client
            .send(Method::DELETE, &path, None, HeaderMap::new())
            .await?;
        self.say(&format!("{} `{name}` deleted", kind.word()))
    }

    async fn create_connector(&self, name: &str) -> Result<(), Failure> {
        let kind = ResourceKind::Connector;
        let path = self.own_path(kind, name)?;
        let body = json!({ "kind": kind.word(), "tenant": self.client.tenant()?, "name": name, "spec": {} });
        let mut new_only = HeaderMap::new();
        new_only.insert(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
        self.client
            .send(Method::PUT, &path, Some(&body), new_only)
            .await?;
        self.say(&format!(
            "connector `{name}` created; next: culvert-gateway connector token {name}"
        ))
    }

    async fn token(
        &self,
        kind: ResourceKind,
        name: &str,
        lifetime: Option<String>,
    ) -> Result<(), Failure> {
        let path = format!("{}:token", self.own_path(kind, name)?);
        let body = value(&TokenRequest { lifetime })?;
        let answer = self
            .client
            .send(Method::POST, &path, Some(&body), HeaderMap::new())
            .await?;
        if self.as_json {
            return self.json(&answer);
        }
        // The token alone, so that it can be piped; the rest is for the person.
        let token: TokenAnswer = answer.parse()?;
        tell(&format!("good until {}, for one join", token.expires))?;
        print(&token.token)
    }

    async fn revoke(&self, kind: ResourceKind, name: &str) -> Result<(), Failure> {
        let path = format!("{}:revoke", self.own_path(kind, name)?);
        self.client
            .send(Method::POST, &path, None, HeaderMap::new())
            .await?;
        self.say(&format!("{} `{name}` revoked", kind.word()))
    }

    async fn create_key(&self, name: String, spec: Map<String, Value>) -> Result<(), Failure> {
        let path = format!("{}:create", self.own_kind(ResourceKind::Key)?);
        let body = value(&CreateKeyRequest { name, spec })?;
        let answer = self
            .client
            .send(Method::POST, &path, Some(&body), HeaderMap::new())
            .await?;
        if self.as_json {
            return self.json(&answer);
        }
        let created: CreateKeyAnswer = answer.parse()?;
        tell("this key is shown once")?;
        print(&created.key)
    }

    async fn status(&self) -> Result<(), Failure> {
        let answer = self
            .client
            .send(Method::GET, "/v1/status", None, HeaderMap::new())
            .await?;
        if self.as_json {
            self.json(&answer)
        } else {
            print(&show::status(&answer.parse::<Status>()?))
        }
    }

    async fn audit(&self, since: Option<&str>) -> Result<(), Failure> {
        let mut query = since.map_or_else(String::new, |since| format!("?since={}", escape(since)));
        for _ in 0..MAX_PAGES {
            let path = format!("/v1/audit{query}");
            let answer = self
                .client
                .send(Method::GET, &path, None, HeaderMap::new())
                .await?;
            let page: AuditListing = answer.parse()?;
            for event in &page.items {
                print(&if self.as_json {
                    value(event)?.to_string()
                } else {
                    show::event(event)
                })?;
            }
            let Some(next) = page.next else { break };
            query = format!("?after={}", escape(&next));
            if let Some(since) = since {
                query.push_str(&format!("&since={}", escape(since)));
            }
        }
        Ok(())
    }

    fn own_kind(&self, kind: ResourceKind) -> Result<String, Failure> {
        Ok(if kind.has_tenant() {
            format!(
                "/v1/tenants/{}/{}",
                escape(self.client.tenant()?),
                kind.plural()
            )
        } else {
            format!("/v1/{}", kind.plural())
        })
    }

    fn own_path(&self, kind: ResourceKind, name: &str) -> Result<String, Failure> {
        let tenant = if kind.has_tenant() {
            Some(self.client.tenant()?)
        } else {
            None
        };
        Ok(self.path(kind, tenant, name))
    }

    fn path(&self, kind: ResourceKind, tenant: Option<&str>, name: &str) -> String {
        let name = escape(name);
        match tenant {
            Some(tenant) => format!("/v1/tenants/{}/{}/{name}", escape(tenant), kind.plural()),
            None => format!("/v1/{}/{name}", kind.plural()),
        }
    }

    fn json(&self, answer: &Answer) -> Result<(), Failure> {
        print(&answer.body.to_string())
    }

    fn say(&self, what: &str) -> Result<(), Failure> {
        if self.as_json { Ok(()) } else { print(what) }
    }
}

fn value<T: Serialize>(thing: &T) -> Result<Value, Failure> {
    serde_json::to_value(thing).map_err(|error| Failure::internal(&error))
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn print(text: &str) -> Result<(), Failure> {
    out::print(text).map_err(|error| Failure::internal(&error))
}

fn tell(text: &str) -> Result<(), Failure> {
    out::complain(text).map_err(|error| Failure::internal(&error))
}
