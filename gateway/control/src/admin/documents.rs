//! `GET`, `PUT` and `DELETE` of documents.

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{Query, State, rejection::BytesRejection},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;

use super::{
    Desk,
    access::{Act, Caller},
    error::ApiError,
    place::Place,
    watch,
};
use crate::{
    api::{Listing, Shown},
    documents::Precondition,
    error::ControlError,
    keys::DIGEST,
    resource::{Document, FileError, Finding, Problem, ResourceKind, read_one},
    store::{Key, MAX_PAGE, Page, Revision, Scope},
};

/// What a listing can be asked.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Stream what changes too.
    #[serde(default)]
    watch: Option<String>,
    /// At most so many.
    limit: Option<usize>,
    /// Those after this key.
    after: Option<String>,
}

pub(super) async fn list(
    State(desk): State<Desk>,
    Extension(caller): Extension<Caller>,
    place: Place,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::BadRequest(error.body_text()))?;
    if place.verb.is_some() {
        return Err(ApiError::NoSuchPath);
    }
    let view = View::of(&caller, &place)?;
    if query.watch.is_some_and(|watch| watch != "0") {
        return watch::start(&desk, view, &headers).await;
    }
    let page = Page {
        after: after(query.after)?,
        limit: query.limit.unwrap_or(MAX_PAGE),
    };
    let page = desk.control.document_page(&view.scope, page).await?;
    let seen = page
        .documents
        .into_iter()
        .filter(|(document, _)| view.shows_document(document));
    Ok(Json(Listing {
        revision: page.revision.get(),
        items: seen
            .map(|(document, revision)| shown(document, revision))
            .collect(),
        next: page.next.map(|key| key.to_string()),
    })
    .into_response())
}

pub(super) async fn get(
    State(desk): State<Desk>,
    Extension(caller): Extension<Caller>,
    place: Place,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::BadRequest(error.body_text()))?;
    let name = place.one()?;
    caller.may(Act::Read, place.kind, place.owner().as_ref())?;
    if query.watch.is_some_and(|watch| watch != "0") {
        let view = View::of_one(&place, name)?;
        return watch::start(&desk, view, &headers).await;
    }
    let found = desk
        .control
        .document(place.kind, place.tenant.as_ref(), name)
        .await?;
    Ok(answer(StatusCode::OK, found))
}

pub(super) async fn put(
    State(desk): State<Desk>,
    Extension(caller): Extension<Caller>,
    place: Place,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let name = place.one()?;
    caller.may(Act::Change, place.kind, place.owner().as_ref())?;
    let precondition = precondition(&headers)?;
    let body = text_of(&headers, &body?)?;
    let file = read_one(&body).map_err(ApiError::Document)?;
    let same_place = [
        ("kind", file.document.kind == place.kind),
        ("tenant", file.document.tenant == place.tenant),
        ("name", file.document.name.as_str() == name),
    ];
    if let Some((path, _)) = same_place.into_iter().find(|(_, same)| !same) {
        let problem = Problem::Invalid("is not what the path says".to_owned());
        let finding = Finding {
            path: path.to_owned(),
            problem,
        };
        return Err(ApiError::Document(vec![FileError {
            line: file.line(path),
            finding,
        }]));
    }
    let put = desk
        .control
        .put_document(&caller.actor, file.document.clone(), precondition)
        .await;
    let put = put.map_err(|error| failed(precondition, error, &|path| file.line(path)))?;
    let status = if put.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(answer(status, (put.document, put.revision)))
}

