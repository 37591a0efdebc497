//! The admin API: resources over HTTP, on a listener of its own.
//!
//! A request passes, in this order: a bounded connection, the check of `Host` and `Origin` (no
//! page in a browser reaches a control plane through its user's machine), the admin key, the
//! key's role, and only then a handler. The handlers are one screen each; what they do is done by
//! [`Control`].

mod access;
mod documents;
mod error;
mod place;
mod serve;
mod status;
mod verbs;
mod watch;

use std::{fmt, sync::Arc, time::Duration};

use axum::{Router, extract::DefaultBodyLimit, middleware, routing::get};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{api::LinkStatus, control::Control};

pub use self::serve::serve;

/// Largest body of a request, in bytes: four times the largest document.
const MAX_BODY: usize = 1024 * 1024;

/// Longest that a request may take, its body and its answer's head included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Most watches at once; each holds a connection and a place in the store.
const MAX_WATCHES: usize = 64;

/// What the admin API is told beside control.
#[derive(Clone, Default)]
pub struct AdminOptions {
    /// Names that the API answers to beside loopback names and the address it is bound to.
    pub hosts: Vec<String>,
    /// Asked at each `GET /v1/status` for the links of this process.
    pub links: Option<LinksHook>,
    /// Served without a key, to whatever name the listener is called by: health and metrics.
    pub open: Option<Router>,
}

/// Tells the links of this process. Must not block.
pub type LinksHook = Arc<dyn Fn() -> Vec<LinkStatus> + Send + Sync>;

impl fmt::Debug for AdminOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminOptions")
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

/// What every handler can reach.
#[derive(Clone)]
struct Desk {
    control: Control,
    hosts: Arc<access::Hosts>,
    links: Option<LinksHook>,
    watches: Arc<Semaphore>,
    shutdown: CancellationToken,
}

fn router(desk: Desk, open: Option<Router>) -> Router {
    keyed(desk).merge(open.unwrap_or_default())
}

fn keyed(desk: Desk) -> Router {
    let many = || get(documents::list).post(verbs::create);
    let one = || {
        get(documents::get)
            .put(documents::put)
            .delete(documents::delete)
            .post(verbs::on_one)
    };
    Router::new()
        .route("/v1/status", get(status::status))
        .route("/v1/audit", get(status::audit))
        .route("/v1/{kind}", many())
        .route("/v1/{kind}/{name}", one())
        .route("/v1/tenants", many())
        .route("/v1/tenants/{name}", one())
        .route("/v1/tenants/{tenant}/{kind}", many())
        .route("/v1/tenants/{tenant}/{kind}/{name}", one())
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(error::in_time))
        .layer(middleware::from_fn_with_state(
            desk.clone(),
            access::authenticate,
        ))
        .layer(middleware::from_fn_with_state(
            desk.clone(),
            access::check_origin,
        ))
        .with_state(desk)
}
