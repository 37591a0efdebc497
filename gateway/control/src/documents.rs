//! Reading and writing resources: what the admin API and the other parts of control share.

use std::time::SystemTime;

use culvert_certs::name::TenantName;

use crate::{
    audit::{Actor, Subject},
    control::Control,
    error::ControlError,
    records::Record,
    resource::{AdminKeySpec, Document, InvalidDocument, Problem, ResourceKind, Role, Timestamp},
    retire::Retirement,
    store::{Expected, Page, Revision, Scope},
};

/// How often a read-change-write is tried against other writers of the same document.
const TRIES: usize = 16;

/// What the caller says about the version that it replaces or deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing: the last writer wins.
    None,
    /// That there is none.
    Absent,
    /// That it is this one.
    At(Revision),
}

/// What a write made.
#[derive(Debug)]
pub struct Put {
    /// What is stored now.
    pub document: Document,
    /// Its revision.
    pub revision: Revision,
    /// Whether there was none before.
    pub created: bool,
}

/// A page of documents.
#[derive(Debug)]
pub struct DocumentPage {
    /// The store's revision in this view: where to watch from.
    pub revision: Revision,
    /// The documents with their revisions.
    pub documents: Vec<(Document, Revision)>,
    /// The key of the last one, where there are more.
    pub next: Option<crate::store::Key>,
}

impl Control {
    /// A document and its revision.
    ///
    /// # Errors
    /// [`ControlError::NotFound`] where there is none.
    pub async fn document(
        &self,
        kind: ResourceKind,
        tenant: Option<&TenantName>,
        name: &str,
    ) -> Result<(Document, Revision), ControlError> {
        let found = self.find(kind, tenant, name).await?;
        found.ok_or_else(|| ControlError::NotFound(describe(kind, tenant, name)))
    }

