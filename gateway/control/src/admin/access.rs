//! Who may: `Host` and `Origin`, the admin key, its role and its tenant.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use culvert_certs::name::TenantName;
use http::{HeaderMap, HeaderValue, Uri, header};

use super::{Desk, error::ApiError};
use crate::{
    audit::{Actor, Subject},
    keys::Admin,
    resource::{ResourceKind, Role},
};

/// Names that the API is called by.
#[derive(Debug)]
pub(super) struct Hosts {
    names: Vec<String>,
    bound: IpAddr,
}

impl Hosts {
    pub(super) fn new(names: &[String], bound: SocketAddr) -> Self {
        let names = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Self {
            names,
            bound: bound.ip(),
        }
    }

    /// Whether a name, without its port, is one of ours. A name that merely resolves to us is
    /// not: that is how a page of somebody else's would come here.
    fn is_ours(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let address = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>();
        match address {
            Ok(address) => address.is_loopback() || address == self.bound,
            Err(_) => host == "localhost" || self.names.contains(&host),
        }
    }
}

/// The caller, as the handlers see it.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) admin: Admin,
    pub(super) actor: Actor,
}

/// The peer's address, put on each request by the listener.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

pub(super) async fn check_origin(
    State(desk): State<Desk>,
    request: Request,
    next: Next,
) -> Response {
    let host = host_of(&request).is_some_and(|host| desk.hosts.is_ours(&host));
    let mut origins = request.headers().get_all(header::ORIGIN).iter();
    if host && origins.all(|origin| is_our_origin(&desk.hosts, origin)) {
        next.run(request).await
    } else {
        ApiError::WrongOrigin.into_response()
    }
}

/// The one host that a request names, without the port.
fn host_of(request: &Request) -> Option<String> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return None;
    };
    let authority: Uri = host.to_str().ok()?.parse().ok()?;
    let in_uri = request.uri().authority();
    let host = authority.host()?.to_owned();
    in_uri.is_none_or(|uri| uri.host() == host).then_some(host)
}

fn is_our_origin(hosts: &Hosts, origin: &HeaderValue) -> bool {
    let Some(origin) = origin
        .to_str()
        .ok()
        .and_then(|text| text.parse::<Uri>().ok())
    else {
        return false;
    };
    matches!(origin.scheme_str(), Some("http" | "https"))
        && origin.host().is_some_and(|host| hosts.is_ours(host))
}

pub(super) async fn authenticate(
    State(desk): State<Desk>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    let presented = bearer(request.headers());
    let found = match &presented {
        Some(presented) => desk.control.admin_of(presented).await,
        None => Ok(None),
    };
    match found {
        Ok(Some(admin)) => {
            let actor = Actor::new("admin-key", &admin.name).from(peer);
            request.extensions_mut().insert(Caller { admin, actor });
            next.run(request).await
        }
        Ok(None) => {
            let actor = Actor::new("stranger", "unproven").from(peer);
            let subject = Subject::new(None, "path", request.uri().path());
            let why = presented.map_or("no admin key", |_| "not an admin key that works");
            desk.control.refused(&actor, "admin", subject, why).await;
            ApiError::InvalidKey.into_response()
        }
        Err(error) => ApiError::Control(error).into_response(),
    }
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| key.trim().to_owned())
}

/// What somebody wants to do to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Read,
    /// Put, mint, create, revoke.
    Change,
    /// Delete, or revoke for good what others stand on.
    Destroy,
}

