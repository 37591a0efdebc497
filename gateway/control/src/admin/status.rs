//! `GET /v1/status` and `GET /v1/audit`.

use std::time::SystemTime;

use axum::{
    Extension, Json,
    extract::{Query, State, rejection::QueryRejection},
};
use culvert_certs::name::TenantName;
use serde::Deserialize;

use super::{Desk, access::Caller, error::ApiError};
use crate::{
    api::{AuditListing, Counts, Status},
    audit::AuditQuery,
    resource::{Span, Timestamp},
};

/// How far back the audit log is shown unless asked otherwise.
const DEFAULT_SINCE: Span = Span::days(1);

pub(super) async fn status(
    State(desk): State<Desk>,
    Extension(caller): Extension<Caller>,
) -> Json<Status> {
    let snapshot = desk.control.snapshot().borrow().clone();
    let sees = |tenant: &TenantName| caller.admin.tenant.as_ref().is_none_or(|own| own == tenant);
    let mut links = desk.links.as_ref().map_or_else(Vec::new, |links| links());
    links.retain(|link| sees(&link.tenant));
    Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        trust_domain: desk.control.trust_domain().to_string(),
        revision: snapshot.revision.get(),
        epoch: snapshot.epoch,
        heard_at: Timestamp::from(*desk.control.heard_at().borrow()).to_string(),
        counts: Counts {
            tenants: snapshot
                .tenants
                .iter()
                .filter(|tenant| sees(tenant))
                .count(),
            connectors: snapshot
                .connectors
                .keys()
                .filter(|(tenant, _)| sees(tenant))
                .count(),
            keys: snapshot
                .keys
                .values()
                .filter(|key| sees(&key.tenant))
                .count(),
            planes: snapshot.planes.len(),
        },
        links,
    })
}

/// What the audit log can be asked.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// A time, or a duration before now.
    since: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
    tenant: Option<TenantName>,
}

pub(super) async fn audit(
    State(desk): State<Desk>,
    Extension(caller): Extension<Caller>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<AuditListing>, ApiError> {
    let Query(asked) = asked.map_err(|error| ApiError::BadRequest(error.body_text()))?;
    let tenant = match (&caller.admin.tenant, asked.tenant) {
        (Some(own), Some(other)) if *own != other => return Err(ApiError::NotAllowed),
        (Some(own), _) => Some(own.clone()),
        (None, asked) => asked,
    };
    let query = AuditQuery {
        tenant,
        since: since(asked.since.as_deref(), desk.control.now())?,
        after: asked.after,
        limit: asked.limit,
    };
    let (items, next) = desk.control.audit(query).await?;
    Ok(Json(AuditListing { items, next }))
}

fn since(text: Option<&str>, now: SystemTime) -> Result<SystemTime, ApiError> {
    let before = |span: Span| {
        now.checked_sub(span.duration())
            .unwrap_or(SystemTime::UNIX_EPOCH)
    };
    let Some(text) = text else {
        return Ok(before(DEFAULT_SINCE));
    };
    let moment = text.parse::<Timestamp>().map(Timestamp::system);
    moment.or_else(|_| text.parse().map(before)).map_err(|_| {
        ApiError::BadRequest("since must be a time, or a duration such as 24h".to_owned())
    })
}