pub(super) async fn delete(
    State(desk): State<Desk>,
    Extension(caller): Extension<Caller>,
    place: Place,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let name = place.one()?;
    caller.may(Act::Destroy, place.kind, place.owner().as_ref())?;
    let precondition = precondition(&headers)?;
    let deleted = desk
        .control
        .delete_document(
            &caller.actor,
            place.kind,
            place.tenant.as_ref(),
            name,
            precondition,
        )
        .await;
    deleted.map_err(|error| failed(precondition, error, &|_| 0))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The documents that a listing or a watch may show.
#[derive(Debug)]
pub(super) struct View {
    pub(super) scope: Scope,
    /// Only this one, where the scope says less.
    only: Option<Key>,
}

impl View {
    /// A caller of one tenant who asks for everybody's gets its own.
    fn of(caller: &Caller, place: &Place) -> Result<Self, ApiError> {
        let own = caller.admin.tenant.as_ref();
        let tenant = match place.kind {
            ResourceKind::Plane | ResourceKind::AdminKey => None,
            ResourceKind::Tenant
            | ResourceKind::Connector
            | ResourceKind::Agent
            | ResourceKind::Key => place.tenant.as_ref().or(own),
        };
        caller.may(Act::Read, place.kind, tenant)?;
        let kind = place.kind.store();
        match tenant {
            Some(tenant) if place.kind.has_tenant() => {
                let tenant = tenant.as_str().parse();
                let tenant = tenant.map_err(|_| ApiError::NoSuchPath)?;
                Ok(Self {
                    scope: Scope::Tenant(kind, tenant),
                    only: None,
                })
            }
            Some(tenant) => Self::of_one(place, tenant.as_str()),
            None => Ok(Self {
                scope: Scope::Kind(kind),
                only: None,
            }),
        }
    }

    fn of_one(place: &Place, name: &str) -> Result<Self, ApiError> {
        let key = place.kind.key(place.tenant.as_ref(), name);
        let key = key.map_err(|invalid| ApiError::Control(invalid.into()))?;
        let scope = match &key.tenant {
            Some(tenant) => Scope::Tenant(key.kind, tenant.clone()),
            None => Scope::Kind(key.kind),
        };
        Ok(Self {
            scope,
            only: Some(key),
        })
    }

    pub(super) fn shows(&self, key: &Key) -> bool {
        self.scope.contains(key) && self.only.as_ref().is_none_or(|only| only == key)
    }

    pub(super) fn shows_document(&self, document: &Document) -> bool {
        document.key().is_ok_and(|key| self.shows(&key))
    }
}

/// A document as it leaves.
pub(super) fn shown(mut document: Document, revision: Revision) -> Shown {
    document.status.remove(DIGEST);
    Shown {
        document,
        revision: revision.get(),
    }
}

fn answer(status: StatusCode, (document, revision): (Document, Revision)) -> Response {
    let mut response = (status, Json(shown(document, revision))).into_response();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{revision}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

fn after(key: Option<String>) -> Result<Option<Key>, ApiError> {
    let key = key.map(|text| text.parse()).transpose();
    key.map_err(|error: crate::store::InvalidKey| ApiError::BadRequest(error.to_string()))
}

/// `If-Match: "7"`, `If-None-Match: *`, or nothing.
fn precondition(headers: &HeaderMap) -> Result<Precondition, ApiError> {
    let text = |name| headers.get(name).map(HeaderValue::to_str);
    match (text(header::IF_MATCH), text(header::IF_NONE_MATCH)) {
        (None, None) => Ok(Precondition::None),
        (None, Some(Ok("*"))) => Ok(Precondition::Absent),
        (Some(Ok(tag)), None) => {
            let number = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            let number = number.and_then(|number| number.parse().ok());
            let number = number.ok_or_else(|| bad("if-match must be \"<revision>\""))?;
            Ok(Precondition::At(Revision::new(number)))
        }
        (_, _) => Err(bad(
            "if-match must be \"<revision>\", if-none-match must be *",
        )),
    }
}

fn bad(why: &str) -> ApiError {
    ApiError::BadRequest(why.to_owned())
}

/// What the caller was wrong about, seen from its request: its precondition, its document's lines.
fn failed(precondition: Precondition, error: ControlError, line: &dyn Fn(&str) -> u64) -> ApiError {
    if matches!(error, ControlError::Conflict(_)) && precondition != Precondition::None {
        return ApiError::PreconditionFailed;
    }
    if let ControlError::Invalid(invalid) = error {
        let locate = |finding: Finding| FileError {
            line: line(&finding.path),
            finding,
        };
        return ApiError::Document(invalid.0.into_iter().map(locate).collect());
    }
    ApiError::Control(error)
}

fn text_of(headers: &HeaderMap, body: &Bytes) -> Result<String, ApiError> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim());
    match essence {
        Some("application/json" | "application/yaml" | "application/x-yaml" | "text/yaml") => {
            String::from_utf8(body.to_vec()).map_err(|_| bad("the body is not UTF-8"))
        }
        Some(_) | None => Err(ApiError::UnsupportedMediaType),
    }
}
