//! The driver of an HTTP/2 connection: it tells how many calls the peer permits.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::OutBody;
use super::connect::BackendStream;
use super::pool::log_end;

/// What hyper takes for permitted before the peer has said it, which never is as much.
pub(super) const H2_UNTOLD: usize = usize::MAX - 1;
/// How often it is looked whether a peer's first settings have come: hyper tells nobody.
const H2_LOOK: Duration = Duration::from_millis(1);

/// Runs an HTTP/2 connection, and notes how many calls its peer permits.
pub(super) async fn drive(
    connection: http2::Connection<TokioIo<BackendStream>, OutBody, Tracked>,
    permitted: Arc<AtomicU32>,
    tell: oneshot::Sender<Result<(), hyper::Error>>,
) {
    let mut tell = Some(tell);
    let mut connection = Box::pin(connection);
    let mut look = tokio::time::interval(H2_LOOK);
    let ended = poll_fn(|cx| {
        let ended = connection.as_mut().poll(cx);
        let streams = connection.current_max_send_streams();
        if ended.is_pending() && streams != H2_UNTOLD {
            let streams = u32::try_from(streams).unwrap_or(u32::MAX);
            permitted.store(streams, Ordering::Relaxed);
            // Nobody waits where the dial was given up.
            drop(tell.take().map(|tell| tell.send(Ok(()))));
        }
        if tell.is_some() && ended.is_pending() {
            while look.poll_tick(cx).is_ready() {}
        }
        ended
    })
    .await;
    match (tell, ended) {
        (Some(tell), Err(error)) => drop(tell.send(Err(error))),
        (_, ended) => log_end(ended),
    }
}

/// Runs hyper's own tasks where somebody waits for them.
#[derive(Clone, Debug)]
pub(super) struct Tracked(pub(super) TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}
