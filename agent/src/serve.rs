//! The calls of one connection: taken, handled each in its own task, and waited for.

use std::sync::Arc;
use std::time::Duration;

use culvert_tunnel::{Arrival, Connection, ConnectionEnd, IncomingStream};
use tokio::task::JoinSet;

use crate::call::Calls;

/// How long calls of a connection that is gone may take to notice it: they do at once, and
/// what does not is cut.
const AFTERMATH: Duration = Duration::from_secs(5);

/// Serves until the connection is gone and its calls have ended.
pub(crate) async fn serve(calls: Arc<Calls>, connection: Connection) -> ConnectionEnd {
    let plane: Arc<str> = connection.peer().identity.to_string().into();
    let mut tasks = JoinSet::new();
    let end = loop {
        tokio::select! {
            biased;
            Some(done) = tasks.join_next() => note_panic(&done),
            accepted = connection.accept_call() => match accepted {
                Ok(stream) => {
                    tasks.spawn(take(Arc::clone(&calls), stream, Arc::clone(&plane)));
                }
                Err(end) => break end,
            },
        }
    };
    let rest = async {
        while let Some(done) = tasks.join_next().await {
            note_panic(&done);
        }
    };
    if tokio::time::timeout(AFTERMATH, rest).await.is_err() {
        tracing::warn!(
            calls = tasks.len(),
            "calls of a connection that is gone are cut"
        );
    }
    end
}

/// One stream: whatever it is, it is answered where calls are handled.
async fn take(calls: Arc<Calls>, stream: IncomingStream, plane: Arc<str>) {
    match stream.read().await {
        Ok(Arrival::Call(call)) => calls.handle(*call, &plane).await,
        Ok(Arrival::Probe(probe)) => {
            if let Err(error) = probe.answer().await {
                tracing::trace!(%error, "a probe was not answered");
            }
        }
        Err(error) => tracing::debug!(%error, "a stream had no head"),
    }
}

fn note_panic(done: &Result<(), tokio::task::JoinError>) {
    if let Err(error) = done
        && error.is_panic()
    {
        tracing::error!(%error, "a call handler has a bug");
    }
}
