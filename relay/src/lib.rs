//! The relay: where agents' links arrive, and where calls find the link that serves them. It is
//! made to be put into any gateway, and knows nothing of stores, keys or models' APIs.
//!
//! # Into a hyper server
//!
//! A relay takes its identity and its rules from two `watch` channels, hands joins and renewals
//! out of a third, and carries a request with one call. All of an embedder's HTTP handler:
//!
//! ```
//! use std::convert::Infallible;
//! use bytes::Bytes;
//! use culvert_relay::{AnswerBody, CallMeta, CallTarget, Relay};
//! use http::{Request, Response, StatusCode};
//! use http_body_util::{Either, Empty};
//! use hyper::body::Incoming;
//!
//! async fn answer(
//!     relay: Relay,
//!     target: CallTarget,
//!     meta: CallMeta,
//!     request: Request<Incoming>,
//! ) -> Result<Response<Either<AnswerBody, Empty<Bytes>>>, Infallible> {
//!     Ok(match relay.call(target, meta, request).await {
//!         Ok(answered) => answered.response.map(Either::Left),
//!         Err(failed) => {
//!             let status = match failed.maybe_executed {
//!                 true => StatusCode::BAD_GATEWAY,
//!                 false => StatusCode::SERVICE_UNAVAILABLE,
//!             };
//!             let mut response = Response::new(Either::Right(Empty::new()));
//!             *response.status_mut() = status;
//!             response
//!         }
//!     })
//! }
//! ```
//!
//! and all of its start and end:
//!
//! ```
//! # use std::error::Error;
//! # use std::future::Future;
//! # use std::net::SocketAddr;
//! # use culvert_relay::{ControlRequest, Relay, RelayConfig, RelayInputs};
//! # use tokio::sync::mpsc;
//! async fn run(
//!     links: SocketAddr,
//!     inputs: RelayInputs,
//!     shutdown: impl Future<Output = ()>,
//!     serve_http: impl AsyncFnOnce(Relay, mpsc::Receiver<ControlRequest>),
//! ) -> Result<(), Box<dyn Error>> {
//!     let (relay, control) = Relay::bind(RelayConfig::new(links), inputs).await?;
//!     let edge = serve_http(relay.clone(), control);
//!     let left = relay.serve(shutdown); // drains when `shutdown` resolves
//!     let ((), left) = tokio::join!(edge, left);
//!     Ok(left?)
//! }
//! ```
//!
//! `examples/embed.rs` is a whole program around them, with an authority in memory that redeems
//! its one join token. A body that is dropped cancels its call, down to the backend; a body that
//! fails was cut, and the embedder must end its caller's connection then, as hyper does.
//!
//! To leave without failing a request: [`Relay::announce_leaving`] (agents dial replacements),
//! finish the edge's own connections, then resolve what [`Relay::serve`] waits for.
//!
//! # A link
//!
//! ```text
//! UDP packet -> handshake -> receive -> accept_control -> Hello -> admit -> register -> serve -> gone
//!               tunnel       entry.rs   tunnel            wire     admit.rs directory.rs serving.rs
//! ```
//!
//! Who a peer is comes from its proven leaf and nothing else. `policy.rs` decides by the leaf and
//! the embedder's [`Admission`]: for newcomers right after the handshake, before they have said a
//! word (`entry.rs`), again at their `Hello`, and at each change for those who stand; `admit.rs`
//! adds what needs a look at other links: duplicates, clones, attached connections. A registered
//! link is in the [`Directory`] until its guard is dropped, and only the newest link of an agent's
//! start takes calls. Everything that ends a link runs through its control machine: a drain of
//! either side, silence, revocation, the end of its certificate.
//!
//! # A call
//!
//! ```text
//! choose -> open -> send body | wait for Accepted, Head -> stream the answer -> record
//! select.rs         attempt.rs                             answer.rs
//!    ^                  |
//!    +---- again? ------+   retry.rs decides, budget.rs pays
//! ```
//!
//! A failed attempt goes to another link only while that is safe:
//!
//! | the attempt | is sent again |
//! | --- | --- |
//! | never left this replica, or was refused | elsewhere, unless the code says never |
//! | was lost before the agent took it | once the agent, asked over another link, never saw it |
//! | may have begun | only GET and HEAD, where the code permits |
//! | has an answer's head | never |
//!
//! and while a tenth of the tenant's calls, [`limits::MAX_ATTEMPTS`] and the kept part of the body
//! allow it. There is no time limit on an answer but the caller's deadline: a silent agent is
//! probed, and a link that does not serve calls is taken out of selection or lost.
//!
//! # The TCP side
//!
//! The same port number on TCP takes `culvert-join/1`: one bounded `POST /v1/join`, or `/v1/renew` of
//! an agent whose leaf has expired, handed out as a [`ControlRequest`]. TLS connections that speak of no culvert protocol go to the embedder's
//! [`Edge`], if it has one.

mod admit;
mod answer;
mod ask;
mod attempt;
mod book;
mod budget;
mod call;
mod config;
mod directory;
mod dispatch;
mod entry;
mod handle;
mod join;
pub mod limits;
mod link;
mod meter;
mod metrics;
mod parking;
mod policy;
mod ports;
mod relay;
mod renewal;
mod replay;
mod retry;
mod select;
mod serving;
mod session;
mod slots;
mod status;
mod tcp;
mod tls;
mod view;

pub use answer::{AnswerBody, AnswerCut, TrailerNames};
pub use book::CapReached;
pub use call::{Affinity, Answered, CallFailed, CallMeta, CallTarget, FailCause, Route, Timings};
pub use config::{DoorLimits, ParkedLimits, RelayConfig, RelayInputs};
pub use culvert_tunnel::{ResetKeys, Transport};
pub use directory::Directory;
pub use handle::Link;
pub use join::{ControlRequest, JOIN_PATH, JoinRefusal, RENEW_PATH};
pub use link::{LinkEntry, LinkId, LinkState};
pub use meter::ServiceMeter;
pub use metrics::Metrics;
pub use policy::{Admission, Approve, ClonePolicy, ConnectorPolicy, Rejected, Subject};
pub use ports::BindError;
pub use relay::{AlreadyServed, Phase, Relay};
pub use select::NoTarget;
pub use status::{ConflictStatus, LinkStatus, RelayStatus, ServiceStatus};
pub use tcp::{Edge, EdgeConnection};
pub use view::{ConnectorView, ServiceConflict, ServiceLink, ServiceView, TenantView};