impl Caller {
    /// Whether the key permits an act on resources of a kind: of one tenant's, or of everybody's
    /// where `tenant` is `None`. The answer does not depend on what there is.
    pub(super) fn may(
        &self,
        act: Act,
        kind: ResourceKind,
        tenant: Option<&TenantName>,
    ) -> Result<(), ApiError> {
        let needed = match (kind, act) {
            (ResourceKind::AdminKey, _) | (ResourceKind::Tenant, Act::Destroy) => Role::Owner,
            (_, Act::Read) => Role::Viewer,
            (_, Act::Change | Act::Destroy) => Role::Operator,
        };
        let everywhere = self.admin.tenant.is_none();
        let own = tenant.is_some() && self.admin.tenant.as_ref() == tenant;
        let reaches = match kind {
            ResourceKind::Connector | ResourceKind::Agent | ResourceKind::Key => own,
            ResourceKind::Tenant | ResourceKind::Plane => own && act == Act::Read,
            ResourceKind::AdminKey => false,
        };
        let public = kind == ResourceKind::Plane && act == Act::Read;
        if self.admin.role >= needed && (everywhere || reaches || public) {
            Ok(())
        } else {
            Err(ApiError::NotAllowed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(role: Role, tenant: Option<&str>) -> Caller {
        let tenant = tenant.map(|name| name.parse().unwrap());
        let admin = Admin {
            name: "a".into(),
            role,
            tenant,
        };
        Caller {
            admin,
            actor: Actor::control(),
        }
    }

    #[test]
    fn only_our_own_names_are_hosts() {
        let bound = "10.1.2.3:9990".parse().unwrap();
        let hosts = Hosts::new(&["Admin.Example.com".into()], bound);
        for ours in [
            "localhost",
            "127.0.0.1",
            "[::1]",
            "10.1.2.3",
            "admin.example.COM",
        ] {
            assert!(hosts.is_ours(ours), "{ours}");
        }
        for other in [
            "evil.example",
            "10.1.2.4",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "",
        ] {
            assert!(!hosts.is_ours(other), "{other}");
        }
    }

    #[test]
    fn origins_of_pages_are_refused_unless_ours() {
        let hosts = Hosts::new(&[], "127.0.0.1:9990".parse().unwrap());
        let ours = |text: &'static str| is_our_origin(&hosts, &HeaderValue::from_static(text));
        assert!(ours("http://localhost:9990"));
        assert!(!ours("https://evil.example"));
        assert!(!ours("null"));
        assert!(!ours("file://"));
    }

    /// Every kind and act, for six callers: what is not listed is refused.
    #[test]
    fn roles_and_tenants_bound_every_act() {
        let (acme, other): (TenantName, TenantName) =
            ("acme".parse().unwrap(), "other".parse().unwrap());
        let allowed = |caller: &Caller, act, kind, tenant| caller.may(act, kind, tenant).is_ok();
        let (owner, operator, viewer) = (
            caller(Role::Owner, None),
            caller(Role::Operator, None),
            caller(Role::Viewer, None),
        );
        for kind in ResourceKind::ALL {
            for act in [Act::Read, Act::Change, Act::Destroy] {
                assert!(allowed(&owner, act, kind, Some(&acme)));
                let admin_key = kind == ResourceKind::AdminKey;
                let of_operator = !admin_key && (kind, act) != (ResourceKind::Tenant, Act::Destroy);
                assert_eq!(
                    allowed(&operator, act, kind, Some(&acme)),
                    of_operator,
                    "{kind} {act:?}"
                );
                let of_viewer = !admin_key && act == Act::Read;
                assert_eq!(
                    allowed(&viewer, act, kind, Some(&acme)),
                    of_viewer,
                    "{kind} {act:?}"
                );
                let local = caller(Role::Owner, Some("acme"));
                let foreign = act == Act::Read && kind == ResourceKind::Plane;
                assert_eq!(
                    allowed(&local, act, kind, Some(&other)),
                    foreign,
                    "{kind} {act:?}"
                );
                assert_eq!(allowed(&local, act, kind, None), foreign, "{kind} {act:?}");
                let own = kind.has_tenant()
                    || (act == Act::Read
                        && matches!(kind, ResourceKind::Tenant | ResourceKind::Plane));
                assert_eq!(
                    allowed(&local, act, kind, Some(&acme)),
                    own,
                    "{kind} {act:?}"
                );
            }
        }
    }
}
