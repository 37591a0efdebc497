//! Calls that change their protocol.

use bytes::Bytes;
use culvert_tunnel::{Failure, Piece};
use culvert_wire::Code;
use http::{Method, StatusCode};

use crate::world::{Link, done, ok, open};

#[tokio::test]
async fn bytes_pass_both_ways_behind_a_101_that_was_asked_for() {
    let link = Link::up().await;
    let mut open = open(Method::GET, "/v1/realtime");
    open.upgrade = Some("websocket".to_owned());
    let (mut call, mut taken) = link.call(open.clone()).await;
    assert_eq!(taken.open, open);
    let mut head = ok();
    head.status = StatusCode::SWITCHING_PROTOCOLS;
    taken.answer.head(head).await.unwrap();
    let head = done("head", call.answer.head()).await.unwrap();
    assert_eq!(head.status, StatusCode::SWITCHING_PROTOCOLS);
    for text in ["one", "two"] {
        let bytes = Bytes::from_static(text.as_bytes());
        call.request.data(bytes.clone()).await.unwrap();
        let up = done("up", taken.body.next()).await.unwrap();
        assert_eq!(up, Some(Piece::Data(bytes.clone())));
        taken.answer.data(bytes.clone()).await.unwrap();
        let down = done("down", call.answer.next()).await.unwrap();
        assert_eq!(down, Some(Piece::Data(bytes)));
    }
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_fails_its_call_and_no_other() {
    let link = Link::up().await;
    let (mut call, mut taken) = link.call(open(Method::GET, "/")).await;
    let mut head = ok();
    head.status = StatusCode::SWITCHING_PROTOCOLS;
    taken.answer.head(head).await.unwrap();
    let error = done("head", call.answer.head()).await.unwrap_err();
    assert_eq!(error.failure, Failure::Aborted(Code::BackendProtocol));
    let told = done("told", taken.answer.cancelled()).await;
    assert!(matches!(told.failure, Failure::Reset(_)), "{told}");
    let (mut next, mut taken) = link.call(open(Method::GET, "/")).await;
    taken.answer.head(ok()).await.unwrap();
    done("the link goes on", next.answer.head()).await.unwrap();
}