    /// A page of the documents of a scope.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn document_page(
        &self,
        scope: &Scope,
        page: Page,
    ) -> Result<DocumentPage, ControlError> {
        let page = self.inner.records.list(scope, page).await?;
        Ok(DocumentPage {
            revision: page.revision,
            documents: page.records.iter().filter_map(readable).collect(),
            next: page.next,
        })
    }

    /// Writes a document that a person made, and returns what is stored now. Status, and fields
    /// that this build does not know, stay as they are.
    ///
    /// # Errors
    /// [`ControlError::Invalid`] names every field that cannot stand; [`ControlError::Conflict`]
    /// where the precondition does not hold; [`ControlError::Ruled`] for kinds that do not come
    /// about by writing them.
    pub async fn put_document(
        &self,
        actor: &Actor,
        document: Document,
        precondition: Precondition,
    ) -> Result<Put, ControlError> {
        let key = document.key()?;
        for _ in 0..TRIES {
            let stored = self.inner.records.get(&key).await?;
            let stored = stored.as_ref().map(parse).transpose()?;
            let expected = precondition.against(stored.as_ref().map(|(_, revision)| *revision))?;
            let document = self
                .merge(document.clone(), stored.as_ref().map(|(d, _)| d))
                .await?;
            match self.save(&document, expected).await {
                Err(ControlError::Conflict(_)) if precondition == Precondition::None => {}
                Err(error) => return Err(error),
                Ok(revision) => {
                    let action = format!("{}.put", document.kind.store());
                    self.done(actor, &action, about(&document)).await;
                    let created = expected == Expected::Absent;
                    return Ok(Put {
                        document,
                        revision,
                        created,
                    });
                }
            }
        }
        Err(ControlError::Conflict(None))
    }

    /// Deletes a document. Whoever could act by it is revoked first; a tenant's documents stay
    /// until its retention is over.
    ///
    /// # Errors
    /// [`ControlError::NotFound`]; [`ControlError::Conflict`] where the precondition does not
    /// hold; [`ControlError::Ruled`] for the last owner's key.
    pub async fn delete_document(
        &self,
        actor: &Actor,
        kind: ResourceKind,
        tenant: Option<&TenantName>,
        name: &str,
        precondition: Precondition,
    ) -> Result<(), ControlError> {
        let (document, revision) = self.document(kind, tenant, name).await?;
        precondition.against(Some(revision))?;
        match kind {
            ResourceKind::Tenant => self.delete_tenant(actor, &document).await?,
            ResourceKind::Connector => self.delete_connector(actor, &document).await?,
            ResourceKind::Agent => self.delete_agent(actor, &document).await?,
            ResourceKind::AdminKey => {
                self.keep_an_owner(&document).await?;
                self.remove_if(&document, revision, precondition).await?;
            }
            ResourceKind::Plane | ResourceKind::Key => {
                self.remove_if(&document, revision, precondition).await?;
            }
        }
        let action = format!("{}.delete", kind.store());
        self.done(actor, &action, about(&document)).await;
        Ok(())
    }

    pub(crate) async fn find(
        &self,
        kind: ResourceKind,
        tenant: Option<&TenantName>,
        name: &str,
    ) -> Result<Option<(Document, Revision)>, ControlError> {
        let record = self.inner.records.get(&kind.key(tenant, name)?).await?;
        record.as_ref().map(parse).transpose()
    }

    pub(crate) async fn documents(
        &self,
        scope: &Scope,
    ) -> Result<Vec<(Document, Revision)>, ControlError> {
        let (_, records) = self.inner.records.list_all(scope).await?;
        Ok(records.iter().filter_map(readable).collect())
    }

    pub(crate) async fn save(
        &self,
        document: &Document,
        expected: Expected,
    ) -> Result<Revision, ControlError> {
        self.inner
            .records
            .put(&document.key()?, expected, document)
            .await
    }

    /// Changes what is there, as often as others change it meanwhile.
    pub(crate) async fn change(
        &self,
        kind: ResourceKind,
        tenant: Option<&TenantName>,
        name: &str,
        change: impl Fn(&mut Document) -> Result<(), ControlError>,
    ) -> Result<(Document, Revision), ControlError> {
        for _ in 0..TRIES {
            let (mut document, revision) = self.document(kind, tenant, name).await?;
            change(&mut document)?;
            match self.save(&document, Expected::At(revision)).await {
                Err(ControlError::Conflict(_)) => {}
                Err(error) => return Err(error),
                Ok(revision) => return Ok((document, revision)),
            }
        }
        Err(ControlError::Conflict(None))
    }

    /// Deletes what is there, whichever version that is.
    pub(crate) async fn remove(&self, document: &Document) -> Result<(), ControlError> {
        let key = document.key()?;
        for _ in 0..TRIES {
            let Some(record) = self.inner.records.get(&key).await? else {
                return Ok(());
            };
            match self.inner.records.delete(&key, record.revision).await {
                Err(ControlError::Conflict(_)) => {}
                outcome => return outcome.map(drop),
            }
        }
        Err(ControlError::Conflict(None))
    }

    /// Deletes the version that was seen, or whichever there is where nobody asked for one.
    async fn remove_if(
        &self,
        document: &Document,
        seen: Revision,
        precondition: Precondition,
    ) -> Result<(), ControlError> {
        match self.inner.records.delete(&document.key()?, seen).await {
            Err(ControlError::Conflict(_)) if precondition == Precondition::None => {
                self.remove(document).await
            }
            outcome => outcome.map(drop),
        }
    }

    pub(crate) async fn done(&self, actor: &Actor, action: &str, subject: Subject) {
        let (audit, records) = (&self.inner.audit, &self.inner.records);
        audit
            .done(records, self.now(), actor, action, subject)
            .await;
    }

    pub(crate) async fn refused(&self, actor: &Actor, action: &str, subject: Subject, why: &str) {
        let (audit, records) = (&self.inner.audit, &self.inner.records);
        audit
            .refused(records, self.now(), actor, action, subject, why)
            .await;
    }

    /// What is stored if `new` replaces `stored`.
    async fn merge(
        &self,
        mut new: Document,
        stored: Option<&Document>,
    ) -> Result<Document, ControlError> {
        let findings = new.strict_findings(stored);
        if !findings.is_empty() {
            return Err(InvalidDocument(findings).into());
        }
        match stored {
            Some(stored) if stored.status_text("deleted").is_some() => {
                return Err(ControlError::Ruled(
                    "it was deleted, and will be erased".to_owned(),
                ));
            }
            Some(stored) => new.inherit(stored),
            None => self.may_create(&mut new).await?,
        }
        if new.kind == ResourceKind::AdminKey && !is_owner(&new, self.now()) {
            self.keep_an_owner(&new).await?;
        }
        Ok(new)
    }

    async fn may_create(&self, new: &mut Document) -> Result<(), ControlError> {
        let rule = match new.kind {
            ResourceKind::Agent => Some("an agent comes about by joining with a token"),
            ResourceKind::Key => Some("an API key is made by keys:create, which shows it"),
            ResourceKind::AdminKey => Some("an admin key is made by admin-keys:create"),
            ResourceKind::Tenant | ResourceKind::Connector | ResourceKind::Plane => None,
        };
        if let Some(rule) = rule {
            return Err(ControlError::Ruled(rule.to_owned()));
        }
        if let Some(until) = self.retired_until(&Retirement::of(new)?).await? {
            return Err(ControlError::Retired(until.into()));
        }
        self.of_living_tenant(new.tenant.as_ref()).await?;
        new.status.clear();
        new.set_status("created", Timestamp::from(self.now()));
        Ok(())
    }

    /// That the tenant of what is to be made exists and was not deleted.
    pub(crate) async fn of_living_tenant(
        &self,
        tenant: Option<&TenantName>,
    ) -> Result<(), ControlError> {
        let Some(tenant) = tenant else {
            return Ok(());
        };
        let (document, _) = self
            .document(ResourceKind::Tenant, None, tenant.as_str())
            .await?;
        match document.status_text("deleted") {
            Some(_) => Err(ControlError::NotFound(describe(
                ResourceKind::Tenant,
                None,
                tenant.as_str(),
            ))),
            None => Ok(()),
        }
    }

    /// That somebody can still manage admin keys without `leaving`.
    pub(crate) async fn keep_an_owner(&self, leaving: &Document) -> Result<(), ControlError> {
        let keys = self
            .documents(&Scope::Kind(ResourceKind::AdminKey.store()))
            .await?;
        let now = self.now();
        let others = keys.iter().filter(|(key, _)| key.name != leaving.name);
        let mut owners = others.filter(|(key, _)| is_owner(key, now));
        if owners.next().is_some() || !keys.iter().any(|(key, _)| is_owner(key, now)) {
            return Ok(());
        }
        Err(ControlError::Ruled(
            "this is the last key of an owner".to_owned(),
        ))
    }
}

