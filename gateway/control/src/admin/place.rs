//! Which resource a path means: parsed once, at the edge.

use axum::{
    RequestPartsExt,
    extract::{FromRequestParts, RawPathParams},
};
use culvert_certs::name::TenantName;
use http::request::Parts;

use super::error::ApiError;
use crate::resource::ResourceKind;

/// What a path names: `/v1/{kind}`, `/v1/tenants/{tenant}/{kind}`, and either with `/{name}`; a
/// verb stands behind a colon at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) kind: ResourceKind,
    pub(super) tenant: Option<TenantName>,
    pub(super) name: Option<String>,
    pub(super) verb: Option<String>,
}

impl<S: Sync> FromRequestParts<S> for Place {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let params: RawPathParams = parts
            .extract()
            .await
            .map_err(|_| ApiError::BadRequest("the path is not UTF-8".to_owned()))?;
        let find = |wanted: &str| {
            let mut params = params.iter();
            params.find_map(|(name, value)| (name == wanted).then_some(value))
        };
        Self::new(find("tenant"), find("kind"), find("name"))
    }
}

impl Place {
    fn new(tenant: Option<&str>, kind: Option<&str>, name: Option<&str>) -> Result<Self, ApiError> {
        let last = name.or(kind).unwrap_or(ResourceKind::Tenant.plural());
        let (bare, verb) = match last.split_once(':') {
            Some((bare, verb)) => (bare, Some(verb.to_owned())),
            None => (last, None),
        };
        let (kind, name) = match (kind, name) {
            (None, Some(_)) => (ResourceKind::Tenant.plural(), Some(bare)),
            (Some(kind), Some(_)) => (kind, Some(bare)),
            (_, None) => (bare, None),
        };
        let known = ResourceKind::ALL
            .into_iter()
            .find(|known| known.plural() == kind);
        let kind = known.ok_or(ApiError::NoSuchPath)?;
        let bad = |e: culvert_certs::name::NameError| ApiError::BadRequest(e.to_string());
        let tenant = tenant
            .map(str::parse::<TenantName>)
            .transpose()
            .map_err(bad)?;
        if tenant.is_some() && !kind.has_tenant() {
            return Err(ApiError::NoSuchPath);
        }
        if tenant.is_none() && kind.has_tenant() && name.is_some() {
            return Err(ApiError::NoSuchPath);
        }
        Ok(Self {
            kind,
            tenant,
            name: name.map(str::to_owned),
            verb,
        })
    }

    /// The place as one resource.
    pub(super) fn one(&self) -> Result<&str, ApiError> {
        match (&self.name, &self.verb) {
            (Some(name), None) => Ok(name),
            (_, _) => Err(ApiError::NoSuchPath),
        }
    }

    /// Whose resource it is, for the question who may: a Tenant is its own.
    pub(super) fn owner(&self) -> Option<TenantName> {
        match self.kind {
            ResourceKind::Tenant => self.name.as_ref().and_then(|name| name.parse().ok()),
            ResourceKind::Connector
            | ResourceKind::Agent
            | ResourceKind::Key
            | ResourceKind::Plane
            | ResourceKind::AdminKey => self.tenant.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(tenant: Option<&str>, kind: Option<&str>, name: Option<&str>) -> Option<Place> {
        Place::new(tenant, kind, name).ok()
    }

    #[test]
    fn paths_become_places() {
        let is = |kind, tenant: Option<&str>, name: Option<&str>, verb: Option<&str>| {
            Some(Place {
                kind,
                tenant: tenant.map(|tenant| tenant.parse().unwrap()),
                name: name.map(str::to_owned),
                verb: verb.map(str::to_owned),
            })
        };
        let (acme, keys) = (Some("acme"), Some("keys"));
        let key = is(ResourceKind::Key, acme, Some("ci"), None);
        assert_eq!(place(acme, keys, Some("ci")), key);
        let token = is(ResourceKind::Connector, acme, Some("dev"), Some("token"));
        assert_eq!(place(acme, Some("connectors"), Some("dev:token")), token);
        let create = is(ResourceKind::Key, acme, None, Some("create"));
        assert_eq!(place(acme, Some("keys:create"), None), create);
        let tenant = is(ResourceKind::Tenant, None, acme, Some("revoke"));
        assert_eq!(place(None, None, Some("acme:revoke")), tenant);
        assert_eq!(
            place(None, None, None),
            is(ResourceKind::Tenant, None, None, None)
        );
        let all = is(ResourceKind::Connector, None, None, None);
        assert_eq!(place(None, Some("connectors"), None), all);
    }

    #[test]
    fn what_is_no_place_is_refused() {
        assert_eq!(place(None, Some("nothing"), None), None);
        assert_eq!(place(Some("acme"), Some("planes"), Some("ORF")), None);
        assert_eq!(place(None, Some("connectors"), Some("dev")), None);
        assert_eq!(place(Some("Acme"), Some("keys"), Some("ci")), None);
        assert_eq!(place(Some("acme"), Some("Key"), Some("ci")), None);
    }
}
