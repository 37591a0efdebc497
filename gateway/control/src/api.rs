//! What travels over the admin API: the types that its server writes and its clients read.

use culvert_certs::{
    AgentId,
    name::{ConnectorName, TenantName},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{audit::AuditEvent, resource::Document};

/// A document and its revision, which is also the answer's `ETag`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// The document, without what nobody needs to see.
    #[serde(flatten)]
    pub document: Document,
    /// What `If-Match` has to say to change exactly this version.
    #[serde(default)]
    pub revision: u64,
}

/// One page of documents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    /// The store's revision in this view: a watch with `Last-Event-ID` of it misses nothing.
    pub revision: u64,
    /// The documents, in the order of their names.
    pub items: Vec<Shown>,
    /// What `?after=` has to say for the next page, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What a watch says of a deleted document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// Its kind, as documents spell it.
    pub kind: crate::resource::ResourceKind,
    /// Its tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Its name.
    pub name: String,
    /// The revision of the delete.
    pub revision: u64,
}

/// Asks for a join token: the body of `POST ...:token`; may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// How long it is good, as `1h`; an hour by default, 7 days at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<String>,
}

/// A fresh join token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenAnswer {
    /// What the audit log calls it.
    pub id: String,
    /// The token: a secret, shown this once.
    pub token: String,
    /// When it stops being good, RFC 3339.
    pub expires: String,
}

impl std::fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenAnswer")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Asks for a key: the body of `POST .../keys:create` and `POST /v1/admin-keys:create`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateKeyRequest {
    /// Its name.
    pub name: String,
    /// As in a Key's or AdminKey's document.
    pub spec: Map<String, Value>,
}

/// A fresh key.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct CreateKeyAnswer {
    /// The key: a secret, shown this once.
    pub key: String,
    /// What is kept of it.
    pub document: Document,
}

impl std::fmt::Debug for CreateKeyAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let document = &self.document;
        f.debug_struct("CreateKeyAnswer")
            .field("document", document)
            .finish_non_exhaustive()
    }
}

/// The answer of `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of this program.
    pub version: String,
    /// The world of this control.
    pub trust_domain: String,
    /// The store's revision that planes were told.
    pub revision: u64,
    /// The authority's epoch.
    pub epoch: u64,
    /// When the store was last heard, RFC 3339.
    pub heard_at: String,
    /// How many living tenants, connectors and API keys there are, as far as the caller may see.
    pub counts: Counts,
    /// The links of this process's planes, as far as the caller may see.
    pub links: Vec<LinkStatus>,
}

/// How many of each there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Neither deleted nor revoked.
    pub tenants: usize,
    /// Of these tenants, not revoked.
    pub connectors: usize,
    /// Of these tenants, not revoked.
    pub keys: usize,
    /// Planes that have a document.
    pub planes: usize,
}

/// One link, as the plane that has it tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Whose.
    pub tenant: TenantName,
    /// Which network.
    pub connector: ConnectorName,
    /// Which agent of it.
    pub agent: AgentId,
    /// The zone of the plane.
    pub plane: String,
    /// Whatever else the plane tells: transport, group, round trip, services, health.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// One page of the audit log, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditListing {
    /// The entries.
    pub items: Vec<AuditEvent>,
    /// What `?after=` has to say for the next page, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorInfo,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorInfo {
    /// A stable word for programs.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// Where in the request's document, for each thing wrong there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<ErrorDetail>,
}

/// One thing wrong at one place of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// Which field, as `spec.services[2]`.
    pub path: String,
    /// On which line of the request's body, from 1; 0 where it cannot be told.
    pub line: u64,
    /// What.
    pub message: String,
}