/// Whether a key can manage all admin keys, now and without an end in sight.
fn is_owner(key: &Document, now: SystemTime) -> bool {
    let alive = key.status_text("revoked").is_none();
    alive
        && key.view::<AdminKeySpec>().is_ok_and(|spec| {
            let lasting = spec.expires.is_none_or(|end| end.system() > now);
            spec.role == Role::Owner && spec.tenant.is_none() && lasting
        })
}

impl Precondition {
    /// What the store has to expect, given what is there.
    pub(crate) fn against(self, current: Option<Revision>) -> Result<Expected, ControlError> {
        let held = match self {
            Self::None => true,
            Self::Absent => current.is_none(),
            Self::At(revision) => current == Some(revision),
        };
        match (held, current) {
            (false, current) => Err(ControlError::Conflict(current)),
            (true, None) => Ok(Expected::Absent),
            (true, Some(revision)) => Ok(Expected::At(revision)),
        }
    }
}

pub(crate) fn parse(record: &Record) -> Result<(Document, Revision), ControlError> {
    Ok((record.parse()?, record.revision))
}

/// As [`parse`], for readers of many: one that this build cannot read, and reports, must not hide
/// the others.
fn readable(record: &Record) -> Option<(Document, Revision)> {
    parse(record).ok()
}

pub(crate) fn about(document: &Document) -> Subject {
    let tenant = match document.kind {
        ResourceKind::Tenant => document.name.as_str().parse().ok(),
        ResourceKind::Connector
        | ResourceKind::Agent
        | ResourceKind::Plane
        | ResourceKind::Key
        | ResourceKind::AdminKey => document.tenant.clone(),
    };
    Subject::new(
        tenant.as_ref(),
        document.kind.store().word(),
        &document.name,
    )
}

fn describe(kind: ResourceKind, tenant: Option<&TenantName>, name: &str) -> String {
    match tenant {
        Some(tenant) => format!("{} {name} of tenant {tenant}", kind.store()),
        None => format!("{} {name}", kind.store()),
    }
}

/// A field that a caller must set and did not.
pub(crate) fn missing(path: &str) -> ControlError {
    InvalidDocument::at(path, Problem::Missing).into()
}
