//! A call to a server that the agent runs itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use culvert_wire::{Code, Open};
use http::Request;

use super::{Last, Plan, Sent};
use crate::judge::Outgoing;
use crate::record::Record;
use crate::reply::ReplyBody;
use crate::stdio::{NotBegun, Stdio};

/// Offers the call to a process of the server.
pub(super) async fn send(
    plan: &Plan,
    stdio: &Stdio,
    open: &Open,
    outgoing: Outgoing,
    record: &mut Record,
    begun: &AtomicBool,
) -> Result<Sent, Last> {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = open.method.clone();
    head.headers = outgoing.headers;
    let load = stdio.endpoint().enter();
    let began = Instant::now();
    record.connected(began.elapsed());
    begun.store(true, Ordering::Relaxed);
    match stdio.call(head, outgoing.body, &plan.leaving).await {
        Ok(answer) => {
            stdio.endpoint().answered(began.elapsed());
            Ok(Sent {
                reply: answer.map(ReplyBody::Boxed),
                load,
            })
        }
        Err(reason) => {
            begun.store(false, Ordering::Relaxed);
            tracing::debug!(service = %open.service, %reason, "the server does not run");
            Err(Last::Refuse(match reason {
                NotBegun::Unreachable(_) => Code::BackendUnreachable,
                NotBegun::Full => Code::QueueFull,
            }))
        }
    }
}
