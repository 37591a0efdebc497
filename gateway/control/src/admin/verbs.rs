//! `POST`: what cannot be said by writing a document.

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    response::{IntoResponse, Response},
};
use culvert_certs::name::TenantName;
use http::StatusCode;
use serde::de::DeserializeOwned;

use super::{
    Desk,
    access::{Act, Caller},
    error::ApiError,
    place::Place,
};
use crate::{
    api::{CreateKeyAnswer, CreateKeyRequest, TokenAnswer, TokenRequest},
    keys::{CreatedKey, DIGEST},
    resource::{ResourceKind, Span, Timestamp},
    revoke::Revoked,
    tokens::{MintedToken, TOKEN_LIFETIME},
};

/// `POST /v1/tenants/{tenant}/keys:create` and `POST /v1/admin-keys:create`.
pub(super) async fn create(
    State(desk): State<Desk>,
    Extension(caller): Extension<Caller>,
    place: Place,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    if place.verb.as_deref() != Some("create") {
        return Err(ApiError::NoSuchPath);
    }
    caller.may(Act::Change, place.kind, place.owner().as_ref())?;
    let (control, actor) = (&desk.control, &caller.actor);
    let created = match (place.kind, &place.tenant) {
        (ResourceKind::Key, Some(tenant)) => {
            let request: CreateKeyRequest = json(&body?)?;
            control
                .create_key(actor, tenant, &request.name, request.spec)
                .await?
        }
        (ResourceKind::AdminKey, None) => {
            let request: CreateKeyRequest = json(&body?)?;
            control
                .create_admin_key(actor, &request.name, request.spec)
                .await?
        }
        (_, _) => return Err(ApiError::NoSuchPath),
    };
    let CreatedKey {
        secret,
        mut document,
    } = created;
    document.status.remove(DIGEST);
    let answer = CreateKeyAnswer {
        key: secret.expose().to_owned(),
        document,
    };
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// `POST ...:token` and `POST ...:revoke`.
pub(super) async fn on_one(
    State(desk): State<Desk>,
    Extension(caller): Extension<Caller>,
    place: Place,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    match place.verb.as_deref() {
        Some("token") => token(&desk, &caller, &place, &body?).await,
        Some("revoke") => revoke(&desk, &caller, &place).await,
        Some(_) | None => Err(ApiError::NoSuchPath),
    }
}

async fn token(
    desk: &Desk,
    caller: &Caller,
    place: &Place,
    body: &Bytes,
) -> Result<Response, ApiError> {
    caller.may(Act::Change, place.kind, place.owner().as_ref())?;
    let request: TokenRequest = if body.is_empty() {
        TokenRequest::default()
    } else {
        json(body)?
    };
    let lifetime = request
        .lifetime
        .map(|text| text.parse::<Span>())
        .transpose();
    let lifetime = lifetime.map_err(|error| ApiError::BadRequest(format!("lifetime {error}")))?;
    let lifetime = lifetime.map_or(TOKEN_LIFETIME, Span::duration);
    let (control, actor) = (&desk.control, &caller.actor);
    let name = place.name.as_deref().unwrap_or_default();
    let minted = match (place.kind, &place.tenant) {
        (ResourceKind::Connector, Some(tenant)) => {
            let connector = parse(name)?;
            control
                .mint_connector_token(actor, tenant, &connector, lifetime)
                .await?
        }
        (ResourceKind::Plane, None) => {
            control
                .mint_plane_token(actor, &parse(name)?, lifetime)
                .await?
        }
        (_, _) => return Err(ApiError::NoSuchPath),
    };
    let MintedToken { id, text, expiry } = minted;
    let answer = TokenAnswer {
        id: id.to_string(),
        token: text.expose().to_owned(),
        expires: Timestamp::from(expiry).to_string(),
    };
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

async fn revoke(desk: &Desk, caller: &Caller, place: &Place) -> Result<Response, ApiError> {
    let act = if place.kind == ResourceKind::Tenant {
        Act::Destroy
    } else {
        Act::Change
    };
    caller.may(act, place.kind, place.owner().as_ref())?;
    let (control, actor) = (&desk.control, &caller.actor);
    let name = place.name.as_deref().unwrap_or_default();
    match (place.kind, place.tenant.clone()) {
        (ResourceKind::Tenant, None) => {
            control
                .revoke(actor, &Revoked::Tenant(parse::<TenantName>(name)?))
                .await?;
        }
        (ResourceKind::Connector, Some(tenant)) => {
            control
                .revoke(actor, &Revoked::Connector(tenant, parse(name)?))
                .await?;
        }
        (ResourceKind::Agent, Some(tenant)) => {
            control
                .revoke(actor, &Revoked::Agent(tenant, parse(name)?))
                .await?;
        }
        (ResourceKind::Key | ResourceKind::AdminKey, tenant) => {
            control
                .revoke_key(actor, place.kind, tenant.as_ref(), name)
                .await?;
        }
        (_, _) => return Err(ApiError::NoSuchPath),
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(name: &str) -> Result<T, ApiError> {
    name.parse()
        .map_err(|error: T::Err| ApiError::BadRequest(error.to_string()))
}

fn json<T: DeserializeOwned>(body: &Bytes) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::BadRequest(error.to_string()))
}
