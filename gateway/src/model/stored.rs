//! Where stored responses are: `/v1/responses/{id}` names no model, so the service that made a
//! response is remembered by its id, in this replica, as long as there is room.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use culvert_certs::TenantName;
use culvert_wire::ServiceName;
use memchr::memmem;

use crate::route::{endpoint::ServicePath, resolve::Target};

/// Responses of one tenant that are remembered; its oldest are forgotten first. About 300 bytes each.
const OF_TENANT: usize = 2 * 1024;
/// Responses that are remembered in all; above, who has most forgets.
const REMEMBERED: usize = 32 * 1024;
/// Longest id that is remembered, in bytes.
const MAX_ID: usize = 128;

/// The services of the responses made here lately.
#[derive(Debug, Default)]
pub struct Stored {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    tenants: HashMap<TenantName, Own>,
    all: usize,
}

/// One tenant's.
#[derive(Debug, Default)]
struct Own {
    places: HashMap<String, ServicePath>,
    order: VecDeque<String>,
}

impl Own {
    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.order.pop_front() {
            self.places.remove(&oldest);
        }
    }
}

/// One answer whose id is to be remembered.
#[derive(Clone, Debug)]
pub struct Remember {
    /// Where.
    pub stored: Arc<Stored>,
    /// Whose.
    pub tenant: TenantName,
    /// The service that answered.
    pub service: ServicePath,
}

impl Stored {
    /// The service that made a response of this tenant.
    pub fn find(&self, tenant: &TenantName, id: &str) -> Option<ServicePath> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.tenants.get(tenant)?.places.get(id).cloned()
    }

    fn insert(&self, tenant: TenantName, id: String, service: ServicePath) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let own = inner.tenants.entry(tenant).or_default();
        if own.places.insert(id.clone(), service).is_some() {
            return;
        }
        own.order.push_back(id);
        if own.order.len() > OF_TENANT {
            own.forget_oldest();
            return;
        }
        inner.all += 1;
        if inner.all <= REMEMBERED {
            return;
        }
        let largest = inner.tenants.values_mut().max_by_key(|own| own.order.len());
        if let Some(largest) = largest {
            largest.forget_oldest();
            inner.all -= 1;
        }
        inner.tenants.retain(|_, own| !own.order.is_empty());
    }
}

impl Remember {
    /// The answer of a tenant's call to this target, for now of the first of its services.
    pub fn of(stored: &Arc<Stored>, tenant: &TenantName, target: &Target) -> Option<Self> {
        let (connector, service) = (target.connector.clone(), target.services.first()?.clone());
        Some(Self {
            stored: Arc::clone(stored),
            tenant: tenant.clone(),
            service: ServicePath { connector, service },
        })
    }

    /// Takes note of the id in the beginning of an answer.
    pub fn note(self, beginning: &[u8]) {
        if let Some(id) = response_id(beginning) {
            self.stored.insert(self.tenant, id.to_owned(), self.service);
        }
    }

    /// The same answer, from a service of the same connector.
    #[must_use]
    pub fn from_service(mut self, service: ServiceName) -> Self {
        self.service.service = service;
        self
    }
}

/// The first `"id": "resp..."` of an answer or of its first event. Other objects in it have ids too,
/// with prefixes of their own.
fn response_id(beginning: &[u8]) -> Option<&str> {
    memmem::find_iter(beginning, b"\"id\"").find_map(|at| {
        let value = beginning[at + 4..]
            .trim_ascii_start()
            .strip_prefix(b":")?
            .trim_ascii_start();
        let text = value.strip_prefix(b"\"")?;
        let end = memchr::memchr(b'"', text).filter(|end| *end <= MAX_ID)?;
        let id = std::str::from_utf8(&text[..end]).ok()?;
        id.starts_with("resp").then_some(id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ServicePath {
        ServicePath::parse(text).unwrap()
    }

    fn remember(stored: &Arc<Stored>, beginning: &str) {
        let tenant = "acme".parse().unwrap();
        let all = Remember {
            stored: Arc::clone(stored),
            tenant,
            service: path("dev/a"),
        };
        all.from_service("b".parse().unwrap())
            .note(beginning.as_bytes());
    }

    #[test]
    fn ids_of_answers_and_streams() {
        let stored = Arc::new(Stored::default());
        let acme: TenantName = "acme".parse().unwrap();
        remember(&stored, r#"{"id": "resp_1","object":"response"}"#);
        remember(
            &stored,
            "event: response.created\ndata: {\"response\":{\"id\":\"resp_2\"}}\n\n",
        );
        remember(&stored, r#"{"id":"msg_1"}"#);
        assert_eq!(stored.find(&acme, "resp_1"), Some(path("dev/b")));
        assert_eq!(stored.find(&acme, "resp_2"), Some(path("dev/b")));
        assert_eq!(stored.find(&acme, "msg_1"), None);
        assert_eq!(
            stored.find(&"other".parse().unwrap(), "resp_1"),
            None,
            "another tenant's"
        );
    }

    fn insert(stored: &Stored, tenant: &str, id: usize) {
        stored.insert(tenant.parse().unwrap(), format!("resp_{id}"), path("dev/a"));
    }

    #[test]
    fn a_busy_tenant_forgets_its_own() {
        let stored = Stored::default();
        insert(&stored, "quiet", 0);
        for id in 0..=OF_TENANT {
            insert(&stored, "busy", id);
        }
        let find = |tenant: &str, id: &str| stored.find(&tenant.parse().unwrap(), id);
        assert_eq!(find("busy", "resp_0"), None);
        assert!(find("busy", "resp_1").is_some());
        assert!(find("quiet", "resp_0").is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let stored = Stored::default();
        let tenants = 2 * REMEMBERED / OF_TENANT;
        for tenant in 0..tenants {
            for id in 0..OF_TENANT {
                insert(&stored, &format!("t{tenant}"), id);
            }
        }
        let inner = stored.inner.lock().unwrap();
        let lengths = inner.tenants.values().map(|own| own.places.len());
        assert_eq!(
            (lengths.sum::<usize>(), inner.all),
            (REMEMBERED, REMEMBERED)
        );
    }
}
