//! Carries what agents ask of control from the relay to it, and the answers back.

use std::net::SocketAddr;

use bytes::Bytes;
use culvert_certs::{JoinAnswer, RenewRequest};
use culvert_control::{Control, RenewRefusal};
use culvert_relay::{ControlRequest, JoinRefusal};
use tokio::{sync::mpsc, task::JoinSet};

/// Joins and renewals that are worked on at once: each is a few milliseconds of signing.
const AT_ONCE: usize = 16;

/// Answers until the relay is gone. Dropped, it answers nobody any more.
pub async fn carry(control: Control, mut requests: mpsc::Receiver<ControlRequest>) {
    let mut tasks = JoinSet::new();
    while let Some(request) = requests.recv().await {
        while tasks.len() >= AT_ONCE {
            tasks.join_next().await;
        }
        while tasks.try_join_next().is_some() {}
        tasks.spawn(answer(control.clone(), request));
    }
}

async fn answer(control: Control, request: ControlRequest) {
    let heard = match request {
        ControlRequest::Join {
            request,
            source,
            reply,
        } => {
            let answer = control
                .join(&request, source)
                .await
                .map_err(told_to_stranger);
            reply.send(answer).is_ok()
        }
        ControlRequest::Renew {
            source,
            request,
            reply,
        } => reply.send(renew(&control, &request, source).await).is_ok(),
    };
    if !heard {
        tracing::debug!("whoever asked control has gone");
    }
}

async fn renew(
    control: &Control,
    request: &[u8],
    source: SocketAddr,
) -> Result<Bytes, JoinRefusal> {
    let request = RenewRequest::decode(request).map_err(|_| JoinRefusal::Refused)?;
    let answer = control
        .renew(&request, Some(source))
        .await
        .map_err(|refusal| match refusal {
            RenewRefusal::Revoked(word) => {
                JoinRefusal::Revoked(Bytes::copy_from_slice(word.as_bytes()))
            }
            RenewRefusal::Refused => JoinRefusal::Refused,
            RenewRefusal::TooSoon | RenewRefusal::Unavailable => JoinRefusal::Unavailable,
        })?;
    encode(&answer)
}

fn encode(answer: &JoinAnswer) -> Result<Bytes, JoinRefusal> {
    serde_json::to_vec(answer)
        .map(Bytes::from)
        .map_err(|error| {
            tracing::error!(%error, "a renewed certificate cannot be written down");
            JoinRefusal::Unavailable
        })
}

const fn told_to_stranger(refusal: culvert_control::JoinRefusal) -> JoinRefusal {
    match refusal {
        culvert_control::JoinRefusal::Refused => JoinRefusal::Refused,
        culvert_control::JoinRefusal::Unavailable => JoinRefusal::Unavailable,
    }
}
